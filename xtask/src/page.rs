//! Documents of which parts are written by a program, between markers.

use anyhow::{Context as _, Result};

/// Puts a text between the markers of that name.
pub fn fill(page: &str, name: &str, text: &str) -> Result<String> {
    let (begin, end) = (format!("<!-- begin {name} -->\n"), format!("<!-- end {name} -->"));
    let (before, rest) =
        page.split_once(&begin).with_context(|| format!("there is no place for {name}"))?;
    let (_, after) = rest.split_once(&end).with_context(|| format!("{name} does not end"))?;
    Ok(format!("{before}{begin}{text}{end}{after}"))
}
