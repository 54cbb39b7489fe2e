//! How far each limit is, said also when nothing is wrong.

use super::{Case, arithmetic, pressure::Pressure};
use crate::host::facts::{Conntrack, NamespaceFacts, Rules};

/// Bytes of a TIME_WAIT socket where the slab may not be read; 248 to 272 on 5.10 to 7.2.
const SOCKET_BYTES: u64 = 256;
/// Bytes that go with one beside it: the bind buckets of its port, at most.
const BUCKET_BYTES: u64 = 256;

/// TIME_WAIT sockets of a namespace against their limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Buckets {
    /// Live now, by the kernel's count.
    pub live: u64,
    /// `tcp_max_tw_buckets`.
    pub max: u64,
    /// Connections that closed without a TIME_WAIT socket in this session.
    pub overflow: u64,
}

impl Buckets {
    /// The buckets of a namespace, where both figures are known.
    pub fn of(facts: &NamespaceFacts) -> Option<Self> {
        let (live, max) = (facts.time_wait?, facts.max_tw_buckets?);
        Some(Self { live, max, overflow: facts.grown("TCPTimeWaitOverflow") })
    }

    /// Share taken.
    pub fn share(&self) -> f64 {
        arithmetic::share(self.live as f64, self.max as f64)
    }
}

/// Margins of one network namespace.
#[derive(Clone, Debug, PartialEq)]
pub struct NamespaceMargins {
    /// Inode number.
    pub netns: u32,
    /// The triple that is shortest of ports.
    pub ports: Option<Pressure>,
    /// TIME_WAIT sockets.
    pub buckets: Option<Buckets>,
    /// Connection tracking, when it is loaded.
    pub conntrack: Option<Conntrack>,
    /// Which rules its kernel follows.
    pub rules: Rules,
}

/// Margins of all that was looked at.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Margins {
    /// By namespace, in the order of their numbers.
    pub namespaces: Vec<NamespaceMargins>,
    /// TIME_WAIT sockets of these namespaces.
    pub sockets: u64,
    /// Bytes that these sockets take, at most.
    pub bytes: u64,
    /// Open files of the host, and the most there may be. TIME_WAIT sockets are none of them.
    pub files: Option<(u64, u64)>,
}

impl Margins {
    /// The margins in a case.
    pub fn of(case: &Case<'_>) -> Self {
        let namespaces: Vec<_> = case
            .facts
            .namespaces
            .iter()
            .map(|(netns, facts)| NamespaceMargins {
                netns: *netns,
                ports: case
                    .clients()
                    .filter(|client| client.netns == *netns)
                    .filter_map(|client| client.pressure)
                    .max_by(|one, two| one.share().total_cmp(&two.share())),
                buckets: Buckets::of(facts),
                conntrack: facts.conntrack,
                rules: facts.rules(),
            })
            .collect();
        let sockets = namespaces.iter().filter_map(|ns| ns.buckets).map(|b| b.live).sum::<u64>();
        let each = case.facts.socket_bytes.unwrap_or(SOCKET_BYTES) + BUCKET_BYTES;
        Self { namespaces, sockets, bytes: sockets * each, files: case.facts.files }
    }

    /// The worst share of a limit, and the name of it.
    pub fn worst(&self) -> Option<(f64, String)> {
        let ports = self.namespaces.iter().filter_map(|ns| ns.ports.as_ref());
        let ports = ports.map(|ports| (ports.share(), format!("ports {}", ports.triple())));
        let buckets = self.namespaces.iter().filter_map(|ns| Some((ns.netns, ns.buckets?)));
        let buckets = buckets.map(|(netns, buckets)| {
            (buckets.share(), format!("tcp_max_tw_buckets of network namespace {netns}"))
        });
        ports.chain(buckets).max_by(|one, two| one.0.total_cmp(&two.0))
    }
}
