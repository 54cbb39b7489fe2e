//! One port space under one set of settings: how many ports are held, and which calls find none.

use std::collections::{BTreeMap, VecDeque};

/// Ports of one source address.
#[derive(Clone, Debug, Default)]
struct Held {
    /// When ports come back, milliseconds, and how many.
    back: BTreeMap<u64, u64>,
    /// How many that is.
    ports: u64,
}

impl Held {
    /// Lets go of what is back by now.
    fn pass(&mut self, now_ms: u64) {
        while let Some(next) = self.back.first_entry().filter(|next| *next.key() <= now_ms) {
            self.ports -= next.remove();
        }
    }

    fn hold(&mut self, until_ms: u64, ports: u64) {
        if ports > 0 {
            *self.back.entry(until_ms).or_default() += ports;
            self.ports += ports;
        }
    }
}

/// What some calls want.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// When, milliseconds.
    pub at_ms: u64,
    /// How many.
    pub calls: u64,
    /// How long each port is held after the close, milliseconds.
    pub held_ms: u64,
}

/// A port space.
#[derive(Clone, Debug, Default)]
pub struct Space {
    /// By source address.
    held: Vec<Held>,
    turn: usize,
    /// When connections that are used again were to be closed, milliseconds.
    pool: VecDeque<u64>,
    /// Ports there are, for each source address.
    pub usable: u64,
    /// Connections that are open beside, of each source address.
    pub open: u64,
    /// The most ports held at a time, of one source address.
    pub peak: u64,
    /// Calls that found none.
    pub failed: u64,
    /// Connections that were opened.
    pub opened: u64,
}

impl Space {
    /// One for so many source addresses.
    pub fn new(sources: u16) -> Self {
        let held = vec![Held::default(); usize::from(sources.max(1))];
        Self { held, ..Self::default() }
    }

    /// Calls that each take a port and give it back so long after.
    pub fn take(&mut self, wanted: Wanted) {
        let sources = self.held.len() as u64;
        for part in 0..sources.min(wanted.calls) {
            // Mostly it is one; of many at once each source has its part.
            let calls = wanted.calls / sources + u64::from(part < wanted.calls % sources);
            self.turn = (self.turn + 1) % self.held.len();
            let held = &mut self.held[self.turn];
            held.pass(wanted.at_ms);
            let free = self.usable.saturating_sub(held.ports + self.open);
            let taken = calls.min(free);
            if wanted.held_ms > 0 {
                held.hold(wanted.at_ms + wanted.held_ms, taken);
                // More than there are cannot be: connections that were open then are among the held by now.
                self.peak = self.peak.max((held.ports + self.open).min(self.usable));
            } else {
                // Its port is free again with its close, at which it is looked at.
                self.peak = self.peak.max(held.ports + self.open + taken.min(1));
            }
            self.opened += taken;
            self.failed += calls - taken;
        }
    }

    /// Calls for which connections that are open already are used, if there is one: each is closed so
    /// long after it was opened, and as many are there at once as there is use for.
    pub fn reuse(&mut self, wanted: Wanted, keep_ms: u64, at_once: u64) {
        let Self { held, pool, .. } = self;
        let held = &mut held[0];
        while let Some(closed_ms) = pool.pop_front_if(|closed_ms| *closed_ms <= wanted.at_ms) {
            held.hold(closed_ms + wanted.held_ms, 1);
        }
        held.pass(wanted.at_ms);
        for _ in 0..wanted.calls.min(at_once) {
            let open = pool.len() as u64;
            if open >= at_once {
                break;
            }
            if held.ports + open < self.usable {
                pool.push_back(wanted.at_ms + keep_ms);
                self.opened += 1;
            } else if open == 0 {
                self.failed += wanted.calls;
                break;
            }
        }
        self.peak = self.peak.max(held.ports + pool.len() as u64);
    }

    /// A socket that would have held its port until then was ended before.
    pub fn end(&mut self, until_ms: u64) {
        for held in &mut self.held {
            if let Some(ports) = held.back.get_mut(&until_ms).filter(|ports| **ports > 0) {
                *ports -= 1;
                held.ports -= 1;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(at_ms: u64, held_ms: u64) -> Wanted {
        Wanted { at_ms, calls: 1, held_ms }
    }

    #[test]
    fn ports_are_held_for_their_time_and_what_finds_none_fails() {
        let mut space = Space { usable: 100, ..Space::new(1) };
        (0..300).for_each(|n| space.take(one(n * 10, 60_000)));
        assert_eq!((space.peak, space.failed, space.opened), (100, 200, 100));
        let mut space = Space { usable: 100, ..Space::new(1) };
        (0..300).for_each(|n| space.take(one(n * 20, 1_000)));
        assert_eq!((space.peak, space.failed), (50, 0), "20 ms apart, a second each");
    }

    #[test]
    fn sources_take_turns_and_each_has_all_ports() {
        let mut space = Space { usable: 100, ..Space::new(3) };
        (0..270).for_each(|n| space.take(one(n, 60_000)));
        assert_eq!((space.peak, space.failed), (90, 0));
        space.take(Wanted { at_ms: 300, calls: 60, held_ms: 60_000 });
        assert_eq!((space.peak, space.failed, space.opened), (100, 30, 300));
    }

    #[test]
    fn connections_that_are_kept_are_opened_anew_when_their_time_is_over() {
        let mut space = Space { usable: 100, ..Space::new(1) };
        (0..100).for_each(|n| space.reuse(one(n * 100, 60_000), 1_000, 1));
        assert_eq!((space.opened, space.peak, space.failed), (10, 10, 0));
    }

    #[test]
    fn what_ends_before_its_time_gives_its_port_back() {
        let mut space = Space { usable: 1, ..Space::new(1) };
        space.take(one(5, 60_000));
        space.end(60_005);
        space.end(60_005);
        space.take(one(6, 60_000));
        assert_eq!((space.peak, space.failed), (1, 0));
    }

    #[test]
    fn where_the_peer_closes_first_a_port_is_held_as_long_as_it_is_open() {
        let mut space = Space { usable: 10, open: 3, ..Space::new(1) };
        (0..100).for_each(|n| space.take(one(n, 0)));
        assert_eq!((space.peak, space.failed), (4, 0));
    }
}
