//! The latest events, newest first.

use std::time::SystemTime;

use ratatui::{
    layout::Rect,
    text::{Line, Span},
};

use twtrace_common::TCP_FIN_WAIT2;

use super::parts::Theme;
use crate::{
    event::Event,
    view::{
        columns::{endpoint, name},
        tui::state::{Shot, State},
    },
};

/// As many as there is room for.
pub fn lines(state: &State, moment: &Shot, area: Rect, theme: Theme) -> Vec<Line<'static>> {
    let room = usize::from(area.height).saturating_sub(1);
    let events: Vec<&Event> = state.events(moment).skip(state.scroll()).take(room).collect();
    let mut lines = list(state, moment, &events, theme);
    if events.is_empty() {
        lines.push(Line::raw("no event yet"));
    }
    lines
}

/// A heading and the events, connections one below the other.
pub fn list(state: &State, moment: &Shot, events: &[&Event], theme: Theme) -> Vec<Line<'static>> {
    let flows: Vec<String> = events.iter().map(|event| flow(event)).collect();
    let widest = flows.iter().map(|flow| flow.chars().count()).max().unwrap_or(0).max(14);
    let heading = format!("{:<12} {:<7} {:<widest$} WHAT", "TIME (UTC)", "EVENT", "LOCAL > REMOTE");
    let lines = events.iter().zip(flows).map(|(event, flow)| {
        let style = match event {
            Event::Entered(_) => theme.plain(),
            Event::Present(_) => theme.quiet(),
            Event::Ended(_) => theme.good(),
            Event::Failed(_) => theme.alarm(),
        };
        let state_word = if event.header().state == TCP_FIN_WAIT2 { "FIN_WAIT2, " } else { "" };
        Line::from(vec![
            Span::raw(format!("{} ", time(moment.clock.wall(event.mono_ns())))),
            Span::styled(format!("{:<7} ", name(event)), style),
            Span::raw(format!("{flow:<widest$} {state_word}{}", state.writer.detail(event))),
        ])
    });
    std::iter::once(Line::styled(heading, theme.heading())).chain(lines).collect()
}

/// The connection.
fn flow(event: &Event) -> String {
    let flow = event.flow();
    let local = endpoint(flow.local, flow.local_port);
    format!("{local} > {}", endpoint(flow.remote, flow.remote_port))
}

/// The time of day to the millisecond.
fn time(wall: SystemTime) -> String {
    let stamp = humantime::format_rfc3339_millis(wall).to_string();
    stamp.get(11..23).unwrap_or(&stamp).to_owned()
}
