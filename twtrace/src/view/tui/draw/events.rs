//! The latest events, newest first.

use std::time::SystemTime;

use ratatui::{
    layout::Rect,
    text::{Line, Span},
};

use super::parts::{Theme, fitted};
use crate::{
    event::Event,
    filter::{Socket, Verdict},
    view::{
        events::{endpoint, name},
        tui::state::{Moment, State},
    },
};

/// The events that the filter lets through, or may.
pub fn shown<'a>(state: &'a State, moment: &'a Moment) -> impl Iterator<Item = &'a Event> {
    moment.events.iter().filter(|event| {
        let filter = state.filter().expr();
        filter.is_any() || filter.matches(&Socket::from(*event)) != Verdict::No
    })
}

/// As many as there is room for.
pub fn lines(state: &State, moment: &Moment, area: Rect, theme: Theme) -> Vec<Line<'static>> {
    let heading = format!("{:<12} {:<7} {:<44} WHAT", "TIME (UTC)", "EVENT", "LOCAL > REMOTE");
    let mut lines = vec![Line::styled(heading, theme.heading())];
    let room = usize::from(area.height).saturating_sub(1);
    let events = shown(state, moment).skip(state.scroll()).take(room);
    lines.extend(events.map(|event| line(state, moment, event, theme)));
    if lines.len() == 1 {
        lines.push(Line::raw("no event yet"));
    }
    lines
}

/// One event.
pub fn line(state: &State, moment: &Moment, event: &Event, theme: Theme) -> Line<'static> {
    let flow = event.flow();
    let flow = format!(
        "{} > {}",
        endpoint(flow.local, flow.local_port),
        endpoint(flow.remote, flow.remote_port)
    );
    let style = match event {
        Event::Entered(_) => theme.plain(),
        Event::Present(_) => theme.quiet(),
        Event::Ended(_) => theme.good(),
    };
    let width = flow.chars().count().max(44);
    Line::from(vec![
        Span::raw(format!("{} ", time(moment.clock.wall(event.mono_ns())))),
        Span::styled(format!("{:<7} ", name(event)), style),
        Span::raw(fitted(&flow, width)),
        Span::raw(format!(" {}", state.writer.detail(event))),
    ])
}

/// The time of day to the millisecond.
fn time(wall: SystemTime) -> String {
    let stamp = humantime::format_rfc3339_millis(wall).to_string();
    stamp.get(11..23).unwrap_or(&stamp).to_owned()
}
