//! Assertions whose failure shows which step it was, what was expected and what came, as blocks.

use std::fmt::Debug;
use std::panic::Location;

use anyhow::{Result, bail};

/// Fails unless `got` equals `want`, and then shows both in full.
#[track_caller]
pub fn equal<T: Debug + PartialEq>(what: &str, want: &T, got: &T) -> Result<()> {
    if want == got {
        return Ok(());
    }
    let step = Location::caller();
    let short = format!("{want:?} expected, {got:?} came");
    if short.len() < 80 {
        // Whoever quotes the first line only quotes all of it.
        bail!("{what}: {short}, at {step}");
    }
    bail!("{what}: not as expected, at {step}\n--- expected\n{want:#?}\n--- got\n{got:#?}\n---");
}

/// Fails with `what` unless `holds`.
#[track_caller]
pub fn that(holds: bool, what: impl FnOnce() -> String) -> Result<()> {
    if !holds {
        bail!("{}\nat {}", what(), Location::caller());
    }
    Ok(())
}
