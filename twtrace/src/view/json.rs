//! `twtrace.summary/1`: the summary for programs, documented in docs/schema/.

use std::io::{self, Write};

use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use crate::{
    diagnose::Finding,
    kernel::Refusal,
    path::{Block, Outcome},
    peer::{Counts, LifetimeSummary, Refused},
    summary::{Examined, Row, RowFilter, Summary, Trust},
};

/// Name and version of the document.
pub const SCHEMA: &str = "twtrace.summary/1";

/// Writes the summary as one line and a line feed.
///
/// # Errors
/// Those of the writer.
pub fn write_line(out: &mut impl Write, summary: &Summary) -> io::Result<()> {
    serde_json::to_writer(&mut *out, &document(summary))?;
    writeln!(out)
}

/// Writes the summary for programs that people look over the shoulder of.
///
/// # Errors
/// Those of the writer.
pub fn write_pretty(out: &mut impl Write, summary: &Summary) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, &document(summary))?;
    writeln!(out)
}

/// What is not known is null, never 0.
struct Known {
    ends: bool,
    overflow: bool,
    refusals: bool,
    /// What only the full socket knows.
    sockets: bool,
}

impl Known {
    fn ends<T: Serialize>(&self, value: T) -> Value {
        if self.ends { json!(value) } else { Value::Null }
    }

    fn sockets<T: Serialize>(&self, value: T) -> Value {
        if self.sockets { json!(value) } else { Value::Null }
    }

    fn refusals(&self, refused: &Refused) -> Value {
        if !self.refusals {
            return Value::Null;
        }
        let pairs = Refused::KEYS.iter().zip(refused.by_reason);
        pairs.map(|(key, count)| ((*key).to_owned(), json!(count))).collect::<Map<_, _>>().into()
    }
}

impl Known {
    fn of(summary: &Summary) -> Self {
        Self {
            ends: summary.follow_ends,
            overflow: summary.sees_overflow(),
            refusals: summary.sees_refusals(),
            sockets: summary.types.are_known(),
        }
    }
}

/// The rows, one at a time: as values of JSON each takes some twenty kilobytes.
struct Peers<'a>(&'a Summary);

impl Serialize for Peers<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let known = Known::of(self.0);
        serializer.collect_seq(self.0.rows.iter().map(|row| peer(self.0, row, &known)))
    }
}

/// The rows alone, as the summary has them, and how many there are.
pub fn rows(summary: &Summary) -> impl Serialize {
    #[derive(Serialize)]
    struct Rows<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        row_filter: Option<Value>,
        peers: Peers<'a>,
        peers_total: u64,
    }
    Rows { row_filter: row_filter(summary), peers: Peers(summary), peers_total: summary.peers }
}

#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    backend: &'static str,
    object: &'static str,
    types: &'static str,
    backends_refused: Vec<Value>,
    blind_spots: Vec<&'static str>,
    elapsed_s: f64,
    by: &'static str,
    filter: Option<String>,
    totals: Map<String, Value>,
    trust: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    row_filter: Option<Value>,
    peers: Peers<'a>,
    peers_total: u64,
    peers_evicted: u64,
    peers_folded: u64,
    other: Option<Map<String, Value>>,
    /// Null where rows stand for something else than peers, or ends are not followed.
    findings: Option<Vec<Value>>,
}

/// The summary as programs read it.
pub fn document(summary: &Summary) -> impl Serialize {
    let known = Known::of(summary);
    let mut totals = counts(&summary.totals, &known);
    totals.insert("live".into(), known.ends(summary.live()));
    totals.insert("lost".into(), json!(summary.trust.lost));
    let other = summary.other.as_ref().map(|(folded, row)| {
        let mut other = counts(row, &known);
        other.insert("peers".into(), json!(folded));
        other
    });
    let findings =
        |examined: &Examined| examined.diagnosis.findings.iter().map(Finding::document).collect();
    Document {
        schema: SCHEMA,
        backend: summary.backend.as_str(),
        object: summary.object.as_str(),
        types: summary.types.as_str(),
        backends_refused: summary.refused_backends.iter().map(refusal).collect(),
        blind_spots: summary.blind_spots(),
        elapsed_s: (summary.elapsed.as_secs_f64() * 1000.0).round() / 1000.0,
        by: summary.group_by.as_str(),
        filter: (!summary.selection.is_any()).then(|| summary.selection.to_string()),
        totals,
        trust: trust(&summary.trust, &known),
        row_filter: row_filter(summary),
        peers: Peers(summary),
        peers_total: summary.peers,
        peers_evicted: summary.peers_evicted,
        peers_folded: summary.peers_folded,
        other,
        findings: summary.examined.as_ref().map(findings),
    }
}

