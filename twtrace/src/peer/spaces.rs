//! The port spaces that a row's sockets are in, in bounded memory: of each how many live there, which
//! ports were seen, and what came and went of late.
//!
//! Where a port is scarce depends on who chose it (`__inet_hash_connect()` and
//! `inet_csk_find_open_port()`): `connect()` looks for one by source address and peer, within the
//! range of the socket; `bind(address, 0)` by source address alone; a program that names its ports
//! has those.

use smallvec::SmallVec;
use twtrace_common::PortChoice;

use super::{
    entry::{Entry, SpaceKey},
    rates::{Rates, Window},
};

/// Spaces of a row told apart; what is in more of them counts in none.
const MAX_SPACES: usize = 8;

/// Number of the space of a socket that is in none of those told apart.
pub const NO_SPACE: u8 = u8::MAX;

/// What a socket is to others that want its port, as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hold(pub u8);

impl Hold {
    /// It has a timestamp of the peer, without which no `connect()` takes its port over.
    pub const ELIGIBLE: Self = Self(1);
    /// The sysctls allow that as well.
    pub const ALLOWED: Self = Self(1 << 1);
    /// Neither is known.
    pub const UNKNOWN: Self = Self(1 << 2);
    /// It entered as a FIN_WAIT2 mini-socket.
    pub const FIN_WAIT2: Self = Self(1 << 3);
    /// It had `SO_REUSEADDR`.
    pub const REUSEADDR: Self = Self(1 << 4);
    /// A reason other than FIN_WAIT2 blocks its fast path.
    pub const BLOCKED: Self = Self(1 << 5);

    /// With other bits as well, if so.
    #[must_use]
    pub const fn with(self, other: Self, so: bool) -> Self {
        if so { Self(self.0 | other.0) } else { self }
    }

    /// Whether all of these bits are there.
    pub const fn is(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// Ports that were seen: the lowest and the highest, and where a program names its own each of them as
/// long as they are few.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeenPorts {
    /// The lowest and the highest, 0 if none was seen.
    pub range: (u16, u16),
    /// All of them in order, if a program names them and they are few.
    pub few: Vec<u16>,
}

impl SeenPorts {
    /// Most that are kept one by one.
    const FEW: usize = 64;

    fn add(&mut self, port: u16, named: bool) {
        let (low, high) = self.range;
        let are_many = high != 0 && self.few.is_empty();
        self.range = if high == 0 { (port, port) } else { (low.min(port), high.max(port)) };
        if !named || are_many {
            return;
        }
        if let Err(place) = self.few.binary_search(&port) {
            self.few.insert(place, port);
        }
        if self.few.len() > Self::FEW {
            self.few = Vec::new();
        }
    }

    fn absorb(&mut self, other: &Self) {
        if other.range.1 == 0 {
            return;
        }
        if other.few.is_empty() {
            self.add(other.range.0, false);
            self.add(other.range.1, false);
            self.few = Vec::new();
        } else {
            other.few.iter().for_each(|port| self.add(*port, true));
        }
    }
}

/// One space.
#[derive(Clone, Debug, Default)]
pub struct Space {
    /// What tells it from others.
    pub key: SpaceKey,
    /// Ports seen in it.
    pub ports: SeenPorts,
    /// Sockets ever seen in it.
    pub seen: u32,
    /// Of them, those that live.
    pub live: u32,
    /// Of them, those whose fast path is closed, by a reason other than FIN_WAIT2.
    pub blocked: u32,
    window: Window,
}

impl Space {
    /// What happened a second of late; see [`Window::rates`].
    pub fn rates(&self, now_ns: u64, since_ns: u64) -> Rates {
        self.window.rates(now_ns, since_ns)
    }

    /// The second by second counts.
    pub fn window(&self) -> &Window {
        &self.window
    }
}

/// The spaces of a row.
#[derive(Clone, Debug, Default)]
pub struct Spaces(SmallVec<[Space; 1]>);

impl Spaces {
    /// Takes in a socket of the space of this number; `present` if it was there at the start.
    pub fn enter(&mut self, number: u8, entry: &Entry, present: bool) {
        let Some(space) = self.0.get_mut(usize::from(number)) else { return };
        space.seen = space.seen.saturating_add(1);
        space.ports.add(entry.local_port, entry.space.chosen == PortChoice::Program);
        if !present {
            space.window.enter(entry);
        }
    }

    /// The number of a space, which is made if need be; [`NO_SPACE`] if there are too many.
    pub fn number_of(&mut self, key: &SpaceKey) -> u8 {
        self.place(key).map_or(NO_SPACE, |place| place as u8)
    }

    /// A socket in a space lives from now on.
    pub fn live(&mut self, space: u8, hold: Hold) {
        if let Some(space) = self.0.get_mut(usize::from(space)) {
            space.live += 1;
            space.blocked += u32::from(hold.is(Hold::BLOCKED));
        }
    }

    /// A socket in a space lives no more. When it ended is unknown if that was not seen.
    pub fn end(&mut self, space: u8, hold: Hold, ended: Option<(u64, bool)>) {
        if let Some(space) = self.0.get_mut(usize::from(space)) {
            space.live = space.live.saturating_sub(1);
            space.blocked = space.blocked.saturating_sub(u32::from(hold.is(Hold::BLOCKED)));
            if let Some((mono_ns, early)) = ended {
                space.window.end(mono_ns, hold.is(Hold::BLOCKED), early);
            }
        }
    }

