//! Takes stock: which port spaces each socket followed counts in.

use std::net::IpAddr;

use rustc_hash::{FxHashMap, FxHashSet};
use twtrace_common::PortChoice;

use super::{
    ports::Ports,
    spaces::{Draft, chosen},
};
use crate::{
    diagnose::Case,
    event::{Role, ip},
    host::facts::NamespaceFacts,
    peer::{
        Group,
        rates::Earlier,
        spaces::{Hold, NO_SPACE},
    },
    track::{LiveSockets, Tracked},
    units::TCP_TIMEWAIT_LEN_MS,
};

/// When a socket entered TIME_WAIT, `CLOCK_MONOTONIC` nanoseconds: where its entry was not seen, by when
/// its timer runs out. Of a FIN_WAIT2 mini-socket that says nothing.
fn came_ns(socket: &Tracked, facts: &NamespaceFacts) -> Option<u64> {
    if socket.entered_ns != 0 {
        return Some(socket.entered_ns);
    }
    let lasts_ms = facts.tw_timeout.map_or(TCP_TIMEWAIT_LEN_MS, |seconds| seconds * 1000);
    let entered_ns = socket.holding.due.mono_ns().saturating_sub(lasts_ms * 1_000_000);
    (!socket.holding.hold.is(Hold::FIN_WAIT2)).then_some(entered_ns)
}

/// Whether a socket entered TIME_WAIT in that span before the session, as far as that is known.
pub fn came_before(socket: &Tracked, facts: &NamespaceFacts, span: &Earlier) -> bool {
    came_ns(socket, facts).is_some_and(|came_ns| span.has(came_ns))
}

/// Looks at every socket followed. Answers the ports of each namespace whose bucket `bind()` made.
pub fn take_stock(
    case: &Case<'_>,
    drafts: &mut [Draft<'_>],
    sockets: &LiveSockets,
) -> FxHashMap<u32, Ports> {
    let memberships = memberships(case, drafts);
    let accepted = accepted(case, &memberships, sockets);
    let spans: Vec<Earlier> = drafts.iter().map(|draft| draft.earlier(case.now_ns)).collect();
    let mut bound: FxHashMap<u32, Ports> = FxHashMap::default();
    for (_, socket) in sockets.iter() {
        let Some(membership) = memberships.get(&(socket.row, socket.holding.space)) else {
            continue;
        };
        if let Some(at) = membership.bind
            && accepted.contains(&(at, socket.holding.port))
        {
            drafts[at].seen = drafts[at].seen.saturating_sub(1);
            continue;
        }
        if membership.chosen != PortChoice::Connect {
            bound.entry(socket.netns).or_default().add(socket.holding.port);
        }
        for at in &membership.drafts {
            let draft = &mut drafts[*at];
            draft.stock.follow(socket.holding.hold);
            if draft.has(socket.holding.port) {
                let came_ns = came_ns(&socket, draft.facts);
                let came_before = came_ns.is_some_and(|came_ns| spans[*at].has(came_ns));
                draft.stock.earlier += u32::from(came_before);
                if !socket.holding.hold.is(Hold::REUSEADDR) {
                    came_ns.into_iter().for_each(|came_ns| draft.stock.barring.add(came_ns));
                }
                draft.stock.add(draft.space.chosen, draft.facts, &socket, case.now_ns);
            }
        }
    }
    bound
}

/// Ports, each with the space it is in, of sockets that look as if `bind(address, 0)` had chosen them, but
/// were accepted: somebody listens there, or of those that were there at the start more than one has the
/// port.
fn accepted(
    case: &Case<'_>,
    memberships: &FxHashMap<(u32, u8), Membership>,
    sockets: &LiveSockets,
) -> FxHashSet<(usize, u16)> {
    let mut accepted = FxHashSet::default();
    if memberships.values().all(|membership| membership.bind.is_none()) {
        // As on most hosts: no socket need be looked at.
        return accepted;
    }
    let mut once = FxHashSet::default();
    for (_, socket) in sockets.iter() {
        let membership = memberships.get(&(socket.row, socket.holding.space));
        let Some(at) = membership.and_then(|membership| membership.bind) else { continue };
        let port = socket.holding.port;
        let open = case.facts.namespaces.get(&socket.netns).and_then(|facts| facts.open.as_ref());
        let listens = open.is_some_and(|open| open.listeners.contains(&port));
        if listens || (socket.entered_ns == 0 && !once.insert((at, port))) {
            accepted.insert((at, port));
        }
    }
    accepted
}

/// Where the sockets of one space of one row count.
struct Membership {
    chosen: PortChoice,
    /// The space of `bind(address, 0)` that they are seen in, if they are.
    bind: Option<usize>,
    /// The spaces whose ports they hold, as indices of drafts.
    drafts: Vec<usize>,
}

/// By row, counted from 1, and number of its space.
fn memberships(case: &Case<'_>, drafts: &[Draft<'_>]) -> FxHashMap<(u32, u8), Membership> {
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
    let mut all = FxHashMap::default();
    for (row, peer) in case.peers.iter().enumerate() {
        let Group::Peer { netns, role, address, .. } = peer.group else { continue };
        let Some(netns) = netns.current() else { continue };
        let Some(facts) = case.facts.namespaces.get(&netns) else { continue };
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
                all.extend(numbers.map(|number| {
                    let drafts = drafts.clone();
                    (
                        (row_number, number),
                        Membership { chosen: PortChoice::Connect, bind: None, drafts },
                    )
                }));
            }
            continue;
        }
        for (number, space) in peer.history.spaces().iter().enumerate() {
            // What was accepted holds its listener's port, and that is counted where it listens.
            if space.live == 0 || space.key.chosen == PortChoice::Accepted {
                continue;
            }
            let (local, chosen) = (ip(space.key.local), chosen(space, facts));
            let of = |chosen| own.get(&(row, local, chosen)).into_iter().flatten().copied();
            let mut drafts: Vec<usize> = of(chosen).collect();
            if chosen != PortChoice::Program {
                // Who names a port finds it held whoever chose it before.
                drafts.extend(of(PortChoice::Program));
            }
            let of_address = binds.get(&(netns, local)).copied();
            drafts.extend(of_address);
            let bind = of_address.filter(|_| chosen == PortChoice::Bind);
            all.insert((row_number, number as u8), Membership { chosen, bind, drafts });
        }
    }
    all
}
