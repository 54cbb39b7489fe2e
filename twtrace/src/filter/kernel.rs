//! The part of an expression that the kernel programs can decide.

use std::net::IpAddr;

use ipnet::IpNet;
use twtrace_common::{AF_INET, AF_INET6, CidrFilter, Filter, MAX_CIDRS};

use super::{Expr, Name, Op, Side, Term};

impl Expr {
    /// Splits the expression: what the kernel programs let through together with what is left to
    /// decide here is the whole. Names must be bound, or they are left.
    ///
    /// The kernel programs compare one namespace, one family, one port of each end and up to
    /// [`MAX_CIDRS`] remote networks; whatever else stands at the top is left.
    pub fn push_down(self) -> (Filter, Self) {
        let parts = match self {
            Self::And(parts) => parts,
            other => vec![other],
        };
        let mut filter = Filter::default();
        let rest: Vec<Self> = parts.into_iter().filter(|part| !take(&mut filter, part)).collect();
        (filter, Self::all(rest))
    }
}

/// Takes a part over into the filter, if it has a place there that is free.
fn take(filter: &mut Filter, part: &Expr) -> bool {
    let place = match part {
        Expr::Term(Term::Netns(Name::Number(inum))) => {
            let Ok(inum) = u32::try_from(*inum) else { return false };
            return fill(&mut filter.netns, inum);
        }
        Expr::Term(Term::Port(Side::Remote, Op::Eq, port)) => (&mut filter.remote_port, *port),
        Expr::Term(Term::Port(Side::Local, Op::Eq, port)) => (&mut filter.local_port, *port),
        Expr::Term(Term::Host(Side::Remote, network)) if network.prefix_len() == 0 => {
            let family = if network.addr().is_ipv4() { AF_INET } else { AF_INET6 };
            (&mut filter.family, family)
        }
        Expr::Term(Term::Host(Side::Remote, network)) => {
            return take_networks(filter, &[network]);
        }
        Expr::Or(parts) => {
            let remote = |part| match part {
                &Expr::Term(Term::Host(Side::Remote, ref network)) => Some(network),
                _ => None,
            };
            let networks: Option<Vec<&IpNet>> = parts.iter().map(remote).collect();
            return networks.is_some_and(|networks| take_networks(filter, &networks));
        }
        _ => return false,
    };
    fill(place.0, place.1)
}

/// Puts a value where none is; 0 is none.
fn fill<T: Default + PartialEq>(place: &mut T, value: T) -> bool {
    let free = *place == T::default() && value != T::default();
    if free {
        *place = value;
    }
    free
}

/// Networks of which one has to hold the remote address.
fn take_networks(filter: &mut Filter, networks: &[&IpNet]) -> bool {
    let fits = filter.cidr_count == 0
        && networks.len() <= MAX_CIDRS
        && networks.iter().all(|network| !holds_mapped(network));
    if fits {
        filter.cidr_count = networks.len() as u32;
        for (slot, network) in filter.cidrs.iter_mut().zip(networks) {
            *slot = cidr(network);
        }
    }
    fits
}

/// Whether an IPv6 network is so wide that `::ffff:0:0/96` lies in it: the kernel programs would
/// let IPv4 through, for them it is all one space.
fn holds_mapped(network: &IpNet) -> bool {
    let mapped = IpAddr::V6(std::net::Ipv4Addr::UNSPECIFIED.to_ipv6_mapped());
    network.addr().is_ipv6() && network.contains(&mapped)
}

/// A network as the kernel programs compare it: both halves of a v6 address, v4 as v4-mapped.
fn cidr(network: &IpNet) -> CidrFilter {
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

    fn split(text: &str) -> (Filter, String) {
        let (filter, rest) = text.parse::<Expr>().unwrap().push_down();
        (filter, rest.to_string())
    }

    #[test]
    fn networks_become_masks_over_both_halves_of_an_address() {
        let of = |text: &str| cidr(&text.parse().unwrap());
        let v4 = of("10.2.0.0/16");
        assert_eq!(v4.network, [0, 0x0000_ffff_0a02_0000]);
        assert_eq!(v4.mask, [u64::MAX, 0xffff_ffff_ffff_0000]);
        let v6 = of("2001:db8::/32");
        assert_eq!(v6.network, [0x2001_0db8_0000_0000, 0]);
        assert_eq!(v6.mask, [0xffff_ffff_0000_0000, 0]);
        assert_eq!(of("2001:db8::2/128").mask, [u64::MAX; 2]);
    }

    #[test]
    fn the_kernel_gets_what_it_can_compare_and_the_rest_stays() {
        let (filter, rest) =
            split("netns 7 and dst 10.0.0.0/8 and dport = :443 and sport = 5 and not timestamps");
        assert_eq!((filter.netns, filter.cidr_count), (7, 1));
        assert_eq!((filter.remote_port, filter.local_port, filter.family), (443, 5, 0));
        assert_eq!(rest, "not timestamps");
        let (filter, rest) = split("dst 10.0.0.0/8 or dst 2001:db8::/32");
        assert_eq!((filter.cidr_count, rest.as_str()), (2, ""));
        let (filter, rest) = split("dst ::/0 dst 2001:db8::/32");
        assert_eq!((filter.family, filter.cidr_count, rest.as_str()), (AF_INET6, 1, ""));
    }

    #[test]
    fn what_the_kernel_would_decide_otherwise_is_left() {
        for text in [
            "dst 10.0.0.0/8 or dport = :443",
            "not dst 10.0.0.0/8",
            "dport >= :443",
            "src 10.0.0.1",
            "dst ::/64",
            "dport = :0",
            "netns web",
            "dst 1.1.1.1 or dst 1.1.1.2 or dst 1.1.1.3 or dst 1.1.1.4 or dst 1.1.1.5 \
             or dst 1.1.1.6 or dst 1.1.1.7 or dst 1.1.1.8 or dst 1.1.1.9",
        ] {
            assert_eq!(split(text), (Filter::default(), text.to_owned()));
        }
        let (filter, rest) = split("dport = :1 and dport = :2 and dst 1.1.1.1 and dst 1.1.1.2");
        assert_eq!((filter.remote_port, filter.cidr_count), (1, 1));
        assert_eq!(rest, "dport = :2 and dst 1.1.1.2");
    }
}
