//! The host's daemon as a source: its feed, over HTTP on a Unix socket.

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
};

use bytes::{Buf, Bytes};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    client::conn::http1,
    header::{HOST, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, sync::mpsc};

use crate::{
    origin::Origin,
    recording::{Pace, ReadError, StreamFeed},
    text::visible,
};

/// Where the feed is.
const FEED: &str = "/v1/feed";
/// Pieces of the body that may wait to be read.
const WAITING: usize = 16;

/// Why the daemon gave no feed.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// Nobody answers at the socket.
    #[error("no daemon answers at {path}: {source}; start one, or use --daemon never")]
    NoAnswer {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// This user may not ask.
    #[error(
        "a daemon runs, but you may not use its socket {path}: ask to be put into the socket's \
         group, or use --daemon never"
    )]
    Forbidden {
        /// The socket.
        path: PathBuf,
    },
    /// It answers something else than what was asked for.
    #[error("the daemon at {path} does not give {target}: {problem}")]
    Refused {
        /// The socket.
        path: PathBuf,
        /// What was asked for.
        target: String,
        /// What it said instead.
        problem: String,
    },
    /// What it gives cannot be read.
    #[error("the feed of the daemon at {path}: {error}; is it of another version?")]
    Unreadable {
        /// The socket.
        path: PathBuf,
        /// Why.
        error: ReadError,
    },
}

/// Asks for the feed.
///
/// # Errors
/// [`DaemonError`].
pub async fn feed(path: &Path) -> Result<Body, DaemonError> {
    Ok(Body::of(ask(path, FEED).await?.into_body()))
}

/// Asks for something that is not long, as text.
///
/// # Errors
/// [`DaemonError`]; what is longer than `most` bytes is refused.
pub async fn text(path: &Path, target: &str, most: usize) -> Result<String, DaemonError> {
    let body = Limited::new(ask(path, target).await?.into_body(), most);
    let collected = body.collect().await.map_err(|error| DaemonError::Refused {
        path: path.to_owned(),
        target: target.to_owned(),
        problem: error.to_string(),
    })?;
    Ok(String::from_utf8_lossy(&collected.to_bytes()).into_owned())
}

/// Asks, and answers what begins well.
async fn ask(path: &Path, target: &str) -> Result<Response<Incoming>, DaemonError> {
    let stream = UnixStream::connect(path).await.map_err(|source| match source.kind() {
        io::ErrorKind::PermissionDenied => DaemonError::Forbidden { path: path.to_owned() },
        _ => DaemonError::NoAnswer { path: path.to_owned(), source },
    })?;
    let refused = |problem: String| DaemonError::Refused {
        path: path.to_owned(),
        target: target.to_owned(),
        problem,
    };
    let (mut client, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| refused(error.to_string()))?;
    tokio::spawn(connection);
    let request = Request::get(target)
        .header(HOST, "localhost")
        .header(USER_AGENT, concat!("twtrace/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<Bytes>::new())
        .map_err(|error| refused(error.to_string()))?;
    let response =
        client.send_request(request).await.map_err(|error| refused(error.to_string()))?;
    if response.status() != StatusCode::OK {
        let status = response.status();
        let said = response.into_body().collect().await.map(|body| body.to_bytes());
        let said = String::from_utf8_lossy(&said.unwrap_or_default()).trim().to_owned();
        let said = visible(&said);
        return Err(refused(format!("{status}: {said}")));
    }
    Ok(response)
}

/// Reads the feed's header.
///
/// # Errors
/// [`DaemonError::Unreadable`].
pub async fn open(path: &Path, body: Body) -> Result<(StreamFeed, Origin), DaemonError> {
    // The body comes through this runtime, so its reader may not keep the runtime waiting.
    let opened = tokio::task::spawn_blocking(move || StreamFeed::open(body, Pace::Unbounded)).await;
    let problem = |error| DaemonError::Unreadable { path: path.to_owned(), error };
    match opened {
        Ok(opened) => opened.map_err(problem),
        Err(error) => Err(problem(ReadError::Io { offset: 0, source: io::Error::other(error) })),
    }
}

/// A response's body, to be read on a thread.
#[derive(Debug)]
pub struct Body {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    piece: Bytes,
}

impl Body {
    /// Takes the body in on this runtime, as far ahead as there is room.
    fn of(mut body: Incoming) -> Self {
        let (sender, pieces) = mpsc::channel(WAITING);
        tokio::spawn(async move {
            while let Some(frame) = body.frame().await {
                let piece = frame.map_err(io::Error::other);
                let piece = piece.map(|frame| frame.into_data().unwrap_or_default());
                if sender.send(piece).await.is_err() {
                    break;
                }
            }
        });
        Self { pieces, piece: Bytes::new() }
    }
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.piece = piece?,
                None => return Ok(0),
            }
        }
        let length = buffer.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}
