//! The keys, what a filter looks like, and what cannot be seen.

use ratatui::text::Line;

use super::parts::Theme;
use crate::{filter::GRAMMAR, summary::Summary};

const KEYS: &str = "\
j k ↓ ↑  select, scroll      PgDn PgUp g G  a page, first, last
Enter    all about one row   Esc  back; takes the filter away
Tab 1-4  views               p    hold the picture, go on
/        filter (see below)  r    count from now on
s S      order, direction    a    group: address, network, …, owner
n        how many rows       q q  end (Ctrl-C at once)";

/// The help, on 80 columns.
pub fn lines(summary: &Summary, theme: Theme) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    lines.extend(KEYS.lines().map(|line| Line::raw(line.to_owned())));
    lines.push(Line::styled("FILTER", theme.heading()));
    lines.extend(GRAMMAR.lines().map(|line| Line::raw(line.to_owned())));
    let blind = summary.blind_spots();
    if !blind.is_empty() {
        let heading = format!("NOT SEEN THROUGH {}", summary.backend.as_str().to_uppercase());
        lines.push(Line::styled(heading, theme.heading()));
        lines.push(Line::raw(blind.join(", ")));
    }
    lines
}
