//! The screen, from top to bottom: what runs, the worst finding, the views, the body, the keys.

mod events;
mod findings;
mod help;
mod limits;
mod parts;
mod peer;
mod peers;

use std::borrow::Cow;

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    text::{Line, Span},
    widgets::{Clear, Paragraph},
};

use super::state::{Shot, State, View};
use crate::{diagnose::Severity, summary::Summary, text::visible};
use parts::{Theme, count};

/// Draws the whole screen.
pub fn draw(frame: &mut Frame<'_>, state: &State) {
    let theme = Theme { coloured: state.coloured };
    let foot = if state.filter().error().is_some() { 2 } else { 1 };
    let [head, worst, tabs, body, keys] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Min(0),
        Constraint::Length(foot),
    ])
    .areas(frame.area());
    put(frame, tabs, tabs_line(state, theme));
    put_lines(frame, keys, foot_lines(state, theme));
    let Some(moment) = state.moment() else {
        put(frame, head, Line::from("twtrace: attaching to the kernel"));
        return;
    };
    put(frame, head, head_line(state, moment, theme));
    put(frame, worst, worst_line(&moment.summary, theme));
    if state.helps() {
        frame.render_widget(Clear, body);
        put_lines(frame, body, help::lines(&moment.summary, theme));
        return;
    }
    let lines = match state.view() {
        View::Peers => peers::lines(state, moment, body, theme),
        View::Peer => peer::lines(state, moment, body, theme),
        View::Events => events::lines(state, moment, body, theme),
        View::Findings => findings::lines(state, moment, theme),
        View::Limits => limits::lines(state, moment, body, theme),
    };
    put_lines(frame, body, lines);
}

fn put(frame: &mut Frame<'_>, area: Rect, line: Line<'_>) {
    frame.render_widget(seen(line), area);
}

fn put_lines(frame: &mut Frame<'_>, area: Rect, lines: Vec<Line<'_>>) {
    frame.render_widget(Paragraph::new(lines.into_iter().map(seen).collect::<Vec<_>>()), area);
}

/// A line with what of it would not be seen made visible, whoever wrote it.
fn seen(mut line: Line<'_>) -> Line<'_> {
    for span in &mut line.spans {
        if let Cow::Owned(text) = visible(&span.content) {
            span.content = text.into();
        }
    }
    line
}

/// What runs, what was counted, and what was lost.
fn head_line(state: &State, moment: &Shot, theme: Theme) -> Line<'static> {
    let summary = &moment.summary;
    let totals = state.totals();
    let mut spans = vec![
        Span::styled("twtrace", theme.heading()),
        match (state.is_held(), state.has_ended()) {
            (true, _) => Span::styled(" HELD", theme.warning()),
            (_, true) => Span::styled(" END", theme.warning()),
            _ => Span::raw(""),
        },
        Span::raw(format!("  {}", summary.backend)),
        match summary.blind_spots().len() {
            0 => Span::raw(""),
            blind => Span::styled(format!(" ({blind} blind)"), theme.warning()),
        },
        Span::raw(format!(
            "  {:.0} s{}  {} entered",
            state.seconds(),
            if state.was_reset() { " since reset" } else { "" },
            count(totals.entered)
        )),
    ];
    if summary.follow_ends {
        spans.push(Span::raw(format!("  {} live", count(summary.totals.live))));
    }
    let trust = &summary.trust;
    if trust.missing > 0 {
        spans.push(Span::styled(format!("  {} MISSING", count(trust.missing)), theme.alarm()));
    }
    let mut alarms: Vec<_> = trust
        .alarms()
        .map(|(n, doubt)| format!("  {} {}", count(n), doubt.words.to_uppercase()))
        .map(|text| Span::styled(text, theme.alarm()))
        .collect();
    if trust.lost() == 0 {
        alarms.insert(0, Span::raw("  0 lost"));
    }
    spans.extend(alarms);
    Line::from(spans)
}

/// The worst finding, or that there is none.
fn worst_line(summary: &Summary, theme: Theme) -> Line<'static> {
    let Some(examined) = &summary.examined else {
        let why = if summary.follow_ends { "rows are not counted by peer" } else { "entries only" };
        return Line::styled(format!("no diagnosis: {why}"), theme.quiet());
    };
    let findings = &examined.diagnosis.findings;
    let Some(worst) = findings.first() else {
        return Line::styled("no finding: no limit is near", theme.good());
    };
    let more = match findings.len() - 1 {
        0 => String::new(),
        more => format!("(+{more}) "),
    };
    let line = format!("{} {} {more}{}", worst.id, worst.severity.as_str(), worst.summary);
    let style = match worst.severity {
        Severity::Critical => theme.alarm(),
        Severity::Warning => theme.warning(),
        Severity::Notice => theme.plain(),
    };
    Line::styled(line, style)
}

/// The views, the one shown marked; and what of the rows is shown.
fn tabs_line(state: &State, theme: Theme) -> Line<'static> {
    let mut spans = Vec::new();
    for (index, (view, name)) in View::ALL.iter().enumerate() {
        let shown = *view == state.view() || (state.view() == View::Peer && *view == View::Peers);
        let style = if shown { theme.selected() } else { theme.plain() };
        spans.push(Span::styled(format!(" {} {name} ", index + 1), style));
    }
    let only = state.moment().map(|moment| &moment.summary.selection);
    let only = only.filter(|only| !only.is_any()).map(ToString::to_string);
    let typed = Some(state.filter().text().to_owned()).filter(|text| !text.is_empty());
    let filters: Vec<String> = only.into_iter().chain(typed).collect();
    if !filters.is_empty() {
        spans.push(Span::styled(format!("  only: {}", filters.join("; ")), theme.warning()));
    }
    Line::from(spans)
}

/// The keys, or the filter being typed and what is wrong with it.
fn foot_lines(state: &State, theme: Theme) -> Vec<Line<'static>> {
    if let Some(typed) = state.filter().typed() {
        let cursor = Span::styled(" ", theme.selected());
        let mut lines = vec![Line::from(vec![Span::raw(format!("/{typed}")), cursor])];
        if let Some((column, expected)) = state.filter().error() {
            let error = format!("{:width$}^ {expected}", "", width = column + 1);
            lines.push(Line::styled(error, theme.warning()));
        }
        return lines;
    }
    if state.asked_to_quit() {
        return vec![Line::styled("q again ends twtrace, any other key goes on", theme.warning())];
    }
    let keys = match state.view() {
        View::Peers => "Enter open  / filter  s/S sort  a group  n rows  p hold  r reset",
        View::Peer => "Esc back  p hold  r reset",
        View::Events => "j/k scroll  / filter  p hold",
        View::Findings => "j/k scroll  p hold",
        View::Limits => "p hold",
    };
    vec![Line::styled(format!("? help  q quit  {keys}"), theme.quiet())]
}
