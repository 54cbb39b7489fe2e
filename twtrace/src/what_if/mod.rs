//! What would have been: the port spaces of what happened, replayed under other settings.
//!
//! Events are taken in as they come, in any number of worlds at once, each with its own settings;
//! memory is bounded by the number of port spaces, and no event is kept.

mod remedy;
mod space;

use std::{
    collections::{BTreeMap, HashSet},
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
};

use rustc_hash::FxHashMap;
use twtrace_common::{
    Ended, Entered, Failed, PortChoice, TCP_FIN_WAIT2, entered_flags, failed_flags,
};

pub use remedy::{BASIS, EXAMPLES, Remedy};
use space::{Space, Wanted};

use crate::{
    aggregate::{began_ns, left_ms, space},
    diagnose::{arithmetic::usable_ports, pressure::reuse_delay},
    event::{Event, Role, ip, is_loopback},
    failures::{self, Cause, Failures},
    host::facts::{HostFacts, NamespaceFacts},
    path::{self, Outcome},
    units::{Hz, TCP_TIMEWAIT_LEN_MS},
};

/// Most port spaces of a world.
const MOST_SPACES: usize = 4096;
/// Most sockets remembered until they end.
const MOST_LIVE: usize = 262_144;
/// Most places of failed calls whose events are counted.
const MOST_PLACES: usize = 2 * Failures::CAPACITY;
/// Failed calls that are told together were within this time, milliseconds: they are counted that often.
const TOLD_WITHIN_MS: u64 = 1_500;
/// Parts that calls are replayed in that are told together.
const PARTS: u64 = 50;
/// Port spaces told one by one.
const MOST_TOLD: usize = 16;

/// What tells a port space from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Key {
    netns: u32,
    /// Ports for `bind(address, 0)`, of all peers together.
    bind: bool,
    local: [u8; 16],
    remote: [u8; 16],
    remote_port: u16,
    /// The socket's own range; 0 where it is its namespace's.
    range: (u16, u16),
}

/// What a socket that entered is to the settings that are tried.
#[derive(Clone, Copy, Debug)]
struct Socket {
    key: Key,
    /// When it entered, milliseconds.
    at_ms: u64,
    /// How much of its time is over then.
    age_ms: u64,
    /// How long its timer runs from then on.
    left_ms: u64,
    /// It has a timestamp of the peer.
    eligible: bool,
    /// It could have one, as this end offers them.
    offered: bool,
    loopback: bool,
    /// `tcp_tw_reuse` at the entry, if known, 1 where 2 means the same.
    tw_reuse: Option<u8>,
    /// The range of its namespace at the entry.
    range: (u16, u16),
}

/// What a failed call's socket would have been: as the last one of its space that was seen.
type Like = Option<Socket>;

/// One set of settings, and what it leads to.
#[derive(Debug)]
struct World {
    remedy: Remedy,
    spaces: FxHashMap<Key, Space>,
    /// Calls that have no place: too many spaces, or no peer to try them on.
    unplaced: u64,
}

/// Failed calls of one place. Counts come with moments, events between them; an event stands for calls
/// that were counted before.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    /// Calls that events stand for.
    events: u64,
    /// Calls that are in the replay.
    replayed: u64,
    /// When the last of them was, milliseconds.
    at_ms: u64,
}

impl Told {
    /// So many there were until then; answers how many of them are new, and since when they were.
    fn there_were(&mut self, calls: u64, at_ms: u64) -> (u64, u64) {
        let new = calls.saturating_sub(self.replayed);
        self.replayed += new;
        let since_ms = self.at_ms.max(at_ms.saturating_sub(TOLD_WITHIN_MS)).min(at_ms);
        self.at_ms = self.at_ms.max(at_ms);
        (new, since_ms)
    }
}

/// Where and of whom a call failed.
fn place_of(place: &failures::Place) -> Place {
    (place.netns, place.cause, place.local, place.remote, place.program.pid)
}

/// What is known of a namespace.
#[derive(Clone, Debug, Default)]
struct Known {
    range: Option<RangeInclusive<u16>>,
    reserved: Vec<RangeInclusive<u16>>,
    delay_ms: u64,
    tw_reuse: Option<u8>,
}

/// A place of failed calls: namespace, result, both ends and the process.
type Place = (u32, Cause, SocketAddr, Option<SocketAddr>, u32);

