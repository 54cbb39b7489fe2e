//! `twtrace check`: a monitoring plugin.
//!
//! One line on stdout and the exit code say all, whatever happens: 0 OK, 1 WARNING, 2 CRITICAL,
//! 3 UNKNOWN.

use std::{
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use super::{SessionError, gather::gather};
use crate::{
    cli::CheckArgs,
    summary::{RowChoice, Summary},
    view::check::{self, Status},
};

/// How long is observed when the user does not say; plugins are expected to be quick.
const OBSERVE: Duration = Duration::from_secs(5);

/// Observes for a moment and compares the worst share of a limit with the thresholds.
///
/// # Errors
/// Writing the line failed; everything else is UNKNOWN and not an error.
pub async fn check(args: &CheckArgs) -> Result<ExitCode, SessionError> {
    let (status, line) = match summary(args).await {
        Ok(summary) => check::line(&summary, args.warn, args.crit),
        Err(error) => (Status::Unknown, check::unknown(&error.to_string())),
    };
    writeln!(io::stdout(), "{line}")?;
    Ok(ExitCode::from(status as u8))
}

async fn summary(args: &CheckArgs) -> Result<Summary, SessionError> {
    if args.warn > args.crit {
        return Err(SessionError::Usage("--warn must not be above --crit".into()));
    }
    gather(&args.observe, None, Some(OBSERVE), RowChoice::default()).await
}
