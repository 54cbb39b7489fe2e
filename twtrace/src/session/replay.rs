//! `twtrace replay`: `watch` over a recording.

use std::{io::IsTerminal, process::ExitCode};

use super::{SessionError, watch::watch};
use crate::{cli::ReplayArgs, view::style::Palette};

/// Shows a recording as `watch` would have shown it.
///
/// # Errors
/// [`SessionError`].
pub async fn replay(args: &ReplayArgs, palette: Palette) -> Result<ExitCode, SessionError> {
    let mut watched = args.watch.clone();
    watched.observe.replay = Some(args.file.clone());
    if watched.observe.speed.is_none() && std::io::stdout().is_terminal() {
        // To be looked at; into a file or a pipe it goes as fast as it can.
        watched.observe.speed = Some(1.0);
    }
    watch(&watched, palette).await
}
