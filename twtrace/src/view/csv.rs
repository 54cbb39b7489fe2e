//! The summary as comma-separated values: one line a row, `(other)` last.

use std::io::{self, Write};

use crate::{
    path::{Block, Outcome},
    peer::Refused,
    summary::{Row, Summary},
};

/// Writes a header line and the rows.
///
/// # Errors
/// Those of the writer.
pub fn write(out: &mut impl Write, summary: &Summary) -> io::Result<()> {
    write!(
        out,
        "peer,role,netns,entered,fin_wait2,present_at_start,with_timestamps,without_timestamps,\
         eligible,allowed"
    )?;
    for block in Block::ALL {
        write!(out, ",blocked_{}", block.key())?;
    }
    for key in Refused::KEYS {
        write!(out, ",refused_{key}")?;
    }
    write!(out, ",live")?;
    for outcome in Outcome::ALL {
        write!(out, ",{}", outcome.key())?;
    }
    writeln!(out, ",overflow,lifetime_count,lifetime_p50_ms,lifetime_p99_ms,lifetime_max_ms")?;
    for row in &summary.rows {
        write_row(out, summary, row)?;
    }
    match &summary.other {
        Some((_, row)) => write_row(out, summary, row),
        None => Ok(()),
    }
}

/// Writes one row; what is not known is left empty.
fn write_row(out: &mut impl Write, summary: &Summary, row: &Row) -> io::Result<()> {
    let counts = &row.counts;
    let ends = |value: u64| if summary.follow_ends { value.to_string() } else { String::new() };
    let known = |known: bool, value: u64| if known { value.to_string() } else { String::new() };
    let refusals = |value: u64| known(summary.sees_refusals(), value);
    let sockets = |value: u64| known(summary.types.are_known(), value);
    write!(
        out,
        "{},{},{},{},{},{},{},{},{},{}",
        quoted(&summary.label(&row.group)),
        row.group.role().map_or("", |role| role.as_str()),
        row.group.netns().map_or(String::new(), |netns| netns.to_string()),
        counts.entered,
        counts.fin_wait2,
        ends(counts.present),
        sockets(counts.with_timestamps),
        sockets(counts.without_timestamps),
        sockets(counts.eligible),
        sockets(counts.allowed),
    )?;
    for count in counts.blocked {
        write!(out, ",{}", sockets(count))?;
    }
    for count in counts.refused.by_reason {
        write!(out, ",{}", refusals(count))?;
    }
    write!(out, ",{}", ends(counts.live()))?;
    for count in counts.ended {
        write!(out, ",{}", ends(count))?;
    }
    let lifetimes = &row.lifetimes;
    let millis = |value: Option<u64>| value.map_or(String::new(), |millis| millis.to_string());
    writeln!(
        out,
        ",{},{},{},{},{}",
        known(summary.sees_overflow(), counts.overflow),
        ends(lifetimes.count),
        millis(lifetimes.p50),
        millis(lifetimes.p99),
        millis(lifetimes.max),
    )
}

/// A text field, quoted where it must be (RFC 4180).
pub fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}
