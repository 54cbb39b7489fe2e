//! What would have been: the port spaces of what happened, replayed under other settings.
//!
//! What happens is kept from one moment to the next and then replayed in the order of its times, in any
//! number of worlds at once, each with its own settings. Memory is bounded by the number of port spaces and
//! by what is kept until it is replayed.

mod known;
mod prediction;
mod remedy;
mod socket;
mod space;
#[cfg(test)]
mod tests;
mod told;
mod world;

use std::{
    collections::{HashSet, VecDeque},
    net::SocketAddr,
};

use rustc_hash::FxHashMap;
use twtrace_common::{Ended, Entered, Failed, entered_flags, failed_flags};

pub use prediction::{Predicted, Prediction};
use remedy::{BASIS, UNSEEN};
pub use remedy::{EXAMPLES, Remedy};

use crate::{
    event::{Event, Role, ip},
    failures::{self, Cause, Failures},
    host::facts::HostFacts,
    path::{self, Outcome},
    units::Hz,
};
use known::Known;
use socket::{Key, Socket};
use told::Told;
use world::{MOST_SPACES, Namespaces, World};

/// Most sockets remembered until they end.
const MOST_LIVE: usize = 262_144;
/// Most places of failed calls whose events are counted.
const MOST_PLACES: usize = 2 * Failures::CAPACITY;
/// Most that is kept until it is replayed; of more, what came first is replayed before its moment.
const MOST_KEPT: usize = 65_536;
/// Peers of ports bound first that are remembered, for calls that were refused before they had one.
const PEERS: usize = 16;

/// A place of failed calls: namespace, result, both ends and the process.
type Place = (u32, Cause, SocketAddr, Option<SocketAddr>, u32);

/// Where and of whom a call failed.
fn place_of(place: &failures::Place) -> Place {
    (place.netns, place.cause, place.local, place.remote, place.program.pid)
}

/// What happened at some time.
#[derive(Clone, Copy, Debug)]
enum Happening {
    Entered(Socket),
    /// Its port was free before its time.
    Ended(Socket),
    /// Calls that found no port.
    Wanted(Key, u64),
}

/// What happened, under every set of settings that is tried.
#[derive(Debug)]
pub struct WhatIf {
    worlds: Vec<World>,
    hz: Hz,
    recycle_exists: bool,
    sees_binds: bool,
    namespaces: Namespaces,
    /// By the address of the socket.
    live: FxHashMap<u64, Socket>,
    likes: FxHashMap<Key, Socket>,
    /// Of ports bound first the last peers, by space.
    peers: FxHashMap<Key, VecDeque<Key>>,
    /// Failed calls, by place.
    told: FxHashMap<Place, Told>,
    /// What is not replayed yet, with its time in milliseconds.
    kept: Vec<(u64, Happening)>,
    /// When the last moment was, milliseconds; `None` before the first: which calls had failed before it
    /// is not known until then.
    moment_ms: Option<u64>,
    /// Connections that were replayed, and failed calls.
    connections: u64,
    failed: u64,
    named: u64,
}

impl WhatIf {
    /// Of events from a kernel of this tick rate, told in a way that sees refused `bind()` calls or not.
    pub fn new(remedies: Vec<Remedy>, hz: Hz, recycle_exists: bool, sees_binds: bool) -> Self {
        Self {
            worlds: remedies.into_iter().map(World::new).collect(),
            hz,
            recycle_exists,
            sees_binds,
            namespaces: Namespaces::new(),
            live: FxHashMap::default(),
            likes: FxHashMap::default(),
            peers: FxHashMap::default(),
            told: FxHashMap::default(),
            kept: Vec::new(),
            moment_ms: None,
            connections: 0,
            failed: 0,
            named: 0,
        }
    }