    /// The place of a space, made if need be; `None` if there are too many.
    fn place(&mut self, key: &SpaceKey) -> Option<usize> {
        if let Some(known) = self.0.iter().position(|space| space.key == *key) {
            return Some(known);
        }
        let fresh = Space { key: *key, ..Space::default() };
        if self.0.len() < MAX_SPACES {
            self.0.push(fresh);
            return Some(self.0.len() - 1);
        }
        // Numbers of spaces without live sockets are known to nobody.
        let empty = self.0.iter().position(|space| space.live == 0)?;
        self.0[empty] = fresh;
        Some(empty)
    }

    /// All of them, by number.
    pub fn iter(&self) -> impl Iterator<Item = &Space> {
        self.0.iter()
    }

    /// Those of another row, in none of which a socket lives that could be followed here.
    pub fn absorb(&mut self, other: &Self) {
        for theirs in &other.0 {
            let Some(place) = self.place(&theirs.key) else { continue };
            let ours = &mut self.0[place];
            ours.ports.absorb(&theirs.ports);
            ours.seen = ours.seen.saturating_add(theirs.seen);
            ours.live += theirs.live;
            ours.blocked += theirs.blocked;
            ours.window.absorb(&theirs.window);
        }
    }

    /// For tests of what is concluded: so many sockets live in the first space, so many blocked.
    #[cfg(test)]
    pub fn set_live(&mut self, live: u32, blocked: u32) {
        (self.0[0].live, self.0[0].blocked) = (live, blocked);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use twtrace_common::PortChoice;

    fn entry(local: u8, chosen: PortChoice, port: u16) -> Entry {
        let space = SpaceKey { local: [local; 16], chosen, range: (0, 0) };
        Entry { mono_ns: 5_000_000_000, space, local_port: port, ..Entry::default() }
    }

    fn enter(spaces: &mut Spaces, entry: &Entry, present: bool) -> u8 {
        let number = spaces.number_of(&entry.space);
        spaces.enter(number, entry, present);
        number
    }

    #[test]
    fn sources_and_who_chose_make_spaces_of_their_own() {
        let mut spaces = Spaces::default();
        assert_eq!(enter(&mut spaces, &entry(1, PortChoice::Connect, 4000), false), 0);
        assert_eq!(enter(&mut spaces, &entry(1, PortChoice::Bind, 4001), false), 1);
        assert_eq!(enter(&mut spaces, &entry(2, PortChoice::Connect, 4002), true), 2);
        assert_eq!(enter(&mut spaces, &entry(1, PortChoice::Connect, 3999), false), 0);
        let first = spaces.iter().next().unwrap();
        assert_eq!((first.ports.range, first.seen), ((3999, 4000), 2));
        assert_eq!(first.rates(5_900_000_000, 5_000_000_000).entered, 2.0);
        let third = spaces.iter().nth(2).unwrap();
        assert_eq!(third.rates(5_900_000_000, 5_000_000_000).entered, 0.0, "it did not enter now");
    }

    #[test]
    fn what_lives_is_counted_until_it_ends() {
        let mut spaces = Spaces::default();
        let space = enter(&mut spaces, &entry(1, PortChoice::Connect, 4000), false);
        spaces.live(space, Hold::BLOCKED);
        spaces.live(space, Hold::default());
        let counts =
            |spaces: &Spaces| spaces.iter().next().map(|space| (space.live, space.blocked));
        assert_eq!(counts(&spaces), Some((2, 1)));
        spaces.end(space, Hold::BLOCKED, Some((5_500_000_000, false)));
        assert_eq!(counts(&spaces), Some((1, 0)));
        spaces.end(NO_SPACE, Hold::BLOCKED, None);
        assert_eq!(counts(&spaces), Some((1, 0)));
    }

    #[test]
    fn an_empty_space_gives_its_place_away_and_one_with_sockets_does_not() {
        let mut spaces = Spaces::default();
        for n in 0..8 {
            let space = enter(&mut spaces, &entry(n, PortChoice::Connect, 4000), false);
            spaces.live(space, Hold::default());
        }
        assert_eq!(enter(&mut spaces, &entry(9, PortChoice::Connect, 4000), false), NO_SPACE);
        spaces.end(3, Hold::default(), None);
        assert_eq!(enter(&mut spaces, &entry(9, PortChoice::Connect, 4000), false), 3);
    }

    #[test]
    fn ports_that_a_program_names_are_known_one_by_one_as_long_as_they_are_few() {
        let mut few = SeenPorts::default();
        [60_000, 2000, 60_000].iter().for_each(|port| few.add(*port, true));
        assert_eq!((few.range, &few.few[..]), ((2000, 60_000), &[2000, 60_000][..]));
        let mut many = SeenPorts::default();
        (1000..1065).for_each(|port| many.add(port, true));
        assert_eq!((many.range, many.few.len()), ((1000, 1064), 0));
        many.add(1, true);
        assert_eq!((many.range, many.few.len()), ((1, 1064), 0), "they are not few again");
        let mut both = few.clone();
        both.absorb(&many);
        assert_eq!((both.range, both.few.len()), ((1, 60_000), 0));
        many = SeenPorts::default();
        many.absorb(&few);
        assert_eq!(many, few);
        many.absorb(&SeenPorts::default());
        assert_eq!(many, few);
    }
}
