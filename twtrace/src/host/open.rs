//! Ports that are held by something else than TIME_WAIT: open connections, and listeners.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    net::{IpAddr, SocketAddr},
    path::Path,
};

use smallvec::SmallVec;
use twtrace_common::TCP_FIN_WAIT2;

use super::{HostFactError, sockets};

/// The ports of one network namespace that are held, TIME_WAIT sockets left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenPorts {
    /// `CLOCK_MONOTONIC` nanoseconds of the reading.
    pub read_ns: u64,
    /// Ports that programs listen on: `connect()` passes them over whatever the peer, as it does
    /// with all that `bind()` took (`__inet_hash_connect()`, net/ipv4/inet_hashtables.c).
    pub listening: u64,
    /// The peers that were looked for; of each the ports of its open connections, by address of
    /// this end. IPv4 addresses are such, not v4-mapped.
    pub peers: Counts,
    /// Of the same peers the ports of FIN_WAIT2 mini-sockets.
    pub fin_wait2: Counts,
    /// Whether `peers` has all that more than one connection of an address goes to.
    pub complete: bool,
    /// Of the ports in `peers` those that wait for the peer's answer.
    pub connecting: Counts,
    /// Ports of open connections to whomever, by address of this end: what `bind(address, 0)` cannot
    /// have.
    pub sources: BTreeMap<IpAddr, u64>,
    /// All ports that programs listen on, whether `connect()` may choose them or not.
    pub listeners: BTreeSet<u16>,
    /// Of the ports in `peers` those that the program here has closed, which the peer has not
    /// acknowledged.
    pub unanswered: Counts,
    /// Of the ports in `peers` those that the program here has closed and the peer has not.
    pub half_closed: Counts,
    /// Of the ports in `peers` those that the program here has shut down for sending and has still, and
    /// the peer has not closed.
    pub shut_down: Counts,
    /// Of the ports in `peers` those that the peer has closed and the program here has not.
    pub left_open: Counts,
    /// Of the ports in `peers` those within ranges of sockets' own (`IP_LOCAL_PORT_RANGE`), by range as
    /// [`range_key`] writes it.
    pub within: BTreeMap<SocketAddr, BTreeMap<IpAddr, BTreeMap<String, u64>>>,
    /// Ports of connections to whomever, each once, without those that programs listen on.
    pub in_use: u64,
    /// The ports in `peers` themselves, until [`OpenPorts::count_within`] counts them.
    pub lists: PortLists,
}

/// Ports by peer and address of this end.
pub type PortLists = BTreeMap<(SocketAddr, IpAddr), Vec<u16>>;

/// A port range as a key.
pub fn range_key((low, high): (u16, u16)) -> String {
    format!("{low}-{high}")
}

/// The port range of sockets' own towards a peer from an address.
pub type OwnRange = (SocketAddr, IpAddr, (u16, u16));

impl OpenPorts {
    /// Ports that a triple of a source address, a peer's address and its port cannot have because
    /// of what is open; `None` if the peer was not looked for.
    pub fn held(&self, source: IpAddr, peer: SocketAddr) -> Option<u64> {
        let by_source = self.peers.get(&peer)?;
        Some(self.listening + by_source.get(&source).copied().unwrap_or(0))
    }

    /// The same of those within a range of one socket's own (`IP_LOCAL_PORT_RANGE`): what lies beside
    /// it is not in its way.
    pub fn held_within(
        &self,
        source: IpAddr,
        peer: SocketAddr,
        (low, high): (u16, u16),
    ) -> Option<u64> {
        let all = self.peers.get(&peer)?.get(&source).copied().unwrap_or(0);
        let counted = self.within.get(&peer).and_then(|by_source| by_source.get(&source));
        let counted = counted.and_then(|counts| counts.get(&range_key((low, high))).copied());
        // Where it was not counted, it is no more than there are.
        let open = counted.unwrap_or(all).min(u64::from(high.saturating_sub(low)) + 1);
        Some(open + self.listeners.range(low..=high).count() as u64)
    }

