//! The few colours used, and when.

use anstyle::{AnsiColor, Style};

/// Whether and how text is emphasised.
#[derive(Clone, Copy, Debug, Default)]
pub struct Palette {
    coloured: bool,
}

impl Palette {
    /// No escape sequence at all.
    pub const PLAIN: Self = Self { coloured: false };
    /// The terminal's own sixteen colours.
    pub const COLOURED: Self = Self { coloured: true };

    /// Whether colours may be used.
    pub const fn is_coloured(self) -> bool {
        self.coloured
    }

    /// Headings.
    pub fn heading(self, text: impl std::fmt::Display) -> String {
        self.paint(Style::new().bold(), text)
    }

    /// Something a person should look at.
    pub fn warning(self, text: impl std::fmt::Display) -> String {
        self.paint(Style::new().fg_color(Some(AnsiColor::Yellow.into())), text)
    }

    /// Something is wrong with the figures themselves.
    pub fn alarm(self, text: impl std::fmt::Display) -> String {
        self.paint(Style::new().bold().fg_color(Some(AnsiColor::Red.into())), text)
    }

    fn paint(self, style: Style, text: impl std::fmt::Display) -> String {
        if self.coloured { format!("{style}{text}{style:#}") } else { text.to_string() }
    }
}
