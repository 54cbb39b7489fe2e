//! What rows stand for: peers, or another grouping of sockets.

use std::{
    fmt,
    hash::{Hash, Hasher},
    net::IpAddr,
};

use ipnet::IpNet;

use super::Netns;
use crate::{
    event::{Event, Role, ip},
    owner::OwnerId,
};

/// How sockets are grouped into rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum GroupBy {
    /// `address:port` for clients, the remote address for servers, within one namespace.
    #[default]
    Peer,
    /// The remote address, within one namespace.
    Addr,
    /// The remote network (/24, /64), within one namespace.
    Subnet,
    /// The network namespace.
    Netns,
    /// The owner's control group.
    Cgroup,
    /// The owner's uid.
    Uid,
    /// The owner: systemd unit, container or pod.
    Owner,
}

impl GroupBy {
    /// Name in machine output and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::Addr => "addr",
            Self::Subnet => "subnet",
            Self::Netns => "netns",
            Self::Cgroup => "cgroup",
            Self::Uid => "uid",
            Self::Owner => "owner",
        }
    }

    /// Whether a row has the `bind()` calls that failed as well, of which no peer is known.
    pub const fn counts_binds(self) -> bool {
        matches!(self, Self::Netns | Self::Cgroup | Self::Uid | Self::Owner)
    }
}

/// Prefix lengths of the subnet grouping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefixes {
    /// For IPv4, at most 32.
    pub v4: u8,
    /// For IPv6, at most 128.
    pub v6: u8,
}

impl Default for Prefixes {
    fn default() -> Self {
        Self { v4: 24, v6: 64 }
    }
}

/// Identity of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// A peer; the port is 0 when this end is the server.
    Peer {
        /// The namespace.
        netns: Netns,
        /// Which end this host is.
        role: Role,
        /// Remote address, v4-mapped where it is IPv4.
        address: [u8; 16],
        /// Remote port, or 0.
        port: u16,
    },
    /// A remote address.
    Addr {
        /// The namespace.
        netns: Netns,
        /// Remote address, v4-mapped where it is IPv4.
        address: [u8; 16],
    },
    /// A remote network.
    Subnet {
        /// The namespace.
        netns: Netns,
        /// The network.
        network: IpNet,
    },
    /// A network namespace.
    Netns(Netns),
    /// A control group, by inode number.
    Cgroup(u64),
    /// A user.
    Uid(u32),
    /// A unit, a container or a pod.
    Owner(OwnerId),
    /// Sockets whose owner is not known (they were there before, or their entry was lost).
    UnknownOwner,
    /// The rows that found no place.
    Other,
    /// Sockets that a filter leaves out; never shown.
    LeftOut,
}

impl Group {
    /// The peer of a connection.
    pub fn peer(netns: impl Into<Netns>, role: Role, address: [u8; 16], remote_port: u16) -> Self {
        let port = if role == Role::Client { remote_port } else { 0 };
        Self::Peer { netns: netns.into(), role, address, port }
    }

    /// The remote network of an address.
    pub fn subnet(netns: impl Into<Netns>, address: [u8; 16], prefixes: Prefixes) -> Self {
        let address = ip(address);
        let prefix = match address {
            IpAddr::V4(_) => prefixes.v4.min(32),
            IpAddr::V6(_) => prefixes.v6.min(128),
        };
        let network = IpNet::new_assert(address, prefix).trunc();
        Self::Subnet { netns: netns.into(), network }
    }

    /// The group that a peer is part of by a coarser grouping, if there is one.
    pub fn coarser(&self, by: GroupBy, prefixes: Prefixes) -> Option<Self> {
        let Self::Peer { netns, address, .. } = *self else { return None };
        match by {
            GroupBy::Peer => Some(*self),
            GroupBy::Addr => Some(Self::Addr { netns, address }),
            GroupBy::Subnet => Some(Self::subnet(netns, address, prefixes)),
            GroupBy::Netns => Some(Self::Netns(netns)),
            GroupBy::Cgroup | GroupBy::Uid | GroupBy::Owner => None,
        }
    }

    /// Whether an event's socket belongs to the group, as far as the event tells.
    pub fn holds(&self, event: &Event) -> bool {
        let (seen, remote) = (Netns::from(event.header().netns), event.flow().remote);
        match *self {
            Self::Peer { netns, role, address, port } => {
                let ports = role == Role::Server || port == event.flow().remote_port;
                netns == seen && address == remote && role == event.role() && ports
            }
            Self::Addr { netns, address } => netns == seen && address == remote,
            Self::Subnet { netns, network } => netns == seen && network.contains(&ip(remote)),
            Self::Netns(netns) => netns == seen,
            Self::Cgroup(id) => matches!(event, Event::Entered(entered) if entered.cgroup == id),
            Self::Uid(uid) => matches!(event, Event::Entered(entered) if entered.uid == uid),
            // Whose it is, is told beside.
            Self::Owner(_) | Self::UnknownOwner | Self::Other | Self::LeftOut => false,
        }
    }

