//! `twtrace explain`.

use std::{
    io::{self, BufWriter, Write},
    process::ExitCode,
};

use super::{SessionError, diagnose::OBSERVE, gather::gather};
use crate::{
    cli::ExplainArgs,
    summary::RowChoice,
    view::{self, ReportFormat, style::Palette},
};

/// Observes one peer for a while, then tells its history and what is wrong with it.
///
/// # Errors
/// [`SessionError`].
pub async fn explain(args: &ExplainArgs, palette: Palette) -> Result<ExitCode, SessionError> {
    let summary = gather(
        &args.observe,
        Some(args.peer),
        Some(OBSERVE),
        RowChoice { with_past: true, ..RowChoice::default() },
    )
    .await?;
    let mut out = BufWriter::new(io::stdout().lock());
    match args.output {
        ReportFormat::Json => view::diagnosis::write_json(&mut out, &summary)?,
        ReportFormat::Text => view::history::write(&mut out, &summary, palette)?,
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
