//! The summary for people.

use std::{
    fmt::Write as _,
    io::{self, Write},
};

use super::{style::Palette, text::wrapped};
use crate::{
    diagnose::Severity,
    kernel::ObjectKind,
    path::{Block, Outcome},
    peer::{Counts, Refused},
    summary::{Row, Summary},
};

/// Writes the backend, the rows, their sum and whatever limits the trust in them.
///
/// # Errors
/// Those of the writer.
pub fn write(out: &mut impl Write, summary: &Summary, palette: Palette) -> io::Result<()> {
    write_backend(out, summary, palette)?;
    if summary.rows.is_empty() && summary.other.is_none() {
        writeln!(out, "no socket has entered TIME_WAIT yet")?;
        write_trust(out, summary, palette)?;
        return write_worst(out, summary, palette);
    }
    let names = Names::of(summary);
    let names: Vec<String> = summary.rows.iter().map(|row| names.name(row)).collect();
    let width = names.iter().map(String::len).max().unwrap_or(0).clamp(14, 46);
    let heading = format!(
        "{:<width$} {:>9} {:>8} {:>8} {:>8} {:>7} {:>5}  {}",
        summary.group_by.as_str().to_uppercase(),
        "ENTERED",
        "LIVE",
        "FAST",
        "2MSL",
        "OTHER",
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
        writeln!(out, "  only: {}", summary.selection)?;
    }
    for refusal in &summary.refused_backends {
        writeln!(out, "  {} did not work: {}", refusal.backend, refusal.reason)?;
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
pub struct Names<'a> {
    summary: &'a Summary,
    /// Whether the rows are of more than one network namespace.
    several: bool,
}

impl<'a> Names<'a> {
    /// Those of one summary.
    pub fn of(summary: &'a Summary) -> Self {
        let mut namespaces = summary.rows.iter().filter_map(|row| row.group.netns());
        let first = namespaces.next();
        Self { summary, several: namespaces.any(|netns| Some(netns) != first) }
    }

    /// Name of one row.
    pub fn name(&self, row: &Row) -> String {
        let mut name = self.summary.label(&row.group);
        let Some(role) = row.group.role() else { return name };
        let _ = write!(name, " {}", role.as_str());
        if let Some(netns) = row.group.netns().filter(|_| self.several) {
            match self.summary.netns_names.get(&netns) {
                Some(known) => name.push_str(&format!(" @{known}")),
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
    let others = counts.ended_total() - counts.fast() - counts.outcome(Outcome::TwoMsl);
    let share = match counts.with_timestamps + counts.without_timestamps {
        0 => "-".to_owned(),
        all => format!("{}%", counts.with_timestamps * 100 / all),
    };
    write!(
        out,
        "{name:<width$} {:>9} {:>8} {:>8} {:>8} {:>7} {share:>5}",
        counts.entered,
        ends(counts.live()),
        ends(counts.fast()),
        ends(counts.outcome(Outcome::TwoMsl)),
        ends(others + counts.overflow),
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
    writeln!(out, "; {} present at start; {} live now", counts.present, summary.live())?;
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
            "lifetime of {}: half up to {}, 99% up to {}, longest {}",
            lifetimes.count,
            millis(p50),
            millis(p99),
            millis(max)
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

/// Whatever makes the figures less than exact. Nothing is printed when nothing does.
fn write_trust(out: &mut impl Write, summary: &Summary, palette: Palette) -> io::Result<()> {
    let trust = &summary.trust;
    let alarms = [
        (trust.lost, "events lost, the buffer was full: totals are exact, rows are too low"),
        (trust.skipped, "program runs skipped by the kernel: counts are too low by as much"),
        (trust.read_failures, "reads of kernel memory failed: some fields are 0"),
        (trust.undecodable, "records could not be decoded"),
        (trust.refusals_dropped, "refusals not counted, too many peers"),
        (trust.undecided, "sockets or ends left out: not known whether they match the filter"),
    ];
    for (count, sentence) in alarms.iter().filter(|(count, _)| *count > 0) {
        writeln!(out, "{}", palette.alarm(format!("{count} {sentence}")))?;
    }
    let notes = [
        (trust.healed, "ends were not seen; they are counted as unknown"),
        (trust.unfollowed, "live sockets are beyond the cap: their lifetimes are not sampled"),
        (trust.unseen_ends, "ends of sockets in namespaces that could not be read at the start"),
    ];
    for (count, sentence) in notes.iter().filter(|(count, _)| *count > 0 && summary.follow_ends) {
        writeln!(out, "{}", palette.warning(format!("{count} {sentence}")))?;
    }
    let (evicted, folded) = (summary.peers_evicted, summary.peers_folded);
    if evicted + folded > 0 {
        let line = format!(
            "--max-peers is reached: {evicted} idle peers and {folded} events of new ones are in \
             the row of others"
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
    let line = format!("{} {}: {}", worst.id, worst.severity.as_str(), worst.summary);
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