    /// Counts the ports within some ranges of sockets' own, and keeps no more of them than that.
    pub fn count_within(&mut self, own: &[OwnRange]) {
        let lists = std::mem::take(&mut self.lists);
        for (peer, source, range) in own {
            let Some(ports) = lists.get(&(*peer, *source)) else { continue };
            let within = ports.iter().filter(|port| (range.0..=range.1).contains(*port)).count();
            let by_source = self.within.entry(*peer).or_default();
            by_source.entry(*source).or_default().insert(range_key(*range), within as u64);
        }
    }

    /// Ports that connections to others have, and none of such a triple: nobody's way is barred by them
    /// but where `bind()` took them.
    pub fn elsewhere(&self, source: IpAddr, peer: SocketAddr) -> u64 {
        self.in_use.saturating_sub(count(&self.peers, source, peer))
    }

    /// FIN_WAIT2 mini-sockets of such a triple; `None` if the peer was not looked for.
    pub fn mini_sockets(&self, source: IpAddr, peer: SocketAddr) -> Option<u64> {
        self.peers.get(&peer)?;
        let by_source = self.fin_wait2.get(&peer);
        Some(by_source.and_then(|by_source| by_source.get(&source)).copied().unwrap_or(0))
    }

    /// The stage that most of the open connections of such a triple are at, and how many are.
    pub fn most_are(&self, source: IpAddr, peer: SocketAddr) -> (Stage, u64) {
        let of = |counts| count(counts, source, peer);
        let others = [
            (Stage::Connecting, of(&self.connecting)),
            (Stage::LeftOpen, of(&self.left_open)),
            (Stage::Unanswered, of(&self.unanswered)),
            (Stage::HalfClosed, of(&self.half_closed)),
            (Stage::ShutDown, of(&self.shut_down)),
        ];
        let all = of(&self.peers);
        let open = all.saturating_sub(others.iter().map(|(_, count)| count).sum());
        let most = others.into_iter().find(|(_, count)| *count * 2 > all);
        most.unwrap_or((Stage::Open, open))
    }

    /// By how many a second the open connections of a triple grew until a later reading; `None` if that
    /// is not known.
    fn growth(&self, later: &Self, (peer, source): (SocketAddr, IpAddr)) -> Option<f64> {
        let count = |at: &Self| match at.peers.get(&peer) {
            Some(by_source) => Some(by_source.get(&source).copied().unwrap_or(0) as f64),
            None => at.complete.then_some(0.0),
        };
        let seconds = later.read_ns.saturating_sub(self.read_ns) as f64 / 1e9;
        (seconds > 0.0).then(|| Some((count(later)? - count(self)?) / seconds))?
    }

    /// Ports that no `bind()` of an address may get because of what is open.
    pub fn held_for_all(&self, source: IpAddr) -> u64 {
        self.listening + self.sources.get(&source).copied().unwrap_or(0)
    }
}

/// Connections by peer and address of this end.
type Counts = BTreeMap<SocketAddr, BTreeMap<IpAddr, u64>>;

/// Those of a triple.
fn count(counts: &Counts, source: IpAddr, peer: SocketAddr) -> u64 {
    counts.get(&peer).and_then(|by_source| by_source.get(&source)).copied().unwrap_or(0)
}

