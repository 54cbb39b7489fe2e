//! All about the selected row.

use ratatui::{
    layout::Rect,
    text::{Line, Span},
};

use super::{
    events,
    parts::{Theme, count, gauge, rate, spark},
};
use crate::{
    needs::Needs,
    summary::{LIFETIME_BOUNDS_MS, Row},
    text::counted,
    view::{
        peer::{ended, failed, refused, why_blocked},
        table::{self, millis},
        tui::{
            series::SAMPLES,
            state::{Shot, State},
        },
    },
};

/// Fewest lines left to the recent sockets.
const RECENT: usize = 4;

/// Rates, counts, reasons, lifetimes; and the latest sockets in the room that is left.
pub fn lines(state: &State, moment: &Shot, area: Rect, theme: Theme) -> Vec<Line<'static>> {
    let rows = state.rows();
    let Some((_, row)) = state.selected(&rows) else {
        return vec![Line::raw("this row is no longer among those shown (Esc goes back)")];
    };
    let summary = &moment.summary;
    let name = table::RowNames::of(summary).name(row);
    let netns = row.group.netns().map(|netns| summary.namespace(netns));
    let netns = netns.map_or_else(String::new, |netns| format!("  netns {netns}"));
    let mut lines = vec![Line::from(vec![
        Span::styled(name, theme.heading()),
        Span::styled(netns, theme.quiet()),
    ])];
    lines.push(rates(state, row, area, theme));
    lines.extend(figures(state, moment, row));
    let columns = two_columns(
        reasons(state, moment, row, theme),
        lifetimes(row, theme),
        usize::from(area.width),
    );
    let height = usize::from(area.height);
    let room = height.saturating_sub(lines.len() + RECENT);
    lines.extend(columns.into_iter().take(room));
    let left = height.saturating_sub(lines.len() + 1);
    let recent = moment.events.iter().filter(|event| row.group.holds(event)).take(left);
    lines.extend(events::list(state, moment, &recent.collect::<Vec<_>>(), theme));
    lines
}

fn rates(state: &State, row: &Row, area: Rect, theme: Theme) -> Line<'static> {
    let values: Vec<f64> = state.series(row).map_or(Vec::new(), |series| series.rates().collect());
    let highest = values.iter().copied().fold(0.0, f64::max);
    let last = values.last().copied().unwrap_or(0.0);
    let words = format!("  {}/s now, {}/s at most", rate(last), rate(highest));
    let width = usize::from(area.width).saturating_sub(words.len() + 10).min(SAMPLES);
    Line::from(vec![
        Span::raw("entries/s "),
        Span::styled(spark(values.into_iter(), width), theme.good()),
        Span::raw(words),
    ])
}

fn figures(state: &State, moment: &Shot, row: &Row) -> Vec<Line<'static>> {
    let counts = state.counts(row);
    let mut entered =
        format!("entered {} ({} as FIN_WAIT2), ", count(counts.entered), count(counts.fin_wait2));
    if moment.summary.types.are_known() {
        let (with, without) = (count(counts.with_timestamps), count(counts.without_timestamps));
        entered.push_str(&format!("with timestamps {with}, without {without}"));
    } else {
        entered.push_str("timestamps unknown");
    }
    if counts.present > 0 {
        entered.push_str(&format!(", present at start {}", count(counts.present)));
    }
    if moment.summary.follow_ends {
        entered.push_str(&format!(", live {}", count(row.live)));
    }
    let overflow = match counts.overflow {
        0 => String::new(),
        many => format!("closed without a TIME_WAIT socket (overflow) {}", count(many)),
    };
    let mut timers = Vec::new();
    if row.scheduled_ms != 0 {
        timers.push(format!("timer armed with {}", millis(row.scheduled_ms)));
    }
    if counts.rearms != 0 {
        timers.push(format!("armed again {}", counted(counts.rearms, "times")));
    }
    if row.rto_ms != 0 {
        timers.push(format!("RTO {} (longest {})", millis(row.rto_ms), millis(row.rto_max_ms)));
    }
    let lines = [entered, overflow, timers.join(", ")].into_iter().filter(|line| !line.is_empty());
    lines.map(Line::raw).collect()
}

/// How sockets ended, what closes the fast path, what was refused.
fn reasons(state: &State, moment: &Shot, row: &Row, theme: Theme) -> Vec<Line<'static>> {
    let counts = state.counts(row);
    let mut lists = vec![("WHY NOT FAST", why_blocked(&counts))];
    if moment.summary.known().has(Needs::FAILURES) {
        lists.insert(0, ("CALLS THAT FAILED", failed(&counts)));
    }
    if moment.summary.follow_ends {
        lists.push(("ENDS", ended(&counts)));
    }
    if moment.summary.known().has(Needs::REFUSALS) {
        lists.push(("TAKEOVERS REFUSED", refused(&counts)));
    }
    lists.retain(|(_, list)| !list.is_empty());
    let mut lines = Vec::new();
    for (heading, list) in lists {
        lines.push(Line::styled(heading, theme.heading()));
        for (number, sentence) in list {
            lines.push(Line::raw(format!("{:>8} {sentence}", count(number))));
        }
    }
    lines
}

/// Lifetimes since the start, from the first filled bucket to the last.
fn lifetimes(row: &Row, theme: Theme) -> Vec<Line<'static>> {
    let buckets = &row.lifetime_buckets;
    let filled = |bucket: &u64| *bucket > 0;
    let (Some(first), Some(last), Some(highest)) =
        (buckets.iter().position(filled), buckets.iter().rposition(filled), buckets.iter().max())
    else {
        return Vec::new();
    };
    let mut lines = vec![Line::styled("LIFETIMES OF WHAT CAME AND WENT", theme.heading())];
    for (index, number) in buckets.iter().enumerate().take(last + 1).skip(first) {
        let label = match LIFETIME_BOUNDS_MS.get(index) {
            Some(bound) => format!("up to {}", millis(*bound)),
            None => "longer".to_owned(),
        };
        let bar = gauge(*number as f64 / *highest as f64, 10).replace('░', " ");
        lines.push(Line::raw(format!("{label:>13} {bar} {}", count(*number))));
    }
    lines
}

/// Puts two texts side by side; below each other where the screen is too narrow.
fn two_columns(
    left: Vec<Line<'static>>,
    right: Vec<Line<'static>>,
    width: usize,
) -> Vec<Line<'static>> {
    let right_width = right.iter().map(Line::width).max().unwrap_or(0);
    let left_width = width.saturating_sub(right_width + 2).min(70);
    if right.is_empty() || left_width < 36 {
        return left.into_iter().chain(right).collect();
    }
    let height = left.len().max(right.len());
    let (mut left, mut right) = (left.into_iter(), right.into_iter());
    (0..height)
        .map(|_| {
            let left = left.next().unwrap_or_default();
            let style = left.style;
            let text: String = left.spans.iter().map(|span| span.content.as_ref()).collect();
            let mut spans = vec![Span::styled(super::parts::fitted(&text, left_width + 2), style)];
            if let Some(right) = right.next() {
                spans.extend(right.spans.into_iter().map(|span| span.patch_style(right.style)));
            }
            Line::from(spans)
        })
        .collect()
}
