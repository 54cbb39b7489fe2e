//! Diagnosis: from what was seen and the host's facts to findings, without looking at anything.
//!
//! The catalogue is one table, [`RULES`]. Each rule is a pure function over a [`Scene`]: a
//! [`Case`], which is all there is to know, with the sums done. docs/findings/ has a page for each.

pub mod arithmetic;
pub mod buckets;
pub mod egress;
pub mod finding;
pub mod forecast;
pub mod margins;
pub mod pressure;
mod rules;
mod shortage;
pub mod tracking;

#[cfg(test)]
mod testing;

use std::collections::{BTreeMap, HashMap};

use twtrace_common::PortChoice;

use crate::{
    event::Role,
    failures::Failures,
    host::facts::{HostFacts, NamespaceFacts},
    owner::Owners,
    peer::{
        Group, Peer,
        rates::{Earlier, Rates},
    },
    track::LiveSockets,
    trust::Trust,
    units::{self, Clock},
};
use buckets::Buckets;
use egress::{Egress, EgressMargin};
pub use finding::{Evidence, Finding, Severity};
pub use margins::Margins;
use pressure::Pressure;
pub use rules::RULES;

/// Everything a rule may look at.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    /// The rows, by peer.
    pub peers: &'a [Peer],
    /// Calls that failed.
    pub failures: &'a Failures,
    /// Addresses that connections leave through, as the user describes them.
    pub egress: &'a [Egress],
    /// Names of network namespaces, where anybody told.
    pub netns_names: Option<&'a HashMap<u32, String>>,
    /// Whose sockets are, where anybody told.
    pub owners: Option<&'a Owners>,
    /// The sockets followed; without them live ones are taken to have come evenly.
    pub sockets: Option<&'a LiveSockets>,
    /// Whether a `connect()` was seen to take the port of a FIN_WAIT2 mini-socket.
    pub fin_wait2_taken: bool,
    /// Whether `connect()` calls that fail are seen.
    pub sees_connects: bool,
    /// Whether refused `bind()` calls are seen.
    pub sees_binds: bool,
    /// The host's facts.
    pub facts: &'a HostFacts,
    /// How far all of it can be trusted.
    pub trust: Trust,
    /// `CLOCK_MONOTONIC` now, nanoseconds.
    pub now_ns: u64,
    /// The time of day now.
    pub wall: std::time::SystemTime,
    /// When the session was ready.
    pub since_ns: u64,
}

/// A peer with what belongs to it.
#[derive(Clone, Debug)]
pub struct Subject<'a> {
    /// The row.
    pub peer: &'a Peer,
    /// Its index among the case's.
    pub row: usize,
    /// Which end this host is.
    pub role: Role,
    /// Its namespace's inode number.
    pub netns: u32,
    /// Its namespace's facts.
    pub facts: &'a NamespaceFacts,
    /// What happened of late.
    pub rates: Rates,
    /// How short the ports are, if this end is the client. Few of many thousand peers have one.
    pub pressure: Option<Box<Pressure>>,
}

/// A case whose peers were looked at, once for all rules.
#[derive(Clone, Debug)]
pub struct Scene<'a> {
    case: Case<'a>,
    /// By namespace, and in each those first that are shortest of ports.
    subjects: Vec<Subject<'a>>,
    /// The port spaces, likewise.
    ports: Vec<Pressure>,
    /// Of each shared address, the shortest first.
    egress: Vec<EgressMargin>,
    /// By namespace.
    buckets: BTreeMap<u32, Buckets>,
}

impl<'a> Case<'a> {
    /// The time of day of a moment.
    fn time_of_day(&self, mono_ns: u64) -> String {
        let clock = Clock { mono_ns: self.now_ns, wall: self.wall };
        units::time_of_day(clock.wall(mono_ns))
    }
}