/// Reads the ports held among those that `usable` names, below `net_root`
/// (`/proc/thread-self/net`), by connections to `peers` and by listeners.
///
/// # Errors
/// Those of [`sockets::read`].
pub fn read(
    net_root: &Path,
    usable: impl Fn(u16) -> bool,
    peers: &[SocketAddr],
) -> Result<OpenPorts, HostFactError> {
    let mut open = OpenPorts::default();
    let mut sources: BTreeMap<IpAddr, HashSet<u16>> = BTreeMap::new();
    let mut found = Found::default();
    open.peers.extend(peers.iter().map(|peer| (*peer, BTreeMap::new())));
    sockets::read(net_root, |socket| {
        let time_wait = socket.time_wait();
        if time_wait.is_some_and(|socket| socket.state != TCP_FIN_WAIT2) {
            return Some(());
        }
        let (local, remote) = socket.ends()?;
        if socket.listens() {
            open.listeners.insert(local.port());
        } else if usable(local.port()) {
            if time_wait.is_none() {
                sources.entry(local.ip()).or_default().insert(local.port());
                let asked = open.peers.contains_key(&remote);
                // Those of a listener are one port, and its.
                if asked || !open.listeners.contains(&local.port()) {
                    found.add(remote, local, asked, Stage::of(&socket));
                }
            } else if open.peers.contains_key(&remote) {
                let by_source = open.fin_wait2.entry(remote).or_default();
                *by_source.entry(local.ip()).or_default() += 1;
            }
        }
        Some(())
    })?;
    found.list(&mut open);
    let in_use: HashSet<u16> = sources.values().flatten().copied().collect();
    open.in_use = in_use.iter().filter(|port| !open.listeners.contains(port)).count() as u64;
    open.sources = sources.into_iter().map(|(ip, ports)| (ip, ports.len() as u64)).collect();
    open.listening = open.listeners.iter().filter(|port| usable(**port)).count() as u64;
    Ok(open)
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It waits for the peer's answer (SYN_SENT).
    Connecting,
    /// It is open, as far as this end knows.
    Open,
    /// The peer has closed it, and the program here has not (CLOSE_WAIT).
    LeftOpen,
    /// The program here has closed it, and the peer does not acknowledge that (FIN_WAIT1, LAST_ACK).
    Unanswered,
    /// The program here has closed it, and the peer has not (FIN_WAIT2, as a full socket).
    HalfClosed,
    /// The program here has shut it down for sending and has it still, and the peer has not closed it
    /// (FIN_WAIT2 with a descriptor).
    ShutDown,
}

impl Stage {
    fn of(socket: &sockets::Socket<'_>) -> Self {
        if socket.connects() {
            Self::Connecting
        } else if socket.is_left_open() {
            Self::LeftOpen
        } else if socket.is_unanswered() {
            Self::Unanswered
        } else if socket.is_half_closed() {
            Self::HalfClosed
        } else if socket.is_shut_down() {
            Self::ShutDown
        } else {
            Self::Open
        }
    }
}

/// Connections by peer and address of this end.
#[derive(Default)]
struct Found {
    triples: HashMap<(SocketAddr, IpAddr), Triple>,
    /// Whether there were more than are counted.
    cut: bool,
}

/// Those of one triple.
#[derive(Default)]
struct Triple {
    /// Whether it is of a peer that was looked for.
    asked: bool,
    /// The most are one.
    ports: SmallVec<[u16; 4]>,
    connecting: u64,
    left_open: u64,
    unanswered: u64,
    half_closed: u64,
    shut_down: u64,
}

impl Found {
    /// Most triples of peers that were not looked for: a server's clients are as many as they like.
    const MOST: usize = 65_536;
    /// Most of them that are listed, those with the most connections.
    const LISTED: usize = 64;

    fn add(&mut self, remote: SocketAddr, local: SocketAddr, asked: bool, stage: Stage) {
        let key = (remote, local.ip());
        if !asked && self.triples.len() >= Self::MOST && !self.triples.contains_key(&key) {
            self.cut = true;
            return;
        }
        let triple = self.triples.entry(key).or_default();
        triple.asked = asked;
        triple.ports.push(local.port());
        match stage {
            Stage::Connecting => triple.connecting += 1,
            Stage::LeftOpen => triple.left_open += 1,
            Stage::Unanswered => triple.unanswered += 1,
            Stage::HalfClosed => triple.half_closed += 1,
            Stage::ShutDown => triple.shut_down += 1,
            Stage::Open => {}
        }
    }

