//! Answers: whole ones, in bounded memory, and streams that go on until somebody has enough.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::{
    Response, StatusCode,
    body::{Body, Frame, SizeHint},
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
};
use serde::Serialize;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

/// JSON.
pub const JSON: &str = "application/json";
/// One JSON document a line.
pub const NDJSON: &str = "application/x-ndjson";
/// The recording format.
pub const FEED: &str = "application/vnd.twtrace.recording";
/// Bytes of a whole answer that are handed over at once.
const PIECE: usize = 16 * 1024;

/// A stream that could not go on: the client sees a transfer that was broken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stream was broken off: {0}")]
pub struct Cut(pub &'static str);

/// A part of a stream, with the memory it was given.
#[derive(Debug)]
pub struct Part {
    /// The part.
    pub bytes: Bytes,
    /// Given back when the next part is taken.
    pub held: Option<OwnedSemaphorePermit>,
}

/// The body of an answer.
#[derive(Debug)]
pub enum Payload {
    /// All there is.
    Whole {
        /// What was not handed over yet.
        rest: Bytes,
        /// Given back at the end.
        held: Option<OwnedSemaphorePermit>,
    },
    /// What comes, until the sender is gone.
    Stream {
        /// Where it comes from.
        parts: mpsc::Receiver<Result<Part, Cut>>,
        /// Of the part handed over last.
        held: Option<OwnedSemaphorePermit>,
    },
}

impl Body for Payload {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        match self.get_mut() {
            Self::Whole { rest, held } => {
                if rest.is_empty() {
                    *held = None;
                    return Poll::Ready(None);
                }
                let piece = rest.split_to(PIECE.min(rest.len()));
                Poll::Ready(Some(Ok(Frame::data(piece))))
            }
            Self::Stream { parts, held } => match parts.poll_recv(context) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(None) => Poll::Ready(None),
                Poll::Ready(Some(Err(cut))) => Poll::Ready(Some(Err(cut))),
                Poll::Ready(Some(Ok(part))) => {
                    *held = part.held;
                    Poll::Ready(Some(Ok(Frame::data(part.bytes))))
                }
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole { rest, .. } if rest.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole { rest, .. } => SizeHint::with_exact(rest.len() as u64),
            Self::Stream { .. } => SizeHint::default(),
        }
    }
}

/// An answer before it has its memory.
#[derive(Debug)]
pub struct Text {
    /// How it went.
    pub status: StatusCode,
    /// What it is.
    pub content_type: &'static str,
    /// The answer.
    pub body: Vec<u8>,
}

impl Text {
    /// A document.
    pub fn json(document: &impl Serialize) -> Self {
        let mut body = serde_json::to_vec(document).unwrap_or_default();
        body.push(b'\n');
        Self { status: StatusCode::OK, content_type: JSON, body }
    }

    /// Why there is none, in a sentence.
    pub fn fault(status: StatusCode, sentence: &str) -> Self {
        Self { status, ..Self::json(&json!({ "error": sentence })) }
    }

    /// The answer, with the memory it was given.
    pub fn respond(self, held: Option<OwnedSemaphorePermit>) -> Response<Payload> {
        let payload = Payload::Whole { rest: self.body.into(), held };
        let mut response = respond(self.status, self.content_type, payload);
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        response
    }
}

/// An answer that goes on.
pub fn stream(
    content_type: &'static str,
    parts: mpsc::Receiver<Result<Part, Cut>>,
) -> Response<Payload> {
    respond(StatusCode::OK, content_type, Payload::Stream { parts, held: None })
}

fn respond(status: StatusCode, content_type: &'static str, payload: Payload) -> Response<Payload> {
    let mut response = Response::new(payload);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