    /// What all predictions rest on.
    pub fn basis(&self) -> impl Iterator<Item = &'static str> {
        BASIS.into_iter().chain((!self.sees_binds).then_some(UNSEEN))
    }

    /// Takes in an event.
    pub fn event(&mut self, event: &Event) {
        match event {
            Event::Entered(entered) => self.enter(entered, event.role(), false),
            Event::Present(entered) => self.enter(entered, event.role(), true),
            Event::Ended(ended) => self.end(ended),
            Event::Failed(failed) => self.fail(failed),
        }
        if self.kept.len() >= MOST_KEPT {
            self.replay();
        }
    }

    /// Takes in what is known of the host at a moment of `CLOCK_MONOTONIC`, and the calls that failed
    /// until then; replays what happened since the last one.
    pub fn moment(&mut self, mono_ns: u64, facts: Option<&HostFacts>, failures: &Failures) {
        self.count(failures);
        // What happens from now on happens where this is so; and of what was never looked at before, what
        // happened until now as well.
        self.look(facts, true);
        self.replay();
        self.look(facts, false);
        self.moment_ms = Some(mono_ns / 1_000_000);
    }

    /// Takes in what is known of namespaces, of all or of those alone that nothing is known of yet.
    fn look(&mut self, facts: Option<&HostFacts>, unknown_alone: bool) {
        for (netns, facts) in facts.iter().flat_map(|facts| &facts.namespaces) {
            let known = self.namespaces.get(netns).is_some_and(Known::knows_open);
            if !(unknown_alone && known) {
                self.namespaces.insert(*netns, Known::of(facts));
            }
        }
        for world in &mut self.worlds {
            world.look(&self.namespaces);
        }
    }

    /// Takes in how many calls failed.
    fn count(&mut self, failures: &Failures) {
        if self.told.len() >= MOST_PLACES {
            // Those of programs that are long gone; what was told of the others stays.
            let known: HashSet<Place> = failures.places().map(place_of).collect();
            self.told.retain(|place, _| known.contains(place));
        }
        for place in failures.places() {
            let key = place_of(place);
            let own_range = place.ports.filter(|_| place.own_range);
            let told = self.told.entry(key);
            let told = told.or_insert_with(|| Told::of(Key::of_failed(&key, own_range)));
            let counted = (place.count, place.last_ns / 1_000_000);
            match self.moment_ms {
                None => told.begin(counted.0, counted.1),
                Some(moment_ms) => {
                    let spread = told.moment(Some(counted), moment_ms).filter(|_| !place.gone);
                    if let (Some(key), Some(spread)) = (told.key, spread) {
                        let parts = spread.parts();
                        self.kept.extend(
                            parts.map(|(at_ms, calls)| (at_ms, Happening::Wanted(key, calls))),
                        );
                    }
                }
            }
        }
        // Of what is not counted by place events tell.
        for told in self.told.values_mut().filter(|told| told.has_events()) {
            let spread = told.moment(None, self.moment_ms.unwrap_or(0));
            if let (Some(key), Some(spread)) = (told.key, spread) {
                let wanted = |(at_ms, calls)| (at_ms, Happening::Wanted(key, calls));
                self.kept.extend(spread.parts().map(wanted));
            }
        }
    }

    /// Replays what is kept, in the order of its times.
    fn replay(&mut self) {
        let mut kept = std::mem::take(&mut self.kept);
        kept.sort_by_key(|(at_ms, _)| *at_ms);
        for (at_ms, happening) in kept.drain(..) {
            match happening {
                Happening::Entered(socket) => {
                    self.remember(&socket);
                    self.each(|world, namespaces| world.take(&socket, namespaces, 1));
                }
                Happening::Ended(socket) => {
                    self.each(|world, namespaces| world.end(&socket, namespaces));
                }
                Happening::Wanted(key, calls) => self.want(key, at_ms, calls),
            }
        }
        // The room of it is used again.
        self.kept = kept;
    }

    fn each(&mut self, mut of: impl FnMut(&mut World, &Namespaces)) {
        self.worlds.iter_mut().for_each(|world| of(world, &self.namespaces));
    }

    fn enter(&mut self, entered: &Entered, role: Role, present: bool) {
        let overflow = entered.header.flags & entered_flags::OVERFLOW != 0;
        if role == Role::Server || (!present && overflow) {
            return;
        }
        let Some(socket) = Socket::entered(entered, role, present, self.hz) else {
            self.named += u64::from(!present);
            return;
        };
        self.connections += u64::from(!present);
        self.kept.push((socket.at_ms, Happening::Entered(socket)));
        if self.live.len() < MOST_LIVE && entered.tw != 0 {
            self.live.insert(entered.tw, socket);
        }
    }

    /// Keeps what failed calls of its space would have been like.
    fn remember(&mut self, socket: &Socket) {
        let Socket { key, .. } = *socket;
        if self.likes.len() < MOST_SPACES || self.likes.contains_key(&key) {
            self.likes.insert(key, *socket);
        }
        let of = key.of_all_peers();
        if key.bind && (self.peers.len() < MOST_SPACES || self.peers.contains_key(&of)) {
            let peers = self.peers.entry(of).or_default();
            peers.push_back(key);
            if peers.len() > PEERS {
                peers.pop_front();
            }
        }
    }

    fn end(&mut self, ended: &Ended) {
        let Some(socket) = self.live.remove(&ended.tw) else { return };
        let outcome = path::at_end(ended, self.recycle_exists, self.hz);
        if matches!(outcome, Outcome::Killed | Outcome::Aborted | Outcome::Purged) {
            self.kept.push((ended.mono_ns / 1_000_000, Happening::Ended(socket)));
        }
    }

    fn fail(&mut self, failed: &Failed) {
        let Some(cause) = Cause::of(failed.result) else { return };
        let flow = &failed.flow;
        let local = SocketAddr::new(ip(flow.local), flow.local_port);
        let bind = cause == Cause::AddressInUse;
        let remote = (!bind).then(|| SocketAddr::new(ip(flow.remote), flow.remote_port));
        let place = (failed.header.netns, cause, local, remote, failed.pid);
        // Of more places than are kept the moments tell.
        if self.told.len() < MOST_PLACES || self.told.contains_key(&place) {
            let own_range = failed.header.flags & failed_flags::OWN_RANGE != 0;
            let own_range = own_range.then_some((flow.port_low, flow.port_high));
            let told = self.told.entry(place);
            let told = told.or_insert_with(|| Told::of(Key::of_failed(&place, own_range)));
            told.event(failed.stands_for.max(1).into(), failed.mono_ns / 1_000_000);
        }
    }

    /// Calls that found no port: in each world they may.
    fn want(&mut self, key: Key, at_ms: u64, calls: u64) {
        self.failed = self.failed.saturating_add(calls);
        // A refused bind() tells no peer: they are taken to be those of the last ones, in turn.
        let turns: Vec<(Key, u64)> = match self.peers.get_mut(&key) {
            Some(peers) => {
                let (each, more) = (calls / peers.len() as u64, calls % peers.len() as u64);
                let turn = |(peer, turn): (&Key, u64)| (*peer, each + u64::from(turn < more));
                let turns = peers.iter().zip(0..).map(turn).collect();
                peers.rotate_left(more as usize);
                turns
            }
            None => vec![(key, calls)],
        };
        for (key, calls) in turns.into_iter().filter(|(_, calls)| *calls > 0) {
            let socket = Socket::wanted(key, at_ms, self.likes.get(&key).copied());
            self.each(|world, namespaces| world.take(&socket, namespaces, calls));
        }
    }

    /// Connections that were replayed.
    pub const fn connections(&self) -> u64 {
        self.connections
    }

    /// Failed calls that were replayed: what was recorded of them.
    pub const fn failed(&self) -> u64 {
        self.failed
    }

    /// Connections of programs that name their own ports: they are in no prediction.
    pub const fn named(&self) -> u64 {
        self.named
    }

    /// What would have been, in the order the settings were given.
    pub fn predictions(&self) -> Vec<Prediction> {
        self.worlds.iter().map(World::prediction).collect()
    }
}