    /// Lists those that were looked for, and of the others those with more than one connection.
    fn list(self, open: &mut OpenPorts) {
        let many = self.triples.into_iter().filter(|(_, at)| at.asked || at.ports.len() > 1);
        let (asked, mut others): (Vec<_>, Vec<_>) = many.partition(|(_, triple)| triple.asked);
        others.sort_unstable_by_key(|((remote, local), triple)| {
            (Reverse(triple.ports.len()), *remote, *local)
        });
        open.complete = !self.cut && others.len() <= Self::LISTED;
        others.truncate(Self::LISTED);
        for ((remote, local), triple) in asked.into_iter().chain(others) {
            let ports = triple.ports.into_vec();
            open.peers.entry(remote).or_default().insert(local, ports.len() as u64);
            for (counts, count) in [
                (&mut open.connecting, triple.connecting),
                (&mut open.left_open, triple.left_open),
                (&mut open.unanswered, triple.unanswered),
                (&mut open.half_closed, triple.half_closed),
                (&mut open.shut_down, triple.shut_down),
            ] {
                if count > 0 {
                    counts.entry(remote).or_default().insert(local, count);
                }
            }
            open.lists.insert((remote, local), ports);
        }
    }
}

/// Nanoseconds from which on two halves of a time tell whether something lasts.
pub const HALVES_NS: u64 = 4_000_000_000;

/// How fast the open connections of a triple become more, a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct OpenGrowth {
    /// On the whole.
    pub rate: f64,
    /// The less of both halves; `None` if it was not looked at between.
    pub lasting: Option<f64>,
}

/// What was open of late, for how fast that grows.
#[derive(Clone, Debug, Default)]
pub struct OpenPast(VecDeque<OpenPorts>);

impl OpenPast {
    /// Nanoseconds that are looked back.
    const SPAN_NS: u64 = 15_000_000_000;
    /// Nanoseconds between two readings that are compared, at least.
    const APART_NS: u64 = 1_000_000_000;

