//! What shows how far something is while it says nothing itself.
//!
//! On a terminal that is a line below all others, which goes when it is done. Elsewhere, as in
//! logs, it is one line at the beginning.

use std::{sync::LazyLock, time::Duration};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::process::say;

/// The lines of everything that goes on, on stderr.
static SCREEN: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Time between two pictures of the wheel that shows it goes on.
const TICK: Duration = Duration::from_millis(200);

/// Wheel, what it is, for how long, and how far it is.
const TEMPLATE: &str = "{spinner} {prefix}, {elapsed}{msg}";

/// Prints something with the lines out of the way.
pub fn above<T>(print: impl FnOnce() -> T) -> T {
    SCREEN.suspend(print)
}

/// Something that goes on until this is dropped.
pub struct Ongoing(ProgressBar);

impl Ongoing {
    /// Shows what it is, and for how long it has gone on.
    pub fn begin(what: impl Into<String>) -> Self {
        let what = what.into();
        let bar = SCREEN.add(ProgressBar::new_spinner());
        if bar.is_hidden() {
            say!("{what} ...");
        }
        let style = ProgressStyle::with_template(TEMPLATE);
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        bar.set_prefix(what);
        bar.enable_steady_tick(TICK);
        Self(bar)
    }

    /// Shows how far it is.
    pub fn tell(&self, how_far: &str) {
        self.0.set_message(format!(": {how_far}"));
    }
}

impl Drop for Ongoing {
    fn drop(&mut self) {
        self.0.finish_and_clear();
        SCREEN.remove(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_understood_by_what_draws_it() {
        assert!(ProgressStyle::with_template(TEMPLATE).is_ok());
    }
}
