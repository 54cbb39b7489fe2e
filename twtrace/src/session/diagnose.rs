//! `twtrace diagnose`.

use std::{process::ExitCode, time::Duration};

use super::{
    SessionError,
    gather::{Question, gather},
};
use crate::{
    cli::DiagnoseArgs,
    view::{self, ReportFormat, style::Palette},
};

/// How long is observed when the user does not say: long enough for a rate.
pub(super) const OBSERVE: Duration = Duration::from_secs(15);

/// Observes for a while, then says what is wrong, or how far every limit is.
///
/// # Errors
/// [`SessionError`].
pub async fn diagnose(args: &DiagnoseArgs, palette: Palette) -> Result<ExitCode, SessionError> {
    let question = Question {
        usual: Some(OBSERVE),
        keep: args.keep.clone(),
        names: args.names.clone(),
        ..Question::default()
    };
    gather(&args.observe, question, |out, summary| match args.output {
        ReportFormat::Json => view::diagnosis::write_json(out, summary),
        ReportFormat::Text => view::diagnosis::write(out, summary, palette),
    })
    .await?;
    Ok(ExitCode::SUCCESS)
}