/// A better way to attach that did not work.
fn refusal(refusal: &Refusal) -> Value {
    json!({ "backend": refusal.backend.as_str(), "reason": refusal.reason })
}

/// What a filter made of the rows; a summary that none was asked of has no such key.
pub fn row_filter(summary: &Summary) -> Option<Value> {
    let RowFilter { filter, rows, open } = summary.row_filter.as_ref()?;
    Some(json!({
        "filter": filter.to_string(),
        "rows": rows,
        "open_rows": open.rows,
        "open_by": open.words,
    }))
}

/// How far the counts can be trusted.
fn trust(trust: &Trust, known: &Known) -> Value {
    json!({
        "lost_sockets": trust.lost_sockets,
        "undecided": trust.undecided,
        "skipped": trust.skipped,
        "healed": known.ends(trust.healed),
        "unfollowed": known.ends(trust.unfollowed),
        "unseen_ends": known.ends(trust.unseen_ends),
        "read_failures": trust.read_failures,
        "refusals_dropped": trust.refusals_dropped,
        "undecodable": trust.undecodable,
    })
}

/// One row, with its name in front.
fn peer(summary: &Summary, row: &Row, known: &Known) -> Value {
    let mut peer = Map::new();
    peer.insert("peer".into(), json!(summary.label(&row.group)));
    peer.insert("role".into(), json!(row.group.role().map(|role| role.as_str())));
    peer.insert("netns".into(), json!(row.group.netns()));
    let name = row.group.netns().and_then(|netns| summary.netns_names.get(&netns));
    peer.insert("netns_name".into(), json!(name));
    peer.append(&mut counts(row, known));
    Value::Object(peer)
}

/// The counts of a row.
fn counts(row: &Row, known: &Known) -> Map<String, Value> {
    let counts: &Counts = &row.counts;
    let ended = |outcome: Outcome| known.ends(counts.outcome(outcome));
    let blocked: Map<_, _> = Block::ALL
        .iter()
        .map(|block| (block.key().to_owned(), json!(counts.blocked(*block))))
        .collect();
    let value = json!({
        "entered": counts.entered,
        "fin_wait2": counts.fin_wait2,
        "present_at_start": known.ends(counts.present),
        "timestamps": known.sockets(json!({
            "with": counts.with_timestamps,
            "without": counts.without_timestamps,
            "negotiated": counts.negotiated,
        })),
        "eligible": known.sockets(counts.eligible),
        "allowed": known.sockets(counts.allowed),
        "blocked": known.sockets(blocked),
        "refused": known.refusals(&counts.refused),
        "live": known.ends(counts.live()),
        "fast": known.ends(json!({
            "total": counts.fast(),
            "recycled": counts.outcome(Outcome::Recycled),
            "reused": counts.outcome(Outcome::Reused),
            "replaced": counts.outcome(Outcome::Replaced),
        })),
        "two_msl": ended(Outcome::TwoMsl),
        "killed": ended(Outcome::Killed),
        "purged": ended(Outcome::Purged),
        "fin_wait2_timeout": ended(Outcome::FinWait2Timeout),
        "unknown": ended(Outcome::Unknown),
        "overflow": if known.overflow { json!(counts.overflow) } else { Value::Null },
        "rearmed": known.ends(counts.rearms),
        "lifetime_ms": known.ends(lifetime(&row.lifetimes)),
        "scheduled_ms": known.ends(json!({
            "last": seen(row.scheduled_ms),
            "max": seen(row.scheduled_max_ms),
        })),
        "rto_ms": { "last": seen(row.rto_ms), "max": seen(row.rto_max_ms) },
        "recycle_ms": seen(row.recycle_ms()),
        "recycle_over_2msl": known.sockets(row.recycle_over_two_msl()),
    });
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// A duration, null when it was never seen.
fn seen(millis: u64) -> Option<u64> {
    (millis != 0).then_some(millis)
}

/// A row's lifetimes.
pub fn lifetime(summary: &LifetimeSummary) -> Value {
    json!({
        "count": summary.count,
        "p50": summary.p50,
        "p90": summary.p90,
        "p99": summary.p99,
        "max": summary.max,
    })
}
