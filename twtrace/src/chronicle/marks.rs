//! Moments worth a mark on the line of time.

use std::collections::{BTreeMap, HashSet};

use crate::{
    host::facts::HostFacts,
    summary::{Row, Summary},
};

/// Most marks kept; the first are.
const MOST: usize = 64;
/// Rows of which changes of timestamps are marked: those with the most entries.
const MOST_ROWS: usize = 20;

/// What a mark is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MarkKind {
    /// The first call that failed.
    Failure,
    /// A peer's timestamps went or came.
    Timestamps,
    /// A setting was changed.
    Setting,
    /// A finding was made for the first time.
    Finding,
}

/// One moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// When, `CLOCK_MONOTONIC` nanoseconds; at the latest, where `after_ns` is there.
    pub mono_ns: u64,
    /// When it was not so yet: it happened between.
    pub after_ns: Option<u64>,
    /// What it is about.
    pub kind: MarkKind,
    /// What happened. Names of others are in it as they are.
    pub text: String,
}

/// A namespace's settings, and when they were read.
type Settings = (u64, u64, Vec<(&'static str, String)>);

/// All of them.
#[derive(Debug, Default)]
pub struct Marks {
    all: Vec<Mark>,
    left_out: u64,
    /// By inode number: cookie, time and values.
    settings: BTreeMap<u32, Settings>,
    findings: HashSet<(&'static str, Option<u32>, Option<String>)>,
    looked_ns: Option<u64>,
}

impl Marks {
    fn add(&mut self, mark: Mark) {
        if self.all.len() < MOST { self.all.push(mark) } else { self.left_out += 1 }
    }

    /// Marks settings that are not what they were when they were read last.
    pub fn settings(&mut self, now_ns: u64, facts: &HostFacts) {
        self.settings.retain(|netns, _| facts.namespaces.contains_key(netns));
        for (netns, facts) in &facts.namespaces {
            let now = facts.settings();
            let before = self.settings.insert(*netns, (facts.cookie, now_ns, now.clone()));
            let Some((cookie, then_ns, before)) = before else { continue };
            if cookie != facts.cookie {
                continue;
            }
            let known = |settings: &[(&str, String)], name: &str| {
                let found = settings.iter().find(|(known, _)| *known == name);
                found.map_or_else(|| "none".to_owned(), |(_, value)| value.clone())
            };
            let names: Vec<&str> = before.iter().chain(&now).map(|(name, _)| *name).collect();
            let mut told = HashSet::new();
            for name in names {
                let (was, is) = (known(&before, name), known(&now, name));
                if was != is && told.insert(name) {
                    self.add(Mark {
                        mono_ns: now_ns,
                        after_ns: Some(then_ns),
                        kind: MarkKind::Setting,
                        text: format!("{name} was {was} and is {is} (network namespace {netns})"),
                    });
                }
            }
        }
    }

    /// Marks findings that were not made before.
    pub fn findings(&mut self, now_ns: u64, summary: &Summary) {
        let after_ns = self.looked_ns.replace(now_ns);
        let findings = summary.examined.iter().flat_map(|examined| &examined.diagnosis.findings);
        for finding in findings {
            if self.findings.insert((finding.id, finding.netns, finding.peer.clone())) {
                let about = match (&finding.peer, finding.netns) {
                    (Some(peer), _) => format!(": {peer}"),
                    (None, Some(netns)) => {
                        format!(": network namespace {}", summary.namespace(netns))
                    }
                    (None, None) => String::new(),
                };
                self.add(Mark {
                    mono_ns: now_ns,
                    after_ns,
                    kind: MarkKind::Finding,
                    text: format!("{} {} first{about}", finding.id, finding.severity.as_str()),
                });
            }
        }
    }

    /// Marks the first call that failed of each place that a summary names, if it failed since
    /// `ready_ns`.
    pub fn failures(&mut self, summary: &Summary, ready_ns: u64) {
        let Some(failed) = &summary.failed else { return };
        let connects = failed.connects.iter().map(|(place, _)| place);
        let places = connects.chain(failed.binds.iter().map(|(place, _)| place));
        for place in places.filter(|place| place.first_ns >= ready_ns) {
            let whereto = match place.remote {
                Some(remote) => format!(" to {remote}"),
                None => format!(" of {}", place.local),
            };
            self.add(Mark {
                mono_ns: place.first_ns,
                after_ns: None,
                kind: MarkKind::Failure,
                text: format!("first failure: {}{whereto}, {}", place.cause.words(), place.program),
            });
        }
    }

    /// Marks the changes of the busiest peers' timestamps.
    pub fn timestamps(&mut self, summary: &Summary) {
        let mut rows: Vec<&Row> = summary.rows.iter().collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.counts.entered));
        for row in rows.into_iter().take(MOST_ROWS) {
            for change in row.history.changes() {
                let what = if change.with_timestamps { "sends timestamps" } else { "sends none" };
                self.add(Mark {
                    mono_ns: change.mono_ns,
                    after_ns: Some(change.before_ns),
                    kind: MarkKind::Timestamps,
                    text: format!("{} {what} from here on", summary.label(&row.group)),
                });
            }
        }
    }

    /// Puts them in order.
    pub fn sort(&mut self) {
        self.all.sort_by_key(|mark| (mark.mono_ns, mark.kind));
    }

    /// All of them.
    pub fn all(&self) -> &[Mark] {
        &self.all
    }

    /// Those for which there was no room.
    pub const fn left_out(&self) -> u64 {
        self.left_out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::facts::NamespaceFacts;

    fn facts(cookie: u64, tw_reuse: u64) -> HostFacts {
        let facts =
            NamespaceFacts { cookie, tw_reuse: Some(tw_reuse), ..NamespaceFacts::default() };
        HostFacts { namespaces: [(7, facts)].into(), ..HostFacts::default() }
    }

    #[test]
    fn a_setting_that_changed_is_marked_and_another_namespace_is_not() {
        let mut marks = Marks::default();
        marks.settings(1, &facts(5, 2));
        marks.settings(2, &facts(5, 2));
        assert!(marks.all().is_empty());
        marks.settings(3, &facts(5, 1));
        marks.settings(4, &facts(6, 0));
        let [mark] = marks.all() else { panic!("{:?}", marks.all()) };
        assert_eq!((mark.after_ns, mark.mono_ns, mark.kind), (Some(2), 3, MarkKind::Setting));
        assert_eq!(mark.text, "tcp_tw_reuse was 2 and is 1 (network namespace 7)");
    }

    #[test]
    fn there_are_only_so_many_marks_and_the_others_are_counted() {
        let mut marks = Marks::default();
        for moment in 0..200 {
            marks.settings(moment, &facts(5, moment % 2));
        }
        assert_eq!((marks.all().len(), marks.left_out()), (MOST, 199 - MOST as u64));
    }
}
