//! The summary for people.

use std::{
    fmt::Write as _,
    io::{self, Write},
};

use super::style::Palette;
use crate::text::{counted, visible, wrapped};
use crate::{
    attached::ObjectKind,
    audit::Audit,
    diagnose::Severity,
    failures::Cause,
    needs::Needs,
    path::{Block, Class, Outcome},
    peer::{Counts, Refused},
    summary::{Row, Summary},
    trust::{DOUBTS, Told},
};

/// Writes the backend, the rows, their sum and whatever limits the trust in them.
///
/// # Errors
/// Those of the writer.
pub fn write(out: &mut impl Write, summary: &Summary, palette: Palette) -> io::Result<()> {
    if let Some(fault) = summary.audit.as_ref().and_then(Audit::fault) {
        writeln!(out, "{}", palette.alarm(fault))?;
    }
    write_backend(out, summary, palette)?;
    if summary.rows.is_empty() && summary.other.is_none() {
        writeln!(out, "no socket has entered TIME_WAIT yet")?;
        write_failed(out, summary, palette)?;
        write_trust(out, summary, palette)?;
        return write_worst(out, summary, palette);
    }
    let names = RowNames::of(summary);
    let names: Vec<String> = summary.rows.iter().map(|row| names.name(row)).collect();
    let width = names.iter().map(String::len).max().unwrap_or(0).clamp(14, 46);
    let heading = format!(
        "{:<width$} {:>9} {:>8} {:>8} {:>8} {:>7} {:>5}  {}",
        summary.group_by.as_str().to_uppercase(),
        "ENTERED",
        "LIVE",
        Class::Fast.heading(),
        Class::TwoMsl.heading(),
        Class::Other.heading(),
        "TS",
        "WHY NOT FAST",
    );
    writeln!(out, "{}", palette.heading(heading))?;
    for (row, name) in summary.rows.iter().zip(&names) {
        write_row(out, summary, row, name, width, palette)?;
    }
    if let Some((peers, row)) = &summary.other {
        let name = match peers {
            0 => "(peers beyond the cap)".to_owned(),
            peers => format!("({peers} more)"),
        };
        write_row(out, summary, row, &name, width, palette)?;
    }
    write_totals(out, summary)?;
    write_failed(out, summary, palette)?;
    write_trust(out, summary, palette)?;
    write_worst(out, summary, palette)
}

/// The line every view begins with.
fn write_backend(out: &mut impl Write, summary: &Summary, palette: Palette) -> io::Result<()> {
    let scope = if summary.follow_ends { "entries and ends" } else { "entries only" };
    writeln!(
        out,
        "twtrace: {} through {}{}, {:.1} s",
        scope,
        summary.backend,
        match summary.object {
            ObjectKind::RingBuf => "",
            ObjectKind::Perf => " with the object for old kernels",
        },
        summary.elapsed.as_secs_f64()
    )?;
    if !summary.selection.is_any() {
        writeln!(out, "  only: {}", visible(&summary.selection.to_string()))?;
    }
    for refusal in &summary.refused_backends {
        writeln!(out, "  {} did not work: {}", refusal.backend, visible(&refusal.reason))?;
    }
    let blind = summary.blind_spots();
    if !blind.is_empty() && summary.follow_ends {
        writeln!(out, "{}", palette.warning(format!("  not seen this way: {}", blind.join(", "))))?;
    }
    if let Some(advice) = summary.types.advice() {
        let mut text = Vec::new();
        wrapped(&mut text, "  ", advice)?;
        for line in String::from_utf8_lossy(&text).lines() {
            writeln!(out, "{}", palette.warning(line.to_owned()))?;
        }
    }
    Ok(())
}

/// Names of a summary's rows, with what tells equal ones apart.
pub struct RowNames<'a> {
    summary: &'a Summary,
    /// Whether the rows are of more than one network namespace.
    several: bool,
}

impl<'a> RowNames<'a> {
    /// Those of one summary.
    pub fn of(summary: &'a Summary) -> Self {
        let mut namespaces = summary.rows.iter().filter_map(|row| row.group.namespace());
        let first = namespaces.next();
        Self { summary, several: namespaces.any(|netns| Some(netns) != first) }
    }

