//! Peers: how many entered and when, which path they took, and why not the fast one.

use maud::{Markup, html};

use super::{
    Report, amount, shown, svg,
    table::{
        Column::{Numbers, Words},
        table,
    },
    timeline::class_words,
};
use crate::{
    chronicle::Entries,
    needs::Needs,
    path::Class,
    peer::minutes::Minute,
    summary::{Row, Summary},
    text::counted,
    view::{field::Field, figures::row_figures, history::story, table::why},
};

/// Peers shown one by one.
const MOST: usize = 100;
/// Peers whose timestamps are told over time.
const STORIES: usize = 10;

/// The section.
pub fn section(report: &Report<'_>) -> Markup {
    let summary = report.summary;
    let rows = &summary.rows[..summary.rows.len().min(MOST)];
    let past = report.minutes_from.is_some();
    html! {
        p {
            (counted(summary.peers, "peers")) "."
            @if summary.rows.len() > rows.len() {
                " The " (rows.len()) " with the most entries are shown; the others are summed up in the row \
                 below, and only there."
            }
            @if summary.peers_folded > 0 {
                " " (counted(summary.peers_folded, "events"))
                " are of peers for which there was no room: they are in no row of their own."
            }
        }
        @if past {
            p class="soft" {
                "Counts are of the time since this page was asked for; what was before is in the small \
                 pictures, by the minute."
            }
        }
        (table(
            "table of peers",
            "Peers by entries; address:port where this host is the client",
            [Words("peer"), Words("entries over time"), Numbers("entered"), Numbers("live")]
                .into_iter()
                .chain(Class::ALL.map(|class| Numbers(class_words(class))))
                .chain([Numbers("with timestamps"), Words("why not fast")]),
            &html! {
                @for row in rows { (line(report, row)) }
                @if summary.rows.len() > rows.len() { (rest(summary, &summary.rows[MOST..])) }
                @if let Some((count, other)) = &summary.other {
                    tr {
                        th scope="row" { "others" @if *count > 0 { " (" (count) ")" } }
                        td { }
                        (counts(summary, other))
                    }
                }
                tr {
                    th scope="row" { "all" }
                    td { }
                    (counts(summary, &summary.totals))
                }
            },
        ))
        (stories(report, rows))
        (figures(summary))
    }
}

fn line(report: &Report<'_>, row: &Row) -> Markup {
    let summary = report.summary;
    let netns = row.group.netns().map(|netns| summary.namespace(netns));
    html! {
        tr {
            th scope="row" {
                (shown(&summary.label(&row.group)))
                @if let Some(name) = summary.peer_name(&row.group) { " (" (shown(name)) ")" }
                @if let Some(role) = row.group.role() { " " span class="soft" { (role.as_str()) } }
                @if let Some(netns) = netns { br; span class="soft" { "in " (shown(&netns)) } }
            }
            td { (over_time(report, row)) }
            (counts(summary, row))
        }
    }
}

/// The rows that are not shown, added up.
fn rest(summary: &Summary, rows: &[Row]) -> Markup {
    let entered: u64 = rows.iter().map(|row| row.counts.entered).sum();
    let live: u64 = rows.iter().map(|row| row.live).sum();
    let known = summary.known_of_rows();
    let cell =
        |count: u64| if known.has(Needs::ENDS) { count.to_string() } else { "not known".into() };
    html! {
        tr {
            th scope="row" { (rows.len()) " more peers" }
            td { }
            td class="n" { (entered) }
            td class="n" { (cell(live)) }
            @for class in Class::ALL {
                td class="n" { (cell(rows.iter().map(|row| row.counts.class(class)).sum())) }
            }
            td class="n" { } td { }
        }
    }
}

fn counts(summary: &Summary, row: &Row) -> Markup {
    let known = summary.known_of_rows();
    let cell = |needs: Needs, count: u64| match known.has(needs) {
        true => count.to_string(),
        false => "not known".to_owned(),
    };
    let counts = &row.counts;
    let share = match counts.with_timestamps + counts.without_timestamps {
        _ if !known.has(Needs::TYPES) => "not known".to_owned(),
        0 => String::new(),
        all => format!("{}%", amount(counts.with_timestamps as f64 * 100.0 / all as f64)),
    };
    html! {
        td class="n" { (counts.entered) }
        td class="n" { (cell(Needs::ENDS, row.live)) }
        @for class in Class::ALL { td class="n" { (cell(Needs::ENDS, counts.class(class))) } }
        td class="n" { (share) }
        td class="wide" { (why(counts)) }
    }
}

/// A small picture of a peer's entries.
fn over_time(report: &Report<'_>, row: &Row) -> Markup {
    if let Some(from) = report.minutes_from {
        let minutes: Vec<&Minute> = row.minutes.iter().filter(|it| it.minute >= from).collect();
        let last = Minute::at(report.chronicle.clock().mono_ns.cast_signed());
        let slots = usize::try_from(last - from + 1).unwrap_or(0);
        let mut counts = vec![0; slots.min(24 * 60)];
        for minute in minutes {
            let slot = usize::try_from(minute.minute - from).ok();
            if let Some(count) = slot.and_then(|slot| counts.get_mut(slot)) {
                *count = minute.entered;
            }
        }
        let slots = counts.len();
        return spark(&Entries { counts: &counts, slots, seconds: 60.0 });
    }
    report.chronicle.entries(&row.group).map_or_else(Markup::default, |entries| spark(&entries))
}

fn spark(entries: &Entries<'_>) -> Markup {
    let most = entries.counts.iter().copied().max().unwrap_or(0);
    let says = format!(
        "at most {most} entries in {} s, over {} s",
        amount(entries.seconds),
        amount(entries.seconds * entries.slots as f64)
    );
    svg::spark(&says, entries.counts, entries.slots)
}

/// Timestamps of the busiest peers over time.
fn stories(report: &Report<'_>, rows: &[Row]) -> Markup {
    let Some(examined) = &report.summary.examined else { return Markup::default() };
    let seen = rows.iter().filter(|row| row.group.role().is_some() && row.counts.entered > 0);
    let told: Vec<_> = seen
        .take(STORIES)
        .map(|row| {
            (report.summary.label(&row.group), story(row, &examined.clock, report.summary.types))
        })
        .collect();
    if told.is_empty() {
        return Markup::default();
    }
    html! {
        h3 { "Timestamps of the busiest" }
        dl { @for (name, story) in told { dt { (shown(&name)) } dd { (shown(&story)) } } }
    }
}

/// All that is counted, of all peers together.
fn figures(summary: &Summary) -> Markup {
    let known = summary.known();
    html! {
        details {
            summary { "All that is counted, of all peers together" }
            (table(
                "all figures",
                "As in `watch -o json`, under `totals`",
                [Words("figure"), Numbers("value"), Words("what it is")],
                &html! {
                    @for figure in row_figures() {
                        @let value = figure.value(&summary.totals, known);
                        tr {
                            th scope="row" { (figure.csv.as_deref().unwrap_or(figure.key)) }
                            td class="n" {
                                @if value == Field::Null { "not known" } @else { (value.to_string()) }
                            }
                            td class="wide" { (figure.sentence) }
                        }
                    }
                },
            ))
        }
    }
}
