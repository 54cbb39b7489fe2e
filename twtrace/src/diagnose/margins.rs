//! How far each limit is, said also when nothing is wrong.

use super::{
    Scene,
    arithmetic::{self, Exhaustion},
    buckets::Buckets,
    egress::EgressMargin,
    pressure::Pressure,
    tracking::{SOON_S, Tracking},
};
use crate::{
    host::{facts::Rules, files::ProcessFiles},
    text::visible,
};

/// Bytes of a TIME_WAIT socket where the slab may not be read; 248 to 272 on 5.10 to 7.2.
const SOCKET_BYTES: u64 = 256;
/// Bytes that go with one beside it: the bind buckets of its port, at most.
const BUCKET_BYTES: u64 = 256;

/// Margins of one network namespace.
#[derive(Clone, Debug, PartialEq)]
pub struct NamespaceMargins {
    /// Inode number.
    pub netns: u32,
    /// The triple that is shortest of ports.
    pub ports: Option<Pressure>,
    /// TIME_WAIT sockets.
    pub buckets: Option<Buckets>,
    /// Connection tracking, where anything is tracked.
    pub conntrack: Option<Tracking>,
    /// Which rules its kernel follows.
    pub rules: Rules,
}

/// Margins of all that was looked at.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Margins {
    /// By namespace, in the order of their numbers.
    pub namespaces: Vec<NamespaceMargins>,
    /// Ports of shared addresses, by destination.
    pub egress: Vec<EgressMargin>,
    /// TIME_WAIT sockets of these namespaces.
    pub sockets: u64,
    /// Bytes that these sockets take, at most.
    pub bytes: u64,
    /// Open files of the host, and the most there may be. TIME_WAIT sockets are none of them.
    pub files: Option<(u64, u64)>,
    /// Processes near their own limit of open files, the nearest first.
    pub near_limit: Vec<ProcessFiles>,
}

impl Margins {
    /// The margins in a scene.
    pub fn of(scene: &Scene<'_>) -> Self {
        let namespaces: Vec<_> = scene
            .namespaces()
            .map(|(netns, facts)| NamespaceMargins {
                netns,
                // The shortest come first.
                ports: scene.ports().iter().find(|ports| ports.space.netns == netns).cloned(),
                buckets: scene.buckets(netns).copied(),
                conntrack: Tracking::of(facts),
                rules: facts.rules(),
            })
            .collect();
        let sockets = namespaces.iter().filter_map(|ns| ns.buckets).map(|b| b.live).sum::<u64>();
        let facts = scene.case.facts;
        let each = facts.socket_bytes.unwrap_or(SOCKET_BYTES) + BUCKET_BYTES;
        let egress = scene.egress().to_vec();
        let near_limit = facts.near_limit.clone();
        Self { namespaces, egress, sockets, bytes: sockets * each, files: facts.files, near_limit }
    }

    /// How near all limits are.
    fn limits(&self) -> impl Iterator<Item = Limit> {
        let files = self.files.map(|(open, max)| {
            let used = arithmetic::share(open as f64, max as f64);
            let name = "fs.file-max, open files".to_owned();
            Limit::new(name, (used, used), false, Exhaustion::Never)
        });
        let near_limit = self.near_limit.iter().map(|process| {
            let ProcessFiles { pid, comm, .. } = process;
            let name = format!("the files that {} (pid {pid}) may open", visible(comm));
            Limit::new(name, (process.share(), process.share()), false, Exhaustion::Never)
        });
        let namespaces = self.namespaces.iter().flat_map(|ns| {
            let of_namespace = |name: &str| format!("{name} of network namespace {}", ns.netns);
            let ports = ns.ports.as_ref().map(|ports| {
                let share = ports.share();
                let shares = (ports.used_share().min(share), share);
                let name = format!("ports {}", ports.triple());
                Limit::new(name, shares, ports.will_do(), ports.exhaustion)
            });
            let buckets = ns.buckets.map(|buckets| {
                let shares = (buckets.used_share(), buckets.share());
                let name = of_namespace("tcp_max_tw_buckets");
                Limit::new(name, shares, buckets.will_do(), buckets.exhaustion)
            });
            let tracked = ns.conntrack.map(|tracking| {
                let shares = (tracking.used_share(), tracking.share());
                Limit::new(of_namespace("nf_conntrack_max"), shares, false, tracking.exhaustion)
            });
            [ports, buckets, tracked].into_iter().flatten()
        });
        let egress = self.egress.iter().map(|margin| {
            let name = format!("ports of the shared address towards {}", margin.target());
            Limit::new(name, (margin.used_share(), margin.share()), false, Exhaustion::Never)
        });
        namespaces.chain(egress).chain(near_limit).chain(files)
    }

