//! What is answered to which request.
//!
//! hyper speaks HTTP; which path is meant is a `match` over its segments, fourteen of them, in the
//! order in which they are documented. A router would be a table of the same fourteen lines: axum 0.8
//! for it brings eight crates, the matcher alone one, and what is not found, what may not be asked over
//! TCP and which query an answer takes would be written here all the same.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hyper::{Method, Request, Response, StatusCode, header::ACCEPT};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    answer::{Payload, Text},
    hub::{Hub, HubError},
    names::OwnNames,
    places::{Client, Places, Quota, Seat, Turn},
    query::{BadQuery, Query, ROW_PARAMETERS, segments},
    streams,
};
use crate::{
    agent::Agent,
    config::DaemonConfig,
    feed::now,
    filter::PeerAddress,
    host::process,
    summary::{RowChoice, Summary},
    view::{
        self,
        metrics::{Dialect, Shown},
    },
};

/// The documentation of this API.
const OPENAPI: &str = include_str!("../../openapi.json");

/// Limits on those who ask; a reload changes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most connections at once.
    pub connections: Quota,
    /// Longest request line and headers, bytes.
    pub header: usize,
    /// Time for a request to arrive, the next one to begin, and an answer to be found.
    pub request: Duration,
    /// Time for an answer to be taken whole, and for the beginning of the feed.
    pub answer: Duration,
    /// Time without progress after which a reader is cut off.
    pub stall: Duration,
    /// Most peers with metrics of their own.
    pub metrics_peers: usize,
}

impl Limits {
    /// As configured.
    pub fn of(config: &DaemonConfig) -> Self {
        Self {
            connections: Quota::of(config.max_connections, config.listen.is_some()),
            header: usize::try_from(config.max_header.as_u64()).unwrap_or(usize::MAX),
            request: config.request_time,
            answer: config.answer_time,
            stall: config.stall_time,
            metrics_peers: config.metrics_peers,
        }
    }
}

