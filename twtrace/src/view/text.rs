//! Running text on 80 columns.

use std::io::{self, Write};

/// Columns of the narrowest terminal in use.
pub const COLUMNS: usize = 80;

/// Writes text with `first` before its first line and blanks as wide before the others, broken
/// between words.
pub fn wrapped(out: &mut impl Write, first: &str, text: &str) -> io::Result<()> {
    let indent = first.chars().count();
    let mut line = first.to_owned();
    let mut width = indent;
    let mut empty = true;
    for word in text.split_whitespace() {
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
        line.push_str(word);
        width += length;
        empty = false;
    }
    writeln!(out, "{}", line.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_word_longer_than_a_line_is_left_whole() {
        let mut out = Vec::new();
        wrapped(&mut out, "", &"x".repeat(100)).unwrap();
        assert_eq!(out.len(), 101);
    }
}
