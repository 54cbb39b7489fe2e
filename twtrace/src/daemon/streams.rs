//! Answers that go on: events, summaries, and the feed of twtrace's own clients.
//!
//! Each is a task between the owner and one client. A client that takes nothing makes the task
//! wait; what then piles up is bounded by the subscription, and the connection by its stall time.

use std::time::Duration;

use bytes::Bytes;
use hyper::Response;
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

use super::{
    answer::{Cut, FEED, NDJSON, Part, Payload, stream},
    api::Api,
    hub::{Events, HubError, Subscription, Weight},
};
use crate::{
    event::Event,
    filter::{Expr, Socket, Verdict},
    summary::RowChoice,
    view,
};

/// Bytes of events that are sent at once.
const PIECE: usize = 64 * 1024;
/// What a reader is told that did not keep up, in the log and by the broken transfer.
const BEHIND: Cut = Cut("the reader did not keep up");

type Parts = mpsc::Sender<Result<Part, Cut>>;

/// All events from now on that match the filter. What it cannot tell of an event does not match.
pub(super) async fn events(api: &Api, filter: Expr) -> Result<Response<Payload>, HubError> {
    let Events { mut events, writer } = api.hub.events().await?;
    let (parts, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        while let Some(batch) = next(&mut events, &parts).await {
            let mut lines = Vec::new();
            let wanted = |event: &&Event| filter.matches(&Socket::from(*event)) == Verdict::Yes;
            for event in batch.iter().filter(wanted) {
                // Writing to memory cannot fail.
                let _ = writer.write(&mut lines, event);
                if lines.len() >= PIECE && !send(&parts, std::mem::take(&mut lines)).await {
                    return;
                }
            }
            if !lines.is_empty() && !send(&parts, lines).await {
                return;
            }
        }
    });
    Ok(stream(NDJSON, receiver))
}

/// The feed in the recording format.
pub(super) async fn feed(api: &Api) -> Result<Response<Payload>, HubError> {
    let mut feed = api.hub.feed().await?;
    let (parts, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        while let Some(bytes) = next(&mut feed, &parts).await {
            if !send(&parts, bytes).await {
                return;
            }
        }
    });
    Ok(stream(FEED, receiver))
}

/// One summary an interval, the first at once.
pub(super) fn summaries(api: &Api, choice: RowChoice, every: Duration) -> Response<Payload> {
    let (hub, places, stop) = (api.hub.clone(), api.places.clone(), api.stop.clone());
    let (parts, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut due = interval(every);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = parts.closed() => return,
                () = stop.cancelled() => return,
                _ = due.tick() => {}
            }
            let Ok(summary) = hub.summary(choice.clone()).await else { return };
            let mut line = Vec::new();
            // Writing to memory cannot fail.
            let _ = view::json::write_line(&mut line, &summary);
            drop(summary);
            let held = places.memory(line.len()).await;
            if parts.send(Ok(Part { bytes: line.into(), held })).await.is_err() {
                return;
            }
        }
    });
    stream(NDJSON, receiver)
}

/// The next item, until the client leaves, the owner ends, or the client fell behind: then the
/// transfer is broken off, so that nobody takes it for complete.
async fn next<T: Weight>(items: &mut Subscription<T>, parts: &Parts) -> Option<T> {
    let item = tokio::select! {
        () = parts.closed() => return None,
        item = items.next() => item,
    };
    if item.is_none() && items.fell_behind() {
        tracing::info!("{BEHIND}");
        // It may have left meanwhile.
        let _ = parts.send(Err(BEHIND)).await;
    }
    item
}

/// Sends a part; false if nobody takes it.
async fn send(parts: &Parts, bytes: impl Into<Bytes>) -> bool {
    parts.send(Ok(Part { bytes: bytes.into(), held: None })).await.is_ok()
}
