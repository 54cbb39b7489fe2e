//! What is known when a scenario fails: the kernel's counters of its namespaces, and what twtrace
//! said.
//!
//! A scenario ends with the first error, and what it made goes with it; so what goes leaves its
//! last words here, for the thread that runs the scenario.

use std::cell::RefCell;
use std::fmt::Write as _;

thread_local! {
    static KEPT: RefCell<Vec<(String, String)>> = const { RefCell::new(Vec::new()) };
}

/// Last lines that are shown of each thing that was said.
const LINES: usize = 40;

/// Forgets what was kept: another scenario begins.
pub fn begin() {
    KEPT.with_borrow_mut(Vec::clear);
}

/// Keeps something for the case that the scenario fails.
pub fn keep(what: impl Into<String>, text: impl Into<String>) {
    KEPT.with_borrow_mut(|kept| kept.push((what.into(), text.into())));
}

/// The reason in a line; the error and what it came from, one below the other; and then all that was
/// kept.
pub fn of(error: &anyhow::Error) -> String {
    let whole = error.chain().map(ToString::to_string).collect::<Vec<_>>().join("\nbecause: ");
    let reason = error.root_cause().to_string();
    let reason = reason.lines().next().unwrap_or_default();
    let told = whole.lines().next() == Some(reason);
    let mut text = if told { whole } else { format!("{reason}\n{whole}") };
    KEPT.with_borrow_mut(|kept| {
        for (what, said) in kept.drain(..) {
            // Writing to a string cannot fail.
            let _ = write!(text, "\n--- {what}\n{}", last_lines(&said));
        }
    });
    text
}

fn last_lines(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    let left_out = lines.len().saturating_sub(LINES);
    let rest = lines[left_out..].join("\n");
    if left_out == 0 { rest } else { format!("({left_out} lines before)\n{rest}") }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn a_failure_shows_its_causes_and_what_was_kept_of_this_scenario_alone() {
        keep("of the one before", "gone");
        begin();
        keep("netns a", "TW 3");
        keep("twtrace", (0..50).map(|line| format!("{line}\n")).collect::<String>());
        let error = Err::<(), _>(anyhow::anyhow!("2 is not 3")).context("totals").unwrap_err();
        let text = of(&error);
        let begins = "2 is not 3\ntotals\nbecause: 2 is not 3\n--- netns a\nTW 3\n--- twtrace\n";
        assert!(text.starts_with(begins), "{text}");
        assert!(text.ends_with("\n(10 lines before)\n10\n") || text.ends_with("\n49"), "{text}");
        assert!(text.contains("(10 lines before)\n10\n"), "{text}");
        assert_eq!(of(&anyhow::anyhow!("2 is not 3\n...")), "2 is not 3\n...", "it is told once");
    }
}
