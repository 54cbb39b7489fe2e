//! When open connections are counted, and whose.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use twtrace_common::PortChoice;

use crate::{
    event::{Role, ip},
    host::open::{OpenPorts, OwnRange},
    peer::{Group, Netns, Peer},
};

/// A reading that took a time is not repeated before so many times that time have passed: on a host
/// of a hundred thousand sockets it would else be what costs most.
const REST: u64 = 50;
/// Most peers of a namespace whose connections are counted; those with the most stuck ports are.
const MOST_PEERS: usize = 256;

/// Open connections as they were counted last, by namespace.
#[derive(Debug, Default)]
pub struct OpenCounts {
    readings: HashMap<u32, Reading>,
    /// Ranges of sockets' own, by namespace.
    own: HashMap<u32, Vec<OwnRange>>,
}

#[derive(Debug)]
struct Reading {
    ports: OpenPorts,
    /// When they may be counted again, `CLOCK_MONOTONIC` nanoseconds.
    due_ns: u64,
}

impl OpenCounts {
    /// The servers whose connections in a namespace are to be counted now: those that its clients
    /// were seen to close towards. `None` if it is too early, or no socket was seen there and nobody
    /// asked for that namespace.
    pub fn due(
        &mut self,
        inum: u32,
        rows: &[Peer],
        now_ns: u64,
        asked: bool,
    ) -> Option<Vec<SocketAddr>> {
        if self.readings.get(&inum).is_some_and(|known| now_ns < known.due_ns)
            || !(asked
                || rows
                    .iter()
                    .any(|row| row.group.namespace().and_then(Netns::current) == Some(inum)))
        {
            return None;
        }
        let server = |row: &Peer| match row.group {
            Group::Peer { netns, role: Role::Client, address, port }
                if netns.current() == Some(inum) =>
            {
                Some(SocketAddr::new(ip(address), port))
            }
            _ => None,
        };
        let clients = rows.iter().filter_map(|row| Some((row, server(row)?)));
        let own = clients.clone().flat_map(|(row, server)| own_ranges(row, server));
        self.own.insert(inum, own.take(MOST_PEERS).collect());
        let mut servers: Vec<_> =
            clients.map(|(row, server)| (row.history.stuck(), server)).collect();
        servers.sort_unstable_by(|one, two| two.cmp(one));
        Some(servers.into_iter().take(MOST_PEERS).map(|(_, server)| server).collect())
    }

    /// Notes what was counted at a moment, and how long that took.
    pub fn note(&mut self, inum: u32, mut ports: OpenPorts, now_ns: u64, took: Duration) {
        ports.count_within(self.own.get(&inum).map_or(&[], Vec::as_slice));
        let took_ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let due_ns = now_ns.saturating_add(took_ns.saturating_mul(REST));
        self.readings
            .insert(inum, Reading { ports: OpenPorts { read_ns: now_ns, ..ports }, due_ns });
    }

    /// What was counted last in a namespace.
    pub fn of(&self, inum: u32) -> Option<OpenPorts> {
        self.readings.get(&inum).map(|known| known.ports.clone())
    }

    /// Who was connected to whom: namespace, this end, and the peer.
    pub fn ways(&self) -> impl Iterator<Item = (u32, IpAddr, SocketAddr)> {
        self.readings.iter().flat_map(|(inum, known)| {
            let peers = known.ports.peers.iter();
            let ways = peers.flat_map(|(peer, by)| by.keys().map(|local| (*local, *peer)));
            ways.map(|(local, peer)| (*inum, local, peer))
        })
    }

    /// Forgets the namespaces that are no more.
    pub fn retain(&mut self, lives: impl Fn(u32) -> bool) {
        self.readings.retain(|inum, _| lives(*inum));
        self.own.retain(|inum, _| lives(*inum));
    }
}

/// The ranges of sockets' own that a row's ports were chosen from.
fn own_ranges(row: &Peer, server: SocketAddr) -> impl Iterator<Item = OwnRange> {
    let keys = row.history.spaces().iter().map(|space| space.key);
    let own = keys.filter(|key| key.range != (0, 0) && key.chosen != PortChoice::Accepted);
    own.map(move |key| (server, ip(key.local), key.range))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::{entry::SpaceKey, spaces::Hold};

    fn row(netns: u32, role: Role, last: u8, stuck: u64) -> Peer {
        let address = std::net::Ipv4Addr::new(10, 0, 0, last).to_ipv6_mapped().octets();
        let mut row = Peer::new(Group::peer(netns, role, address, 80));
        let space = row.history.space_of(&SpaceKey::default());
        (0..stuck).for_each(|_| row.history.live(space, Hold::BLOCKED));
        row
    }

    #[test]
    fn a_slow_count_is_not_repeated_soon() {
        let rows = [row(7, Role::Client, 1, 5)];
        let mut counted = OpenCounts::default();
        assert_eq!(counted.due(7, &rows, 1000, false), Some(vec!["10.0.0.1:80".parse().unwrap()]));
        counted.note(7, OpenPorts::default(), 1000, Duration::from_nanos(20));
        assert_eq!(counted.due(7, &rows, 1999, false), None, "50 times 20 ns have not passed");
        assert_eq!(counted.due(7, &rows, 2000, false).unwrap().len(), 1);
        assert_eq!(counted.of(7).map(|ports| ports.read_ns), Some(1000));
        counted.retain(|inum| inum != 7);
        assert_eq!(counted.of(7), None);
    }

    #[test]
    fn the_servers_with_the_most_stuck_ports_are_counted() {
        let mut rows = vec![row(7, Role::Server, 1, 900), row(8, Role::Client, 2, 900)];
        rows.extend((0..=255).map(|n| row(7, Role::Client, n, u64::from(n))));
        rows.extend((0..9).map(|n| row(7, Role::Client, n, 1000)));
        let due = OpenCounts::default().due(7, &rows, 1, false).unwrap();
        assert_eq!(due.len(), MOST_PEERS);
        assert_eq!(due[0], "10.0.0.8:80".parse().unwrap());
        assert_eq!(due[9], "10.0.0.255:80".parse().unwrap());
    }

    #[test]
    fn where_nobody_is_a_client_only_listeners_are_looked_for_and_where_nobody_is_nothing() {
        let rows = [row(7, Role::Server, 1, 5)];
        assert_eq!(OpenCounts::default().due(7, &rows, 1, false), Some(vec![]));
        assert_eq!(OpenCounts::default().due(8, &rows, 1, false), None);
    }
}
