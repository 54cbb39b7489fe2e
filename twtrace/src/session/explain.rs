//! `twtrace explain`.

use std::process::ExitCode;

use super::{
    SessionError,
    diagnose::OBSERVE,
    gather::{Question, gather},
};
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
    let question = Question {
        peer: Some(args.peer),
        usual: Some(OBSERVE),
        choice: RowChoice { with_past: true, ..RowChoice::default() },
        keep: args.keep.clone(),
        names: args.names.clone(),
    };
    gather(&args.observe, question, |out, summary| match args.output {
        ReportFormat::Json => view::diagnosis::write_json(out, summary),
        ReportFormat::Text => view::explain::write(out, summary, palette),
    })
    .await?;
    Ok(ExitCode::SUCCESS)
}
