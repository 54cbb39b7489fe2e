//! `twtrace check`: a monitoring plugin.
//!
//! One line on stdout and the exit code say all, whatever happens: 0 OK, 1 WARNING, 2 CRITICAL,
//! 3 UNKNOWN.

use std::{
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use super::{
    SessionError,
    gather::{Question, gather},
};
use crate::{
    cli::CheckArgs,
    view::check::{self, Status},
};

/// How long is observed when the user does not say; plugins are expected to be quick.
const OBSERVE: Duration = Duration::from_secs(5);

/// Observes for a moment and compares the worst share of a limit with the thresholds.
///
/// # Errors
/// Writing the line failed; everything else is UNKNOWN and not an error.
pub async fn check(args: &CheckArgs) -> Result<ExitCode, SessionError> {
    let (status, line) = match observe(args).await {
        Ok(said) => said,
        Err(error) => (Status::Unknown, check::unknown(&error.to_string())),
    };
    writeln!(io::stdout(), "{line}")?;
    Ok(ExitCode::from(status as u8))
}

async fn observe(args: &CheckArgs) -> Result<(Status, String), SessionError> {
    if args.warn > args.crit {
        return Err(SessionError::Usage("--warn must not be above --crit".into()));
    }
    let question = Question { usual: Some(OBSERVE), ..Question::default() };
    gather(&args.observe, question, |_, summary| Ok(check::line(summary, args.warn, args.crit)))
        .await
}
