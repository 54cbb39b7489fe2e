//! `twtrace diagnose`.

use std::{
    io::{self, BufWriter, Write},
    process::ExitCode,
    time::Duration,
};

use super::{SessionError, gather::gather};
use crate::{
    cli::DiagnoseArgs,
    summary::RowChoice,
    view::{self, ReportFormat, style::Palette},
};

/// How long is observed when the user does not say: long enough for a rate.
pub(super) const OBSERVE: Duration = Duration::from_secs(15);

/// Observes for a while, then says what is wrong, or how far every limit is.
///
/// # Errors
/// [`SessionError`].
pub async fn diagnose(args: &DiagnoseArgs, palette: Palette) -> Result<ExitCode, SessionError> {
    let summary = gather(&args.observe, None, Some(OBSERVE), RowChoice::default()).await?;
    let mut out = BufWriter::new(io::stdout().lock());
    match args.output {
        ReportFormat::Json => view::diagnosis::write_json(&mut out, &summary)?,
        ReportFormat::Text => view::diagnosis::write(&mut out, &summary, palette)?,
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
