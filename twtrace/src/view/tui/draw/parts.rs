//! Colours, bars and numbers that several views use.

use ratatui::style::{Color, Modifier, Style};

/// How things are emphasised: with the terminal's own sixteen colours, or without any.
#[derive(Clone, Copy, Debug)]
pub struct Theme {
    /// Whether colours may be used.
    pub coloured: bool,
}

impl Theme {
    fn colour(self, colour: Color, otherwise: Modifier) -> Style {
        if self.coloured { Style::new().fg(colour) } else { Style::new().add_modifier(otherwise) }
    }

    /// Ordinary text.
    pub const fn plain(self) -> Style {
        Style::new()
    }

    /// Headings.
    pub const fn heading(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    /// What is chosen.
    pub const fn selected(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    /// What one need not read.
    pub const fn quiet(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    /// What is as it should be.
    pub fn good(self) -> Style {
        self.colour(Color::Green, Modifier::empty())
    }

    /// What a person should look at.
    pub fn warning(self) -> Style {
        self.colour(Color::Yellow, Modifier::BOLD)
    }

    /// What is wrong.
    pub fn alarm(self) -> Style {
        self.colour(Color::Red, Modifier::REVERSED).add_modifier(Modifier::BOLD)
    }

    /// By how much of a limit is used.
    pub fn share(self, share: f64) -> Style {
        match share {
            share if share >= 0.9 => self.alarm(),
            share if share >= 0.7 => self.warning(),
            _ => self.good(),
        }
    }
}

/// Eight heights.
const STEPS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// The last `width` values as a line of columns, the highest being the full height; what there was
/// before the first value is blank, and so is nothing at all.
pub fn spark(values: impl DoubleEndedIterator<Item = f64>, width: usize) -> String {
    let mut last: Vec<f64> = values.rev().take(width).collect();
    last.reverse();
    let highest = last.iter().copied().fold(0.0, f64::max);
    let columns = last.iter().map(|value| match (value / highest * 8.0).ceil() as usize {
        0 => ' ',
        height => STEPS[height.min(8) - 1],
    });
    let blank = width - last.len();
    std::iter::repeat_n(' ', blank).chain(columns).collect()
}

/// Divides `width` characters as the counts are. A part that is not 0 shows, if there is room; with
/// nothing to divide all are 0.
pub fn parts<const N: usize>(counts: [u64; N], width: usize) -> [usize; N] {
    let all: u128 = counts.iter().map(|count| u128::from(*count)).sum();
    if all == 0 {
        return [0; N];
    }
    let mut widths = counts.map(|count| {
        let exact = (u128::from(count) * width as u128 / all) as usize;
        exact.max(usize::from(count > 0))
    });
    while let (sum, Some(widest)) = (widths.iter().sum::<usize>(), widths.iter_mut().max()) {
        match sum.cmp(&width) {
            std::cmp::Ordering::Less => *widest += 1,
            std::cmp::Ordering::Equal => break,
            std::cmp::Ordering::Greater => *widest -= 1,
        }
    }
    widths
}

/// How full something is, as a bar of `width` characters.
pub fn gauge(share: f64, width: usize) -> String {
    let filled = ((share.clamp(0.0, 1.0) * width as f64).round() as usize).min(width);
    let filled = filled.max(usize::from(share > 0.0 && width > 0));
    "█".repeat(filled) + &"░".repeat(width - filled)
}

/// A count in at most eight characters: exact below a hundred million.
pub fn count(count: u64) -> String {
    match count {
        0..100_000_000 => count.to_string(),
        100_000_000..100_000_000_000 => format!("{}M", count / 1_000_000),
        _ => format!("{}G", count / 1_000_000_000),
    }
}

/// A rate in at most five characters.
pub fn rate(rate: f64) -> String {
    match rate {
        rate if rate >= 99_999.5 => format!("{:.0}k", rate / 1000.0),
        rate if rate >= 10.0 || rate == 0.0 => format!("{rate:.0}"),
        rate => format!("{rate:.1}"),
    }
}

/// The text in exactly `width` columns: cut, or filled up with blanks. Names are in ASCII, and one
/// that is not is cut by characters.
pub fn fitted(text: &str, width: usize) -> String {
    let long = text.chars().count() > width;
    let kept: String =
        text.chars().take(if long { width.saturating_sub(1) } else { width }).collect();
    let kept = if long && width > 0 { kept + "…" } else { kept };
    format!("{kept:<width$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_values_are_at_the_right_end() {
        assert_eq!(spark([1.0, 8.0, 0.0, 4.0].into_iter(), 3), "█ ▄");
        assert_eq!(spark([8.0, 1.0].into_iter(), 4), "  █▁");
        assert_eq!(spark([0.0, 0.0].into_iter(), 2), "  ");
    }

    #[test]
    fn a_bar_is_as_wide_as_asked_and_hides_no_part() {
        assert_eq!(parts([1, 1], 4), [2, 2]);
        assert_eq!(parts([1, 999_999, 0], 4), [1, 3, 0]);
        assert_eq!(parts([0, 0], 3), [0, 0]);
        assert_eq!(parts([1, 1, 1], 8).iter().sum::<usize>(), 8);
        assert_eq!(parts([u64::MAX, 1, u64::MAX], 3), [1, 1, 1]);
        assert_eq!(parts([5, 5], 0), [0, 0]);
    }

    #[test]
    fn numbers_stay_within_their_columns() {
        assert_eq!(count(99_999_999), "99999999");
        assert_eq!(count(100_000_000), "100M");
        assert_eq!(count(u64::MAX).len(), 12, "seven hundred years of a million a second");
        assert_eq!([rate(0.0), rate(0.26), rate(9.94), rate(412.4)], ["0", "0.3", "9.9", "412"]);
        assert_eq!(rate(1_234_567.0), "1235k");
        assert_eq!(fitted("2001:db8::2", 6), "2001:…");
        assert_eq!(gauge(0.001, 4), "█░░░");
        assert_eq!(gauge(7.0, 2), "██");
    }
}
