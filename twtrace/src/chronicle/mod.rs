//! A session over time, in bounded memory: what a summary cannot tell, as it knows one moment only.
//!
//! Counts are taken from summaries, at moments that become fewer the longer the session is: there are
//! never more than [`MOST_SAMPLES`]. What changed, or was there for the first time, is marked.

mod marks;
mod owners;
mod peers;

pub use marks::{Mark, MarkKind};
pub use owners::{Owned, OwnerEntries};
pub use peers::Entries;

use std::collections::BTreeMap;

use crate::{
    event::Event,
    host::facts::HostFacts,
    path::Class,
    peer::{Group, minutes::Minute},
    summary::{Row, Summary},
    units::Clock,
};
use marks::Marks;
use peers::PeerEntries;

/// Most samples kept.
pub const MOST_SAMPLES: usize = 240;
/// Rows with which a summary takes long enough to be taken less often.
const DEAR_ROWS: usize = 2048;
/// Time between the first samples, nanoseconds.
const FIRST_STEP_NS: u64 = 1_000_000_000;

/// Counts since the session began, at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub mono_ns: u64,
    /// Entries.
    pub entered: u64,
    /// Ends, in the order of [`Class::ALL`]; `None` where ends are not followed.
    pub ends: Option<[u64; 3]>,
    /// `connect()` calls that failed; `None` where nobody looked.
    pub failed: Option<u64>,
    /// Sockets that live; `None` where ends are not followed.
    pub live: Option<u64>,
    /// How much of each limit is taken.
    pub limits: BTreeMap<LimitKey, Taken>,
}

/// A limit of a network namespace, by its inode number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LimitKey {
    /// The namespace.
    pub netns: u32,
    /// Which of its limits.
    pub limit: LimitKind,
}

/// Which limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LimitKind {
    /// The ports of the space that is shortest of them then.
    Ports,
    /// `tcp_max_tw_buckets`.
    Buckets,
    /// `nf_conntrack_max`.
    Conntrack,
}

impl LimitKind {
    /// Its name for people.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Ports => "ports of the shortest space",
            Self::Buckets => "tcp_max_tw_buckets",
            Self::Conntrack => "nf_conntrack_max",
        }
    }
}

/// How much of a limit is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// So many.
    pub used: u64,
    /// Of so many.
    pub of: u64,
}

impl Taken {
    /// As a share of the whole.
    pub fn share(self) -> f64 {
        if self.of == 0 { 0.0 } else { self.used as f64 / self.of as f64 }
    }
}

impl Sample {
    fn of(summary: &Summary, mono_ns: u64) -> Self {
        let counts = &summary.totals.counts;
        let follows = summary.follow_ends;
        Self {
            mono_ns,
            entered: counts.entered,
            ends: follows.then(|| Class::ALL.map(|class| counts.class(class))),
            failed: summary.failed.is_some().then(|| counts.failed.connects()),
            live: follows.then_some(summary.totals.live),
            limits: limits(summary),
        }
    }
}

/// How much of the limits is taken at the moment of a summary.
fn limits(summary: &Summary) -> BTreeMap<LimitKey, Taken> {
    let margins =
        summary.examined.iter().flat_map(|examined| &examined.diagnosis.margins.namespaces);
    let of_namespace = margins.flat_map(|namespace| {
        let ports = namespace.ports.as_ref().map(|ports| {
            (LimitKind::Ports, Taken { used: ports.used().round() as u64, of: ports.usable })
        });
        let buckets = namespace
            .buckets
            .map(|buckets| (LimitKind::Buckets, Taken { used: buckets.live, of: buckets.max }));
        let tracked = namespace.conntrack.map(|tracking| {
            (LimitKind::Conntrack, Taken { used: tracking.now.count, of: tracking.now.max })
        });
        let all = [ports, buckets, tracked].into_iter().flatten();
        all.map(|(limit, taken)| (LimitKey { netns: namespace.netns, limit }, taken))
    });
    of_namespace.collect()
}

/// A session over time.
#[derive(Debug)]
pub struct Chronicle {
    samples: Vec<Sample>,
    step_ns: u64,
    marks: Marks,
    peers: PeerEntries,
    owners: OwnerEntries,
    /// A clock to tell times of day by.
    clock: Clock,
    /// When the session was ready.
    ready_ns: u64,
}

impl Default for Chronicle {
    fn default() -> Self {
        Self {
            samples: Vec::new(),
            step_ns: FIRST_STEP_NS,
            marks: Marks::default(),
            peers: PeerEntries::default(),
            owners: OwnerEntries::default(),
            clock: Clock { mono_ns: 0, wall: std::time::SystemTime::UNIX_EPOCH },
            ready_ns: 0,
        }
    }
}

impl Chronicle {
    /// Takes in an event.
    pub fn event(&mut self, event: &Event) {
        self.peers.event(event);
        self.owners.event(event);
    }

