//! A connection that begins, as rules look at it.

use std::net::{IpAddr, SocketAddr};

/// Which part of what passes is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The network's header.
    Network,
    /// The transport's header.
    Transport,
}

/// What a rule knows beside the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meta {
    /// Number of the device it leaves by.
    Oif,
    /// Its name.
    OifName,
    /// Name of the device it came in by.
    IifName,
    /// Address family.
    Family,
    /// Transport.
    Protocol,
}

/// A connection that begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Where it comes from.
    pub from: IpAddr,
    /// Where it goes.
    pub to: SocketAddr,
    /// Number of the device it leaves by.
    pub oif: u32,
    /// Its name.
    pub oif_name: String,
    /// Name of the device it came in by; empty where it began here.
    pub iif_name: String,
}

impl Flow {
    /// The header that such a packet has, as far as it is known.
    pub(super) fn bytes(&self, part: Part) -> Vec<Option<u8>> {
        let known = |bytes: &[u8]| bytes.iter().copied().map(Some).collect::<Vec<_>>();
        let tcp = [libc::IPPROTO_TCP as u8];
        match (part, self.from, self.to.ip()) {
            (Part::Network, IpAddr::V4(from), IpAddr::V4(to)) => [
                vec![None; 9],
                known(&tcp),
                vec![None; 2],
                known(&from.octets()),
                known(&to.octets()),
            ]
            .concat(),
            (Part::Network, IpAddr::V6(from), IpAddr::V6(to)) => {
                [vec![None; 6], known(&tcp), vec![None], known(&from.octets()), known(&to.octets())]
                    .concat()
            }
            (Part::Network, ..) => Vec::new(),
            // From which port it comes is another one each time.
            (Part::Transport, ..) => [vec![None; 2], known(&self.to.port().to_be_bytes())].concat(),
        }
    }

    pub(super) fn meta(&self, meta: Meta) -> Vec<Option<u8>> {
        let name = |name: &str| {
            let mut bytes = name.as_bytes().to_vec();
            bytes.resize(libc::IFNAMSIZ, 0);
            bytes
        };
        let bytes = match meta {
            Meta::Oif => self.oif.to_ne_bytes().to_vec(),
            Meta::OifName => name(&self.oif_name),
            Meta::IifName => name(&self.iif_name),
            Meta::Family if self.to.is_ipv4() => vec![libc::AF_INET as u8],
            Meta::Family => vec![libc::AF_INET6 as u8],
            Meta::Protocol => vec![libc::IPPROTO_TCP as u8],
        };
        bytes.into_iter().map(Some).collect()
    }
}