/// Answers requests.
#[derive(Debug)]
pub struct Api {
    /// The owner of the pipeline.
    pub hub: Hub,
    /// Who is connected.
    pub places: Arc<Places>,
    /// Limits now.
    pub limits: watch::Receiver<Limits>,
    /// Ends what would go on for ever by itself.
    pub stop: CancellationToken,
    /// What a client over TCP may call this host.
    names: OwnNames,
    shown: Mutex<Shown>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum Unanswered {
    #[error(transparent)]
    Query(#[from] BadQuery),
    #[error(transparent)]
    Hub(#[from] HubError),
    #[error("{0}")]
    Missing(String),
    #[error("{0}")]
    Name(String),
    #[error("only GET and HEAD: this API reads and changes nothing")]
    Method,
    #[error("no answer within {}; the host is busy", humantime::format_duration(*.0))]
    Late(Duration),
}

impl Unanswered {
    fn status(&self) -> StatusCode {
        match self {
            Self::Query(_) => StatusCode::BAD_REQUEST,
            Self::Hub(HubError::Failed(_)) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Hub(HubError::Stopping) | Self::Late(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Missing(_) => StatusCode::NOT_FOUND,
            Self::Name(_) => StatusCode::MISDIRECTED_REQUEST,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
        }
    }
}

/// An answer, or the beginning of one.
enum Answer {
    /// With the turn it was made in.
    Whole(Text, Option<Turn>),
    Stream(Response<Payload>),
}

/// One that is small and made at once.
impl From<Text> for Answer {
    fn from(text: Text) -> Self {
        Self::Whole(text, None)
    }
}

impl Api {
    /// One that nobody has asked yet.
    pub fn new(
        hub: Hub,
        places: Arc<Places>,
        limits: watch::Receiver<Limits>,
        stop: CancellationToken,
        names: OwnNames,
    ) -> Self {
        Self { hub, places, limits, stop, names, shown: Mutex::default() }
    }

    /// Time for a large answer to be taken whole.
    fn answer_time(&self) -> Duration {
        self.limits.borrow().answer
    }

    /// Answers one request, whatever it is.
    pub async fn answer<B>(&self, place: &Arc<Seat>, request: &Request<B>) -> Response<Payload> {
        self.places.asked();
        let time = self.limits.borrow().request;
        let found = tokio::time::timeout(time, async {
            match self.route(place, request).await? {
                Answer::Stream(response) => {
                    place.give_for_ever();
                    Ok(response)
                }
                Answer::Whole(text, _turn) => {
                    let held = place.memory(text.body.len()).await;
                    Ok(text.respond(held, self.answer_time()))
                }
            }
        });
        found.await.unwrap_or(Err(Unanswered::Late(time))).unwrap_or_else(|fault: Unanswered| {
            Text::fault(fault.status(), &fault.to_string()).respond(None, Duration::MAX)
        })
    }

    async fn route<B>(
        &self,
        place: &Arc<Seat>,
        request: &Request<B>,
    ) -> Result<Answer, Unanswered> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return Err(Unanswered::Method);
        }
        let uri = request.uri();
        let parts = segments(uri.path())?;
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let query = |known| Query::read(uri.query(), known);
        if let Client::Network(_) = place.client {
            self.names.check(request).map_err(Unanswered::Name)?;
            if !matches!(parts.as_slice(), ["healthz" | "metrics"]) {
                return Err(Unanswered::Missing(
                    "over TCP there are /metrics and /healthz; all else is on the unix socket"
                        .into(),
                ));
            }
        }
        let whole = match parts.as_slice() {
            ["healthz"] => {
                query(&[])?;
                self.hub.status().await?;
                let text = Text {
                    status: StatusCode::OK,
                    content_type: "text/plain",
                    body: b"ok\n".into(),
                };
                return Ok(text.into());
            }
            ["v1", "status"] => {
                query(&[])?;
                return Ok(Text::json(&view::status::document(&self.agent().await?)).into());
            }
            ["v1", "openapi.json"] => {
                query(&[])?;
                return Ok(Text { body: OPENAPI.into(), ..Text::json(&json!(null)) }.into());
            }
            ["v1", "events"] => {
                let filter = query(&["filter"])?.filter()?;
                return Ok(Answer::Stream(
                    streams::events(&self.hub, self.answer_time(), filter).await?,
                ));
            }
            ["v1", "summaries"] => {
                let query = query(&["sort", "top", "skip", "peer", "filter", "interval"])?;
                let (choice, interval) = (query.rows()?, query.interval()?);
                return Ok(Answer::Stream(streams::summaries(
                    (self.hub.clone(), self.stop.clone()),
                    self.answer_time(),
                    place,
                    choice,
                    interval,
                )));
            }
            ["v1", "feed"] => {
                query(&[])?;
                return Ok(Answer::Stream(
                    streams::feed(&self.hub, self.answer_time(), place).await?,
                ));
            }
            whole => whole,
        };
        // What follows may be large, and takes the owner's time.
        let turn = place.turn().await;
        let text = match whole {
            ["metrics"] => {
                query(&[])?;
                let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok());
                self.metrics(Dialect::wanted(accept)).await?
            }
            ["v1", rest @ ..] => self.document(rest, &query).await?,
            _ => {
                return Err(Unanswered::Missing(format!(
                    "there is nothing at {}; /v1/openapi.json lists what there is",
                    uri.path()
                )));
            }
        };
        Ok(Answer::Whole(text, Some(turn)))
    }

    /// The documents of version 1.
    async fn document<'q>(
        &self,
        path: &[&str],
        query: &impl Fn(&'q [&'q str]) -> Result<Query<'q>, BadQuery>,
    ) -> Result<Text, Unanswered> {
        let text = match path {
            ["summary"] => {
                let choice = query(&ROW_PARAMETERS)?.rows()?;
                Text::json(&view::json::document(&*self.hub.summary(choice).await?))
            }
            ["peers"] => {
                let choice = query(&ROW_PARAMETERS)?.rows()?;
                Text::json(&view::json::rows(&*self.hub.summary(choice).await?))
            }
            ["peers", peer] => {
                query(&[])?;
                Text::json(&view::json::rows(&*self.one_peer(peer).await?))
            }
            ["peers", peer, "history"] => {
                query(&[])?;
                Text::json(&view::diagnosis::histories(&*self.one_peer(peer).await?))
            }
            ["diagnosis"] => {
                let choice = query(&ROW_PARAMETERS)?.rows()?;
                Text::json(&view::diagnosis::document(&*self.hub.summary(choice).await?))
            }
            ["findings"] => {
                let query = query(&["peer", "severity"])?;
                let (peer, severity) = (query.value("peer")?, query.value("severity")?);
                Text::json(&view::diagnosis::findings(&*self.limits_only().await?, peer, severity))
            }
            ["margins"] => {
                query(&[])?;
                Text::json(&view::diagnosis::margins(&*self.limits_only().await?))
            }
            other => {
                return Err(Unanswered::Missing(format!(
                    "there is nothing at /v1/{}; /v1/openapi.json lists what there is",
                    other.join("/")
                )));
            }
        };
        Ok(text)
    }

    /// The summary without rows.
    async fn limits_only(&self) -> Result<Arc<Summary>, Unanswered> {
        Ok(self.hub.summary(RowChoice { top: Some(0), ..RowChoice::default() }).await?)
    }

    /// The summary with the rows of one peer.
    async fn one_peer(&self, peer: &str) -> Result<Arc<Summary>, Unanswered> {
        let address: PeerAddress =
            peer.parse().map_err(|error| BadQuery(format!("{peer} is no peer: {error}")))?;
        let choice = RowChoice {
            peer: Some(address),
            top: Some(super::query::MAX_ROWS),
            with_past: true,
            ..RowChoice::default()
        };
        let summary = self.hub.summary(choice).await?;
        if summary.rows.is_empty() {
            return Err(Unanswered::Missing(format!(
                "nothing is known of {peer}: no socket of it was seen, or it is among the other \
                 peers for want of room"
            )));
        }
        Ok(summary)
    }

    /// What the daemon knows of itself.
    async fn agent(&self) -> Result<Agent, HubError> {
        Ok(Agent {
            status: self.hub.status().await?,
            process: process::read(Path::new("/proc")),
            clients: self.places.clients(),
        })
    }

    async fn metrics(&self, dialect: Dialect) -> Result<Text, Unanswered> {
        let top = self.limits.borrow().metrics_peers;
        let choice = RowChoice { top: Some(top), ..RowChoice::default() };
        let summary = self.hub.summary(choice).await?;
        let agent = self.agent().await?;
        let rows = {
            let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
            shown.take(&summary, &agent.status, now().mono_ns)
        };
        let body = view::metrics::text(&summary, &rows, &agent, dialect);
        Ok(Text { status: StatusCode::OK, content_type: dialect.content_type(), body })
    }
}
