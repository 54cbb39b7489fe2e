//! One-shot runs: a pipeline from attach to the last summary.

mod check;
mod diagnose;
mod explain;
mod export;
mod full_screen;
mod gather;
pub mod log;
mod observe;
mod peer;
mod progress;
mod record;
mod remote;
mod replay;
mod report;
mod stop;
mod support;
mod watch;
mod what_if;

use std::{io, path::PathBuf};

pub use check::check;
pub use diagnose::diagnose;
pub use explain::explain;
pub use export::export;
pub use full_screen::FullScreen;
pub use peer::peer;
pub use record::record;
pub use remote::DaemonError;
pub use replay::replay;
pub use report::report;
pub use support::support;
pub use watch::watch;
pub use what_if::what_if;

use crate::{
    filter::FilterError, kernel::KernelError, pipeline::PipelineError, recording::ReadError,
    text::visible,
};

/// Why a session failed.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The kernel side.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// A recording that cannot be read.
    #[error("{}: {error}", visible(&path.display().to_string()))]
    Recording {
        /// The file.
        path: PathBuf,
        /// Why.
        error: ReadError,
    },
    /// A recording or a feed that is damaged or cut off. What comes before, if there is anything to
    /// be said of it, was shown.
    #[error("{}: {problem}", visible(&path.display().to_string()))]
    Broken {
        /// The file or socket.
        path: PathBuf,
        /// Where and why.
        problem: String,
    },
    /// A daemon that was to be asked.
    #[error(transparent)]
    Daemon(#[from] remote::DaemonError),
    /// A file of names that cannot be read.
    #[error(transparent)]
    Names(#[from] crate::names::Unreadable),
    /// Taking things in.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    /// Writing the output.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
    /// The command to trace could not be run.
    #[error("cannot run {command}: {source}")]
    Command {
        /// The command's name.
        command: String,
        /// Why.
        source: io::Error,
    },
    /// Signals could not be listened for.
    #[error("cannot listen for signals: {0}")]
    Signals(#[source] io::Error),
    /// A filter expression that is none.
    #[error("the filter is wrong: {0}")]
    Filter(#[from] FilterError),
    /// Two settings that do not go together.
    #[error("{0}")]
    Usage(String),
}

impl SessionError {
    /// Whether the reader of the output went away, which ends a session quietly.
    pub fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}
