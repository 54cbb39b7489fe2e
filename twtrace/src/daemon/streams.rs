//! Answers that go on: events, summaries, and the feed of twtrace's own clients.
//!
//! Each is a task between the owner and one client. A client that takes nothing makes the task
//! wait; what then piles up is bounded by the subscription, and the connection by its stall time.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use hyper::Response;
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    answer::{Cut, FEED, LATE, NDJSON, Part, Payload, stream},
    hub::{Events, Feed, Hub, HubError, Subscription, Weight},
    places::Seat,
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
pub async fn events(
    hub: &Hub,
    time: Duration,
    filter: Expr,
) -> Result<Response<Payload>, HubError> {
    let Events { mut events, writer } = hub.events().await?;
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
    Ok(stream(NDJSON, receiver, time))
}

/// The feed in the recording format. Its opening is made for this client while others wait, so there
/// is a time to take it.
pub async fn feed(hub: &Hub, time: Duration, place: &Seat) -> Result<Response<Payload>, HubError> {
    let privileged = place.client.is_privileged();
    let (Feed { mut opening, mut live }, turn) = hub.feed(privileged).await?;
    let (parts, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let opened = timeout(time, async {
            while let Some(piece) = opening.recv().await {
                let Ok(piece) = piece else { return Err(Cut("the feed cannot be made")) };
                if !send(&parts, piece).await {
                    return Ok(false);
                }
            }
            Ok(true)
        });
        let opened = opened.await.unwrap_or(Err(LATE));
        drop((opening, turn));
        match opened {
            Ok(true) => {}
            Ok(false) => return,
            Err(cut) => return break_off(&parts, cut).await,
        }
        while let Some(bytes) = next(&mut live, &parts).await {
            if !send(&parts, bytes).await {
                return;
            }
        }
    });
    Ok(stream(FEED, receiver, time))
}

/// One summary an interval, the first at once, until all stops.
pub fn summaries(
    (hub, stop): (Hub, CancellationToken),
    time: Duration,
    place: &Arc<Seat>,
    choice: RowChoice,
    every: Duration,
) -> Response<Payload> {
    let place = Arc::clone(place);
    let (parts, receiver) = mpsc::channel(1);
    let made = async move || {
        let _turn = place.turn().await;
        let summary = hub.summary(choice.clone()).await.ok()?;
        let mut line = Vec::new();
        // Writing to memory cannot fail.
        let _ = view::json::write_line(&mut line, &summary);
        drop(summary);
        let held = place.memory(line.len()).await;
        Some(Part { bytes: line.into(), held })
    };
    tokio::spawn(async move {
        let mut due = interval(every);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = parts.closed() => return,
                () = stop.cancelled() => return,
                _ = due.tick() => {}
            }
            // Whoever is gone keeps nobody waiting, nor is it waited for with an answer in hand.
            let Ok(room) = parts.reserve().await else { return };
            let part = tokio::select! {
                () = parts.closed() => return,
                part = made() => part,
            };
            let Some(part) = part else { return };
            room.send(Ok(part));
        }
    });
    stream(NDJSON, receiver, time)
}

/// The next item, until the client leaves, the owner ends, or the client fell behind: then the
/// transfer is broken off, so that nobody takes it for complete.
async fn next<T: Weight>(items: &mut Subscription<T>, parts: &Parts) -> Option<T> {
    let item = tokio::select! {
        () = parts.closed() => return None,
        item = items.next() => item,
    };
    if item.is_none() && items.fell_behind() {
        break_off(parts, BEHIND).await;
    }
    item
}

/// Ends a transfer such that nobody takes it for complete.
async fn break_off(parts: &Parts, cut: Cut) {
    tracing::info!("{cut}");
    // It may have left meanwhile.
    let _ = parts.send(Err(cut)).await;
}

/// Sends a part; false if nobody takes it.
async fn send(parts: &Parts, bytes: impl Into<Bytes>) -> bool {
    parts.send(Ok(Part { bytes: bytes.into(), held: None })).await.is_ok()
}
