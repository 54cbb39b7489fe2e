//! One peer's past, in a sentence and for programs.

use std::time::SystemTime;

use serde_json::{Value, json};

use crate::{
    attached::Types,
    needs::Needs,
    peer::{
        history::{Change, Span},
        minutes::Minute,
    },
    summary::{Row, Summary},
    units::{Clock, time_of_day as time},
};

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
pub fn story(row: &Row, clock: &Clock, types: Types) -> String {
    if !types.are_known() {
        return "Whether the peer sends timestamps is not known: this kernel's types are not. A BTF \
                file made for it tells (--btf FILE)."
            .into();
    }
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
pub fn document(row: &Row, clock: &Clock, summary: &Summary) -> Option<Value> {
    row.group.role()?;
    let if_known = |needs: Needs, count: u32| summary.known().has(needs).then_some(count);
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
        "live": row.live,
        "with_timestamps": span(history.with),
        "without_timestamps": span(history.without),
        "changes": history.changes().iter().map(change).collect::<Vec<_>>(),
        "changes_seen": history.changes_seen(),
        "minutes": row.minutes.iter().map(|minute| json!({
            "from": stamp(clock.wall_at(minute.begins_ns())),
            "entered": minute.entered,
            "without_timestamps": if_known(Needs::TYPES, minute.without_timestamps),
            "blocked": if_known(Needs::TYPES, minute.blocked),
            "fast": minute.fast,
            "two_msl": minute.two_msl,
            "other": minute.other,
            "overflow": if_known(Needs::OVERFLOW, minute.overflow),
            "refused": if_known(Needs::REFUSALS, minute.refused),
        })).collect::<Vec<_>>(),
        "story": story(row, clock, summary.types),
    }))
}

/// A moment for programs.
fn stamp(wall: SystemTime) -> String {
    humantime::format_rfc3339_millis(wall).to_string()
}
