//! Ports that are held by something else than TIME_WAIT: open connections, and listeners.
//!
//! Read from `net/tcp` and `net/tcp6`, line by line: sock_diag would tell the same, but makes the
//! kernel load a module where it is not loaded, and gives every socket a cookie.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead, BufReader},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
};

use serde::{Deserialize, Serialize};

use super::HostFactError;

/// The ports of one network namespace that are held, TIME_WAIT sockets and FIN_WAIT2 mini-sockets
/// left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenPorts {
    /// `CLOCK_MONOTONIC` nanoseconds of the reading.
    pub read_ns: u64,
    /// Ports that programs listen on: `connect()` passes them over whatever the peer, as it does
    /// with all that `bind()` took (`__inet_hash_connect()`, net/ipv4/inet_hashtables.c).
    pub listening: u64,
    /// The peers that were looked for; of each the ports of its open connections, by address of
    /// this end. IPv4 addresses are such, not v4-mapped.
    pub peers: BTreeMap<SocketAddr, BTreeMap<IpAddr, u64>>,
}

impl OpenPorts {
    /// Ports that a triple of a source address, a peer's address and its port cannot have because
    /// of what is open; `None` if the peer was not looked for.
    pub fn held(&self, source: IpAddr, peer: SocketAddr) -> Option<u64> {
        let by_source = self.peers.get(&peer)?;
        Some(self.listening + by_source.get(&source).copied().unwrap_or(0))
    }
}

/// Reads the ports held among those that `usable` names, below `net_root`
/// (`/proc/thread-self/net`), by connections to `peers` and by listeners.
///
/// Time grows with the namespace's sockets, some 2 us each; memory does not.
///
/// # Errors
/// [`HostFactError`]. A kernel without IPv6 has no `tcp6`, which is none.
pub fn read(
    net_root: &Path,
    usable: impl Fn(u16) -> bool,
    peers: &[SocketAddr],
) -> Result<OpenPorts, HostFactError> {
    let mut open = OpenPorts::default();
    open.peers.extend(peers.iter().map(|peer| (*peer, BTreeMap::new())));
    let mut listening: Vec<u16> = Vec::new();
    for name in ["tcp", "tcp6"] {
        sockets(&net_root.join(name), |socket| {
            let Socket { local, remote, listens } = socket;
            if !usable(local.port()) {
                return;
            }
            if listens {
                listening.push(local.port());
            } else if let Some(by_source) = open.peers.get_mut(&remote) {
                *by_source.entry(local.ip()).or_default() += 1;
            }
        })?;
    }
    listening.sort_unstable();
    listening.dedup();
    Ok(OpenPorts { listening: listening.len() as u64, ..open })
}

/// A socket that is not in TIME_WAIT.
struct Socket {
    local: SocketAddr,
    remote: SocketAddr,
    listens: bool,
}

/// Shows each socket of a file that is not in TIME_WAIT.
fn sockets(path: &Path, mut show: impl FnMut(Socket)) -> Result<(), HostFactError> {
    let unreadable = |source| HostFactError::Unreadable { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(unreadable(error)),
    };
    let mut file = BufReader::with_capacity(1 << 16, file);
    let mut line = String::new();
    file.read_line(&mut line).map_err(unreadable)?;
    loop {
        line.clear();
        if file.read_line(&mut line).map_err(unreadable)? == 0 {
            return Ok(());
        }
        match parse(&line) {
            Some(Some(socket)) => show(socket),
            Some(None) => {}
            None => return Err(HostFactError::malformed(path, &line, "a line of a socket")),
        }
    }
}

/// State of a listening socket, `TCP_LISTEN`.
const LISTEN: &str = "0A";
/// Beginning of a TIME_WAIT socket's timer, mini-sockets' too: `get_timewait4_sock()`,
/// net/ipv4/tcp_ipv4.c. No other socket has it.
const TIMEWAIT_TIMER: &str = "03:";

/// Reads a line: number, local, remote, state, queues, timer. `Some(None)` is a TIME_WAIT socket,
/// `None` no socket at all.
fn parse(line: &str) -> Option<Option<Socket>> {
    let mut words = line.split_ascii_whitespace().skip(1);
    let (local, remote, state) = (words.next()?, words.next()?, words.next()?);
    if words.nth(1)?.starts_with(TIMEWAIT_TIMER) {
        return Some(None);
    }
    let (local, remote) = (address(local)?, address(remote)?);
    Some(Some(Socket { local, remote, listens: state == LISTEN }))
}

/// An address and a port in hexadecimal: the address as 32-bit words in this machine's byte order,
/// the port as a number.
fn address(text: &str) -> Option<SocketAddr> {
    let (words, port) = text.split_once(':')?;
    let word = |at: usize| {
        let word = u32::from_str_radix(words.get(at * 8..at * 8 + 8)?, 16).ok()?;
        Some(u32::from_be_bytes(word.to_ne_bytes()))
    };
    let ip = match words.len() {
        8 => IpAddr::V4(Ipv4Addr::from_bits(word(0)?)),
        32 => {
            let bits = (0..4).try_fold(0_u128, |bits, at| Some(bits << 32 | u128::from(word(at)?)));
            IpAddr::V6(Ipv6Addr::from_bits(bits?)).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
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
        assert_eq!(held("10.0.0.1", "10.0.0.9:8080"), Some(1), "looked for, and nothing open");
        assert_eq!(held("10.0.0.1", "10.0.0.2:443"), None, "not looked for");
        let text = serde_json::to_string(&ports).unwrap();
        assert_eq!(serde_json::from_str::<OpenPorts>(&text).unwrap(), ports);
    }

    #[test]
    fn a_kernel_without_ipv6_and_a_namespace_without_sockets_hold_nothing() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(read(root.path(), |_| true, &[]).unwrap(), OpenPorts::default());
        fs::write(root.path().join("tcp"), HEADING).unwrap();
        assert_eq!(read(root.path(), |_| true, &[]).unwrap(), OpenPorts::default());
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
}
