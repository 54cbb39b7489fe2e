//! What a user typed, as the kernel programs and the aggregate want it.

use std::net::IpAddr;

use ipnet::IpNet;
use twtrace_common::{AF_INET, AF_INET6, CidrFilter, Filter, MAX_CIDRS};

use super::SessionError;
use crate::{
    aggregate::Settings,
    cli::ObserveArgs,
    kernel::{Options, find_namespace},
    peer::{GroupBy, Prefixes},
    units::Hz,
};

/// Which sockets are wanted, beside the namespace.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Remote networks, any if there is none.
    pub networks: Vec<IpNet>,
    /// Remote port.
    pub port: Option<u16>,
    /// Local port.
    pub local_port: Option<u16>,
    /// Only IPv4.
    pub ipv4: bool,
    /// Only IPv6.
    pub ipv6: bool,
}

/// Options of the kernel side.
///
/// # Errors
/// A namespace that does not exist, or more networks than the kernel side takes.
pub fn options(
    args: &ObserveArgs,
    selection: &Selection,
    follow_ends: bool,
) -> Result<Options, SessionError> {
    if selection.networks.len() > MAX_CIDRS {
        return Err(SessionError::Usage(format!(
            "at most {MAX_CIDRS} networks can be given with --peer"
        )));
    }
    let netns = args.netns.as_deref().map(find_namespace).transpose()?.unwrap_or(0);
    let mut filter = Filter {
        netns,
        cidr_count: selection.networks.len() as u32,
        family: match (selection.ipv4, selection.ipv6) {
            (true, _) => AF_INET,
            (_, true) => AF_INET6,
            _ => 0,
        },
        remote_port: selection.port.unwrap_or(0),
        local_port: selection.local_port.unwrap_or(0),
        ..Filter::default()
    };
    for (slot, network) in filter.cidrs.iter_mut().zip(&selection.networks) {
        *slot = cidr(*network);
    }
    Ok(Options {
        attach: args.attach.only(),
        follow_ends,
        filter,
        btf: args.btf.clone(),
        max_live: args.max_live,
        ring_bytes: (args.buffer << 20).next_power_of_two(),
    })
}

/// Settings of the aggregate.
pub fn settings(
    args: &ObserveArgs,
    group_by: GroupBy,
    prefixes: Prefixes,
    max_peers: usize,
    follow_ends: bool,
) -> Settings {
    Settings {
        group_by,
        prefixes,
        max_peers,
        max_live: args.max_live as usize,
        hz: Hz::of_running_kernel(),
        // Gone since 4.12, and every kernel these programs load on is newer.
        recycle_exists: std::path::Path::new("/proc/sys/net/ipv4/tcp_tw_recycle").exists(),
        follow_ends,
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
}
