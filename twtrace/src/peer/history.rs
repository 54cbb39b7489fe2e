//! What a row's past looked like, in bounded memory: rates over the last seconds, when timestamps
//! were seen and when not, and which addresses and ports of this end took part.

use smallvec::SmallVec;

use super::{
    Past,
    entry::{Entry, SpaceKey},
    rates::{Rates, Window},
    spaces::{Hold, NO_SPACE, Spaces},
};

/// Changes between "with timestamps" and "without" that are kept; the latest are.
const MAX_CHANGES: usize = 8;
/// The ports of a row's connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ports {
    /// No connection was seen.
    #[default]
    None,
    /// Every connection had this local and this remote port.
    Same(u16, u16),
    /// They differed.
    Many,
}

/// Moment at which sockets began to come with timestamps, or without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// `CLOCK_MONOTONIC` nanoseconds of the first socket of the new kind.
    pub mono_ns: u64,
    /// When the last socket of the kind before was seen.
    pub before_ns: u64,
    /// The new kind.
    pub with_timestamps: bool,
}

/// When sockets of one kind were seen; 0 is never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// The first, `CLOCK_MONOTONIC` nanoseconds.
    pub first_ns: u64,
    /// The last.
    pub last_ns: u64,
}

impl Span {
    fn note(&mut self, mono_ns: u64) {
        self.first_ns = if self.first_ns == 0 { mono_ns } else { self.first_ns.min(mono_ns) };
        self.last_ns = self.last_ns.max(mono_ns);
    }

    fn absorb(&mut self, other: &Self) {
        for moment in [other.first_ns, other.last_ns].into_iter().filter(|moment| *moment != 0) {
            self.note(moment);
        }
    }
}

/// What few rows have.
#[derive(Clone, Debug, Default)]
struct Rare {
    /// Sockets in spaces beyond those told apart.
    other_spaces: u64,
    /// What happened in those of late.
    window: Window,
    /// The latest changes, oldest first.
    changes: SmallVec<[Change; 1]>,
    /// Changes ever seen; more than are kept if they are frequent.
    changes_seen: u64,
}

/// A row's past.
#[derive(Clone, Debug, Default)]
pub struct History {
    spaces: Spaces,
    /// Apart, since most rows have none of it.
    rare: Option<Box<Rare>>,
    /// Sockets with timestamps.
    pub with: Span,
    /// Sockets without.
    pub without: Span,
    /// Sockets without a timestamp that came while this end offered them.
    pub not_from_peer: u64,
    /// Sockets without a timestamp that came while this end offered none.
    pub not_offered: u64,
    /// Kind of the last socket.
    last_with: Option<bool>,
    /// Ports of the connections.
    pub ports: Ports,
    /// Entries whose local port `connect()` chose.
    pub autobound: u64,
    /// Ended sockets whose TIME_WAIT was armed again, promotion from FIN_WAIT2 left out.
    pub rearmed: u64,
    /// Ends by RST of sockets that were in TIME_WAIT proper.
    pub assassinated: u64,
    /// Takeovers by sockets bound beforehand.
    pub bound_reuse: u64,
}

impl History {
    /// Takes an entry in; `space` is the number of its space.
    pub fn enter(&mut self, space: u8, entry: &Entry) {
        self.autobound += u64::from(entry.autobound);
        if !entry.timestamps_unknown {
            self.change(entry);
        }
        self.seen(space, entry, false);
    }

    /// For tests: the same, finding the space, whose number it answers.
    #[cfg(test)]
    pub fn take_in(&mut self, entry: &Entry) -> u8 {
        let space = self.space_of(&entry.space);
        self.enter(space, entry);
        space
    }

    /// Takes in a socket that was there at the start; its entry is what its timer tells.
    pub fn present(&mut self, space: u8, entry: &Entry) {
        self.autobound += u64::from(entry.autobound);
        self.seen(space, entry, true);
    }

    /// The number of a space, which is made if need be.
    pub fn space_of(&mut self, key: &SpaceKey) -> u8 {
        self.spaces.number_of(key)
    }

    /// A socket in a space lives from now on.
    pub fn live(&mut self, space: u8, hold: Hold) {
        self.spaces.live(space, hold);
    }

    /// The port spaces of its sockets.
    pub fn spaces(&self) -> &Spaces {
        &self.spaces
    }

    /// For tests of what is concluded: so many sockets live in the first space, so many blocked.
    #[cfg(test)]
    pub fn set_live(&mut self, live: u32, blocked: u32) {
        self.spaces.set_live(live, blocked);
    }