    /// Takes a reading in, and answers by how many a second the open connections of each triple grew
    /// since the oldest one kept; of those that did not, or of which it is not known, nothing.
    pub fn growth(&mut self, open: &OpenPorts) -> BTreeMap<(SocketAddr, IpAddr), OpenGrowth> {
        if self.0.back().is_none_or(|last| last.read_ns + Self::APART_NS <= open.read_ns) {
            self.0.push_back(open.clone());
        }
        while self.0.len() > 2 && self.0[1].read_ns + Self::SPAN_NS <= open.read_ns {
            self.0.pop_front();
        }
        let Some(then) = self.0.front() else { return BTreeMap::new() };
        let span_ns = open.read_ns.saturating_sub(then.read_ns);
        let from_half = |at: &&OpenPorts| at.read_ns.abs_diff(then.read_ns + span_ns / 2);
        let near = |at: &&OpenPorts| span_ns >= HALVES_NS && from_half(at) <= span_ns / 4;
        let middle = self.0.iter().filter(near).min_by_key(from_half);
        let triples = open
            .peers
            .iter()
            .flat_map(|(peer, by_source)| by_source.keys().map(|source| (*peer, *source)));
        let growth = |triple: (SocketAddr, IpAddr)| {
            let rate = then.growth(open, triple).filter(|rate| *rate > 0.0)?;
            let halves =
                middle.and_then(|at| Some((then.growth(at, triple)?, at.growth(open, triple)?)));
            let lasting = halves.map(|(first, second)| first.min(second).max(0.0));
            Some((triple, OpenGrowth { rate, lasting }))
        };
        triples.filter_map(growth).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const HEADING: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when \n";

    /// What Linux 6.18 printed on a little-endian machine, line ends left out.
    #[cfg(target_endian = "little")]
    const TCP: &str = "\
   0: 0100000A:4E20 0200000A:1F90 01 00000000:00000000 00:00000000 00000000     0        0 20 1
   1: 0100000A:4E21 0200000A:1F90 08 00000000:00000000 02:00000F00 00000000     0        0 21 1
   2: 0100000A:4E22 0200000A:1F90 06 00000000:00000000 03:00001637 00000000     0        0 0 3
   3: 0100000A:4E23 0200000A:1F90 05 00000000:00000000 03:00001637 00000000     0        0 0 3
   4: 0100000A:4E24 0200000A:01BB 01 00000000:00000000 00:00000000 00000000     0        0 24 1
   5: 00000000:4E2A 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 25 1
   6: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 26 1
";
    #[cfg(target_endian = "little")]
    const TCP6: &str = "\
   0: 0000000000000000FFFF00000100000A:4E25 0000000000000000FFFF00000200000A:1F90 01 0:0 00:0 0
   1: B80D0120000000000000000001000000:4E26 B80D0120000000000000000002000000:1F90 01 0:0 00:0 0
   2: 00000000000000000000000000000000:4E2A 00000000000000000000000000000000:0000 0A 0:0 00:0 0
";

    #[cfg(target_endian = "little")]
    #[test]
    fn open_connections_are_counted_by_triple_and_listeners_for_all() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("tcp"), format!("{HEADING}{TCP}")).unwrap();
        fs::write(root.path().join("tcp6"), format!("{HEADING}{TCP6}")).unwrap();
        let usable = |port| (20_000..=20_999).contains(&port);
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let wanted = ["10.0.0.2:8080", "[2001:db8::2]:8080", "10.0.0.9:8080"].map(address);
        let ports = read(root.path(), usable, &wanted).unwrap();
        let held = |source: &str, peer| ports.held(source.parse().unwrap(), address(peer));
        assert_eq!(ports.listening, 1, "20010 for both families; 22 is outside the range");
        let all = Some(1 + 3);
        assert_eq!(
            held("10.0.0.1", "10.0.0.2:8080"),
            all,
            "open, close-wait, and an IPv6 socket's"
        );
        assert_eq!(held("2001:db8::1", "[2001:db8::2]:8080"), Some(1 + 1));
        let mini = ports.mini_sockets("10.0.0.1".parse().unwrap(), address("10.0.0.2:8080"));
        assert_eq!(mini, Some(1), "20003 is in FIN_WAIT2");
        assert_eq!(ports.listeners, [22, 20_010].into());
        assert_eq!(ports.held_for_all("10.0.0.1".parse().unwrap()), 1 + 4);
        assert_eq!(held("10.0.0.1", "10.0.0.9:8080"), Some(1), "looked for, and nothing open");
        assert!(ports.complete);
        assert_eq!(held("10.0.0.1", "10.0.0.2:443"), None, "not looked for");
    }

    /// Orphans have no inode.
    #[cfg(target_endian = "little")]
    const STAGES: &str = "\
   0: 0100000A:4E20 0200000A:1F90 04 0:0 01:00000F00 00000002     0        0 0 1
   1: 0100000A:4E21 0200000A:1F90 05 0:0 02:00000F00 00000000     0        0 0 1
   2: 0100000A:4E22 0200000A:1F90 05 0:0 02:00000F00 00000000     0        0 22 1
   3: 0100000A:4E23 0200000A:1F90 08 0:0 00:00000000 00000000     0        0 23 1
   4: 0100000A:4E24 0200000A:1F90 08 0:0 00:00000000 00000000     0        0 24 1
   5: 0100000A:4E25 0200000A:1F90 08 0:0 00:00000000 00000000     0        0 25 1
   6: 0100000A:4E26 0200000A:1F90 08 0:0 00:00000000 00000000     0        0 26 1
   7: 0100000A:4E27 0200000A:01BB 01 0:0 00:00000000 00000000     0        0 27 1
   8: 0100000A:4E28 0200000A:01BB 01 0:0 00:00000000 00000000     0        0 28 1
