//! How far each limit is, said also when nothing is wrong.

use super::{
    Scene,
    arithmetic::{self, Exhaustion},
    pressure::{Pressure, time_wait},
};
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
    /// The same a second, over the whole session.
    pub overflow_rate: f64,
    /// Sockets that come a second.
    pub rate: f64,
    /// Sockets there would be if as many came as go, at that rate.
    pub steady: f64,
    /// The same at the rate that has lasted: a burst has not.
    pub held_steady: f64,
    /// When no bucket is left.
    pub exhaustion: Exhaustion,
}

impl Buckets {
    /// The buckets of a namespace, where both figures are known.
    pub fn of(scene: &Scene<'_>, netns: u32, facts: &NamespaceFacts) -> Option<Self> {
        let (live, max) = (facts.time_wait?, facts.max_tw_buckets?);
        let (mut rate, mut ended, mut steady, mut held_steady) = (0.0, 0.0, 0.0, 0.0);
        for row in scene.in_namespace(netns) {
            let seconds = time_wait(row.peer, row.facts).0 as f64 / 1000.0;
            rate += row.rates.entered;
            ended += row.rates.ended;
            steady += arithmetic::steady_state(row.rates.entered, seconds);
            held_steady += arithmetic::steady_state(row.rates.held.entered, seconds);
        }
        let overflow = facts.grown("TCPTimeWaitOverflow");
        let session_ns = scene.case.now_ns.saturating_sub(scene.case.since_ns);
        let (places, used) = (max as f64, live as f64);
        Some(Self {
            live,
            max,
            overflow,
            overflow_rate: overflow as f64 / (session_ns as f64 / 1e9).max(1.0),
            rate,
            steady,
            held_steady,
            exhaustion: arithmetic::exhaustion(places, 0.0, used, rate - ended, steady),
        })
    }

    /// Share taken now.
    pub fn used_share(&self) -> f64 {
        arithmetic::share(self.live as f64, self.max as f64)
    }

    /// Share that is taken, or will be at the rate that has lasted.
    pub fn share(&self) -> f64 {
        arithmetic::share(self.held_steady.max(self.live as f64), self.max as f64)
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
    /// The margins in a scene.
    pub fn of(scene: &Scene<'_>) -> Self {
        let namespaces: Vec<_> = scene
            .namespaces()
            .map(|(netns, facts)| NamespaceMargins {
                netns,
                // The shortest come first.
                ports: scene.in_namespace(netns).first().and_then(|row| row.pressure.clone()),
                buckets: Buckets::of(scene, netns, facts),
                conntrack: facts.conntrack,
                rules: facts.rules(),
            })
            .collect();
        let sockets = namespaces.iter().filter_map(|ns| ns.buckets).map(|b| b.live).sum::<u64>();
        let facts = scene.case.facts;
        let each = facts.socket_bytes.unwrap_or(SOCKET_BYTES) + BUCKET_BYTES;
        Self { namespaces, sockets, bytes: sockets * each, files: facts.files }
    }

    /// The shares of all limits, with the names of those.
    fn shares(&self) -> impl Iterator<Item = (f64, String)> {
        self.namespaces.iter().flat_map(|ns| {
            let of_namespace = |name: &str| format!("{name} of network namespace {}", ns.netns);
            let ports = ns.ports.as_ref();
            let ports = ports.map(|ports| (ports.share(), format!("ports {}", ports.triple())));
            let buckets =
                ns.buckets.map(|buckets| (buckets.share(), of_namespace("tcp_max_tw_buckets")));
            let tracked = ns.conntrack.filter(|conntrack| conntrack.count > 0).map(|conntrack| {
                let share = arithmetic::share(conntrack.count as f64, conntrack.max as f64);
                (share, of_namespace("nf_conntrack_max"))
            });
            [ports, buckets, tracked].into_iter().flatten()
        })
    }

    /// The worst share of a limit, and the name of it; `None` if no limit is known.
    pub fn worst(&self) -> Option<(f64, String)> {
        self.shares().max_by(|one, two| one.0.total_cmp(&two.0))
    }
}