    /// Live sockets whose fast path is closed.
    pub fn stuck(&self) -> u64 {
        self.spaces.iter().map(|space| u64::from(space.blocked)).sum()
    }

    /// Takes in what was known before the session.
    pub fn remember(&mut self, past: &Past) {
        self.with.absorb(&past.with);
        self.without.absorb(&past.without);
        if past.changes_seen > 0 {
            let newest = past.changes.len().saturating_sub(MAX_CHANGES);
            let rare = self.rare();
            rare.changes = SmallVec::from_slice(&past.changes[newest..]);
            rare.changes_seen += past.changes_seen;
        }
    }

    fn seen(&mut self, space: u8, entry: &Entry, present: bool) {
        if !entry.timestamps_unknown {
            let span = if entry.with_timestamps { &mut self.with } else { &mut self.without };
            span.note(entry.mono_ns);
        }
        self.not_from_peer += u64::from(entry.not_from_peer);
        self.not_offered += u64::from(entry.not_offered);
        let pair = Ports::Same(entry.local_port, entry.remote_port);
        self.ports = match self.ports {
            Ports::None => pair,
            same if same == pair => same,
            _ => Ports::Many,
        };
        self.spaces.enter(space, entry, present);
        if space == NO_SPACE {
            let rare = self.rare();
            rare.other_spaces += 1;
            if !present {
                rare.window.enter(entry);
            }
        }
    }

    fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// Notes a change of kind; entries come in order but for what two CPUs report at once.
    fn change(&mut self, entry: &Entry) {
        let with = entry.with_timestamps;
        // What was there at the start is the kind before the first entry.
        let before = self.last_with.or_else(|| {
            let known = self.with.last_ns.max(self.without.last_ns) != 0;
            known.then_some(self.with.last_ns > self.without.last_ns)
        });
        self.last_with = Some(with);
        if before.is_none_or(|before| before == with) {
            return;
        }
        let before_ns = if with { self.without.last_ns } else { self.with.last_ns };
        let rare = self.rare();
        rare.changes_seen += 1;
        if rare.changes.len() == MAX_CHANGES {
            rare.changes.remove(0);
        }
        rare.changes.push(Change { mono_ns: entry.mono_ns, before_ns, with_timestamps: with });
    }

    /// Takes the end of a socket in a space in; `ended` tells when, if that was seen, and whether its
    /// timer had not run out.
    pub fn end(&mut self, space: u8, hold: Hold, ended: Option<(u64, bool)>) {
        self.spaces.end(space, hold, ended);
        if let (NO_SPACE, Some((mono_ns, early))) = (space, ended) {
            self.rare().window.end(mono_ns, hold.is(Hold::BLOCKED), early);
        }
    }

    /// What happened a second, over the window or the time since `since_ns`, the start of the
    /// session, or since the row's first entry if that is shorter; over a second at least.
    pub fn rates(&self, now_ns: u64, since_ns: u64) -> Rates {
        let mut window =
            self.rare.as_ref().map_or_else(Window::default, |rare| rare.window.clone());
        self.spaces.iter().for_each(|space| window.absorb(space.window()));
        window.rates(now_ns, since_ns.max(self.first_ns()))
    }

    /// When the first socket was seen, `CLOCK_MONOTONIC` nanoseconds; 0 if none was.
    pub fn first_ns(&self) -> u64 {
        match (self.with.first_ns, self.without.first_ns) {
            (0, only) | (only, 0) => only,
            (with, without) => with.min(without),
        }
    }

    /// The latest changes, oldest first.
    pub fn changes(&self) -> &[Change] {
        self.rare.as_ref().map_or(&[], |rare| rare.changes.as_slice())
    }

    /// Changes ever seen; more than are kept if they are frequent.
    pub fn changes_seen(&self) -> u64 {
        self.rare.as_ref().map_or(0, |rare| rare.changes_seen)
    }

    /// Whether the last socket came with timestamps; `None` if there was no socket.
    pub fn last_with_timestamps(&self) -> Option<bool> {
        self.last_with.or_else(|| {
            let last = self.with.last_ns.max(self.without.last_ns);
            (last != 0).then_some(self.with.last_ns == last)
        })
    }