/// What happened, under every set of settings that is tried.
#[derive(Debug)]
pub struct WhatIf {
    worlds: Vec<World>,
    hz: Hz,
    recycle_exists: bool,
    namespaces: BTreeMap<u32, Known>,
    /// By the address of the socket.
    live: FxHashMap<u64, Socket>,
    likes: FxHashMap<Key, Socket>,
    /// Failed calls, by place.
    told: FxHashMap<Place, Told>,
    /// Whether the calls that failed before the first moment are known.
    began: bool,
    /// Connections that were replayed, and failed calls.
    connections: u64,
    failed: u64,
    named: u64,
}

/// What would have been with one set of settings.
#[derive(Clone, Debug)]
pub struct Prediction {
    /// The settings.
    pub remedy: Remedy,
    /// Calls that would have failed for want of a port.
    pub failed: u64,
    /// Connections that would have been opened.
    pub opened: u64,
    /// Calls that could not be tried.
    pub unplaced: u64,
    /// The fullest port spaces, the fullest first.
    pub spaces: Vec<Predicted>,
}

/// What would have been of one port space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Predicted {
    /// Inode number of its network namespace.
    pub netns: u32,
    /// The address of this end.
    pub local: IpAddr,
    /// The peer; `None` for ports of `bind(address, 0)`.
    pub remote: Option<SocketAddr>,
    /// Ports there are, for each source address.
    pub usable: u64,
    /// The most held at a time, of one source address.
    pub peak: u64,
    /// Calls that would have failed.
    pub failed: u64,
}

impl Predicted {
    /// The most held as a share of what there is.
    pub fn share(&self) -> f64 {
        if self.usable == 0 { 1.0 } else { self.peak as f64 / self.usable as f64 }
    }

    /// The space as people write it.
    pub fn name(&self) -> String {
        match self.remote {
            Some(remote) => format!("{} -> {remote}", self.local),
            None => format!("{} (bound first, all peers)", self.local),
        }
    }
}

impl WhatIf {
    /// Of events from a kernel of this tick rate.
    pub fn new(remedies: Vec<Remedy>, hz: Hz, recycle_exists: bool) -> Self {
        let world = |remedy| World { remedy, spaces: FxHashMap::default(), unplaced: 0 };
        Self {
            worlds: remedies.into_iter().map(world).collect(),
            hz,
            recycle_exists,
            namespaces: BTreeMap::new(),
            live: FxHashMap::default(),
            likes: FxHashMap::default(),
            told: FxHashMap::default(),
            began: false,
            connections: 0,
            failed: 0,
            named: 0,
        }
    }

    /// Takes in an event.
    pub fn event(&mut self, event: &Event) {
        match event {
            Event::Entered(entered) => self.enter(entered, event.role(), false),
            Event::Present(entered) => self.enter(entered, event.role(), true),
            Event::Ended(ended) => self.end(ended),
            Event::Failed(failed) => self.fail(failed),
        }
    }

    /// Takes in what is known of the host at a moment, and the calls that failed until then.
    pub fn moment(&mut self, facts: Option<&HostFacts>, failures: &Failures) {
        for (netns, facts) in facts.iter().flat_map(|facts| &facts.namespaces) {
            self.namespaces.insert(*netns, Known::of(facts));
            for world in &mut self.worlds {
                world.look(*netns, facts);
            }
        }
        if self.told.len() >= MOST_PLACES {
            // Those of programs that are long gone; what was told of the others stays.
            let known: HashSet<Place> = failures.places().map(place_of).collect();
            self.told.retain(|place, _| known.contains(place));
        }
        for place in failures.places() {
            let told = self.told.entry(place_of(place)).or_default();
            let at_ms = place.last_ns / 1_000_000;
            let (untold, since_ms) = told.there_were(place.count, at_ms);
            if !self.began {
                // What failed before the session is not of it.
                told.events = told.replayed;
            } else if untold > 0 && !place.gone {
                let octets = |address: IpAddr| match address {
                    IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
                    IpAddr::V6(address) => address.octets(),
                };
                let key = Key {
                    netns: place.netns,
                    bind: place.cause == Cause::AddressInUse,
                    local: octets(place.local.ip()),
                    remote: place.remote.map_or([0; 16], |remote| octets(remote.ip())),
                    remote_port: place.remote.map_or(0, |remote| remote.port()),
                    range: place.ports.filter(|_| place.own_range).unwrap_or_default(),
                };
                if place.cause != Cause::PortBusy && place.local.port() == 0 {
                    self.want(key, (since_ms, at_ms), untold);
                }
            }
        }
        self.began = true;
    }

