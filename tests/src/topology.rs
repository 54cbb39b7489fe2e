//! The networks that scenarios run on, each of namespaces of its own.
//!
//! Addresses repeat between scenarios on purpose: only the namespace tells them apart.

use anyhow::{Result, bail};

use crate::netns::Netns;

/// Hardware address of the far end of [`scripted`], whose neighbour entry is fixed.
pub const SCRIPTED_MAC: &str = "02:00:00:00:00:02";

/// A client and a server joined by one veth pair.
pub struct Pair {
    /// Has 10.1.0.1 and fd01::1.
    pub client: Netns,
    /// Has 10.1.0.2 and fd01::2.
    pub server: Netns,
}

/// Address of [`Pair`]'s client.
pub const CLIENT: &str = "10.1.0.1";
/// Address of [`Pair`]'s server.
pub const SERVER: &str = "10.1.0.2";
/// Address of the server behind the router.
pub const ROUTED: &str = "10.2.0.2";

/// Makes a client and a server with a link between them.
pub fn pair() -> Result<Pair> {
    let client = Netns::new("client")?;
    let server = Netns::new("server")?;
    link(&client, "eth0", &server, "eth0")?;
    address(&client, "eth0", "10.1.0.1/24")?;
    address(&client, "eth0", "fd01::1/64")?;
    address(&server, "eth0", "10.1.0.2/24")?;
    address(&server, "eth0", "fd01::2/64")?;
    Ok(Pair { client, server })
}

/// A client with a direct server and with another one behind a router.
pub struct Routed {
    /// Has 10.1.0.1 towards the direct server and 10.3.0.1 towards the router.
    pub client: Netns,
    /// Has 10.1.0.2.
    pub direct: Netns,
    /// Forwards between 10.3.0.0/24 and 10.2.0.0/24.
    pub router: Netns,
    /// Has 10.2.0.2.
    pub behind: Netns,
}

/// Makes the network of the timestamps story: one server reached directly, one through a router.
pub fn routed() -> Result<Routed> {
    let Pair { client, server: direct } = pair()?;
    let router = Netns::new("router")?;
    let behind = Netns::new("behind")?;
    link(&client, "eth1", &router, "eth0")?;
    link(&router, "eth1", &behind, "eth0")?;
    address(&client, "eth1", "10.3.0.1/24")?;
    address(&router, "eth0", "10.3.0.2/24")?;
    address(&router, "eth1", "10.2.0.1/24")?;
    address(&behind, "eth0", "10.2.0.2/24")?;
    client.ip("route add 10.2.0.0/24 via 10.3.0.2")?;
    behind.ip("route add 10.3.0.0/24 via 10.2.0.1")?;
    router.set("ipv4/ip_forward", "1")?;
    Ok(Routed { client, direct, router, behind })
}

/// A client whose only neighbour is not a TCP stack but a test that writes packets.
pub struct Scripted {
    /// Has 10.1.0.1 and believes 10.1.0.2 to be at [`SCRIPTED_MAC`].
    pub client: Netns,
    /// Has the other end of the link and no address, so that its kernel answers nothing.
    pub far: Netns,
}

/// Makes a client whose packets all reach a namespace where only a packet socket listens.
pub fn scripted() -> Result<Scripted> {
    let client = Netns::new("client")?;
    let far = Netns::new("far")?;
    link(&client, "eth0", &far, "eth0")?;
    far.ip(&format!("link set eth0 address {SCRIPTED_MAC}"))?;
    address(&client, "eth0", "10.1.0.1/24")?;
    client.ip(&format!("neigh add 10.1.0.2 lladdr {SCRIPTED_MAC} dev eth0 nud permanent"))?;
    Ok(Scripted { client, far })
}

/// Adds an address; an IPv6 one is usable at once, without duplicate detection.
pub fn address(netns: &Netns, device: &str, prefix: &str) -> Result<()> {
    let nodad = if prefix.contains(':') { "nodad" } else { "" };
    netns.ip(&format!("addr add {prefix} dev {device} {nodad}"))
}

/// Joins two namespaces by a veth pair that is up at both ends.
pub fn link(a: &Netns, a_device: &str, b: &Netns, b_device: &str) -> Result<()> {
    a.ip(&format!("link add {a_device} type veth peer name {b_device} netns {}", b.name()))?;
    a.ip(&format!("link set {a_device} up"))?;
    b.ip(&format!("link set {b_device} up"))
}

/// Makes `router` erase the timestamps option from every TCP segment that it forwards.
///
/// Gives the name of the variant of iptables that could.
pub fn strip_timestamps(router: &Netns) -> Result<&'static str> {
    let mut refusals = String::new();
    for variant in ["iptables-nft", "iptables-legacy", "iptables"] {
        let rule = "-w -t mangle -A FORWARD -p tcp -j TCPOPTSTRIP --strip-options timestamp";
        let words: Vec<_> = std::iter::once(variant).chain(rule.split(' ')).collect();
        match router.exec(&words) {
            Ok(_) => return Ok(variant),
            Err(error) => refusals += &format!("{error}\n"),
        }
    }
    bail!("no iptables can strip TCP options here:\n{refusals}");
}

/// Restricts the ports that connect() picks from to `first..=last`.
pub fn ephemeral_ports(netns: &Netns, first: u16, last: u16) -> Result<()> {
    netns.set("ipv4/ip_local_port_range", &format!("{first} {last}"))
}
