//! `twtrace peer`.

use std::process::ExitCode;

use super::{
    SessionError,
    gather::{Question, gather},
};
use crate::{
    cli::PeerArgs,
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
    let question = Question {
        peer: Some(args.peer),
        keep: args.keep.clone(),
        names: args.names.clone(),
        ..Question::default()
    };
    gather(&args.observe, question, |out, summary| match args.output {
        Format::Json => view::json::write_pretty(out, summary),
        _ => view::peer::write(out, summary, palette),
    })
    .await?;
    Ok(ExitCode::SUCCESS)
}