/// Sockets that came in that span before the session, by the index of their row.
fn came_before(case: &Case<'_>, span: &Earlier) -> HashMap<usize, u32> {
    let mut earlier = HashMap::new();
    if span.is_empty() {
        return earlier;
    }
    for (_, socket) in case.sockets.iter().flat_map(|sockets| sockets.iter()) {
        // Rows are counted from 1, and the first of all is nobody's.
        let row = (socket.row as usize).checked_sub(1);
        let facts = case.facts.namespaces.get(&socket.netns);
        let Some((row, facts)) = row.zip(facts) else { continue };
        if pressure::came_before(&socket, facts, span) {
            *earlier.entry(row).or_default() += 1;
        }
    }
    earlier
}

impl<'a> Scene<'a> {
    /// Looks at the peers whose namespace's facts are known.
    pub fn of(case: &Case<'a>) -> Self {
        let Case { peers, facts, now_ns, since_ns, .. } = *case;
        let span = Earlier::of(now_ns, since_ns);
        let earlier = came_before(case, &span);
        let subject = |(row, peer): (usize, &'a Peer)| {
            let Group::Peer { netns, role, .. } = peer.group else { return None };
            // Of one that is gone nothing can be told but its counts.
            let netns = netns.current()?;
            let facts = facts.namespaces.get(&netns)?;
            let rates = peer.history.rates(now_ns, since_ns);
            let rates = rates.borne_out(earlier.get(&row).copied().unwrap_or(0), &span);
            Some(Subject { peer, row, role, netns, facts, rates, pressure: None })
        };
        let ports = pressure::of_all(case);
        let mut subjects: Vec<_> = peers.iter().enumerate().filter_map(subject).collect();
        // The shortest of a row come first.
        let mut shortest: HashMap<Group, &Pressure> = HashMap::new();
        for ports in ports.iter().filter(|ports| ports.space.chosen == PortChoice::Connect) {
            if let Some(row) = ports.row {
                shortest.entry(peers[row].group).or_insert(ports);
            }
        }
        for subject in &mut subjects {
            let shortest = shortest.get(&subject.peer.group);
            subject.pressure = shortest.map(|ports| Box::new((*ports).clone()));
        }
        let share =
            |subject: &Subject<'_>| subject.pressure.as_deref().map_or(-1.0, Pressure::share);
        subjects.sort_by(|one, two| {
            one.netns.cmp(&two.netns).then_with(|| share(two).total_cmp(&share(one)))
        });
        let buckets = buckets::of_all(case, &subjects);
        let egress = egress::of_all(case);
        Self { case: *case, subjects, ports, egress, buckets }
    }

    /// The port spaces, those of one namespace together, the shortest first.
    pub fn ports(&self) -> &[Pressure] {
        &self.ports
    }

    /// How short the ports of shared addresses are.
    pub fn egress(&self) -> &[EgressMargin] {
        &self.egress
    }

    /// Those that `bind(address, 0)` takes from.
    pub fn bound(&self) -> impl Iterator<Item = &Pressure> {
        self.ports.iter().filter(|ports| ports.space.chosen == PortChoice::Bind)
    }

    /// TIME_WAIT sockets of a namespace against their limit, where both are known.
    pub fn buckets(&self, netns: u32) -> Option<&Buckets> {
        self.buckets.get(&netns)
    }

    /// All peers.
    pub fn subjects(&self) -> &[Subject<'a>] {
        &self.subjects
    }

    /// Those of one namespace.
    pub fn in_namespace(&self, netns: u32) -> &[Subject<'a>] {
        let from = self.subjects.partition_point(|subject| subject.netns < netns);
        let to = self.subjects.partition_point(|subject| subject.netns <= netns);
        &self.subjects[from..to]
    }

