//! One peer's past and present: what `twtrace explain` says.

use std::io::{self, Write};

use super::{diagnosis::write_findings, history::story, style::Palette};
use crate::{
    needs::Needs,
    path::Class,
    summary::{Row, Summary},
    text::{visible, wrapped},
    units::{Clock, time_of_day as time},
};

/// Writes each row's past, then all about it, then what is wrong.
///
/// # Errors
/// Those of the writer.
pub fn write(out: &mut impl Write, summary: &Summary, palette: Palette) -> io::Result<()> {
    let Some(examined) = &summary.examined else { return Ok(()) };
    super::peer::write(out, summary, palette)?;
    for row in &summary.rows {
        let name = summary.label(&row.group);
        let name = visible(&name);
        writeln!(out, "{}", palette.heading(format!("{name}: timestamps over time")))?;
        wrapped(out, "  ", &story(row, &examined.clock, summary.types))?;
        for change in row.history.changes() {
            let line = format!(
                "from here on {} timestamps (the last {} {})",
                if change.with_timestamps { "with" } else { "without" },
                if change.with_timestamps { "without at" } else { "with at" },
                time(examined.clock.wall(change.before_ns)),
            );
            let first = format!("  {} ", time(examined.clock.wall(change.mono_ns)));
            wrapped(out, &first, &line)?;
        }
    }
    for row in summary.rows.iter().filter(|row| !row.minutes.is_empty()) {
        let name = summary.label(&row.group);
        write_minutes(out, (&visible(&name), row), &examined.clock, summary.known(), palette)?;
    }
    writeln!(out)?;
    write_findings(out, summary, examined, palette)
}

/// Minutes shown to people; programs have all.
const MINUTES: usize = 15;

/// Writes a row's last minutes as a table.
fn write_minutes(
    out: &mut impl Write,
    (name, row): (&str, &Row),
    clock: &Clock,
    has: Needs,
    palette: Palette,
) -> io::Result<()> {
    let minutes = &row.minutes;
    let if_known =
        |needs: Needs, count: u32| if has.has(needs) { count.to_string() } else { "-".into() };
    let known = |count| if_known(Needs::TYPES, count);
    let overflow = |count| if_known(Needs::OVERFLOW, count);
    writeln!(out, "{}", palette.heading(format!("{name}: by the minute")))?;
    let shown = &minutes[minutes.len().saturating_sub(MINUTES)..];
    if shown.len() < minutes.len() {
        let (hidden, first) = (minutes.len() - shown.len(), clock.wall_at(minutes[0].begins_ns()));
        writeln!(out, "  {hidden} minutes before, from {} on (-o json has them)", time(first))?;
    }
    writeln!(
        out,
        "  {:<14} {:>7} {:>7} {:>7} {:>7} {:>7} {:>7} {:>8}",
        "FROM",
        "ENTERED",
        "NO TS",
        "BLOCKED",
        Class::Fast.heading(),
        Class::TwoMsl.heading(),
        Class::Other.heading(),
        "OVERFLOW"
    )?;
    for minute in shown {
        writeln!(
            out,
            "  {:<14} {:>7} {:>7} {:>7} {:>7} {:>7} {:>7} {:>8}",
            time(clock.wall_at(minute.begins_ns())),
            minute.entered,
            known(minute.without_timestamps),
            known(minute.blocked),
            minute.fast,
            minute.two_msl,
            minute.other,
            overflow(minute.overflow),
        )?;
    }
    Ok(())
}
