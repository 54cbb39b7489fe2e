//! Why the daemon ended.

use std::io;

use super::socket::SocketError;
use crate::{config::ConfigError, pipeline::PipelineError};

/// Why the daemon ended, or did not begin.
#[derive(Debug, thiserror::Error)]
pub enum DaemonFailure {
    /// The configuration.
    #[error(transparent)]
    DaemonConfig(#[from] ConfigError),
    /// The ways in.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The owner of the pipeline.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    /// The state could not be written at the end.
    #[error("the history is not kept: {0}")]
    State(String),
    /// Capabilities could not be given up.
    #[error("cannot give up the capabilities that only attaching needs: {0}")]
    Rights(#[from] caps::errors::CapsError),
    /// The system refused a signal handler or a thread.
    #[error("cannot {step}: {source}")]
    System {
        /// What was tried.
        step: &'static str,
        /// Why not.
        source: io::Error,
    },
}
