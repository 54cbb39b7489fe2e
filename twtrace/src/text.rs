//! Running text on 80 columns, and text of others.
//!
//! Names of hosts, control groups and namespaces, what recordings and files hold, other processes'
//! command lines: whoever chose them chose the bytes too. Everything that people read goes through
//! [`visible`], so that none of it moves the cursor, forges a line or turns the reading direction
//! around. JSON, CSV, Parquet and metrics give it as it is, by their own rules.

use std::{
    borrow::Cow,
    io::{self, Write},
};

/// Columns of the narrowest terminal in use.
pub const COLUMNS: usize = 80;

/// Shortest unit that is a word: `s` and `ms` have no singular.
const WORD: usize = 3;

/// So many of what is counted: `2 sockets`, `1 socket`.
pub fn counted(count: u64, many: &str) -> String {
    if count == 1 { format!("1 {}", one(many)) } else { format!("{count} {many}") }
}

/// The singular of what is counted, with `/s` behind it or without.
pub fn one(many: &str) -> Cow<'_, str> {
    let (noun, per) = many.split_at(many.find('/').unwrap_or(many.len()));
    match (noun.strip_suffix("ies"), noun.strip_suffix('s')) {
        _ if noun.len() < WORD => many.into(),
        (Some(stem), _) => format!("{stem}y{per}").into(),
        (None, Some(stem)) => format!("{stem}{per}").into(),
        (None, None) => many.into(),
    }
}

/// The verb for so many.
pub const fn are(count: u64) -> &'static str {
    if count == 1 { "is" } else { "are" }
}

/// A text with what would not be seen made visible: control characters (C0 and C1, line ends among
/// them), those that turn the reading direction, and those of no width.
pub fn visible(text: &str) -> Cow<'_, str> {
    made_visible(text, is_harmless)
}

/// The same for a text of several lines that are our own.
pub fn visible_lines(text: &str) -> Cow<'_, str> {
    made_visible(text, |char| char == '\n' || is_harmless(char))
}

fn made_visible(text: &str, harmless: impl Fn(char) -> bool) -> Cow<'_, str> {
    if text.chars().all(&harmless) {
        return Cow::Borrowed(text);
    }
    let mut seen = String::with_capacity(text.len() + 16);
    for char in text.chars() {
        if harmless(char) { seen.push(char) } else { seen.extend(char.escape_default()) }
    }
    Cow::Owned(seen)
}

/// Whether a terminal shows a character where it stands.
fn is_harmless(char: char) -> bool {
    let unseen = matches!(
        char,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}'
    );
    !char.is_control() && !unseen
}

/// Writes text with `first` before its first line and blanks as wide before the others, broken
/// between words.
pub fn wrapped(out: &mut impl Write, first: &str, text: &str) -> io::Result<()> {
    let indent = first.chars().count();
    let mut line = first.to_owned();
    let mut width = indent;
    let mut empty = true;
    for word in text.split_whitespace() {
        let word = visible(word);
        let length = word.chars().count();
        if !empty && width + 1 + length > COLUMNS {
            writeln!(out, "{}", line.trim_end())?;
            line = " ".repeat(indent);
            width = indent;
            empty = true;
        }
        if !empty {
            line.push(' ');
            width += 1;
        }
        line.push_str(&word);
        width += length;
        empty = false;
    }
    writeln!(out, "{}", line.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_them_is_in_the_singular() {
        assert_eq!([counted(1, "sockets"), counted(0, "sockets")], ["1 socket", "0 sockets"]);
        assert_eq!([counted(1, "entries"), counted(2, "entries")], ["1 entry", "2 entries"]);
        let units = ["connections/s", "ms", "s", "", "calls"].map(one);
        assert_eq!(units, ["connection/s", "ms", "s", "", "call"]);
    }

    #[test]
    fn lines_break_between_words_and_hang_below_the_first() {
        let mut out = Vec::new();
        wrapped(&mut out, "  Do: ", &"word ".repeat(20)).unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(lines.iter().all(|line| line.len() <= COLUMNS));
        assert!(lines[1].starts_with("      word"));
    }

    #[test]
    fn what_would_not_be_seen_or_would_do_something_is_made_visible() {
        assert_eq!(visible("größe 測試 10.0.0.1"), "größe 測試 10.0.0.1");
        assert_eq!(visible("a\x1b]0;title\x07b"), "a\\u{1b}]0;title\\u{7}b");
        assert_eq!(visible("\u{9b}2J"), "\\u{9b}2J", "C1 begins a sequence as well");
        assert_eq!(visible("one\r\ntwo\tthree\0"), "one\\r\\ntwo\\tthree\\u{0}");
        assert_eq!(visible("\u{202e}gpj\u{2066}\u{2028}"), "\\u{202e}gpj\\u{2066}\\u{2028}");
        assert_eq!(visible_lines("one\ntwo\x1b"), "one\ntwo\\u{1b}");
    }

    #[test]
    fn a_word_longer_than_a_line_is_left_whole() {
        let mut out = Vec::new();
        wrapped(&mut out, "", &"x".repeat(100)).unwrap();
        assert_eq!(out.len(), 101);
    }
}
