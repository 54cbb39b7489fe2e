//! Ports that are held by something else than TIME_WAIT: open connections, and listeners.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    net::{IpAddr, SocketAddr},
    path::Path,
};

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
    pub peers: BTreeMap<SocketAddr, BTreeMap<IpAddr, u64>>,
    /// Of the same peers the ports of FIN_WAIT2 mini-sockets.
    pub fin_wait2: BTreeMap<SocketAddr, BTreeMap<IpAddr, u64>>,
    /// Whether `peers` has all that more than one connection of an address goes to.
    pub complete: bool,
    /// Of the ports in `peers` those that wait for the peer's answer.
    pub connecting: BTreeMap<SocketAddr, BTreeMap<IpAddr, u64>>,
    /// Ports of open connections to whomever, by address of this end: what `bind(address, 0)` cannot
    /// have.
    pub sources: BTreeMap<IpAddr, u64>,
    /// All ports that programs listen on, whether `connect()` may choose them or not.
    pub listeners: BTreeSet<u16>,
}

impl OpenPorts {
    /// Ports that a triple of a source address, a peer's address and its port cannot have because
    /// of what is open; `None` if the peer was not looked for.
    pub fn held(&self, source: IpAddr, peer: SocketAddr) -> Option<u64> {
        let by_source = self.peers.get(&peer)?;
        Some(self.listening + by_source.get(&source).copied().unwrap_or(0))
    }

    /// FIN_WAIT2 mini-sockets of such a triple; `None` if the peer was not looked for.
    pub fn mini_sockets(&self, source: IpAddr, peer: SocketAddr) -> Option<u64> {
        self.peers.get(&peer)?;
        let by_source = self.fin_wait2.get(&peer);
        Some(by_source.and_then(|by_source| by_source.get(&source)).copied().unwrap_or(0))
    }

    /// Open connections of such a triple that wait for the peer's answer (SYN_SENT).
    pub fn connecting(&self, source: IpAddr, peer: SocketAddr) -> u64 {
        let by_source = self.connecting.get(&peer);
        by_source.and_then(|by_source| by_source.get(&source)).copied().unwrap_or(0)
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
    let mut others = Others::default();
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
            }
            if let Some(by_source) = open.peers.get_mut(&remote) {
                let by_source = match time_wait {
                    None => by_source,
                    Some(_) => open.fin_wait2.entry(remote).or_default(),
                };
                *by_source.entry(local.ip()).or_default() += 1;
                if socket.connects() {
                    let by_source = open.connecting.entry(remote).or_default();
                    *by_source.entry(local.ip()).or_default() += 1;
                }
            } else if time_wait.is_none() && !open.listeners.contains(&local.port()) {
                others.add(remote, local.ip(), socket.connects());
            }
        }
        Some(())
    })?;
    others.list(&mut open);
    open.sources = sources.into_iter().map(|(ip, ports)| (ip, ports.len() as u64)).collect();
    open.listening = open.listeners.iter().filter(|port| usable(**port)).count() as u64;
    Ok(open)
}

/// Connections to peers that were not looked for, of each how many, and how many under way.
#[derive(Default)]
struct Others {
    counts: HashMap<(SocketAddr, IpAddr), (u64, u64)>,
    /// Whether there were more than are counted.
    cut: bool,
}

impl Others {
    /// Most that are counted: a server's clients are as many as they like.
    const MOST: usize = 65_536;
    /// Most that are listed, those with the most connections.
    const LISTED: usize = 64;

    fn add(&mut self, remote: SocketAddr, local: IpAddr, connects: bool) {
        if self.counts.len() >= Self::MOST && !self.counts.contains_key(&(remote, local)) {
            self.cut = true;
            return;
        }
        let (all, under_way) = self.counts.entry((remote, local)).or_default();
        *all += 1;
        *under_way += u64::from(connects);
    }

    /// Lists those with more than one connection among the peers.
    fn list(self, open: &mut OpenPorts) {
        let mut many: Vec<_> = self.counts.into_iter().filter(|(_, (all, _))| *all > 1).collect();
        many.sort_unstable_by_key(|((remote, local), (all, _))| (Reverse(*all), *remote, *local));
        open.complete = !self.cut && many.len() <= Self::LISTED;
        for ((remote, local), (all, under_way)) in many.into_iter().take(Self::LISTED) {
            open.peers.entry(remote).or_default().insert(local, all);
            if under_way > 0 {
                open.connecting.entry(remote).or_default().insert(local, under_way);
            }
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
            let mut others = Others::default();
            (0..count).for_each(|_| others.add(remote, local, false));
            let mut open = OpenPorts { read_ns: seconds * 1_000_000_000, ..OpenPorts::default() };
            others.list(&mut open);
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