    /// Addresses of this end, the busiest first, with the sockets of each.
    pub fn locals(&self) -> Vec<([u8; 16], u64)> {
        let mut locals: Vec<([u8; 16], u64)> = Vec::new();
        for space in self.spaces.iter() {
            match locals.iter_mut().find(|(local, _)| *local == space.key.local) {
                Some((_, count)) => *count += u64::from(space.seen),
                None => locals.push((space.key.local, space.seen.into())),
            }
        }
        locals.sort_by(|one, two| two.1.cmp(&one.1).then(one.0.cmp(&two.0)));
        locals
    }

    /// Sockets in spaces beyond those told apart, and so perhaps of other addresses.
    pub fn other_locals(&self) -> u64 {
        self.rare.as_ref().map_or(0, |rare| rare.other_spaces)
    }

    /// Takes another row's past in. What is told of single moments stays the own row's.
    pub fn absorb(&mut self, other: &Self) {
        self.spaces.absorb(&other.spaces);
        if let Some(theirs) = &other.rare {
            let ours = self.rare();
            ours.other_spaces += theirs.other_spaces;
            ours.window.absorb(&theirs.window);
            ours.changes_seen += theirs.changes_seen;
        }
        self.with.absorb(&other.with);
        self.without.absorb(&other.without);
        if other.ports != Ports::None && self.ports != other.ports {
            let empty = self.ports == Ports::None;
            self.ports = if empty { other.ports } else { Ports::Many };
        }
        self.autobound += other.autobound;
        self.rearmed += other.rearmed;
        self.assassinated += other.assassinated;
        self.bound_reuse += other.bound_reuse;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(millis: u64, with_timestamps: bool) -> Entry {
        Entry {
            mono_ns: millis * 1_000_000,
            with_timestamps,
            blocked: !with_timestamps,
            space: SpaceKey { local: [1; 16], ..SpaceKey::default() },
            local_port: (millis % 60_000) as u16,
            remote_port: 80,
            ..Entry::default()
        }
    }

    #[test]
    fn the_moment_timestamps_went_away_is_kept() {
        let mut history = History::default();
        history.take_in(&entry(1_000, true));
        history.take_in(&entry(2_000, true));
        history.take_in(&entry(3_000, false));
        history.take_in(&entry(4_000, false));
        let change =
            Change { mono_ns: 3_000_000_000, before_ns: 2_000_000_000, with_timestamps: false };
        assert_eq!(history.changes(), [change]);
        assert_eq!(history.last_with_timestamps(), Some(false));
        assert_eq!(history.with.last_ns, 2_000_000_000);
        assert_eq!(history.without.first_ns, 3_000_000_000);
    }

    #[test]
    fn sockets_of_before_the_session_are_the_kind_before() {
        let mut history = History::default();
        let there = entry(500, true);
        let space = history.space_of(&there.space);
        history.present(space, &there);
        history.take_in(&entry(9_000, false));
        assert_eq!(history.changes().len(), 1);
        assert_eq!(history.changes()[0].before_ns, 500_000_000);
    }

    #[test]
    fn changes_and_addresses_stay_bounded() {
        let mut history = History::default();
        for n in 0..100_u64 {
            let space = SpaceKey { local: [n as u8; 16], ..SpaceKey::default() };
            let number = history.take_in(&Entry { space, ..entry(n * 10 + 1, n % 2 == 0) });
            history.live(number, Hold::default());
        }
        assert_eq!((history.changes().len(), history.changes_seen()), (MAX_CHANGES, 99));
        assert_eq!((history.locals().len(), history.other_locals()), (8, 92));
    }

    #[test]
    fn ports_are_the_same_until_one_differs() {
        let mut history = History::default();
        let fixed = Entry { local_port: 5000, ..entry(1, true) };
        history.take_in(&fixed);
        history.take_in(&fixed);
        assert_eq!(history.ports, Ports::Same(5000, 80));
        history.take_in(&Entry { local_port: 5001, ..fixed });
        assert_eq!(history.ports, Ports::Many);
    }

    #[test]
    fn absorbing_adds_rates_and_addresses() {
        let mut one = History::default();
        let mut two = History::default();
        one.take_in(&entry(5_000, true));
        let space = SpaceKey { local: [2; 16], ..SpaceKey::default() };
        let number = two.take_in(&Entry { space, ..entry(5_100, false) });
        (0..3).for_each(|_| two.live(number, Hold::BLOCKED));
        one.absorb(&two);
        assert_eq!(one.rates(5_900_000_000, 0).entered, 2.0);
        assert_eq!(one.locals().len(), 2);
        assert_eq!(one.stuck(), 3);
    }
}