    /// Name of one row.
    pub fn name(&self, row: &Row) -> String {
        let mut name = visible(&self.summary.label(&row.group)).into_owned();
        if let Some(known) = self.summary.peer_name(&row.group) {
            let _ = write!(name, " ({})", visible(known));
        }
        let Some(role) = row.group.role() else { return name };
        let _ = write!(name, " {}", role.as_str());
        if let Some(netns) = row.group.namespace().filter(|_| self.several) {
            match netns.current().and_then(|inum| self.summary.netns_names.get(&inum)) {
                Some(known) => name.push_str(&format!(" @{}", visible(known))),
                None => name.push_str(&format!(" @{netns}")),
            }
        }
        name
    }
}

fn write_row(
    out: &mut impl Write,
    summary: &Summary,
    row: &Row,
    name: &str,
    width: usize,
    palette: Palette,
) -> io::Result<()> {
    let counts = &row.counts;
    let ends = |value: u64| if summary.follow_ends { value.to_string() } else { "-".to_owned() };
    let [fast, two_msl, other] = Class::ALL.map(|class| ends(counts.class(class)));
    let share = match counts.with_timestamps + counts.without_timestamps {
        0 => "-".to_owned(),
        all => format!("{}%", counts.with_timestamps * 100 / all),
    };
    write!(
        out,
        "{name:<width$} {:>9} {:>8} {fast:>8} {two_msl:>8} {other:>7} {share:>5}",
        counts.entered,
        ends(row.live),
    )?;
    let why = why(counts);
    if why.is_empty() { writeln!(out) } else { writeln!(out, "  {}", palette.warning(why)) }
}

/// What closes the fast path to a row's sockets, most frequent first.
pub fn why(counts: &Counts) -> String {
    let mut reasons: Vec<(u64, String)> = Block::ALL
        .iter()
        .map(|block| (counts.blocked(*block), block.key().replace('_', " ")))
        .filter(|(count, _)| *count > 0)
        .collect();
    reasons.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
    let mut words: Vec<String> =
        reasons.into_iter().map(|(count, reason)| format!("{reason} {count}")).collect();
    if counts.refused.total() > 0 {
        words.push(format!("{} takeovers refused", counts.refused.total()));
    }
    if counts.failed.connects() > 0 {
        words.insert(0, format!("{} connects failed", counts.failed.connects()));
    }
    if counts.overflow > 0 {
        words.push(format!("{} overflowed", counts.overflow));
    }
    words.join(", ")
}

/// The sums, and the paths taken in full.
fn write_totals(out: &mut impl Write, summary: &Summary) -> io::Result<()> {
    let counts = &summary.totals.counts;
    write!(out, "total: {} entered ({} as FIN_WAIT2), ", counts.entered, counts.fin_wait2)?;
    if summary.types.are_known() {
        let (with, without) = (counts.with_timestamps, counts.without_timestamps);
        write!(out, "{with} with and {without} without timestamps")?;
    } else {
        write!(out, "timestamps unknown")?;
    }
    if !summary.follow_ends {
        return writeln!(out);
    }
    writeln!(out, "; {} present at start; {} live now", counts.present, summary.totals.live)?;
    let mut ends: Vec<String> = Outcome::ALL
        .iter()
        .map(|outcome| (counts.outcome(*outcome), outcome.key().replace('_', " ")))
        .filter(|(count, _)| *count > 0)
        .map(|(count, name)| format!("{count} {name}"))
        .collect();
    if counts.overflow > 0 {
        ends.push(format!("{} lost to overflow", counts.overflow));
    }
    if !ends.is_empty() {
        writeln!(out, "ends: {}", ends.join(", "))?;
    }
    let lifetimes = &summary.totals.lifetimes;
    if let (Some(p50), Some(p99), Some(max)) = (lifetimes.p50, lifetimes.p99, lifetimes.max) {
        writeln!(
            out,
            "lifetime of {} that came and went: half up to {}, 99% up to {}, longest {}; {} live on",
            lifetimes.count,
            millis(p50),
            millis(p99),
            millis(max),
            summary.totals.live
        )?;
    }
    if counts.refused.total() > 0 {
        let refused: Vec<String> = Refused::KEYS
            .iter()
            .zip(counts.refused.by_reason)
            .filter(|(_, count)| *count > 0)
            .map(|(key, count)| format!("{count} {}", key.replace('_', " ")))
            .collect();
        writeln!(out, "takeovers refused to connect(): {}", refused.join(", "))?;
    }
    Ok(())
}

