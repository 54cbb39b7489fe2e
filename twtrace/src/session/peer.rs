//! `twtrace peer`.

use std::{
    io::{self, BufWriter, Write},
    process::ExitCode,
};

use super::{SessionError, gather::gather};
use crate::{
    cli::PeerArgs,
    summary::RowChoice,
    view::{self, Format, style::Palette},
};

/// Watches one peer until something ends it, then tells all about it.
///
/// # Errors
/// [`SessionError`].
pub async fn peer(args: &PeerArgs, palette: Palette) -> Result<ExitCode, SessionError> {
    if matches!(args.output, Format::Csv | Format::Ndjson) {
        return Err(SessionError::Usage("peer writes table or json".into()));
    }
    let summary = gather(&args.observe, Some(args.peer), None, RowChoice::default()).await?;
    let mut out = BufWriter::new(io::stdout().lock());
    match args.output {
        Format::Json => view::json::write_pretty(&mut out, &summary)?,
        _ => view::peer::write(&mut out, &summary, palette)?,
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