    fn enter(&mut self, entered: &Entered, role: Role, present: bool) {
        let flag = |flag: u16| entered.header.flags & flag != 0;
        if role == Role::Server || (!present && flag(entered_flags::OVERFLOW)) {
            return;
        }
        let chosen = space(entered, role);
        if chosen.chosen == PortChoice::Program {
            self.named += u64::from(!present);
            return;
        }
        let flow = &entered.flow;
        let judged = path::at_entry(entered, role);
        let reuse = (!flag(entered_flags::SETTINGS_UNKNOWN)).then_some(entered.tcp_tw_reuse);
        let two_is_on = flag(entered_flags::TWO_IS_ON);
        let began_ns = if present { began_ns(self.hz, entered) } else { entered.mono_ns };
        // Of a socket whose entry was seen before its timer was read, and of a mini-socket, which gets
        // another timer when the peer's FIN comes, it is taken to be the usual one.
        let left_ms = match entered.armed {
            0 if !present => TCP_TIMEWAIT_LEN_MS,
            _ if present && flag(entered_flags::ENTRY_KNOWN) => TCP_TIMEWAIT_LEN_MS,
            _ if entered.header.state == TCP_FIN_WAIT2 => TCP_TIMEWAIT_LEN_MS,
            _ => left_ms(self.hz, entered),
        };
        let socket = Socket {
            key: Key {
                netns: entered.header.netns,
                bind: chosen.chosen == PortChoice::Bind,
                local: flow.local,
                remote: flow.remote,
                remote_port: flow.remote_port,
                range: chosen.range,
            },
            at_ms: entered.mono_ns.max(began_ns) / 1_000_000,
            age_ms: entered.mono_ns.saturating_sub(began_ns) / 1_000_000,
            left_ms,
            eligible: judged.eligible == Some(true),
            offered: entered.tcp_timestamps != 0 || flag(entered_flags::SETTINGS_UNKNOWN),
            loopback: flag(entered_flags::LOOPBACK_DEVICE)
                || is_loopback(flow.local)
                || is_loopback(flow.remote),
            tw_reuse: reuse.map(|reuse| if two_is_on && reuse == 2 { 1 } else { reuse }),
            range: (flow.port_low, flow.port_high),
        };
        self.connections += u64::from(!present);
        for world in &mut self.worlds {
            world.take(&socket, &self.namespaces, socket.at_ms, 1);
        }
        if self.likes.len() < MOST_SPACES || self.likes.contains_key(&socket.key) {
            self.likes.insert(socket.key, socket);
        }
        if self.live.len() < MOST_LIVE && entered.tw != 0 {
            self.live.insert(entered.tw, socket);
        }
    }

    fn end(&mut self, ended: &Ended) {
        let Some(socket) = self.live.remove(&ended.tw) else { return };
        let outcome = path::at_end(ended, self.recycle_exists, self.hz);
        if matches!(outcome, Outcome::Killed | Outcome::Aborted | Outcome::Purged) {
            for world in &mut self.worlds {
                world.end(&socket, &self.namespaces);
            }
        }
    }

    fn fail(&mut self, failed: &Failed) {
        let Some(cause) = Cause::of(failed.result) else { return };
        let flow = &failed.flow;
        if cause == Cause::PortBusy || flow.local_port != 0 {
            return;
        }
        let bind = cause == Cause::AddressInUse;
        let own_range = failed.header.flags & failed_flags::OWN_RANGE != 0;
        let key = Key {
            netns: failed.header.netns,
            bind,
            local: flow.local,
            remote: if bind { [0; 16] } else { flow.remote },
            remote_port: if bind { 0 } else { flow.remote_port },
            range: if own_range { (flow.port_low, flow.port_high) } else { (0, 0) },
        };
        let calls = u64::from(failed.stands_for.max(1));
        let local = SocketAddr::new(ip(flow.local), 0);
        let remote = (!bind).then(|| SocketAddr::new(ip(flow.remote), flow.remote_port));
        let place = (failed.header.netns, cause, local, remote, failed.pid);
        // Of more places than are kept the moments tell.
        if self.told.len() < MOST_PLACES || self.told.contains_key(&place) {
            let told = self.told.entry(place).or_default();
            told.events = told.events.saturating_add(calls);
            let at_ms = failed.mono_ns / 1_000_000;
            let (new, since_ms) = told.there_were(told.events, at_ms);
            self.want(key, (since_ms, at_ms), new);
        }
    }

