//! A port that `bind()` was to take and that another socket holds: what that is, and when it is free.

use std::net::IpAddr;

use twtrace_common::PortChoice;

use super::cause::Explained;
use crate::{
    diagnose::Case,
    event::ip,
    host::facts::NamespaceFacts,
    peer::{Group, spaces::Hold},
    text::{are, counted},
};

/// What holds one port of a namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Port {
    /// Whether somebody listens on it; `None` if that was not looked at.
    pub listener: Option<bool>,
    /// Sockets in TIME_WAIT that no `bind()` passes: without `SO_REUSEADDR`.
    pub without_reuseaddr: u64,
    /// Those with it, which a `bind()` with it passes.
    pub with_reuseaddr: u64,
    /// Seconds until the last of the former is gone.
    pub free_in: f64,
    /// Sockets of either kind that were seen to be closed; of the others, which were there before, it
    /// is not known that they were accepted.
    seen: u64,
}

impl Port {
    /// Looks at a port of an address; of any, if that is the wildcard.
    pub fn of(case: &Case<'_>, netns: u32, address: IpAddr, port: u16) -> Self {
        let open = case.facts.namespaces.get(&netns).and_then(|facts| facts.open.as_ref());
        let listener = open.map(|open| open.listeners.contains(&port));
        let mut found = Self { listener, ..Self::default() };
        for (_, socket) in case.sockets.iter().flat_map(|sockets| sockets.iter()) {
            let holding = socket.holding;
            if socket.netns != netns || holding.port != port {
                continue;
            }
            let row = case.peers.get((socket.row as usize).wrapping_sub(1));
            let space =
                row.and_then(|row| row.history.spaces().iter().nth(usize::from(holding.space)));
            // Of a space that is not told apart the address is not known: it may be this one.
            let local = space.map(|space| ip(space.key.local));
            if !address.is_unspecified() && local.is_some_and(|local| local != address) {
                continue;
            }
            found.seen += u64::from(socket.entered_ns != 0);
            if holding.hold.is(Hold::REUSEADDR) {
                found.with_reuseaddr += 1;
            } else {
                found.without_reuseaddr += 1;
                found.free_in = found.free_in.max(holding.due.seconds_from(case.now_ns));
            }
        }
        found
    }

    /// Explains why a `bind()` of the port was refused.
    pub fn explain(&self, port: u16) -> Explained {
        let in_time_wait = self.without_reuseaddr + self.with_reuseaddr;
        if self.listener == Some(true) {
            return Explained {
                why: format!("another socket listens on port {port}"),
                remedy: format!(
                    "See who listens (`ss -tlnp sport = :{port}`): if it is the same service, it is \
                     running already; to share the port both need SO_REUSEPORT."
                ),
                dont: "",
            };
        }
        if in_time_wait == 0 {
            return Explained {
                why: format!(
                    "port {port} is held by a socket that is neither in TIME_WAIT nor listens"
                ),
                remedy: format!(
                    "See who has it: `ss -tanp sport = :{port}` lists open connections, `ss -tnpB sport \
                     = :{port}` (Linux 6.8 on) sockets that are bound and no more. A server need not \
                     wait for connections that the one before it accepted: set SO_REUSEADDR before \
                     bind(), in both."
                ),
                dont: "",
            };
        }
        let free = if self.without_reuseaddr > 0 {
            format!("free in {:.0} s", self.free_in)
        } else {
            "free at once for a bind() with SO_REUSEADDR".to_owned()
        };
        Explained {
            why: format!(
                "{} of port {port} {} still in TIME_WAIT; it is {free}",
                counted(in_time_wait, "connections"),
                are(in_time_wait)
            ),
            remedy: "Set SO_REUSEADDR on the listening socket before bind(): from its next start \
                     on it need not wait for its own TIME_WAIT. (It has to be set in both: on the \
                     one that left these connections, and on the new one.)"
                .to_owned(),
            dont: "Do not change TIME_WAIT settings for it: tcp_tw_reuse concerns connect().",
        }
    }
}

