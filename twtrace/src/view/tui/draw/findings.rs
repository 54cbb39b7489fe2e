//! What is wrong and what to do, as `twtrace diagnose` says it.

use ratatui::text::Line;

use super::parts::Theme;
use crate::view::tui::state::{Shot, State};

/// The findings from where one has scrolled to.
pub fn lines(state: &State, moment: &Shot, theme: Theme) -> Vec<Line<'static>> {
    let text = moment.findings();
    let lines = text.lines().skip(state.scroll()).map(|line| {
        let style = match line.split_whitespace().nth(1) {
            Some("CRITICAL") => theme.alarm(),
            Some("WARNING") => theme.warning(),
            Some("NOTICE") => theme.heading(),
            _ => theme.plain(),
        };
        // Only headings begin at the margin.
        Line::styled(line.to_owned(), if line.starts_with(' ') { theme.plain() } else { style })
    });
    lines.collect()
}