    /// The peers that this end is a client of.
    pub fn clients(&self) -> impl Iterator<Item = &Subject<'a>> {
        self.subjects.iter().filter(|subject| subject.role == Role::Client)
    }

    /// The peers that this end is the server of.
    pub fn servers(&self) -> impl Iterator<Item = &Subject<'a>> {
        self.subjects.iter().filter(|subject| subject.role == Role::Server)
    }

    /// The namespaces whose facts are known.
    pub fn namespaces(&self) -> impl Iterator<Item = (u32, &'a NamespaceFacts)> {
        self.case.facts.namespaces.iter().map(|(netns, facts)| (*netns, facts))
    }
}

impl Subject<'_> {
    /// A finding about this peer.
    fn finding(&self, severity: Severity, summary: String) -> Finding {
        let peer = Some(self.peer.group.to_string());
        Finding { peer, ..Finding::new(severity, self.netns, summary) }
    }

    /// Whether the sockets that come now have no timestamps; of the last ones if none comes.
    fn lacks_timestamps(&self) -> bool {
        match self.rates.without_share {
            Some(share) => share >= 0.5,
            None => self.peer.history.last_with_timestamps() == Some(false),
        }
    }
}

/// One rule of the catalogue.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Stable name.
    pub id: &'static str,
    /// What it looks for.
    pub title: &'static str,
    /// Looks for it.
    pub check: fn(&Scene<'_>) -> Vec<Finding>,
}

/// What there is to say of a case.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Diagnosis {
    /// The findings, worst first; equal ones in the catalogue's order.
    pub findings: Vec<Finding>,
    /// How far each limit is.
    pub margins: Margins,
}

/// Applies all rules.
pub fn diagnose(case: &Case<'_>) -> Diagnosis {
    let scene = Scene::of(case);
    let mut findings: Vec<Finding> = RULES
        .iter()
        .flat_map(|rule| {
            let found = (rule.check)(&scene).into_iter();
            found.map(|finding| Finding { id: rule.id, ..finding })
        })
        .collect();
    // The failure itself comes before whatever explains it.
    let first = |finding: &Finding| finding.id == finding::FAILED;
    findings.sort_by_key(|finding| (std::cmp::Reverse(finding.severity), !first(finding)));
    Diagnosis { findings, margins: Margins::of(&scene) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_in_order_and_each_has_its_page() {
        let pages = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/findings");
        for (index, rule) in RULES.iter().enumerate() {
            assert_eq!(rule.id, format!("TW{:03}", index + 1), "identifiers never change");
            let page = std::fs::read_to_string(pages.join(format!("{}.md", rule.id))).unwrap();
            let heading = format!("# {}: {}\n", rule.id, rule.title);
            assert!(page.starts_with(&heading), "{} must begin with {heading}", rule.id);
        }
    }

    #[test]
    fn nothing_seen_is_nothing_found() {
        let facts = testing::facts();
        let diagnosis = diagnose(&testing::case(&[], &facts));
        assert_eq!(diagnosis.findings, []);
        assert_eq!(diagnosis.margins.namespaces.len(), 1);
    }

    #[test]
    fn thousands_of_harmless_sockets_are_nothing_to_report() {
        let facts = testing::facts();
        let peers = [testing::Client::at("10.2.0.2", 443).rate(66.0).live(4000).peer()];
        let diagnosis = diagnose(&testing::case(&peers, &facts));
        assert_eq!(diagnosis.findings, []);
        let margins = diagnosis.margins.namespaces[0].ports.as_ref().unwrap();
        assert_eq!(margins.usable, 28_232);
        assert!((0.13..0.15).contains(&margins.share()), "{margins:?}");
    }

    #[test]
    fn the_cause_comes_before_its_effects() {
        let mut facts = testing::facts();
        testing::only(&mut facts).port_range = Some(20_000..=20_999);
        let peers =
            [testing::Client::at("10.2.0.2", 443).rate(50.0).live(400).without_timestamps().peer()];
        let ids: Vec<_> = diagnose(&testing::case(&peers, &facts))
            .findings
            .iter()
            .map(|finding| finding.id)
            .collect();
        assert_eq!(ids, ["TW001", "TW005", "TW007"]);
    }
}
