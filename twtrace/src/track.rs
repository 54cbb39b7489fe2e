//! The sockets that are in TIME_WAIT right now, as far as they were seen to enter.
//!
//! Identity is the timewait socket's address together with the time of its entry: the slab hands
//! the same address out again within microseconds.

use std::{hash::BuildHasher as _, mem};

use hashbrown::{HashTable, hash_table::Entry};
use rustc_hash::{FxBuildHasher, FxHashMap};

use crate::peer::{Group, Netns, spaces::Hold};

/// Ends kept in case their entry arrives late, which happens when two CPUs report one socket.
const EARLY_ENDS: usize = 1024;

/// Sockets that there is room for from the start, if so many are to be followed.
const ROOM: usize = 1 << 18;

/// A socket being followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tracked {
    /// `CLOCK_MONOTONIC` at entry; 0 for a socket that was there at the start.
    pub entered_ns: u64,
    /// Row its counts are in.
    pub row: u32,
    /// Inode number of its network namespace.
    pub netns: u32,
    /// What it holds of which port space.
    pub holding: Holding,
}

/// What a followed socket holds of a port space of its row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holding {
    /// Number of the space in its row.
    pub space: u8,
    /// What it is to others that want its port.
    pub hold: Hold,
    /// Its port at this end.
    pub port: u16,
    /// When its timer runs out as it was armed first.
    pub due: Due,
}

/// A moment of `CLOCK_MONOTONIC`, to a fifteenth of a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Due(u32);

impl Due {
    /// Nanoseconds of a step, as bits.
    const STEP: u32 = 26;

    /// The moment of so many nanoseconds, or a little before.
    pub const fn at(mono_ns: u64) -> Self {
        Self((mono_ns >> Self::STEP) as u32)
    }

    /// Seconds until then, 0 if it is past.
    pub fn seconds_from(self, now_ns: u64) -> f64 {
        (u64::from(self.0) << Self::STEP).saturating_sub(now_ns) as f64 / 1e9
    }

    /// The moment, nanoseconds.
    pub const fn mono_ns(self) -> u64 {
        (self.0 as u64) << Self::STEP
    }
}

/// One of the sockets followed, in as few bytes as may be: there are hundreds of thousands.
#[derive(Clone, Copy, Debug)]
struct Place {
    tw: u64,
    entered_ns: u64,
    netns: u32,
    row: u32,
    holding: Holding,
}

impl Place {
    fn of(tw: u64, socket: &Tracked) -> Self {
        let Tracked { entered_ns, row, netns, holding } = *socket;
        Self { tw, entered_ns, netns, row, holding }
    }

    const fn socket(&self) -> Tracked {
        Tracked {
            entered_ns: self.entered_ns,
            row: self.row,
            netns: self.netns,
            holding: self.holding,
        }
    }
}

impl Tracked {
    /// Rows are not more than this.
    pub const MAX_ROW: u32 = u32::MAX >> 1;
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
    /// Without gaps: the last one fills the place of one that goes.
    places: Vec<Place>,
    /// Places by the hash of the address.
    index: HashTable<u32>,
    early: FxHashMap<u64, (u64, Group)>,
    capacity: usize,
}

/// The hash of an address.
fn hash(tw: u64) -> u64 {
    FxBuildHasher.hash_one(tw)
}

impl LiveSockets {
    /// Room for `capacity` sockets.
    pub fn with_capacity(capacity: usize) -> Self {
        // Memory that is not used yet costs nothing; growing would leave holes of its size.
        let room = capacity.min(ROOM);
        Self {
            places: Vec::with_capacity(room),
            index: HashTable::with_capacity(room),
            early: FxHashMap::default(),
            capacity: capacity.min(u32::MAX as usize),
        }
    }

