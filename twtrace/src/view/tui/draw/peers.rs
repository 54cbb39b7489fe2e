//! The rows.

use ratatui::{
    layout::Rect,
    text::{Line, Span},
};

use super::parts::{Theme, count, fitted, parts, rate, spark};
use crate::{
    path::{Block, Class},
    peer::Counts,
    summary::{Row, SortKey},
    view::{
        table,
        tui::state::{Shot, State},
    },
};

/// How a row's ends are drawn: on the fast path, after 2MSL, otherwise.
const GLYPHS: [&str; 3] = ["█", "▒", "·"];

/// Widths of the columns, by that of the screen.
struct Columns {
    name: usize,
    spark: usize,
    bar: usize,
    /// Whether there is room for numbers beside the bar, and for reasons in full.
    wide: bool,
    why: usize,
}

impl Columns {
    fn of(width: usize, longest_name: usize) -> Self {
        let wide = width >= 120;
        let (spark, bar) = if wide { (20, 12) } else { (10, 8) };
        // Rate, entered, live, timestamps, and the blanks between; fast and 2MSL when wide.
        let fixed = 5 + 8 + 7 + 4 + 7 + spark + bar + if wide { 18 } else { 0 };
        let left = width.saturating_sub(fixed);
        let name = longest_name.clamp(14, left.saturating_sub(10).max(14));
        Self { name, spark, bar, wide, why: left.saturating_sub(name) }
    }
}

/// The heading and as many rows as there is room for, on the page where the selected one is.
pub fn lines(state: &State, moment: &Shot, area: Rect, theme: Theme) -> Vec<Line<'static>> {
    let rows = state.rows();
    let names = table::RowNames::of(&moment.summary);
    let names: Vec<String> = rows.iter().map(|row| names.name(row)).collect();
    let longest = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    let columns = Columns::of(usize::from(area.width), longest);
    let mut lines = vec![heading(state, moment, &columns, theme)];
    let Some((selected, _)) = state.selected(&rows) else {
        let why = if moment.summary.rows.is_empty() {
            "no socket has entered TIME_WAIT yet"
        } else {
            "no row can hold sockets that match the filter (Esc takes it away)"
        };
        lines.push(Line::raw(why));
        return lines;
    };
    let owners = moment.summary.owners.read();
    let open = state.filter().open_for(&rows, &owners).map(|(rows, words)| {
        let words = format!("{rows} of these rows may hold sockets that do not match, by {words}");
        Line::styled(words, theme.warning())
    });
    let around = 2 + open.iter().len();
    let page = usize::from(area.height).saturating_sub(around).max(1);
    let first = selected / page * page;
    for (index, (row, name)) in rows.iter().zip(&names).enumerate().skip(first).take(page) {
        let mut line = line(state, moment, row, name, &columns, theme);
        if index == selected {
            line = line.style(theme.selected());
        }
        lines.push(line);
    }
    lines.resize(page + 1, Line::default());
    lines.extend(open);
    lines.push(Line::styled(footing(moment, rows.len(), first, page), theme.quiet()));
    lines
}

/// Which of the rows these are.
fn footing(moment: &Shot, rows: usize, first: usize, page: usize) -> String {
    let summary = &moment.summary;
    let mut words = format!("{}-{} of {rows} rows", first + 1, rows.min(first + page));
    let hidden = summary.rows.len() - rows;
    if hidden > 0 {
        words.push_str(&format!(", {hidden} more do not match"));
    }
    if let Some((folded, other)) = &summary.other {
        words.push_str(&format!(", {} in {folded} rows beyond (n)", count(other.counts.entered)));
    }
    format!("{words}   {} fast  {} 2MSL  {} other", GLYPHS[0], GLYPHS[1], GLYPHS[2])
}