    /// Takes in the facts of a moment: settings that are not what they were are marked.
    pub fn facts(&mut self, clock: Clock, facts: &HostFacts) {
        self.marks.settings(clock.mono_ns, facts);
    }

    /// Whether a summary is wanted at a moment: it is dearer the more rows there are.
    pub fn wants(&self, mono_ns: u64, rows: usize) -> bool {
        let step_ns = self.step_ns.saturating_mul(1 + (rows / DEAR_ROWS) as u64);
        self.samples.last().is_none_or(|last| mono_ns >= last.mono_ns.saturating_add(step_ns))
    }

    /// Takes in the summary of a moment; `ready_ns` is when the session was ready.
    pub fn sample(&mut self, summary: &Summary, clock: Clock, ready_ns: u64) {
        (self.clock, self.ready_ns) = (clock, ready_ns);
        self.marks.findings(clock.mono_ns, summary);
        let sample = Sample::of(summary, clock.mono_ns);
        if self.samples.last().is_some_and(|last| last.mono_ns == sample.mono_ns) {
            self.samples.pop();
        }
        self.samples.push(sample);
        if self.samples.len() > MOST_SAMPLES {
            let mut number = 0;
            self.samples.retain(|_| {
                number += 1;
                number % 2 == 1
            });
            self.step_ns *= 2;
        }
    }

    /// Takes in the last summary, and what it tells of when things were so for the first time.
    pub fn finish(&mut self, summary: &Summary, clock: Clock, ready_ns: u64) {
        self.sample(summary, clock, ready_ns);
        self.marks.failures(summary, ready_ns);
        self.marks.timestamps(summary);
        self.marks.sort();
    }

    /// The samples, oldest first.
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// What happened when, oldest first.
    pub fn marks(&self) -> &[Mark] {
        self.marks.all()
    }

    /// Marks for which there was no room.
    pub const fn marks_left_out(&self) -> u64 {
        self.marks.left_out()
    }

    /// The entries of a row over time, if it is a peer of which any were seen.
    pub fn entries(&self, group: &Group) -> Option<Entries<'_>> {
        self.peers.of(group)
    }

    /// Entries by whose they are.
    pub const fn owners(&self) -> &OwnerEntries {
        &self.owners
    }

    /// The clock of the last moment.
    pub const fn clock(&self) -> Clock {
        self.clock
    }

    /// When the session was ready, `CLOCK_MONOTONIC` nanoseconds.
    pub const fn ready_ns(&self) -> u64 {
        self.ready_ns
    }

    /// All limits that were seen, with the most that was taken of each.
    pub fn limits(&self) -> BTreeMap<LimitKey, Taken> {
        let mut most: BTreeMap<LimitKey, Taken> = BTreeMap::new();
        for (key, taken) in self.samples.iter().flat_map(|sample| &sample.limits) {
            let known = most.entry(*key).or_insert(*taken);
            if taken.share() > known.share() {
                *known = *taken;
            }
        }
        most
    }
}

/// The minutes of all rows together, oldest first, none of them before `from`.
pub fn minutes(rows: &[Row], from: i32) -> Vec<Minute> {
    let mut all: Vec<Minute> = rows
        .iter()
        .flat_map(|row| &row.minutes)
        .filter(|minute| minute.minute >= from)
        .copied()
        .collect();
    all.sort_by_key(|minute| minute.minute);
    Minute::united(all.into_iter())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        aggregate::{Aggregate, Settings},
        attached::Backend,
        summary::{Context, RowChoice},
    };

    fn clock(second: u64) -> Clock {
        Clock { mono_ns: second * 1_000_000_000, wall: std::time::SystemTime::UNIX_EPOCH }
    }

    #[test]
    fn samples_become_fewer_and_none_is_lost_at_either_end() {
        let aggregate = Aggregate::new(Settings::default());
        let context = Context::bare(Backend::Kprobe);
        let summary = Summary::new(&aggregate, &RowChoice::default(), context);
        let mut chronicle = Chronicle::default();
        let mut summaries = 0;
        for second in 0..=3_600 {
            if chronicle.wants(second * 1_000_000_000, 0) {
                chronicle.sample(&summary, clock(second), 0);
                summaries += 1;
            }
        }
        assert!(!chronicle.wants(3_617_000_000_000, 65_536), "it is too dear");
        chronicle.finish(&summary, clock(3_600), 0);
        let samples = chronicle.samples();
        assert!(samples.len() <= MOST_SAMPLES && samples.len() > MOST_SAMPLES / 2);
        assert!(summaries < 1_000, "{summaries} for an hour");
        let ends = (samples[0].mono_ns, samples[samples.len() - 1].mono_ns);
        assert_eq!(ends, (0, 3_600_000_000_000));
        assert!(samples.windows(2).all(|pair| pair[0].mono_ns < pair[1].mono_ns));
    }
}
