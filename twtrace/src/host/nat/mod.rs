//! Which network namespaces give connections another source address (NAT), found in their own rules.
//!
//! Nothing is asked but to be shown: tables, chains and rules of nftables, which iptables writes as well
//! (`iptables-nft`), routes, neighbours and links, by netlink. Rules of the older kind (`iptables-legacy`)
//! are not among them; that there is a table of them is.

mod chains;
mod expression;
mod flow;
mod paths;
mod rules;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

pub use chains::{Ruleset, Verdict};
pub use flow::Flow;
pub use paths::{Hop, Links, next_hop, way_out};
pub use rules::{NatError, has_nftables, hold_s, read};

/// Ports that a rule without a range takes from, where the connection's own is not a privileged one.
///
/// # Source
/// `nf_nat_l4proto_unique_tuple()`, net/netfilter/nf_nat_core.c, 5.10 to 7.2: 1024 to 65535.
pub const UNTOLD_PORTS: u32 = 64_512;

/// What a rule makes of a source address.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum NatKind {
    /// That of the device it leaves by.
    Masquerade,
    /// A given one.
    Snat,
}

impl NatKind {
    /// The word that rules have for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Masquerade => "masquerade",
            Self::Snat => "snat",
        }
    }
}

/// Destinations by local address, by network namespace.
pub type Carried = BTreeMap<u32, BTreeMap<IpAddr, BTreeSet<SocketAddr>>>;

/// Connections that leave a network namespace with another source address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundNat {
    /// The namespace that has the rule.
    pub netns: u32,
    /// Its table, such as `ip nat`.
    pub table: String,
    /// What it makes of the address.
    pub kind: NatKind,
    /// Ports for each destination.
    pub ports: u32,
    /// Seconds that it keeps a connection after its end, `nf_conntrack_tcp_timeout_time_wait`.
    pub hold_s: u64,
    /// Those that leave so, of the connections that were seen.
    pub carried: Carried,
}