fn heading(state: &State, moment: &Shot, columns: &Columns, theme: Theme) -> Line<'static> {
    let (sort, reversed) = state.order();
    let mark = |key: SortKey, name: &str| match (sort == key, reversed) {
        (false, _) => name.to_owned(),
        (true, false) => format!("{name}▼"),
        (true, true) => format!("{name}▲"),
    };
    let group = moment.summary.group_by.as_str().to_uppercase();
    let fast = mark(SortKey::Fast, "FAST");
    let two_msl = mark(SortKey::TwoMsl, "2MSL");
    let bar = if columns.wide {
        format!("{fast:>8} {two_msl:>8} {}", fitted("ENDS", columns.bar))
    } else {
        let bar = match sort {
            SortKey::Fast => fast,
            SortKey::TwoMsl => two_msl,
            _ => "ENDS".to_owned(),
        };
        fitted(&bar, columns.bar)
    };
    let why = match sort {
        SortKey::Refused => mark(sort, "REFUSED"),
        SortKey::Overflow => mark(sort, "OVERFLOW"),
        _ => mark(SortKey::Blocked, "WHY"),
    };
    Line::styled(
        format!(
            "{} {:<spark$} {:>5} {:>8} {:>7} {bar} {:>4} {why}",
            fitted(&mark(SortKey::Peer, &group), columns.name),
            "ENTRIES/s",
            "NOW",
            mark(SortKey::Entered, "ENTERED"),
            mark(SortKey::Live, "LIVE"),
            "TS",
            spark = columns.spark,
        ),
        theme.heading(),
    )
}

fn line(
    state: &State,
    moment: &Shot,
    row: &Row,
    name: &str,
    columns: &Columns,
    theme: Theme,
) -> Line<'static> {
    let counts = state.counts(row);
    let ends = |text: String| if moment.summary.follow_ends { text } else { "-".to_owned() };
    let series = state.series(row);
    let rates = series.into_iter().flat_map(|series| series.rates().collect::<Vec<_>>());
    let spark = spark(rates.collect::<Vec<_>>().into_iter(), columns.spark);
    let [fast, two_msl, other] = Class::ALL.map(|class| counts.class(class));
    let styles = [theme.good(), theme.warning(), theme.quiet()];
    let widths = parts([fast, two_msl, other], columns.bar);
    let bar = GLYPHS.iter().zip(widths).zip(styles);
    let bar = bar.map(|((glyph, width), style)| Span::styled(glyph.repeat(width), style));
    let blank = columns.bar - widths.iter().sum::<usize>();
    let numbers = if columns.wide {
        format!("{:>8} {:>8} ", ends(count(fast)), ends(count(two_msl)))
    } else {
        String::new()
    };
    let timestamps = match counts.with_timestamps + counts.without_timestamps {
        0 => "-".to_owned(),
        all => format!("{}%", counts.with_timestamps * 100 / all),
    };
    let why = if columns.wide { table::why(&counts) } else { short_reason(&counts) };
    let left = format!(
        "{} {spark} {:>5} {:>8} {:>7} {numbers}",
        fitted(name, columns.name),
        rate(series.map_or(0.0, super::super::series::Series::last)),
        count(counts.entered),
        ends(count(row.live)),
    );
    let why = Span::styled(fitted(&why, columns.why).trim_end().to_owned(), theme.warning());
    let mut spans = vec![Span::raw(left)];
    spans.extend(bar);
    spans.push(Span::raw(format!("{:blank$} {timestamps:>4} ", "")));
    spans.push(why);
    Line::from(spans)
}

/// The most frequent reason in few characters, and its share of the entries.
fn short_reason(counts: &Counts) -> String {
    if counts.failed.connects() > 0 {
        return format!("{} FAILED", counts.failed.connects());
    }
    let worst = Block::ALL.iter().map(|block| (counts.blocked(*block), *block));
    let Some((blocked, block)) = worst.max_by_key(|(count, _)| *count).filter(|(n, _)| *n > 0)
    else {
        return String::new();
    };
    let name = match block {
        Block::NoPeerTimestamps => "no ts",
        Block::TimestampsOff => "ts off",
        Block::ReuseOff => "reuse=0",
        Block::ReuseLoopbackOnly => "reuse=2",
        Block::FinWait2 => "no FIN",
    };
    // Reasons that are known at the end may be of sockets that entered before the counting.
    match (blocked * 100).checked_div(counts.entered) {
        Some(percent) if percent < 100 => format!("{name} {percent}%"),
        _ => name.to_owned(),
    }
}