    /// The socket at `tw` entered.
    pub fn enter(&mut self, tw: u64, socket: Tracked) -> EnterResult {
        if let Some(&(entered_ns, group)) = self.early.get(&tw)
            && entered_ns == socket.entered_ns
        {
            self.early.remove(&tw);
            return EnterResult::AlreadyEnded(group);
        }
        let new = Place::of(tw, &socket);
        let places = &mut self.places;
        let at = |place: &u32| *place as usize;
        let rehash = |place: &u32| hash(places[at(place)].tw);
        match self.index.entry(hash(tw), |place| places[at(place)].tw == tw, rehash) {
            Entry::Occupied(entry) => {
                let place = &mut places[at(entry.get())];
                if place.entered_ns == socket.entered_ns {
                    return EnterResult::Duplicate;
                }
                EnterResult::Displaced(mem::replace(place, new).socket())
            }
            Entry::Vacant(_) if places.len() >= self.capacity => EnterResult::Full,
            Entry::Vacant(entry) => {
                entry.insert(places.len() as u32);
                places.push(new);
                EnterResult::Followed
            }
        }
    }

    /// The socket at `tw` that entered at `entered_ns` ended.
    pub fn end(&mut self, tw: u64, entered_ns: u64) -> EndResult {
        match self.remove_if(tw, |socket| socket.entered_ns <= entered_ns) {
            Some(socket) if socket.entered_ns == entered_ns => EndResult::Known(socket),
            Some(socket) => EndResult::Displaced(socket),
            None if self.early.get(&tw).is_some_and(|early| early.0 == entered_ns) => {
                EndResult::Duplicate
            }
            None => EndResult::Orphan,
        }
    }

    /// Takes out the socket at `tw` if it is there and `wanted`.
    fn remove_if(&mut self, tw: u64, wanted: impl FnOnce(&Place) -> bool) -> Option<Tracked> {
        let places = &self.places;
        let entry = self.index.find_entry(hash(tw), |place| places[*place as usize].tw == tw);
        let entry = entry.ok().filter(|entry| wanted(&places[*entry.get() as usize]))?;
        let (place, _) = entry.remove();
        let gone = self.places.swap_remove(place as usize);
        let moved_from = self.places.len() as u32;
        if let Some(moved) = self.places.get(place as usize)
            && let Some(pointer) = self.index.find_mut(hash(moved.tw), |other| *other == moved_from)
        {
            *pointer = place;
        }
        Some(gone.socket())
    }

    /// Remembers that an end was counted for `group` before its entry was seen.
    pub fn remember_orphan(&mut self, tw: u64, entered_ns: u64, group: Group) {
        if self.early.len() >= EARLY_ENDS {
            self.early.clear();
        }
        self.early.insert(tw, (entered_ns, group));
    }

    /// Ends that are remembered as of the namespace that had a number until now are of `gone`.
    pub fn retire(&mut self, gone: Netns) {
        let before = Netns::from(gone.inum);
        let groups = self.early.values_mut().map(|(_, group)| group);
        groups
            .filter(|group| group.namespace() == Some(before))
            .for_each(|group| *group = group.within(gone));
    }

    /// The sockets followed, by address, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, Tracked)> {
        self.places.iter().map(|place| (place.tw, place.socket()))
    }

    /// Stops to follow the socket at `tw` that entered at `entered_ns`; `None` if that has
    /// happened already.
    pub fn remove(&mut self, tw: u64, entered_ns: u64) -> Option<Tracked> {
        self.remove_if(tw, |socket| socket.entered_ns == entered_ns)
    }

    /// Sockets followed now.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether none is followed.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(entered_ns: u64) -> Tracked {
        Tracked { entered_ns, row: 1, netns: 1, holding: Holding::default() }
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
    fn a_socket_is_let_go_of_once_and_only_by_its_own_entry() {
        let mut live = LiveSockets::with_capacity(8);
        live.enter(0xa0, socket(1));
        live.enter(0xb0, socket(2));
        assert_eq!(live.remove(0xb0, 1), None, "another one had that address before");
        assert_eq!(live.remove(0xa0, 1), Some(socket(1)));
        assert_eq!(live.remove(0xa0, 1), None, "its end came in after all");
        assert_eq!(live.len(), 1);
    }

    #[test]
    fn a_full_set_follows_no_more() {
        let mut live = LiveSockets::with_capacity(1);
        live.enter(0xa0, socket(1));
        assert_eq!(live.enter(0xb0, socket(2)), EnterResult::Full);
        assert_eq!(live.enter(0xa0, socket(1)), EnterResult::Duplicate);
    }
}
