//! Entries of each peer over time, in as few numbers as a small picture has room for.

use std::hash::{Hash, Hasher};

use rustc_hash::FxHashMap;

use crate::{event::Event, peer::Group};

/// Most times told apart; when there would be more, each is made twice as long.
const MOST_SLOTS: usize = 60;
/// Most peers: as many as there are rows.
const MOST_PEERS: usize = 65_536;
/// Length of the first times, nanoseconds.
const FIRST_SLOT_NS: u64 = 250_000_000;

/// A row's identity as a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key(Group);

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        if let Group::Peer { netns, address, port, .. } = self.0 {
            (netns, address, port).hash(state);
        }
    }
}

/// Entries of all peers over time.
#[derive(Debug)]
pub struct PeerEntries {
    slot_ns: u64,
    /// The first entry.
    from_ns: Option<u64>,
    /// Slots in which anything happened, of anybody.
    slots: usize,
    peers: FxHashMap<Key, Vec<u32>>,
}

impl Default for PeerEntries {
    fn default() -> Self {
        Self { slot_ns: FIRST_SLOT_NS, from_ns: None, slots: 0, peers: FxHashMap::default() }
    }
}

/// One peer's entries over time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Entries<'a> {
    /// How many in each time; those behind the last had none.
    pub counts: &'a [u32],
    /// Times that there are of all peers.
    pub slots: usize,
    /// How long each is, seconds.
    pub seconds: f64,
}

impl PeerEntries {
    /// Takes in an event.
    pub fn event(&mut self, event: &Event) {
        let Event::Entered(entered) = event else { return };
        let from_ns = *self.from_ns.get_or_insert(entered.mono_ns);
        let since = entered.mono_ns.saturating_sub(from_ns);
        while since / self.slot_ns >= MOST_SLOTS as u64 {
            self.halve();
        }
        let slot = (since / self.slot_ns) as usize;
        self.slots = self.slots.max(slot + 1);
        let flow = &entered.flow;
        let netns = entered.header.netns;
        let key = Key(Group::peer(netns, event.role(), flow.remote, flow.remote_port));
        if self.peers.len() >= MOST_PEERS && !self.peers.contains_key(&key) {
            return;
        }
        let counts = self.peers.entry(key).or_default();
        if counts.len() <= slot {
            counts.resize(slot + 1, 0);
        }
        counts[slot] = counts[slot].saturating_add(1);
    }

    /// Makes two times into one.
    fn halve(&mut self) {
        self.slot_ns *= 2;
        self.slots = self.slots.div_ceil(2);
        for counts in self.peers.values_mut() {
            let halves =
                counts.chunks(2).map(|pair| pair.iter().fold(0_u32, |a, b| a.saturating_add(*b)));
            *counts = halves.collect();
        }
    }

    /// Those of a row.
    pub fn of(&self, group: &Group) -> Option<Entries<'_>> {
        let counts = self.peers.get(&Key(*group))?;
        Some(Entries { counts, slots: self.slots, seconds: self.slot_ns as f64 / 1e9 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Role;
    use twtrace_common::{Entered, Flow, Header, Kind, PortChoice};

    fn entered(peer: u8, millis: u64) -> Event {
        Event::Entered(Entered {
            header: Header { kind: Kind::Entered as u8, netns: 7, ..Header::default() },
            mono_ns: millis * 1_000_000,
            flow: Flow { remote: [peer; 16], remote_port: 80, ..Flow::default() },
            chosen: PortChoice::Connect as u8,
            ..Entered::default()
        })
    }

    #[test]
    fn times_become_longer_and_no_entry_is_lost() {
        let mut entries = PeerEntries::default();
        for second in 0..1_000 {
            entries.event(&entered(1, 5_000 + second * 1_000));
        }
        entries.event(&entered(2, 5_500));
        let of = |peer: u8| entries.of(&Group::peer(7, Role::Client, [peer; 16], 80)).unwrap();
        let (one, two) = (of(1), of(2));
        assert!(one.slots <= MOST_SLOTS && one.slots > MOST_SLOTS / 2);
        assert_eq!(one.counts.iter().sum::<u32>(), 1_000);
        assert_eq!((two.counts, two.slots), (&[1][..], one.slots));
        assert!(one.seconds * one.slots as f64 >= 999.0);
        assert!(entries.of(&Group::peer(7, Role::Client, [3; 16], 80)).is_none());
    }
}