";

    #[cfg(target_endian = "little")]
    #[test]
    fn the_stage_that_most_are_at_is_told_and_which_ports_they_have() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("tcp"), format!("{HEADING}{STAGES}")).unwrap();
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let (to, other) = (address("10.0.0.2:8080"), address("10.0.0.2:443"));
        let source: IpAddr = "10.0.0.1".parse().unwrap();
        let mut open = read(root.path(), |_| true, &[to]).unwrap();
        open.count_within(&[(to, source, (20_002, 20_004))]);
        assert_eq!(open.lists, PortLists::new());
        assert_eq!(open.most_are(source, to), (Stage::LeftOpen, 4));
        assert_eq!(open.most_are(source, other), (Stage::Open, 2));
        let of = |counts: &Counts| count(counts, source, to);
        assert_eq!([&open.unanswered, &open.half_closed, &open.shut_down].map(of), [1, 1, 1]);
        let within = |range| open.held_within(source, to, range);
        assert_eq!(within((20_002, 20_004)), Some(3), "of a socket's own range");
        assert_eq!(within((20_000, 20_999)), Some(7), "not asked for: all there are");
        assert_eq!(within((20_000, 20_001)), Some(2), "and no more than it has");
        assert_eq!((open.elsewhere(source, to), open.elsewhere(source, other)), (2, 7));
    }

    #[test]
    fn a_kernel_without_ipv6_and_a_namespace_without_sockets_hold_nothing() {
        let root = tempfile::tempdir().unwrap();
        let none = OpenPorts { complete: true, ..OpenPorts::default() };
        assert_eq!(read(root.path(), |_| true, &[]).unwrap(), none);
        fs::write(root.path().join("tcp"), HEADING).unwrap();
        assert_eq!(read(root.path(), |_| true, &[]).unwrap(), none);
    }

    #[test]
    fn a_line_that_is_no_socket_is_named_with_its_file() {
        let root = tempfile::tempdir().unwrap();
        for line in
            ["nonsense\n", "0: 01:4E20 0200000A:1F90 01 0:0 00:0\n", "0: é:1 é:1 01 0:0 0\n"]
        {
            fs::write(root.path().join("tcp"), format!("{HEADING}{line}")).unwrap();
            let error = read(root.path(), |_| true, &[]).unwrap_err().to_string();
            assert!(error.contains("tcp holds"), "{error}");
        }
    }

    #[test]
    fn this_machines_own_sockets_can_be_read() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let stream = std::net::TcpStream::connect(addr).unwrap();
        let own = stream.local_addr().unwrap();
        let root = Path::new("/proc/thread-self/net");
        let ports = read(root, |port| port == own.port(), &[addr]).unwrap();
        assert_eq!(ports.held(own.ip(), addr), Some(1));
    }

    #[test]
    fn what_many_connections_go_to_is_listed_unasked_and_its_growth_is_told() {
        let remote: SocketAddr = "10.0.0.2:8080".parse().unwrap();
        let local: IpAddr = "10.0.0.1".parse().unwrap();
        let at = |seconds: u64, count| {
            let mut found = Found::default();
            (0..count).for_each(|n| {
                found.add(remote, SocketAddr::new(local, 40_000 + n), false, Stage::Open);
            });
            let mut open = OpenPorts { read_ns: seconds * 1_000_000_000, ..OpenPorts::default() };
            found.list(&mut open);
            open
        };
        assert_eq!((at(1, 1).held(local, remote), at(1, 2).held(local, remote)), (None, Some(2)));
        let mut past = OpenPast::default();
        assert!(past.growth(&at(100, 0)).is_empty());
        let of = |rate, lasting| Some(OpenGrowth { rate, lasting });
        let mut grown = |open: &OpenPorts| past.growth(open).get(&(remote, local)).copied();
        assert_eq!(grown(&at(104, 100)), of(25.0, None), "nobody looked between");
        assert_eq!(grown(&at(108, 200)), of(25.0, Some(25.0)));
        assert_eq!(grown(&at(110, 200)), of(20.0, Some(100.0 / 6.0)));
        assert_eq!(grown(&at(114, 200)), of(200.0 / 14.0, Some(0.0)), "it has come to an end");
        assert!(past.growth(&at(130, 100)).is_empty(), "it has not grown for long");
        assert!(past.growth(&at(131, 50)).is_empty());
    }
}