/// Ports of a namespace on which connections were accepted that wait without `SO_REUSEADDR`, and
/// nobody listens any more.
pub fn deserted(case: &Case<'_>, netns: u32, facts: &NamespaceFacts) -> Vec<(IpAddr, u16, Port)> {
    let Some(open) = &facts.open else { return Vec::new() };
    let mut found: Vec<(IpAddr, u16)> = Vec::new();
    for peer in case.peers.iter().filter(|peer| peer.group.netns() == Some(netns)) {
        let Group::Peer { .. } = peer.group else { continue };
        for space in peer.history.spaces().iter() {
            let (local, port) = (ip(space.key.local), space.key.range.0);
            let accepted = space.key.chosen == PortChoice::Accepted && space.live > 0;
            if accepted && !open.listeners.contains(&port) && !found.contains(&(local, port)) {
                found.push((local, port));
            }
        }
    }
    found.truncate(super::MOST);
    let look = |(local, port): (IpAddr, u16)| (local, port, Port::of(case, netns, local, port));
    let mut ports: Vec<_> = found.into_iter().map(look).collect();
    // One by one, ports look like those that a client names (NFS does).
    let accepted = |port: &Port| port.seen > 0 || port.without_reuseaddr + port.with_reuseaddr > 1;
    ports.retain(|(_, _, port)| port.without_reuseaddr > 0 && accepted(port));
    ports
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        diagnose::{
            Finding, RULES, Severity,
            testing::{Client, NETNS, NOW_NS, case, facts, found, only},
        },
        host::open::OpenPorts,
        peer::{Peer, entry::Entry, entry::SpaceKey},
        track::{Due, Holding, LiveSockets, Tracked},
    };

    /// What is concluded of sockets without `SO_REUSEADDR`, each of another local port, which came so
    /// long after the start; 0 if they were there before.
    fn concluded(
        peer: &mut Peer,
        ports: &[u16],
        chosen: PortChoice,
        entered_ns: u64,
    ) -> Vec<Severity> {
        let sockets = ports.iter().map(|port| (*port, entered_ns, NOW_NS + 50_000_000_000));
        let found = concluded_of(peer, sockets, chosen, Hold::default());
        found.into_iter().map(|finding| finding.severity).collect()
    }

    /// The same of sockets by port, entry, and when they are due.
    fn concluded_of(
        peer: &mut Peer,
        ports: impl IntoIterator<Item = (u16, u64, u64)>,
        chosen: PortChoice,
        hold: Hold,
    ) -> Vec<Finding> {
        let mut facts = facts();
        only(&mut facts).open = Some(OpenPorts::default());
        let mut sockets = LiveSockets::with_capacity(256);
        for (n, (port, entered_ns, due_ns)) in ports.into_iter().enumerate() {
            let local = std::net::Ipv4Addr::new(10, 1, 0, 1).to_ipv6_mapped().octets();
            let accepted = chosen == PortChoice::Accepted;
            let range = if accepted { (port, port) } else { (0, 0) };
            let space = SpaceKey { local, chosen, range };
            let entry = Entry { mono_ns: NOW_NS, space, local_port: port, ..Entry::default() };
            let space = peer.history.space_of(&entry.space);
            match entered_ns {
                0 => peer.history.present(space, &entry),
                _ => peer.history.enter(space, &entry),
            }
            peer.history.live(space, hold);
            let holding = Holding { space, hold, port, due: Due::at(due_ns) };
            let socket = Tracked { entered_ns, row: 1, netns: NETNS, holding };
            sockets.enter(n as u64 + 1, socket);
        }
        let peers = [peer.clone()];
        found(RULES, "TW019", &Case { sockets: Some(&sockets), ..case(&peers, &facts) })
    }

    #[test]
    fn ports_seen_once_each_that_were_there_before_are_not_taken_for_those_of_servers() {
        let accepted = |ports: &[u16], entered_ns| {
            let mut peer = Client::at("10.2.0.2", 0).of_server().peer();
            concluded(&mut peer, ports, PortChoice::Accepted, entered_ns)
        };
        assert_eq!(accepted(&[1023, 1022, 1021], 0), [], "a client that counts its ports down");
        assert_eq!(accepted(&[5000, 5000], 0), [Severity::Warning]);
        assert_eq!(accepted(&[5000], NOW_NS), [Severity::Warning], "it was seen to be accepted");
    }

    #[test]
    fn one_port_that_a_program_names_is_told_while_no_bind_of_it_succeeds() {
        let named = |ports: &[u16]| {
            let mut peer = Client::at("10.2.0.2", 443).peer();
            concluded(&mut peer, ports, PortChoice::Program, NOW_NS)
        };
        assert_eq!(named(&[40_001]), [Severity::Warning]);
        assert_eq!(named(&[40_001, 40_002]), [], "it has others");
        assert_eq!(named(&[1023]), [], "next time it may be another");
        assert_eq!(named(&[1023, 1023]), [Severity::Warning]);
    }
    #[test]
    fn ports_that_a_program_names_are_told_once_it_stops_with_all_of_them_held() {
        const SECOND: u64 = 1_000_000_000;
        // Ten a second for ten seconds, the last so long ago; those of before are known by their timers.
        let every = |apart: u16, seconds_ago: u64, seen: bool, hold: Hold| {
            let sockets = (0..100).map(|n: u16| {
                let came_ns = NOW_NS - (seconds_ago + 10) * SECOND + u64::from(n) * SECOND / 10;
                (2000 + apart * n, if seen { came_ns } else { 0 }, came_ns + 60 * SECOND)
            });
            let mut peer = Client::at("10.2.0.2", 443).peer();
            concluded_of(&mut peer, sockets, PortChoice::Program, hold)
        };
        let told = |seconds_ago, seen, hold| every(1, seconds_ago, seen, hold);
        for seen in [true, false] {
            let [finding] = &told(4, seen, Hold::default())[..] else { panic!("one finding") };
            assert_eq!(finding.severity, Severity::Warning);
            let says = "names its ports, and no bind() of the 100 that it is known to have \
                        (2000-2099) succeeds";
            assert!(finding.summary.contains(says), "{}", finding.summary);
            assert!(finding.summary.ends_with("It made 10.0 connections/s, and none for 4 s."));
            assert_eq!(told(1, seen, Hold::default()), [], "it may go on");
            assert_eq!(told(4, seen, Hold::REUSEADDR), [], "bind() passes those");
            assert_eq!(every(50, 4, seen, Hold::default()), [], "drawn by chance: it has others");
        }
    }
    #[test]
    fn ports_in_a_row_that_were_there_before_are_a_program_s_own() {
        let told = |first: u16, apart: u16| {
            let sockets = (0..100).map(|n: u16| {
                let due_ns = NOW_NS + 40_000_000_000 + u64::from(n) * 100_000_000;
                (first + apart * n, 0, due_ns)
            });
            let mut peer = Client::at("10.2.0.2", 443).peer();
            let found = concluded_of(&mut peer, sockets, PortChoice::Bind, Hold::default());
            found.into_iter().map(|finding| finding.severity).collect::<Vec<_>>()
        };
        assert_eq!(told(40_000, 1), [Severity::Warning]);
        assert_eq!(told(40_000, 50), [], "bind() drew them");
    }
}
