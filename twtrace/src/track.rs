//! The sockets that are in TIME_WAIT right now, as far as they were seen to enter.
//!
//! Identity is the timewait socket's address together with the time of its entry: the slab hands
//! the same address out again within microseconds.

use std::collections::hash_map::Entry;

use rustc_hash::FxHashMap;

use crate::peer::Group;

/// Ends kept in case their entry arrives late, which happens when two CPUs report one socket.
const EARLY_ENDS: usize = 1024;

/// A socket being followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tracked {
    /// `CLOCK_MONOTONIC` at entry; 0 for a socket that was there at the start.
    pub entered_ns: u64,
    /// Row its counts are in.
    pub row: u32,
    /// Inode number of its network namespace.
    pub netns: u32,
    /// Whether a reason other than FIN_WAIT2 blocks its fast path.
    pub blocked: bool,
}

/// What became of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnterResult {
    /// It is followed from now on.
    Followed,
    /// It is followed, and the socket that had the address before ended without being seen to.
    Displaced(Tracked),
    /// Its end arrived first, and was counted for this group.
    AlreadyEnded(Group),
    /// The very same entry was reported before.
    Duplicate,
    /// There is no room: it is counted but not followed.
    Full,
}

/// What an end belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndResult {
    /// To a socket that was followed.
    Known(Tracked),
    /// To a socket whose entry was not seen; the end is remembered for a while.
    Orphan,
    /// To a socket whose entry was not seen, while the one followed at this address had ended
    /// unseen before.
    Displaced(Tracked),
    /// The same end was reported before.
    Duplicate,
}

/// The followed sockets, capped.
#[derive(Debug)]
pub struct LiveSockets {
    sockets: FxHashMap<u64, Tracked>,
    early: FxHashMap<u64, (u64, Group)>,
    capacity: usize,
}

