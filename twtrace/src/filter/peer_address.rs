//! A peer as people name it.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use super::{Expr, Op, Side, Term};
use crate::{event::ip, peer::Group};

/// An address, and its port if the peer is the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerAddress {
    /// Its address.
    pub ip: IpAddr,
    /// Its port, if one was given.
    pub port: Option<u16>,
}

/// A text that names no peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPeer {
    /// It is no address.
    #[error("give an address, such as 10.2.0.2, 10.2.0.2:8080 or [2001:db8::2]:443")]
    NoAddress,
    /// Its port is 0.
    #[error("a port is at least 1")]
    NoPort,
}

impl PeerAddress {
    /// That of a row, if it has one.
    pub fn of(group: &Group) -> Option<Self> {
        match *group {
            Group::Peer { address, port, .. } => {
                Some(Self { ip: ip(address), port: (port != 0).then_some(port) })
            }
            Group::Addr { address, .. } => Some(Self { ip: ip(address), port: None }),
            _ => None,
        }
    }

    /// Its sockets.
    pub fn selection(self) -> Expr {
        let host = Term::Host(Side::Remote, self.ip.into()).into();
        let port = self.port.map(|port| Term::Port(Side::Remote, Op::Eq, port).into());
        Expr::all([host].into_iter().chain(port))
    }

    /// Whether a row is this peer's: of its address, and of its port if one was given.
    pub fn matches(&self, group: &Group) -> bool {
        match *group {
            Group::Peer { address, port, .. } => {
                ip(address) == self.ip && self.port.is_none_or(|wanted| wanted == port)
            }
            Group::Addr { address, .. } => ip(address) == self.ip,
            _ => false,
        }
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.ip, port).fmt(f),
            None => self.ip.fmt(f),
        }
    }
}

impl FromStr for PeerAddress {
    type Err = NoPeer;

    fn from_str(text: &str) -> Result<Self, NoPeer> {
        if let Ok(socket) = text.parse::<SocketAddr>() {
            let ip = socket.ip().to_canonical();
            return match socket.port() {
                0 => Err(NoPeer::NoPort),
                port => Ok(Self { ip, port: Some(port) }),
            };
        }
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        bare.parse::<IpAddr>()
            .map(|ip| Self { ip: ip.to_canonical(), port: None })
            .map_err(|_| NoPeer::NoAddress)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Role;

    #[test]
    fn peers_are_read_as_people_write_them() {
        let peer =
            |text: &str| text.parse::<PeerAddress>().map(|peer| (peer.ip.to_string(), peer.port));
        assert_eq!(peer("10.2.0.2"), Ok(("10.2.0.2".into(), None)));
        assert_eq!(peer("10.2.0.2:80"), Ok(("10.2.0.2".into(), Some(80))));
        assert_eq!(peer("[2001:db8::2]:443"), Ok(("2001:db8::2".into(), Some(443))));
        assert_eq!(peer("2001:db8::2"), Ok(("2001:db8::2".into(), None)));
        assert_eq!(peer("[2001:db8::2]"), Ok(("2001:db8::2".into(), None)));
        assert_eq!(peer("::ffff:10.2.0.2"), Ok(("10.2.0.2".into(), None)));
        assert_eq!(peer("10.2.0.2:0"), Err(NoPeer::NoPort));
        assert_eq!(peer("server"), Err(NoPeer::NoAddress));
    }

    #[test]
    fn a_peer_is_its_rows_in_every_namespace_and_with_a_port_only_that_port_s() {
        let address = std::net::Ipv4Addr::new(10, 2, 0, 2).to_ipv6_mapped().octets();
        let row = |netns, role| Group::peer(netns, role, address, 8080);
        let host: PeerAddress = "10.2.0.2".parse().unwrap();
        assert!(host.matches(&row(1, Role::Client)) && host.matches(&row(2, Role::Server)));
        let service: PeerAddress = "10.2.0.2:8080".parse().unwrap();
        assert!(service.matches(&row(1, Role::Client)));
        assert!(!service.matches(&row(1, Role::Server)), "a server's peer has no port");
        assert!(!host.matches(&Group::Other));
    }
}
