//! `twtrace.summary/2`: the summary for programs, documented in docs/schema/.

use std::{
    collections::HashMap,
    io::{self, Write},
};

use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::{Value, json};

use super::{failed, figures::Figures};
use crate::{
    attached::FailedWay,
    audit::{Audit, Audited},
    diagnose::Finding,
    needs::Needs,
    peer::Netns,
    summary::{Examined, Row, RowFilter, Summary},
    trust::{DOUBTS, Section},
};

/// Name and version of the document.
pub const SCHEMA: &str = "twtrace.summary/2";

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

/// The rows, each with its name in front. There may be tens of thousands, so none is made into
/// values of JSON first.
struct Peers<'a>(&'a Summary);

impl Serialize for Peers<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let known = self.0.known_of_rows();
        serializer.collect_seq(self.0.rows.iter().map(|row| Peer { summary: self.0, row, known }))
    }
}

struct Peer<'a> {
    summary: &'a Summary,
    row: &'a Row,
    known: Needs,
}

impl Serialize for Peer<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { summary, row, known } = *self;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("peer", &summary.label(&row.group))?;
        if summary.peer_names.is_some() {
            map.serialize_entry("name", &summary.peer_name(&row.group))?;
        }
        map.serialize_entry("role", &row.group.role().map(|role| role.as_str()))?;
        map.serialize_entry("netns", &row.group.netns())?;
        map.serialize_entry("netns_cookie", &row.netns_cookie)?;
        let current = row.group.namespace().and_then(Netns::current);
        let name = current.and_then(|netns| summary.netns_names.get(&netns));
        map.serialize_entry("netns_name", &name)?;
        let owner = summary.owner(&row.group);
        map.serialize_entry("owner", &owner.as_ref().map(|owner| &owner.name))?;
        Figures { row, known }.write(&mut map)?;
        map.end()
    }
}

/// All rows together.
struct Totals<'a>(&'a Summary);

impl Serialize for Totals<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let summary = self.0;
        let mut map = serializer.serialize_map(None)?;
        let known = summary.known().and(Needs::NO_PEERS);
        Figures { row: &summary.totals, known }.write(&mut map)?;
        Doubts(summary, Section::Totals).write(&mut map)?;
        let told = summary.audit.as_ref().map(|known| audit(known, &summary.netns_names));
        map.serialize_entry("audit", &told)?;
        map.end()
    }
}

/// The rows that are not shown, together.
struct Other<'a> {
    peers: u64,
    figures: Figures<'a>,
}

impl Serialize for Other<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        self.figures.write(&mut map)?;
        map.serialize_entry("peers", &self.peers)?;
        map.end()
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
    totals: Totals<'a>,
    trust: Doubts<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    row_filter: Option<Value>,
    peers: Peers<'a>,
    peers_total: u64,
    peers_evicted: u64,
    peers_folded: u64,
    other: Option<Other<'a>>,
    /// Null where nobody looked.
    failures: Option<Vec<Value>>,
    /// Null where a refused bind() is not seen.
    binds: Option<Vec<Value>>,
    /// Null where rows stand for something else than peers, or ends are not followed.
    findings: Option<Vec<Value>>,
}

/// The summary as programs read it.
pub fn document(summary: &Summary) -> impl Serialize {
    let (known, owners) = (summary.known(), summary.owners.read());
    let other = |(peers, row)| {
        let figures = Figures { row, known: summary.known_of_rows() };
        Other { peers, figures }
    };
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
        totals: Totals(summary),
        trust: Doubts(summary, Section::Trust),
        row_filter: row_filter(summary),
        peers: Peers(summary),
        peers_total: summary.peers,
        peers_evicted: summary.peers_evicted,
        peers_folded: summary.peers_folded,
        other: summary.other.as_ref().map(|(peers, row)| (*peers, row)).map(other),
        failures: summary.failed.as_ref().map(|places| failed::connects(places, &owners)),
        binds: (summary.failed.as_ref().filter(|_| known.has(Needs::BINDS)))
            .map(|places| failed::binds(places, &owners)),
        findings: summary.examined.as_ref().map(findings),
    }
}
/// What the kernel itself counted, against what its programs did.
pub fn audit(audit: &Audit, names: &HashMap<u32, String>) -> Value {
    let namespaces = audit.namespaces.iter().map(|(inum, audited)| {
        let mut namespace = figures(audited);
        namespace["netns"] = json!(inum);
        namespace["netns_cookie"] = json!((audited.cookie != 0).then_some(audited.cookie));
        namespace["netns_name"] = json!(names.get(inum));
        namespace
    });
    let mut all = figures(&audit.total());
    all["basis"] = json!(audit.basis.as_str());
    all["unaudited"] = json!(audit.unaudited);
    all["namespaces"] = namespaces.collect();
    all
}

/// All that is compared.
fn figures(audited: &Audited) -> Value {
    let mut figures = json!(audited.entries);
    figures["reused"] = json!(audited.reused);
    figures["overflow"] = json!(audited.overflow);
    figures["live"] = json!(audited.live);
    figures
}

/// A better way to attach that did not work.
fn refusal(refusal: &FailedWay) -> Value {
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

/// What makes counts less than exact, as far as `place` has it.
struct Doubts<'a>(&'a Summary, Section);

impl Doubts<'_> {
    fn write<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        let Self(summary, place) = self;
        let (known, trust) = (summary.known(), &summary.trust);
        let mut here = DOUBTS.iter().filter(|doubt| doubt.place == *place);
        here.try_for_each(|doubt| map.serialize_entry(doubt.key, &doubt.known(trust, known)))
    }
}

impl Serialize for Doubts<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        self.write(&mut map)?;
        map.end()
    }
}
