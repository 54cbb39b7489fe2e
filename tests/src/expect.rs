//! Assertions whose failure shows what was expected and what came, as blocks.

use std::fmt::Debug;

use anyhow::{Result, bail};

/// Fails unless `got` equals `want`, and then shows both in full.
pub fn equal<T: Debug + PartialEq>(what: &str, want: &T, got: &T) -> Result<()> {
    if want == got {
        return Ok(());
    }
    bail!("{what}: not as expected\n--- expected\n{want:#?}\n--- got\n{got:#?}\n---");
}

/// Fails with `what` unless `holds`.
pub fn that(holds: bool, what: impl FnOnce() -> String) -> Result<()> {
    if !holds {
        bail!("{}", what());
    }
    Ok(())
}
