//! What is wrong with an expression, and where.

use std::fmt;

/// A text that is no expression. Its display is of three lines: what was expected, the text, and a
/// caret below the place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct FilterError {
    /// The text.
    pub text: String,
    /// Column of the first character that does not fit, from 0; the text's length at its end.
    pub column: usize,
    /// What would fit there.
    pub expected: &'static str,
}

impl FilterError {
    /// The error at a byte offset of `text`.
    pub(super) fn at(text: &str, offset: usize, expected: &'static str) -> Self {
        let column = text.char_indices().take_while(|(at, _)| *at < offset).count();
        Self { text: text.to_owned(), column, expected }
    }
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Tabs and line ends would move the caret.
        let text: String =
            self.text.chars().map(|char| if char.is_control() { ' ' } else { char }).collect();
        writeln!(f, "expected {}", self.expected)?;
        writeln!(f, "  {text}")?;
        write!(f, "  {:column$}^", "", column = self.column)
    }
}

/// A name in an expression that stands for nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {name}: {why}")]
pub struct BindError {
    /// `netns` or `cgroup`.
    pub what: &'static str,
    /// The name.
    pub name: String,
    /// Why it was not found.
    pub why: String,
}
