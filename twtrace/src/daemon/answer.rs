//! Answers: whole ones, in bounded memory, and streams that go on until somebody has enough.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::Bytes;
use hyper::{
    Response, StatusCode,
    body::{Body, Frame, SizeHint},
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
};
use serde::Serialize;
use serde_json::json;
use tokio::sync::mpsc;

use super::places::Held;

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

/// What a reader is told that did not take in time what was made for it.
pub const LATE: Cut = Cut("the reader took too long");

/// A part of a stream, with the memory it was given.
#[derive(Debug)]
pub struct Part {
    /// The part.
    pub bytes: Bytes,
    /// Given back when the next part is taken.
    pub held: Option<Held>,
}

/// The body of an answer: a part, and those that come. A part that holds memory is to be taken in
/// time, so that nobody keeps it from others by reading slowly.
///
/// The time is looked at when the connection has room for more; one that has none for long is ended
/// by the server.
#[derive(Debug)]
pub struct Payload {
    /// What was not handed over yet of the part.
    rest: Bytes,
    /// Given back when all of it was.
    held: Option<Held>,
    /// When that has to be.
    due: Option<Instant>,
    /// Time for a part.
    time: Duration,
    /// Where the others come from, until the sender is gone.
    parts: Option<mpsc::Receiver<Result<Part, Cut>>>,
}

impl Payload {
    fn new(time: Duration) -> Self {
        Self { rest: Bytes::new(), held: None, due: None, time, parts: None }
    }

    fn hand_over(&mut self, part: Part) {
        self.due = part.held.is_some().then(|| Instant::now() + self.time);
        (self.rest, self.held) = (part.bytes, part.held);
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let this = self.get_mut();
        while this.rest.is_empty() {
            this.held = None;
            let Some(parts) = &mut this.parts else { return Poll::Ready(None) };
            match ready!(parts.poll_recv(context)) {
                None => return Poll::Ready(None),
                Some(Err(cut)) => return Poll::Ready(Some(Err(cut))),
                Some(Ok(part)) => this.hand_over(part),
            }
        }
        if this.due.is_some_and(|due| Instant::now() >= due) {
            tracing::info!("{LATE}");
            return Poll::Ready(Some(Err(LATE)));
        }
        let piece = this.rest.split_to(PIECE.min(this.rest.len()));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.parts.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match self.parts {
            None => SizeHint::with_exact(self.rest.len() as u64),
            Some(_) => SizeHint::default(),
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

    /// The answer, with the memory it was given, to be taken in `time`.
    pub fn respond(self, held: Option<Held>, time: Duration) -> Response<Payload> {
        let mut payload = Payload::new(time);
        payload.hand_over(Part { bytes: self.body.into(), held });
        let mut response = respond(self.status, self.content_type, payload);
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        response
    }
}

/// An answer that goes on; parts that hold memory are to be taken in `time` each.
pub fn stream(
    content_type: &'static str,
    parts: mpsc::Receiver<Result<Part, Cut>>,
    time: Duration,
) -> Response<Payload> {
    let payload = Payload { parts: Some(parts), ..Payload::new(time) };
    respond(StatusCode::OK, content_type, payload)
}

fn respond(status: StatusCode, content_type: &'static str, payload: Payload) -> Response<Payload> {
    let mut response = Response::new(payload);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
