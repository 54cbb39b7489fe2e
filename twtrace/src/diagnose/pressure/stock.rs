//! What the sockets followed hold of each port space.

use std::net::IpAddr;

use rustc_hash::FxHashMap;
use twtrace_common::PortChoice;

use super::{
    holders::{Holder, Holders},
    ports::Ports,
    reuse_delay,
    spaces::{Draft, chosen},
};
use crate::{
    diagnose::{Case, forecast::Held},
    event::{Role, ip},
    host::facts::NamespaceFacts,
    peer::{
        Group,
        spaces::{Hold, NO_SPACE},
    },
    track::{LiveSockets, Tracked},
    units::TCP_TIMEWAIT_LEN_MS,
};

/// What the sockets of a space hold.
#[derive(Clone, Debug, Default)]
pub struct Stock {
    /// By when it is free; FIN_WAIT2 mini-sockets left out.
    pub held: Held,
    /// The same, by what holds it.
    pub holders: Holders,
    /// Ports in TIME_WAIT that a `connect()` may take over now.
    pub takeable: f64,
    /// FIN_WAIT2 mini-sockets, as they entered; some may have become TIME_WAIT since.
    pub mini: Vec<Mini>,
    /// Sockets followed, and those of them that are blocked.
    pub followed: (u64, u64),
    ports: Ports,
}

/// A socket that entered as a FIN_WAIT2 mini-socket.
#[derive(Clone, Copy, Debug)]
pub struct Mini {
    /// Seconds until its timer runs out.
    pub left: f64,
    /// What holds its port if it has become TIME_WAIT since; `None` if it may then be taken over.
    pub then: Option<Holder>,
}

/// Looks at every socket followed. Answers the ports of each namespace whose bucket `bind()` made.
pub fn take(
    case: &Case<'_>,
    drafts: &mut [Draft<'_>],
    sockets: &LiveSockets,
) -> FxHashMap<u32, Ports> {
    let places = places(case, drafts);
    let mut bound: FxHashMap<u32, Ports> = FxHashMap::default();
    for (_, socket) in sockets.iter() {
        let Some(place) = places.get(&(socket.row, socket.holding.space)) else { continue };
        if place.chosen != PortChoice::Connect {
            bound.entry(socket.netns).or_default().add(socket.holding.port);
        }
        for at in &place.drafts {
            let draft = &mut drafts[*at];
            if draft.space.has(socket.holding.port) {
                draft.stock.add(draft.space.chosen, draft.facts, &socket, case.now_ns);
            }
        }
    }
    bound
}

/// Where the sockets of one space of one row count.
struct Place {
    chosen: PortChoice,
    /// The spaces whose ports they hold, as indices of drafts.
    drafts: Vec<usize>,
}

/// By row, counted from 1, and number of its space.
fn places(case: &Case<'_>, drafts: &[Draft<'_>]) -> FxHashMap<(u32, u8), Place> {
    let mut binds: FxHashMap<(u32, IpAddr), usize> = FxHashMap::default();
    let mut own: FxHashMap<(usize, IpAddr, PortChoice), Vec<usize>> = FxHashMap::default();
    for (at, draft) in drafts.iter().enumerate() {
        let space = &draft.space;
        if space.chosen == PortChoice::Bind {
            binds.insert((space.netns, space.local), at);
        } else {
            let Some(row) = draft.row else { continue };
            own.entry((row, space.local, space.chosen)).or_default().push(at);
        }
    }
    let mut places = FxHashMap::default();
    for (row, peer) in case.peers.iter().enumerate() {
        let Group::Peer { netns, role, address, .. } = peer.group else { continue };
        let Some(netns) = netns.current() else { continue };
        let row_number = row as u32 + 1;
        if role == Role::Server {
            // Of what was there at the start it is not known that a client named its port: to whoever
            // names it now, and finds it busy, it is held all the same.
            let named = drafts.iter().enumerate().filter(|(_, draft)| {
                let space = &draft.space;
                space.netns == netns
                    && space.chosen == PortChoice::Program
                    && space.remote.ip() == ip(address)
            });
            let drafts: Vec<usize> = named.map(|(at, _)| at).collect();
            if !drafts.is_empty() {
                let numbers = (0..peer.history.spaces().iter().count() as u8).chain([NO_SPACE]);
                places.extend(numbers.map(|number| {
                    let drafts = drafts.clone();
                    ((row_number, number), Place { chosen: PortChoice::Connect, drafts })
                }));
            }
            continue;
        }
        for (number, space) in peer.history.spaces().iter().enumerate() {
            // What was accepted holds its listener's port, and that is counted where it listens.
            if space.live == 0 || space.key.chosen == PortChoice::Accepted {
                continue;
            }
            let (local, chosen) = (ip(space.key.local), chosen(space.key.chosen));
            let of = |chosen| own.get(&(row, local, chosen)).into_iter().flatten().copied();
            let mut drafts: Vec<usize> = of(chosen).collect();
            if chosen != PortChoice::Program {
                // Who names a port finds it held whoever chose it before.
                drafts.extend(of(PortChoice::Program));
            }
            drafts.extend(binds.get(&(netns, local)));
            places.insert((row_number, number as u8), Place { chosen, drafts });
        }
    }
    places
}