    /// Inode number of the namespace the row belongs to, if it belongs to one.
    pub const fn netns(&self) -> Option<u32> {
        match self.namespace() {
            Some(netns) => Some(netns.inum),
            None => None,
        }
    }

    /// That namespace.
    pub const fn namespace(&self) -> Option<Netns> {
        match *self {
            Self::Peer { netns, .. }
            | Self::Addr { netns, .. }
            | Self::Subnet { netns, .. }
            | Self::Netns(netns) => Some(netns),
            Self::Cgroup(_)
            | Self::Uid(_)
            | Self::Owner(_)
            | Self::UnknownOwner
            | Self::Other
            | Self::LeftOut => None,
        }
    }

    /// The same row of another namespace, if it belongs to one.
    #[must_use]
    pub fn within(mut self, other: Netns) -> Self {
        match &mut self {
            Self::Peer { netns, .. }
            | Self::Addr { netns, .. }
            | Self::Subnet { netns, .. }
            | Self::Netns(netns) => *netns = other,
            Self::Cgroup(_)
            | Self::Uid(_)
            | Self::Owner(_)
            | Self::UnknownOwner
            | Self::Other
            | Self::LeftOut => {}
        }
        self
    }

    /// Which end this host is, if the row has one answer.
    pub const fn role(&self) -> Option<Role> {
        match *self {
            Self::Peer { role, .. } => Some(role),
            _ => None,
        }
    }
}

impl Hash for Group {
    /// In as few words as tell equal groups of one grouping from others: it is hashed for each
    /// entry. Equal groups hash alike, since all that goes in comes from fields.
    fn hash<H: Hasher>(&self, state: &mut H) {
        match *self {
            Self::Peer { netns, role, address, port } => {
                let client = u64::from(role == Role::Client);
                state.write_u128(u128::from_ne_bytes(address));
                let Netns { inum, gone } = netns;
                let port = u64::from(gone) << 17 ^ client << 16 ^ u64::from(port);
                state.write_u64(u64::from(inum) << 32 ^ port);
            }
            Self::Addr { netns, address } => {
                state.write_u128(u128::from_ne_bytes(address));
                netns.hash(state);
            }
            Self::Subnet { netns, network } => (netns, network).hash(state),
            Self::Netns(netns) => netns.hash(state),
            Self::Uid(number) => state.write_u32(number),
            Self::Cgroup(id) => state.write_u64(id),
            Self::Owner(id) => id.hash(state),
            Self::UnknownOwner | Self::Other | Self::LeftOut => {}
        }
    }
}

impl fmt::Display for Group {
    /// As the field writes it: `10.2.0.2:8080`, `[2001:db8::2]:8080`, `10.2.0.2`, `10.2.0.0/24`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Peer { role: Role::Client, address, port, .. } => match ip(address) {
                IpAddr::V4(address) => write!(f, "{address}:{port}"),
                IpAddr::V6(address) => write!(f, "[{address}]:{port}"),
            },
            Self::Peer { address, .. } | Self::Addr { address, .. } => {
                write!(f, "{}", ip(address))
            }
            Self::Subnet { network, .. } => write!(f, "{network}"),
            Self::Netns(netns) => write!(f, "netns {netns}"),
            Self::Cgroup(id) => write!(f, "cgroup {id}"),
            Self::Uid(uid) => write!(f, "uid {uid}"),
            Self::Owner(id) => write!(f, "owner {}", id.number()),
            Self::UnknownOwner => f.write_str("(owner unknown)"),
            Self::Other => f.write_str("(other)"),
            Self::LeftOut => f.write_str("(left out)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(a: u8, b: u8, c: u8, d: u8) -> [u8; 16] {
        std::net::Ipv4Addr::new(a, b, c, d).to_ipv6_mapped().octets()
    }

    #[test]
    fn a_clients_peer_has_the_port_and_a_servers_has_not() {
        let client = Group::peer(1, Role::Client, v4(10, 2, 0, 2), 8080);
        let server = Group::peer(1, Role::Server, v4(10, 2, 0, 2), 40_000);
        assert_eq!(client.to_string(), "10.2.0.2:8080");
        assert_eq!(server.to_string(), "10.2.0.2");
        assert_eq!(server, Group::peer(1, Role::Server, v4(10, 2, 0, 2), 40_001));
        assert_ne!(client, Group::peer(2, Role::Client, v4(10, 2, 0, 2), 8080), "other namespace");
    }

    #[test]
    fn an_ipv6_peer_is_written_with_brackets() {
        let address = "2001:db8::2".parse::<std::net::Ipv6Addr>().unwrap().octets();
        assert_eq!(Group::peer(1, Role::Client, address, 443).to_string(), "[2001:db8::2]:443");
    }

    #[test]
    fn subnets_are_truncated_to_their_family_s_prefix() {
        let prefixes = Prefixes::default();
        assert_eq!(Group::subnet(1, v4(10, 2, 7, 9), prefixes).to_string(), "10.2.7.0/24");
        let v6 = "2001:db8:1:2:3::9".parse::<std::net::Ipv6Addr>().unwrap().octets();
        assert_eq!(Group::subnet(1, v6, prefixes).to_string(), "2001:db8:1:2::/64");
    }
}
