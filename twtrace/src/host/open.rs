//! Ports that are held by something else than TIME_WAIT: open connections, and listeners.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use serde::{Deserialize, Serialize};

use super::{HostFactError, sockets};

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
/// # Errors
/// Those of [`sockets::read`].
pub fn read(
    net_root: &Path,
    usable: impl Fn(u16) -> bool,
    peers: &[SocketAddr],
) -> Result<OpenPorts, HostFactError> {
    let mut open = OpenPorts::default();
    open.peers.extend(peers.iter().map(|peer| (*peer, BTreeMap::new())));
    let mut listening: Vec<u16> = Vec::new();
    sockets::read(net_root, |socket| {
        if socket.is_in_time_wait() {
            return Some(());
        }
        let (local, remote) = socket.ends()?;
        if !usable(local.port()) {
            return Some(());
        }
        if socket.listens() {
            listening.push(local.port());
        } else if let Some(by_source) = open.peers.get_mut(&remote) {
            *by_source.entry(local.ip()).or_default() += 1;
        }
        Some(())
    })?;
    listening.sort_unstable();
    listening.dedup();
    Ok(OpenPorts { listening: listening.len() as u64, ..open })
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
