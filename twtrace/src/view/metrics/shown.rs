//! Which peers have metrics of their own, and what `other` counts, so that no counter ever goes
//! back.
//!
//! The busiest peers change places, and a counter must not jump when they do. A peer's counters
//! begin when it is shown, with that moment as the one they were created; `other` counts whatever
//! happened that no peer's counter took. The increases of all counters together are thus exactly
//! what happened.

use std::{collections::HashMap, time::SystemTime};

use crate::{
    agent::Status,
    peer::{Counts, Group},
    summary::{Row, Summary},
};

/// A peer's counters.
#[derive(Clone, Copy, Debug)]
struct PeerCounter {
    /// Counts before they began.
    before: Counts,
    /// Counts when they were last shown.
    last: Counts,
    /// When they began. All moments here are of `CLOCK_MONOTONIC`, in nanoseconds: nobody sets it.
    created: u64,
}

/// What is shown, from one look to the next.
#[derive(Debug, Default)]
pub struct Shown {
    peers: HashMap<Group, PeerCounter>,
    /// What was counted by counters that are shown no more.
    departed: Counts,
    other: Counts,
    /// Whether there were peers without counters of their own at the last look.
    some_hidden: bool,
    looked: Option<u64>,
}

/// One line of counters.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// Whose; `None` for all other peers together.
    pub group: Option<Group>,
    /// What happened since `created`.
    pub counts: Counts,
    /// Sockets that live now.
    pub live: u64,
    /// When these counters began.
    pub created: SystemTime,
}

impl Shown {
    /// Looks at the rows of a summary, the busiest peers, at the moment `now`. The status says when
    /// all counting began, and what time of day a moment is.
    pub fn take(&mut self, summary: &Summary, status: &Status, now: u64) -> Vec<Line> {
        let since = status.since_ns;
        let mut peers = HashMap::with_capacity(summary.rows.len());
        let mut lines = Vec::with_capacity(summary.rows.len() + 1);
        let (mut counted, mut live) = (Counts::default(), 0);
        // A number names one namespace at a time.
        let there = |row: &&Row| row.group.namespace().is_none_or(|netns| netns.gone == 0);
        for row in summary.rows.iter().filter(there) {
            let counter = self.counter(&row.group, &row.counts, since, now);
            let counts = row.counts.since(&counter.before);
            counted += &counts;
            live += row.live;
            peers.insert(row.group, PeerCounter { last: row.counts, ..counter });
            let created = status.clock.wall(counter.created);
            lines.push(Line { group: Some(row.group), counts, live: row.live, created });
        }
        for counter in std::mem::replace(&mut self.peers, peers).into_values() {
            self.departed += &counter.last.since(&counter.before);
        }
        counted += &self.departed;
        // The kernel's totals are a moment older than the rows: never back.
        self.other = self.other.max(&summary.totals.counts.since(&counted));
        self.some_hidden = summary.other.as_ref().is_some_and(|(hidden, _)| *hidden > 0);
        self.looked = Some(now);
        let live = summary.totals.live.saturating_sub(live);
        lines.push(Line { group: None, counts: self.other, live, created: status.since() });
        lines
    }

    /// The counter of a peer, taken out of the old ones or begun.
    fn counter(&mut self, group: &Group, counts: &Counts, since: u64, now: u64) -> PeerCounter {
        let begun = |before, created| PeerCounter { before, last: Counts::default(), created };
        match (self.peers.remove(group), self.looked) {
            (Some(counter), _) if counts.max(&counter.last) == *counts => counter,
            // The row gave its place away since the last look, and is a new one.
            (Some(counter), Some(looked)) => {
                self.departed += &counter.last.since(&counter.before);
                begun(Counts::default(), looked)
            }
            (_, None) => begun(Counts::default(), since),
            // With nobody hidden at the last look, the row is younger than that.
            (None, Some(looked)) if !self.some_hidden => begun(Counts::default(), looked),
            // What it counted so far is in `other`.
            (None, Some(_)) => begun(*counts, now),
        }
    }
}
