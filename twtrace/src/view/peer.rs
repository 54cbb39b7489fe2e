//! All that is known of one peer, for people.

use std::io::{self, Write};

use super::{style::Palette, table::millis};
use crate::text::{counted, visible};
use crate::{
    failures::Cause,
    needs::Needs,
    path::{Block, Outcome},
    peer::{Counts, Refused},
    summary::{LIFETIME_BOUNDS_MS, Row, Summary},
    units::TCP_TIMEWAIT_LEN_MS,
};

/// Widest bar of the histogram, characters.
const BAR: u64 = 40;

/// Writes each row of the summary in full; there is one for a peer asked for by its port.
///
/// # Errors
/// Those of the writer.
pub fn write(out: &mut impl Write, summary: &Summary, palette: Palette) -> io::Result<()> {
    if summary.rows.is_empty() {
        writeln!(
            out,
            "nothing entered TIME_WAIT with this peer in {:.1} s, and none of its sockets was there \
             when that began",
            summary.elapsed.as_secs_f64()
        )?;
    }
    for row in &summary.rows {
        write_row(out, summary, row, palette)?;
    }
    Ok(())
}

fn write_row(
    out: &mut impl Write,
    summary: &Summary,
    row: &Row,
    palette: Palette,
) -> io::Result<()> {
    let counts = &row.counts;
    let role = row.group.role().map_or("", |role| role.as_str());
    let netns = row.group.netns().unwrap_or(0);
    let namespace = summary.namespace(netns);
    let namespace = visible(&namespace);
    let known = summary.peer_name(&row.group).map(|name| format!("{}; ", visible(name)));
    let known = known.unwrap_or_default();
    let title = format!("{} ({known}we are the {role}; network namespace {namespace})", row.group);
    writeln!(out, "{}", palette.heading(title))?;
    writeln!(out, "  seen through {} for {:.1} s", summary.backend, summary.elapsed.as_secs_f64())?;
    write!(out, "  entered {} ({} as FIN_WAIT2", counts.entered, counts.fin_wait2)?;
    if summary.types.are_known() {
        write!(out, ", {} bound first", counts.bound)?;
    }
    write!(out, ")")?;
    if summary.follow_ends {
        write!(out, ", present at start {}, live now {}", counts.present, row.live)?;
    }
    writeln!(out)?;
    if summary.types.are_known() {
        writeln!(
            out,
            "  timestamps: with {}, without {}; the fast path could take {}, and may take {}",
            counts.with_timestamps, counts.without_timestamps, counts.eligible, counts.allowed
        )?;
    } else {
        writeln!(out, "  timestamps: unknown")?;
    }
    if row.rto_ms != 0 {
        write!(
            out,
            "  RTO {} (longest {}); recycling would wait 3.5 x that, {}",
            millis(row.rto_ms),
            millis(row.rto_max_ms),
            millis(row.recycle_ms())
        )?;
        if row.recycle_over_two_msl() {
            write!(out, ": longer than 2MSL, {}", millis(TCP_TIMEWAIT_LEN_MS))?;
        }
        writeln!(out)?;
    }
    if row.scheduled_ms != 0 {
        writeln!(
            out,
            "  timer armed with {} (longest {}), armed again {}",
            millis(row.scheduled_ms),
            millis(row.scheduled_max_ms),
            counted(counts.rearms, "times")
        )?;
    }
    if summary.known().has(Needs::FAILURES) {
        write_list(out, "calls that failed", failed(counts))?;
    }
    write_list(out, "ends", ended(counts))?;
    write_list(out, "why the fast path is closed", why_blocked(counts))?;
    if summary.known().has(Needs::REFUSALS) {
        write_list(out, "takeovers refused to connect()", refused(counts))?;
    }
    if summary.known().has(Needs::OVERFLOW) && counts.overflow > 0 {
        writeln!(out, "  overflow: {} closed without a TIME_WAIT socket", counts.overflow)?;
    }
    write_histogram(out, row)
}

/// How sockets ended: what there is at all, with its count.
pub fn ended(counts: &Counts) -> Vec<(u64, &'static str)> {
    nonzero(Outcome::ALL.iter().map(|outcome| (counts.outcome(*outcome), outcome.sentence())))
}

/// What closes the fast path.
pub fn why_blocked(counts: &Counts) -> Vec<(u64, &'static str)> {
    nonzero(Block::ALL.iter().map(|block| (counts.blocked(*block), block.sentence())))
}

/// Calls that got no port.
pub fn failed(counts: &Counts) -> Vec<(u64, &'static str)> {
    nonzero(Cause::ALL.iter().map(|cause| (counts.failed.of(*cause), cause.words())))
}

/// Why `connect()` could not take sockets over.
pub fn refused(counts: &Counts) -> Vec<(u64, &'static str)> {
    nonzero(counts.refused.by_reason.iter().copied().zip(Refused::SENTENCES))
}

fn nonzero(list: impl Iterator<Item = (u64, &'static str)>) -> Vec<(u64, &'static str)> {
    list.filter(|(count, _)| *count > 0).collect()
}

/// Writes the lines under a heading if there is one.
fn write_list(
    out: &mut impl Write,
    heading: &str,
    lines: Vec<(u64, &'static str)>,
) -> io::Result<()> {
    if !lines.is_empty() {
        writeln!(out, "  {heading}:")?;
    }
    for (count, sentence) in lines {
        writeln!(out, "  {count:>9}  {sentence}")?;
    }
    Ok(())
}

/// Writes the lifetimes as bars, from the first filled bucket to the last.
fn write_histogram(out: &mut impl Write, row: &Row) -> io::Result<()> {
    let buckets = &row.lifetime_buckets;
    let filled = |bucket: &u64| *bucket > 0;
    let (Some(first), Some(last), Some(highest)) =
        (buckets.iter().position(filled), buckets.iter().rposition(filled), buckets.iter().max())
    else {
        return Ok(());
    };
    let lifetimes = &row.lifetimes;
    writeln!(
        out,
        "  lifetimes of {} that came and went, while {} live on:\n    half up to {}, 90% up to {}, 99% \
         up to {}, longest {}",
        lifetimes.count,
        row.live,
        millis(lifetimes.p50.unwrap_or(0)),
        millis(lifetimes.p90.unwrap_or(0)),
        millis(lifetimes.p99.unwrap_or(0)),
        millis(lifetimes.max.unwrap_or(0))
    )?;
    for (index, count) in buckets.iter().enumerate().take(last + 1).skip(first) {
        let label = match LIFETIME_BOUNDS_MS.get(index) {
            Some(bound) => format!("up to {}", millis(*bound)),
            None => "longer".to_owned(),
        };
        let length = (count * BAR).div_ceil(*highest) as usize;
        writeln!(out, "  {label:>14} {count:>9}  {}", "#".repeat(length))?;
    }
    Ok(())
}