impl Stock {
    /// Adds a socket, as whoever chooses a port of the kind finds it.
    fn add(&mut self, chosen: PortChoice, facts: &NamespaceFacts, socket: &Tracked, now_ns: u64) {
        let holding = socket.holding;
        let left = holding.due.seconds_from(now_ns);
        let is = |hold: Hold| holding.hold.is(hold);
        self.followed.0 += 1;
        self.followed.1 += u64::from(is(Hold::BLOCKED));
        if chosen != PortChoice::Connect {
            // A port that is named passes bind() with SO_REUSEADDR, and connect() needs a timestamp and
            // no more. Where bind() chooses it does not (inet_csk_find_open_port(), not relaxed).
            let takeable = is(Hold::ELIGIBLE) && is(Hold::REUSEADDR);
            if chosen == PortChoice::Program && takeable {
                self.takeable += 1.0;
            } else if self.ports.add(holding.port) {
                self.hold(Holder::TimeWait, left);
            }
            return;
        }
        let holder = if is(Hold::UNKNOWN) {
            Some(Holder::Assumed)
        } else if !is(Hold::ELIGIBLE) {
            Some(Holder::NoTimestamps)
        } else {
            (!may_take_over(facts, holding.hold)).then_some(Holder::Forbidden)
        };
        if is(Hold::FIN_WAIT2) {
            self.mini.push(Mini { left, then: holder });
            return;
        }
        match holder {
            Some(holder) => self.hold(holder, left),
            None => {
                let entered_ns = match socket.entered_ns {
                    0 => holding.due.mono_ns().saturating_sub(TCP_TIMEWAIT_LEN_MS * 1_000_000),
                    entered_ns => entered_ns,
                };
                let age = now_ns.saturating_sub(entered_ns) as f64 / 1e9;
                let delay = reuse_delay(facts);
                if age < delay {
                    self.hold(Holder::Young, delay - age);
                } else {
                    self.takeable += 1.0;
                }
            }
        }
    }

    /// One port more is held, for so many seconds.
    fn hold(&mut self, holder: Holder, left: f64) {
        self.holders.add(holder, 1.0);
        self.held.add(1.0, left);
    }

    /// Tells the mini-sockets apart: `still` of them are such, and as such hold their ports if
    /// `they_hold`; the others became TIME_WAIT, and live so many seconds longer.
    pub fn settle_minis(&mut self, still: f64, they_hold: bool, longer: f64) {
        for Mini { left, then } in std::mem::take(&mut self.mini) {
            if they_hold {
                self.holders.add(Holder::FinWait2, still);
                self.held.add(still, left);
            }
            match then {
                Some(holder) => {
                    self.holders.add(holder, 1.0 - still);
                    self.held.add(1.0 - still, left + longer);
                }
                None => self.takeable += 1.0 - still,
            }
        }
    }

    /// Of the sockets that bind() took ports for, the share that keeps them; all if none is known.
    pub fn kept_share(&self) -> f64 {
        let kept = self.holders.of(Holder::TimeWait);
        let all = kept + self.takeable;
        if all > 0.0 { kept / all } else { 1.0 }
    }

    /// Adds sockets of which no more is known than that they came evenly and how long they hold.
    pub fn spread(&mut self, holder: Holder, count: f64, rate: f64, seconds: f64) {
        self.holders.add(holder, count);
        self.held.spread(count, rate, seconds);
    }
}

/// Whether a `connect()` that comes now may take over a socket that has a timestamp: the sysctl counts
/// as it is then, not as it was at the entry (`tcp_twsk_unique()`).
fn may_take_over(facts: &NamespaceFacts, hold: Hold) -> bool {
    match facts.tw_reuse {
        Some(1) => true,
        Some(0) if facts.tw_recycle.unwrap_or(0) == 0 => false,
        _ => hold.is(Hold::ALLOWED),
    }
}
