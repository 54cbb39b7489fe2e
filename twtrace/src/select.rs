//! Which sockets a session is about: asked of the kernel side where that is our own, and of each
//! event where a stream brings more than was asked for.

use std::net::IpAddr;

use ipnet::IpNet;
use twtrace_common::{AF_INET, AF_INET6, CidrFilter, Filter, Flow, MAX_CIDRS};

use crate::event::ip;

/// Which sockets are wanted; all, by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Inode number of the network namespace; 0 for any.
    pub netns: u32,
    /// Remote networks, any if there is none; at most [`MAX_CIDRS`].
    pub networks: Vec<IpNet>,
    /// Remote port.
    pub port: Option<u16>,
    /// Local port.
    pub local_port: Option<u16>,
    /// Only IPv4, v4-mapped included.
    pub ipv4: bool,
    /// Only IPv6.
    pub ipv6: bool,
}

impl Selection {
    /// Whether everything is wanted.
    pub fn is_everything(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a socket is wanted; the kernel programs' `wanted()` decides alike.
    pub fn wants(&self, flow: &Flow, netns: u32) -> bool {
        self.wants_peer(flow.remote, flow.remote_port, netns)
            && self.local_port.is_none_or(|port| port == flow.local_port)
    }

    /// Whether sockets of a peer may be wanted.
    pub fn wants_peer(&self, remote: [u8; 16], remote_port: u16, netns: u32) -> bool {
        let remote = ip(remote);
        (self.netns == 0 || self.netns == netns)
            && self.port.is_none_or(|port| port == remote_port)
            && !(self.ipv4 && remote.is_ipv6() || self.ipv6 && remote.is_ipv4())
            && (self.networks.is_empty() || self.networks.iter().any(|net| net.contains(&remote)))
    }

    /// The same for the kernel programs; networks beyond [`MAX_CIDRS`] are left out.
    pub fn filter(&self) -> Filter {
        let mut filter = Filter {
            netns: self.netns,
            cidr_count: self.networks.len().min(MAX_CIDRS) as u32,
            family: match (self.ipv4, self.ipv6) {
                (true, _) => AF_INET,
                (_, true) => AF_INET6,
                _ => 0,
            },
            remote_port: self.port.unwrap_or(0),
            local_port: self.local_port.unwrap_or(0),
            ..Filter::default()
        };
        for (slot, network) in filter.cidrs.iter_mut().zip(&self.networks) {
            *slot = cidr(*network);
        }
        filter
    }
}

/// A network as the kernel programs compare it: both halves of a v6 address, v4 as v4-mapped.
fn cidr(network: IpNet) -> CidrFilter {
    let (address, prefix) = match network.network() {
        IpAddr::V4(address) => (address.to_ipv6_mapped(), u32::from(network.prefix_len()) + 96),
        IpAddr::V6(address) => (address, u32::from(network.prefix_len())),
    };
    let mask = u128::MAX.checked_shl(128 - prefix).unwrap_or(0);
    let bits = u128::from(address) & mask;
    CidrFilter {
        network: [(bits >> 64) as u64, bits as u64],
        mask: [(mask >> 64) as u64, mask as u64],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_become_masks_over_both_halves_of_an_address() {
        let v4 = cidr("10.2.0.0/16".parse().unwrap());
        assert_eq!(v4.network, [0, 0x0000_ffff_0a02_0000]);
        assert_eq!(v4.mask, [u64::MAX, 0xffff_ffff_ffff_0000]);
        let v6 = cidr("2001:db8::/32".parse().unwrap());
        assert_eq!(v6.network, [0x2001_0db8_0000_0000, 0]);
        assert_eq!(v6.mask, [0xffff_ffff_0000_0000, 0]);
        assert_eq!(cidr("::/0".parse().unwrap()).mask, [0, 0], "everything");
        assert_eq!(cidr("0.0.0.0/0".parse().unwrap()).mask, [u64::MAX, 0xffff_ffff_0000_0000]);
    }

    #[test]
    fn each_part_of_a_selection_must_hold() {
        let remote = std::net::Ipv4Addr::new(10, 2, 0, 7).to_ipv6_mapped().octets();
        let flow = Flow { remote, remote_port: 443, local_port: 40_000, ..Flow::default() };
        let all = Selection::default();
        assert!(all.wants(&flow, 9) && all.is_everything());
        let one = Selection {
            netns: 9,
            networks: vec!["10.2.0.0/16".parse().unwrap()],
            port: Some(443),
            local_port: Some(40_000),
            ipv4: true,
            ipv6: false,
        };
        assert!(one.wants(&flow, 9));
        assert!(!one.wants(&flow, 8));
        assert!(!Selection { port: Some(80), ..one.clone() }.wants(&flow, 9));
        assert!(!Selection { local_port: Some(1), ..one.clone() }.wants(&flow, 9));
        assert!(!Selection { ipv4: false, ipv6: true, ..one.clone() }.wants(&flow, 9));
        let elsewhere = vec!["10.3.0.0/16".parse().unwrap()];
        assert!(!Selection { networks: elsewhere, ..one }.wants(&flow, 9));
    }
}
