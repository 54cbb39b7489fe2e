//! One peer's past and present: what `twtrace explain` says.

use std::{
    io::{self, Write},
    time::SystemTime,
};

use serde_json::{Value, json};

use super::{style::Palette, text::wrapped};
use crate::{
    peer::{
        history::{Change, Span},
        minutes::Minute,
    },
    summary::{Row, Summary},
    units::Clock,
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
        writeln!(out, "{}", palette.heading(format!("{name}: timestamps over time")))?;
        wrapped(out, "  ", &story(row, &examined.clock))?;
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
        write_minutes(out, &summary.label(&row.group), &row.minutes, &examined.clock, palette)?;
    }
    writeln!(out)?;
    super::diagnosis::write_findings(out, summary, examined, palette)
}

/// Minutes shown to people; programs have all.
const MINUTES: usize = 15;

/// Writes a row's last minutes as a table.
fn write_minutes(
    out: &mut impl Write,
    name: &str,
    minutes: &[Minute],
    clock: &Clock,
    palette: Palette,
) -> io::Result<()> {
    writeln!(out, "{}", palette.heading(format!("{name}: by the minute")))?;
    let shown = &minutes[minutes.len().saturating_sub(MINUTES)..];
    if shown.len() < minutes.len() {
        let (hidden, first) = (minutes.len() - shown.len(), clock.wall_at(minutes[0].begins_ns()));
        writeln!(out, "  {hidden} minutes before, from {} on (-o json has them)", time(first))?;
    }
    writeln!(
        out,
        "  {:<14} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}",
        "FROM", "ENTERED", "NO TS", "BLOCKED", "FAST", "2MSL", "OTHER"
    )?;
    for minute in shown {
        writeln!(
            out,
            "  {:<14} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}",
            time(clock.wall_at(minute.begins_ns())),
            minute.entered,
            minute.without_timestamps,
            minute.blocked,
            minute.fast,
            minute.two_msl,
            minute.other + minute.overflow,
        )?;
    }
    Ok(())
}

/// What minutes alone tell of timestamps, where the moments themselves are not known any more:
/// the last one with, and the first one without after it.
fn story_by_minutes(minutes: &[Minute], clock: &Clock) -> Option<String> {
    let with = minutes.iter().rposition(|minute| minute.entered > minute.without_timestamps)?;
    let after = minutes[with..].iter().find(|minute| minute.without_timestamps > 0);
    let at = |minute: &Minute| time(clock.wall_at(minute.begins_ns()));
    Some(match after {
        Some(without) => format!(
            "By the minute, timestamps were last negotiated in that of {} and were missing from \
             that of {} on.",
            at(&minutes[with]),
            at(without)
        ),
        None => format!(
            "By the minute, timestamps were negotiated up to that of {}.",
            at(&minutes[with])
        ),
    })
}

/// The row's timestamps over time, in one sentence.
fn story(row: &Row, clock: &Clock) -> String {
    let history = &row.history;
    let (with, without) = (history.with, history.without);
    let span = |span: Span| {
        format!(
            "between {} and {}",
            time(clock.wall(span.first_ns)),
            time(clock.wall(span.last_ns))
        )
    };
    if with.last_ns == 0
        && let Some(story) = story_by_minutes(&row.minutes, clock)
    {
        return story;
    }
    match (with.last_ns, without.last_ns) {
        (0, 0) => "No socket was seen.".into(),
        (_, 0) => format!("Timestamps were negotiated on every connection, {}.", span(with)),
        (0, _) => format!("No connection had timestamps, {}.", span(without)),
        (last_with, _) if last_with < without.first_ns => format!(
            "Timestamps were negotiated until {} and not since: {} is the last socket with, {} \
             the first without ({:.1} s ago).",
            time(clock.wall(last_with)),
            time(clock.wall(last_with)),
            time(clock.wall(without.first_ns)),
            clock.seconds_since(without.first_ns)
        ),
        (_, last_without) if last_without < with.first_ns => format!(
            "Timestamps were missing until {} and have been negotiated since {} ({:.1} s ago).",
            time(clock.wall(last_without)),
            time(clock.wall(with.first_ns)),
            clock.seconds_since(with.first_ns)
        ),
        _ => format!(
            "Connections came with timestamps and without, changing {} times: with {}, without \
             {}. Several hosts, or several ways, behind one address look like this.",
            history.changes_seen(),
            span(with),
            span(without)
        ),
    }
}

/// A row's past as programs read it; `None` for a row that is not a peer.
pub fn document(row: &Row, clock: &Clock) -> Option<Value> {
    row.group.role()?;
    let moment = |mono_ns: u64| (mono_ns != 0).then(|| stamp(clock.wall(mono_ns)));
    let span = |span: Span| json!({ "first": moment(span.first_ns), "last": moment(span.last_ns) });
    let change = |change: &Change| {
        json!({
            "at": stamp(clock.wall(change.mono_ns)),
            "before": moment(change.before_ns),
            "timestamps": change.with_timestamps,
        })
    };
    let history = &row.history;
    Some(json!({
        "peer": row.group.to_string(),
        "role": row.group.role().map(|role| role.as_str()),
        "netns": row.group.netns(),
        "live": row.counts.live(),
        "with_timestamps": span(history.with),
        "without_timestamps": span(history.without),
        "changes": history.changes().iter().map(change).collect::<Vec<_>>(),
        "changes_seen": history.changes_seen(),
        "minutes": row.minutes.iter().map(|minute| json!({
            "from": stamp(clock.wall_at(minute.begins_ns())),
            "entered": minute.entered,
            "without_timestamps": minute.without_timestamps,
            "blocked": minute.blocked,
            "fast": minute.fast,
            "two_msl": minute.two_msl,
            "other": minute.other,
            "overflow": minute.overflow,
            "refused": minute.refused,
        })).collect::<Vec<_>>(),
        "story": story(row, clock),
    }))
}

/// A moment for programs.
fn stamp(wall: SystemTime) -> String {
    humantime::format_rfc3339_millis(wall).to_string()
}

/// A moment for people: the time of day in UTC, which logs of several hosts share.
fn time(wall: SystemTime) -> String {
    let stamp = humantime::format_rfc3339_seconds(wall).to_string();
    let time = stamp.split_once('T').map_or(stamp.as_str(), |(_, time)| time);
    format!("{} UTC", time.trim_end_matches('Z'))
}
