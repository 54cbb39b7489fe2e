//! Facts of the host that the kernel programs do not send.
//!
//! Each reader takes the root it reads below, so that tests read fixtures. What is true of one
//! network namespace only is read by a thread inside it.
//!
//! The crate procfs (0.18, three crates) could take a dozen of these lines over, those of `statm` and
//! `file-nr`: it knows neither the network's sysctls nor `netstat` nor `sockstat`, and of `net/tcp` it
//! makes a list without the timers, which tell a FIN_WAIT2 mini-socket from an orphan.

pub mod cgroup;
pub mod configured;

pub mod facts;
pub mod files;
pub mod nat;
pub mod netstat;
pub mod open;
pub mod owners;
pub mod process;
pub mod sockets;
pub mod sysctl;

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

/// A fact that could not be read; the message names the file.
#[derive(Debug, thiserror::Error)]
pub enum HostFactError {
    /// The file is there and cannot be read.
    #[error("cannot read {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file holds something else than it should.
    #[error("{path} holds {text:?}, which is not {wanted}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What it holds, its beginning.
        text: String,
        /// What was expected, with an article.
        wanted: &'static str,
    },
}

impl HostFactError {
    /// A file whose text is not what it should be.
    fn malformed(path: &Path, text: &str, wanted: &'static str) -> Self {
        let text = text.trim().chars().take(40).collect();
        Self::Malformed { path: path.to_owned(), text, wanted }
    }
}

/// Bytes that the largest file read whole, `netstat`, has not quite.
const ROOM: usize = 1 << 13;

/// A file's text; `None` if there is no such file, which is how kernels say that they lack it.
fn text(path: &Path) -> Result<Option<String>, HostFactError> {
    // The files are said to have no bytes: with no room to begin with they would be read in ten steps.
    let mut text = String::with_capacity(ROOM);
    match fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text)) {
        Ok(_) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(HostFactError::Unreadable { path: path.to_owned(), source }),
    }
}
