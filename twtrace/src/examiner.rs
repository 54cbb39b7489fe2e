//! Reads the host's facts and applies the rules to them and to what was gathered.

use std::{
    collections::{BTreeSet, HashMap},
    path::Path,
    time::SystemTime,
};

use crate::{
    aggregate::Aggregate,
    diagnose::{Case, Loss, diagnose},
    host::{
        HostFactError,
        facts::{self, HostFacts, NamespaceFacts},
        netstat::TcpExt,
    },
    kernel::{Namespace, Namespaces, find_namespace},
    summary::{Examined, Trust},
    units::Clock,
};

/// Where procfs is mounted.
const PROC: &str = "/proc";
/// This thread's own namespace.
const OWN: &str = "/proc/thread-self/ns/net";
/// Most namespaces whose facts are read at once.
const MAX_NAMESPACES: usize = 256;

/// What a session remembers of the host.
#[derive(Debug, Default)]
pub struct Examiner {
    /// The only namespace asked for; 0 for any.
    netns: u32,
    /// Counters when the session began or the namespace was first seen.
    before: HashMap<u32, TcpExt>,
    /// When the session was ready, `CLOCK_MONOTONIC` nanoseconds.
    since_ns: u64,
}

impl Examiner {
    /// Reads the counters of every namespace that is there, or of the one asked for (0 is any).
    pub fn begin(netns: u32) -> Self {
        let mut examiner = Self { netns, ..Self::default() };
        let all = Namespaces::scan();
        let wanted = all.iter().filter(|namespace| netns == 0 || namespace.inum == netns);
        for namespace in wanted {
            if let Ok((facts, _)) = read(namespace) {
                examiner.before.insert(namespace.inum, facts.counters);
            }
        }
        examiner
    }

    /// Tells when the sockets present at the start had all been read.
    pub fn set_ready(&mut self, mono_ns: u64) {
        self.since_ns = mono_ns;
    }

    /// Applies the rules to this moment.
    pub fn examine(&mut self, aggregate: &Aggregate, trust: &Trust, now_ns: u64) -> Examined {
        let peers = aggregate.table().rows();
        let mut host = facts::host(Path::new(PROC), Path::new("/"));
        let seen = peers.iter().filter_map(|peer| peer.group.netns()).filter(|inum| *inum != 0);
        let asked = match self.netns {
            0 => find_namespace(OWN).ok(),
            netns => Some(netns),
        };
        let wanted: BTreeSet<u32> = asked.into_iter().chain(seen).take(MAX_NAMESPACES).collect();
        let all = Namespaces::scan();
        for inum in wanted {
            self.read_namespace(&all, inum, &mut host);
        }
        let case = Case {
            peers,
            facts: &host,
            loss: Loss {
                events: trust.lost,
                skipped: trust.skipped,
                unseen_ends: trust.healed,
                unfollowed: trust.unfollowed,
            },
            now_ns,
            since_ns: self.since_ns,
        };
        let diagnosis = diagnose(&case);
        let clock = Clock { mono_ns: now_ns, wall: SystemTime::now() };
        Examined { diagnosis, facts: host, clock }
    }

    fn read_namespace(&mut self, all: &Namespaces, inum: u32, host: &mut HostFacts) {
        let facts = match all.get(inum).map(read) {
            Some(Ok((facts, errors))) => {
                host.unread.extend(errors.iter().map(ToString::to_string));
                facts
            }
            Some(Err(error)) => {
                host.unread.push(format!("cannot enter network namespace {inum}: {error}"));
                return;
            }
            // Gone, or held by nothing that can be found; its sockets are of no consequence.
            None => return,
        };
        let before = self.before.entry(inum).or_insert_with(|| facts.counters.clone()).clone();
        host.namespaces.insert(inum, NamespaceFacts { counters_before: before, ..facts });
    }
}

/// Reads a namespace's facts on a thread inside it.
fn read(namespace: &Namespace) -> std::io::Result<(NamespaceFacts, Vec<HostFactError>)> {
    namespace.run(|| facts::namespace(Path::new(PROC)))
}
