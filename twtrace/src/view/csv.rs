//! The summary as comma-separated values: one line a row, `(other)` last.

use std::{
    borrow::Cow,
    io::{self, Write},
};

use super::figures::csv_figures;
use crate::{
    needs::Needs,
    summary::{Row, Summary},
    text::visible,
};

/// Writes a header line and the rows.
///
/// # Errors
/// Those of the writer.
pub fn write(out: &mut impl Write, summary: &Summary) -> io::Result<()> {
    write!(out, "peer,role,netns,netns_cookie")?;
    csv_figures().try_for_each(|(_, name)| write!(out, ",{name}"))?;
    // Behind all others: nothing that reads the file has to move.
    if summary.peer_names.is_some() {
        write!(out, ",name")?;
    }
    writeln!(out)?;
    let known = summary.known_of_rows();
    let other = summary.other.iter().map(|(_, row)| row);
    summary.rows.iter().chain(other).try_for_each(|row| write_row(out, summary, row, known))
}

/// Writes one row; what is not known is left empty.
fn write_row(out: &mut impl Write, summary: &Summary, row: &Row, known: Needs) -> io::Result<()> {
    write!(
        out,
        "{},{},",
        quoted(&summary.label(&row.group)),
        row.group.role().map_or("", |role| role.as_str()),
    )?;
    if let Some(netns) = row.group.netns() {
        write!(out, "{netns}")?;
    }
    write!(out, ",")?;
    if let Some(cookie) = row.netns_cookie {
        write!(out, "{cookie}")?;
    }
    csv_figures().try_for_each(|(figure, _)| write!(out, ",{}", figure.value(row, known)))?;
    if summary.peer_names.is_some() {
        write!(out, ",{}", quoted(&visible(summary.peer_name(&row.group).unwrap_or_default())))?;
    }
    writeln!(out)
}

/// A text field, quoted where it must be (RFC 4180).
pub fn quoted(text: &str) -> Cow<'_, str> {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\"")).into()
    } else {
        text.into()
    }
}