impl LiveSockets {
    /// Room for `capacity` sockets.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { sockets: FxHashMap::default(), early: FxHashMap::default(), capacity }
    }

    /// The socket at `tw` entered.
    pub fn enter(&mut self, tw: u64, socket: Tracked) -> EnterResult {
        if let Some(&(entered_ns, group)) = self.early.get(&tw)
            && entered_ns == socket.entered_ns
        {
            self.early.remove(&tw);
            return EnterResult::AlreadyEnded(group);
        }
        let full = self.sockets.len() >= self.capacity;
        match self.sockets.entry(tw) {
            Entry::Occupied(before) if before.get().entered_ns == socket.entered_ns => {
                EnterResult::Duplicate
            }
            Entry::Occupied(mut before) => EnterResult::Displaced(before.insert(socket)),
            Entry::Vacant(_) if full => EnterResult::Full,
            Entry::Vacant(place) => {
                place.insert(socket);
                EnterResult::Followed
            }
        }
    }

    /// The socket at `tw` that entered at `entered_ns` ended.
    pub fn end(&mut self, tw: u64, entered_ns: u64) -> EndResult {
        match self.sockets.remove(&tw) {
            Some(socket) if socket.entered_ns == entered_ns => EndResult::Known(socket),
            Some(socket) if socket.entered_ns < entered_ns => EndResult::Displaced(socket),
            Some(younger) => {
                self.sockets.insert(tw, younger);
                EndResult::Orphan
            }
            None if self.early.get(&tw).is_some_and(|early| early.0 == entered_ns) => {
                EndResult::Duplicate
            }
            None => EndResult::Orphan,
        }
    }

    /// Remembers that an end was counted for `group` before its entry was seen.
    pub fn remember_orphan(&mut self, tw: u64, entered_ns: u64, group: Group) {
        if self.early.len() >= EARLY_ENDS {
            self.early.clear();
        }
        self.early.insert(tw, (entered_ns, group));
    }

    /// Sockets that entered before `before_ns` and for which `lives` says no.
    ///
    /// Ends of some of them may still be on their way: take those in first, then pass the rest to
    /// [`LiveSockets::remove`].
    pub fn vanished(
        &self,
        before_ns: u64,
        mut lives: impl FnMut(u64, &Tracked) -> bool,
    ) -> Vec<(u64, u64)> {
        self.iter()
            .filter(|(tw, socket)| socket.entered_ns < before_ns && !lives(*tw, socket))
            .map(|(tw, socket)| (tw, socket.entered_ns))
            .collect()
    }

    /// The sockets followed, by address, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Tracked)> {
        self.sockets.iter().map(|(tw, socket)| (*tw, socket))
    }

    /// Stops to follow the socket at `tw` that entered at `entered_ns`; `None` if that has
    /// happened already.
    pub fn remove(&mut self, tw: u64, entered_ns: u64) -> Option<Tracked> {
        let same = self.sockets.get(&tw).is_some_and(|socket| socket.entered_ns == entered_ns);
        if same { self.sockets.remove(&tw) } else { None }
    }

    /// Sockets followed now.
    pub fn len(&self) -> usize {
        self.sockets.len()
    }

    /// Whether none is followed.
    pub fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(entered_ns: u64) -> Tracked {
        Tracked { entered_ns, row: 1, netns: 1, blocked: false }
    }

    #[test]
    fn an_address_that_comes_back_is_another_socket() {
        let mut live = LiveSockets::with_capacity(8);
        assert_eq!(live.enter(0xa0, socket(1)), EnterResult::Followed);
        assert_eq!(live.end(0xa0, 1), EndResult::Known(socket(1)));
        assert_eq!(live.enter(0xa0, socket(2)), EnterResult::Followed);
        assert_eq!(live.enter(0xa0, socket(3)), EnterResult::Displaced(socket(2)));
        assert_eq!(live.end(0xa0, 3), EndResult::Known(socket(3)));
        assert!(live.is_empty());
    }

    #[test]
    fn an_end_that_overtakes_its_entry_is_matched_when_the_entry_comes() {
        let mut live = LiveSockets::with_capacity(8);
        assert_eq!(live.end(0xa0, 5), EndResult::Orphan);
        live.remember_orphan(0xa0, 5, Group::Uid(7));
        assert_eq!(live.end(0xa0, 5), EndResult::Duplicate);
        assert_eq!(live.enter(0xa0, socket(5)), EnterResult::AlreadyEnded(Group::Uid(7)));
        assert_eq!(live.enter(0xa0, socket(6)), EnterResult::Followed);
    }

    #[test]
    fn a_later_end_shows_that_the_earlier_one_was_lost() {
        let mut live = LiveSockets::with_capacity(8);
        live.enter(0xa0, socket(1));
        assert_eq!(live.end(0xa0, 9), EndResult::Displaced(socket(1)));
        live.enter(0xb0, socket(10));
        assert_eq!(live.end(0xb0, 4), EndResult::Orphan, "an older socket's late end");
        assert_eq!(live.len(), 1);
    }

    #[test]
    fn only_sockets_older_than_the_snapshot_can_vanish() {
        let mut live = LiveSockets::with_capacity(8);
        live.enter(0xa0, socket(1));
        live.enter(0xb0, socket(2));
        live.enter(0xc0, socket(9));
        let vanished = live.vanished(5, |tw, _| tw == 0xb0);
        assert_eq!(vanished, [(0xa0, 1)]);
        assert_eq!(live.remove(0xa0, 1), Some(socket(1)));
        assert_eq!(live.remove(0xa0, 1), None, "its end came in after all");
        assert_eq!(live.len(), 2);
    }

    #[test]
    fn a_full_set_follows_no_more() {
        let mut live = LiveSockets::with_capacity(1);
        live.enter(0xa0, socket(1));
        assert_eq!(live.enter(0xb0, socket(2)), EnterResult::Full);
        assert_eq!(live.enter(0xa0, socket(1)), EnterResult::Duplicate);
    }
}