    /// Calls that found no port, evenly in some time: in each world they may.
    fn want(&mut self, key: Key, (since_ms, until_ms): (u64, u64), calls: u64) {
        let parts = calls.min(PARTS);
        for part in 1..=parts {
            let at_ms = since_ms + (until_ms - since_ms) * part / parts;
            // As many in each half of the time.
            let until =
                |part: u64| (u128::from(calls) * u128::from(part) / u128::from(parts)) as u64;
            self.want_at(key, at_ms, until(part) - until(part - 1));
        }
    }

    fn want_at(&mut self, key: Key, at_ms: u64, calls: u64) {
        self.failed = self.failed.saturating_add(calls);
        let like: Like = self.likes.get(&key).copied();
        let socket = like.unwrap_or(Socket {
            key,
            at_ms,
            age_ms: 0,
            left_ms: TCP_TIMEWAIT_LEN_MS,
            eligible: false,
            offered: true,
            loopback: is_loopback(key.local) || is_loopback(key.remote),
            tw_reuse: None,
            range: (0, 0),
        });
        let socket =
            Socket { key, at_ms, age_ms: 0, left_ms: socket.left_ms + socket.age_ms, ..socket };
        for world in &mut self.worlds {
            world.take(&socket, &self.namespaces, at_ms, calls);
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

impl Known {
    fn of(facts: &NamespaceFacts) -> Self {
        Self {
            range: facts.port_range.clone(),
            reserved: facts.reserved_ports.clone(),
            delay_ms: (reuse_delay(facts) * 1000.0) as u64,
            tw_reuse: facts.tw_reuse.and_then(|value| u8::try_from(value).ok()),
        }
    }
}

impl World {
    /// The space that a call wants a port of here; `None` if that cannot be told.
    fn key(&self, key: Key) -> Option<Key> {
        match (key.bind, self.remedy.bind_address_no_port) {
            (true, true) if key.remote_port == 0 => None,
            (true, true) => Some(Key { bind: false, ..key }),
            (true, false) => Some(Key { remote: [0; 16], remote_port: 0, ..key }),
            (false, _) => Some(key),
        }
    }

    /// How long a socket holds its port here, milliseconds.
    fn held_ms(&self, key: Key, socket: &Socket, known: Option<&Known>) -> u64 {
        if self.remedy.peer_closes_first {
            return 0;
        }
        let eligible = socket.eligible || self.remedy.timestamps && socket.offered;
        let reuse = self.remedy.tw_reuse.or(socket.tw_reuse).or(known.and_then(|it| it.tw_reuse));
        let allowed = match reuse {
            Some(1) => true,
            Some(2) => socket.loopback,
            _ => false,
        };
        if key.bind || !eligible || !allowed {
            return socket.left_ms;
        }
        let delay_ms = known.map_or(1000, |known| known.delay_ms);
        delay_ms.saturating_sub(socket.age_ms).min(socket.left_ms)
    }

    /// Ports there are.
    fn usable(&self, key: Key, socket: &Socket, known: Option<&Known>) -> u64 {
        let ports = |(low, high): (u16, u16)| {
            usable_ports(&(low..=high), known.map_or(&[], |known| &known.reserved))
        };
        let of_namespace = known.and_then(|known| known.range.as_ref());
        match (key.range, self.remedy.range, of_namespace) {
            ((0, 0), Some(range), _) => ports(range),
            ((0, 0), None, Some(range)) => ports((*range.start(), *range.end())),
            ((0, 0), None, None) if socket.range.1 != 0 => ports(socket.range),
            // As it is since Linux 4.2 unless it was set.
            ((0, 0), None, None) => ports((32_768, 60_999)),
            (own, ..) => ports(own),
        }
    }

    fn take(&mut self, socket: &Socket, namespaces: &BTreeMap<u32, Known>, at_ms: u64, calls: u64) {
        let known = namespaces.get(&socket.key.netns);
        let key = self.key(socket.key);
        let room = |key: &Key| self.spaces.len() < MOST_SPACES || self.spaces.contains_key(key);
        let Some(key) = key.filter(room) else {
            self.unplaced = self.unplaced.saturating_add(calls);
            return;
        };
        let wanted = Wanted { at_ms, calls, held_ms: self.held_ms(key, socket, known) };
        let usable = self.usable(key, socket, known);
        let sources = self.remedy.sources.unwrap_or(1);
        let keep_ms = self.remedy.keep.map(|keep| keep.as_millis() as u64);
        let space = self.spaces.entry(key).or_insert_with(|| Space::new(sources));
        space.usable = usable;
        match keep_ms {
            Some(keep_ms) => space.reuse(wanted, keep_ms, space.open.max(1)),
            None => space.take(wanted),
        }
    }

    fn end(&mut self, socket: &Socket, namespaces: &BTreeMap<u32, Known>) {
        let Some(key) = self.key(socket.key) else { return };
        let until = socket.at_ms + self.held_ms(key, socket, namespaces.get(&key.netns));
        if let Some(space) = self.spaces.get_mut(&key) {
            space.end(until);
        }
    }

    /// Looks at what is open in a namespace.
    fn look(&mut self, netns: u32, facts: &NamespaceFacts) {
        let Some(open) = &facts.open else { return };
        let sources = u64::from(self.remedy.sources.unwrap_or(1).max(1));
        for (key, space) in self.spaces.iter_mut().filter(|(key, _)| key.netns == netns) {
            let local = ip(key.local);
            let ports = match key.bind {
                true => Some(open.held_for_all(local)),
                false => open.held(local, SocketAddr::new(ip(key.remote), key.remote_port)),
            };
            space.open = ports.unwrap_or(0).div_ceil(sources);
        }
    }

    fn prediction(&self) -> Prediction {
        let told = |(key, space): (&Key, &Space)| Predicted {
            netns: key.netns,
            local: ip(key.local),
            remote: (!key.bind).then(|| SocketAddr::new(ip(key.remote), key.remote_port)),
            usable: space.usable,
            peak: space.peak,
            failed: space.failed,
        };
        let mut spaces: Vec<Predicted> = self.spaces.iter().map(told).collect();
        spaces.sort_by(|one, two| {
            let fuller = two.share().total_cmp(&one.share());
            fuller.then(two.peak.cmp(&one.peak)).then_with(|| one.name().cmp(&two.name()))
        });
        spaces.truncate(MOST_TOLD);
        let sum = |of: fn(&Space) -> u64| self.spaces.values().map(of).fold(0, u64::saturating_add);
        Prediction {
            remedy: self.remedy.clone(),
            failed: sum(|space| space.failed),
            opened: sum(|space| space.opened),
            unplaced: self.unplaced,
            spaces,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use twtrace_common::{CallResult, EndReason, Flow, Header, Kind, TCP_TIME_WAIT};

    const SECOND: u64 = 1_000_000_000;

    fn flow(peer: u8) -> Flow {
        let (local, remote) = ([1; 16], [peer; 16]);
        Flow {
            local,
            remote,
            remote_port: 80,
            port_low: 2_000,
            port_high: 2_099,
            ..Flow::default()
        }
    }

    /// The hundredth of a second of an entry to a peer.
    fn entered(hundredth: u64, peer: u8, stamp: i64, chosen: PortChoice) -> Event {
        Event::Entered(Entered {
            header: Header { kind: Kind::Entered as u8, state: TCP_TIME_WAIT, flags: 0, netns: 7 },
            mono_ns: 100 * SECOND + hundredth * SECOND / 100,
            tw: (hundredth + 1) * 256,
            ts_recent_stamp: stamp,
            tcp_timestamps: 1,
            armed: 15_000,
            flow: Flow { local_port: 2_050, ..flow(peer) },
            chosen: chosen as u8,
            ..Entered::default()
        })
    }

    fn failed(hundredth: u64, peer: u8, calls: u32) -> Event {
        Event::Failed(Failed {
            header: Header { kind: Kind::Failed as u8, netns: 7, ..Header::default() },
            mono_ns: 100 * SECOND + hundredth * SECOND / 100,
            flow: flow(peer),
            stands_for: calls,
            result: CallResult::NoPort as u8,
            ..Failed::default()
        })
    }

    /// What each remedy comes to: failed calls, and the most ports held of the fullest space.
    fn told(remedies: &[&str], events: impl Iterator<Item = Event>) -> Vec<(u64, u64)> {
        let remedy = |text: &&str| {
            let mut remedy = Remedy::default();
            text.split_whitespace().for_each(|setting| remedy.set(setting).unwrap());
            remedy
        };
        let mut what_if = WhatIf::new(remedies.iter().map(remedy).collect(), Hz::new(250), false);
        events.for_each(|event| what_if.event(&event));
        let told = |it: Prediction| (it.failed, it.spaces.first().map_or(0, |space| space.peak));
        what_if.predictions().into_iter().map(told).collect()
    }

    #[test]
    fn what_would_have_helped_is_told_from_what_would_not() {
        // A hundred ports, 200 connections in four seconds to a peer that sends no timestamps.
        let events = || {
            let enter = (0..100).map(|n| entered(2 * n, 2, 0, PortChoice::Connect));
            enter.chain((100..200).map(|n| failed(2 * n, 2, 1)))
        };
        let remedies = [
            "",
            "tcp_tw_reuse=1",
            "timestamps=1",
            "timestamps=1 tcp_tw_reuse=1",
            "ip_local_port_range=2000-2149",
            "source_addresses=2",
            "peer_closes_first=1",
            "keep=1s",
        ];
        let told = told(&remedies, events());
        assert_eq!(told[0], (100, 100), "as it was");
        assert_eq!(told[1], (100, 100), "without timestamps nothing is taken over");
        assert_eq!(told[2], (100, 100), "tcp_tw_reuse was 0");
        assert_eq!(told[3], (0, 50), "a second's worth");
        assert_eq!(told[4], (50, 150));
        assert_eq!(told[5], (0, 100));
        assert_eq!(told[6], (0, 1));
        assert_eq!(told[7], (0, 4), "a connection a second");
    }

    #[test]
    fn ports_bound_first_are_of_all_peers_unless_bind_leaves_the_port_to_connect() {
        let events = (0..100).map(|n| entered(n, 2 + (n % 4) as u8, 5, PortChoice::Bind));
        let remedies = [
            "",
            "tcp_tw_reuse=1",
            "bind_address_no_port=1",
            "bind_address_no_port=1 tcp_tw_reuse=1",
        ];
        let told = told(&remedies, events);
        assert_eq!(told, [(0, 100), (0, 100), (0, 25), (0, 25)], "all within a second");
        let events = (0..200).map(|n| entered(n, 2, 5, PortChoice::Bind));
        let told = self::told(&["bind_address_no_port=1 tcp_tw_reuse=1"], events);
        assert_eq!(told, [(0, 100)], "two seconds");
    }

    #[test]
    fn calls_told_together_are_tried_together_and_what_a_rst_ended_gives_its_port_back() {
        let killed = Event::Ended(Ended {
            header: Header { kind: Kind::Ended as u8, state: TCP_TIME_WAIT, flags: 0, netns: 7 },
            mono_ns: 101 * SECOND,
            tw: 256,
            entered_ns: 100 * SECOND,
            flow: flow(2),
            reason: EndReason::Killed as u8,
            ..Ended::default()
        });
        let enter = (0..90).map(|n| entered(n, 2, 0, PortChoice::Connect));
        let events = enter.chain([killed, failed(200, 2, 30)]);
        assert_eq!(told(&["", "ip_local_port_range=1024-65535"], events), [(19, 100), (0, 119)]);
    }

    #[test]
    fn ports_that_a_program_names_are_in_no_prediction() {
        let events = (0..5).map(|n| entered(n, 2, 0, PortChoice::Program));
        let mut what_if = WhatIf::new(Remedy::usual(), Hz::new(250), false);
        events.for_each(|event| what_if.event(&event));
        assert_eq!((what_if.named(), what_if.connections()), (5, 0));
        assert!(what_if.predictions().iter().all(|it| it.spaces.is_empty()));
    }
}