/// Places shown; the others are in `-o json`.
const FAILED_LINES: usize = 5;

/// Calls that failed. Nothing is printed when nothing did.
fn write_failed(out: &mut impl Write, summary: &Summary, palette: Palette) -> io::Result<()> {
    let failed = &summary.totals.counts.failed;
    let Some(places) = summary.failed.as_ref().filter(|_| failed.total() > 0) else {
        return Ok(());
    };
    let mut words: Vec<String> = Cause::ALL
        .iter()
        .filter(|cause| failed.of(**cause) > 0)
        .map(|cause| format!("{} {}", failed.of(*cause), cause.key().replace('_', " ")))
        .collect();
    if !summary.known().has(Needs::BINDS) {
        words.push("refused bind() not seen".into());
    }
    writeln!(out, "{}", palette.alarm(format!("failed: {}", words.join(", "))))?;
    let lines = super::failed::lines(places, &summary.owners.read());
    for line in lines.iter().take(FAILED_LINES) {
        wrapped(out, "  ", line)?;
    }
    match lines.len().saturating_sub(FAILED_LINES) {
        0 => Ok(()),
        more => writeln!(out, "  and at {more} more places"),
    }
}

/// Whatever makes the figures less than exact. Nothing is printed when nothing does.
fn write_trust(out: &mut impl Write, summary: &Summary, palette: Palette) -> io::Result<()> {
    let trust = &summary.trust;
    for doubt in DOUBTS {
        let count = doubt.known(trust, summary.known()).unwrap_or(0);
        match doubt.told {
            Told::Alarm(words) if count > 0 => {
                writeln!(out, "{}", palette.alarm(format!("{count} {words}")))?;
            }
            Told::Note(words) if count > 0 => {
                writeln!(out, "{}", palette.warning(format!("{count} {words}")))?;
            }
            Told::Alarm(_) | Told::Note(_) | Told::Elsewhere => {}
        }
    }
    if trust.missing > 0 && trust.skipped > 0 {
        let why = "program runs were skipped by the kernel, which may be why sockets are missing";
        writeln!(out, "{}", palette.warning(format!("{} {why}", trust.skipped)))?;
    }
    let (evicted, folded) = (summary.peers_evicted, summary.peers_folded);
    if evicted + folded > 0 {
        let line = format!(
            "--max-peers is reached: {} and {} of new ones are in the row of others",
            counted(evicted, "idle peers"),
            counted(folded, "events")
        );
        writeln!(out, "{}", palette.warning(line))?;
    }
    Ok(())
}

/// The worst finding, in one line. Nothing is printed when nothing is wrong.
fn write_worst(out: &mut impl Write, summary: &Summary, palette: Palette) -> io::Result<()> {
    let findings = summary.examined.iter().flat_map(|examined| &examined.diagnosis.findings);
    let mut findings = findings.filter(|finding| finding.severity > Severity::Notice);
    let Some(worst) = findings.next() else { return Ok(()) };
    let line = format!("{} {}: {}", worst.id, worst.severity.as_str(), visible(&worst.summary));
    let line = match worst.severity {
        Severity::Critical => palette.alarm(line),
        _ => palette.warning(line),
    };
    match findings.count() {
        0 => writeln!(out, "{line}"),
        more => writeln!(out, "{line} ({more} more: twtrace diagnose)"),
    }
}

/// A duration in the unit a person would choose.
pub fn millis(millis: u64) -> String {
    if millis < 1000 { format!("{millis} ms") } else { format!("{:.1} s", millis as f64 / 1000.0) }
}