    /// Whether a limit would be reached if all went on as it was seen, though that may not have lasted.
    pub fn would_be_reached(&self) -> bool {
        self.namespaces.iter().any(|ns| {
            let ports =
                ns.ports.as_ref().is_some_and(|ports| ports.exhaustion != Exhaustion::Never);
            ports || ns.buckets.is_some_and(|buckets| buckets.steady > buckets.max as f64)
        })
    }

    /// The limit that is nearest; `None` if none is known.
    pub fn worst(&self) -> Option<Limit> {
        self.limits().max_by(|one, two| {
            one.pressing().total_cmp(&two.pressing()).then(two.will_do.cmp(&one.will_do))
        })
    }
}

/// How near a limit is.
#[derive(Clone, Debug, PartialEq)]
pub struct Limit {
    /// Its name.
    pub name: String,
    /// Share that is taken now.
    pub used: f64,
    /// Share that is taken, or will be wanted.
    pub share: f64,
    /// Whether what is left is known to do.
    pub will_do: bool,
    /// When nothing is left, at the present rate.
    pub exhaustion: Exhaustion,
}

impl Limit {
    /// Share from which on what is taken now is no matter of later.
    const FULL: f64 = 0.9;

    /// Whether there is time until nothing is left: what will be wanted is a warning then.
    pub fn is_far(&self) -> bool {
        self.used < Self::FULL
            && matches!(self.exhaustion, Exhaustion::In(seconds) if seconds > SOON_S)
    }

    /// The share, as far as it presses.
    fn pressing(&self) -> f64 {
        if self.is_far() { self.share.min(Self::FULL) } else { self.share }
    }

    /// What is taken, what will be wanted if that is more, and when nothing is left.
    pub fn sentence(&self) -> String {
        let Self { name, used, share, exhaustion, .. } = self;
        let (used, share) = ((used * 100.0).round(), (share * 100.0).round());
        if share <= used {
            return format!("{used}% of {name}");
        }
        let wanted = format!("{used}% of {name} taken, {share}% will be wanted");
        match exhaustion {
            Exhaustion::In(seconds) => format!("{wanted}, none left in {seconds:.0} s"),
            Exhaustion::Now | Exhaustion::Never => wanted,
        }
    }

    const fn new(
        name: String,
        (used, share): (f64, f64),
        will_do: bool,
        exhaustion: Exhaustion,
    ) -> Self {
        Self { name, used, share, will_do, exhaustion }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::{
        diagnose,
        testing::{Client, case, facts, only},
    };

    #[test]
    fn what_will_be_wanted_is_told_beside_what_is_taken() {
        let sentence = |shares, when| Limit::new("ports".into(), shares, false, when).sentence();
        let never = Exhaustion::Never;
        assert_eq!(sentence((0.01, 1.719), never), "1% of ports taken, 172% will be wanted");
        assert_eq!(
            sentence((0.01, 1.719), Exhaustion::In(28.4)),
            "1% of ports taken, 172% will be wanted, none left in 28 s"
        );
        assert_eq!(sentence((0.5, 0.5), never), "50% of ports");
        assert_eq!(sentence((0.5, 0.5), Exhaustion::In(9.0)), "50% of ports", "if it lasts");
        assert_eq!(sentence((0.5, 0.504), never), "50% of ports", "as it is shown");
    }

    #[test]
    fn what_is_far_ahead_hides_nothing_that_is_near() {
        let far = Exhaustion::In(1739.0);
        let limit = |shares, when| Limit::new("entries".into(), shares, false, when);
        assert!(limit((0.01, 1.72), far).is_far());
        assert!(!limit((0.01, 1.72), Exhaustion::In(599.0)).is_far());
        assert!(!limit((0.91, 1.72), far).is_far(), "it is nearly full");
        assert!(limit((0.01, 1.72), far).pressing() < limit((0.5, 0.95), far).share);
        assert!(limit((0.01, 1.72), far).pressing() > limit((0.5, 0.8), far).share);
    }

    #[test]
    fn what_would_be_reached_if_it_went_on_is_known_where_nothing_is_found() {
        let mut facts = facts();
        only(&mut facts).port_range = Some(20_000..=20_999);
        let reached = |peer: Client, facts: &_| {
            let peers = [peer.peer()];
            let diagnosis = diagnose(&case(&peers, facts));
            (diagnosis.findings.is_empty(), diagnosis.margins.would_be_reached())
        };
        let client = |rate| Client::at("10.2.0.2", 443).rate(rate);
        assert_eq!(reached(client(10.0), &facts), (true, false), "600 of 1000");
        assert_eq!(reached(client(200.0).over(2).live(400), &facts), (true, true), "a burst");
    }
}
