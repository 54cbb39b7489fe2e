//! How the rest of the daemon asks the owner of the pipeline, and how the owner sends to many.
//!
//! The owner never waits for anybody: it answers into a channel that has room by construction, and
//! a subscriber that does not keep up loses its subscription, with a count.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::{Mutex, mpsc, oneshot},
    time::Instant,
};

pub use crate::agent::Status;
use crate::{
    config::{Changes, Config},
    event::Event,
    summary::{RowChoice, Summary},
    view::events::EventWriter,
};

/// Questions that may wait for the owner; more wait before they are put.
const WAITING: usize = 64;
/// Bytes that may wait for one subscriber. Subscribers of one kind share what waits.
const BACKLOG: usize = 4 << 20;
/// How long an answer stays good for the same question.
const FRESH: Duration = Duration::from_millis(200);

/// Where an answer goes.
pub type Reply<T> = oneshot::Sender<Result<T, HubError>>;

/// A question for the owner of the pipeline.
#[derive(Debug)]
pub enum Ask {
    /// The summary of this moment.
    Summary {
        /// Which rows.
        choice: RowChoice,
        /// Where to.
        reply: Reply<Arc<Summary>>,
    },
    /// All events from now on.
    Events {
        /// Where to.
        reply: Reply<Events>,
    },
    /// The feed in the recording format, from its header on.
    Feed {
        /// Where to.
        reply: Reply<Subscription<Bytes>>,
    },
    /// How the owner is.
    Status {
        /// Where to.
        reply: Reply<Status>,
    },
    /// Go on with these settings, as far as they need no restart.
    Reload {
        /// All of them.
        config: Box<Config>,
        /// What changed, and what waits for a restart.
        reply: Reply<Changes>,
    },
    /// Write the state and end; the answer comes when that is done.
    Stop {
        /// Where to.
        reply: Reply<()>,
    },
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HubError {
    /// The owner has ended.
    #[error("the daemon is stopping")]
    Stopping,
    /// The owner could not find out.
    #[error("{0}")]
    Failed(String),
}

/// Decoded events, and how to write them.
#[derive(Debug)]
pub struct Events {
    /// In order, a batch at a time.
    pub events: Subscription<Arc<[Event]>>,
    /// Writes them as `twtrace.event/1`.
    pub writer: EventWriter,
}

/// Asks the owner. Clones ask the same one.
#[derive(Clone, Debug)]
pub struct Hub {
    asks: mpsc::Sender<Ask>,
    recent: Arc<Mutex<Option<Recent>>>,
}

/// The last summary, and when the owner may be asked for another.
#[derive(Debug)]
struct Recent {
    choice: RowChoice,
    summary: Arc<Summary>,
    taken: Instant,
    next: Instant,
}

impl Hub {
    /// A hub, and where its questions arrive.
    pub fn new() -> (Self, mpsc::Receiver<Ask>) {
        let (asks, arriving) = mpsc::channel(WAITING);
        (Self { asks, recent: Arc::default() }, arriving)
    }

    /// The summary of this moment, or of a fifth of a second ago.
    ///
    /// One is taken at a time, and after each the owner is left alone for as long as it took: those
    /// who ask can have no more than half of its time, however many they are.
    ///
    /// # Errors
    /// [`HubError`].
    pub async fn summary(&self, choice: RowChoice) -> Result<Arc<Summary>, HubError> {
        let mut recent = self.recent.lock().await;
        if let Some(recent) = &*recent {
            if recent.choice == choice && recent.taken.elapsed() < FRESH {
                return Ok(Arc::clone(&recent.summary));
            }
            tokio::time::sleep_until(recent.next).await;
        }
        let asked = Instant::now();
        let summary = self.ask(|reply| Ask::Summary { choice: choice.clone(), reply }).await?;
        let taken = Instant::now();
        let next = taken + (taken - asked);
        *recent = Some(Recent { choice, summary: Arc::clone(&summary), taken, next });
        Ok(summary)
    }

    /// All events from now on.
    ///
    /// # Errors
    /// [`HubError`].
    pub async fn events(&self) -> Result<Events, HubError> {
        self.ask(|reply| Ask::Events { reply }).await
    }

    /// The feed in the recording format.
    ///
    /// # Errors
    /// [`HubError`].
    pub async fn feed(&self) -> Result<Subscription<Bytes>, HubError> {
        self.ask(|reply| Ask::Feed { reply }).await
    }

    /// How the owner is.
    ///
    /// # Errors
    /// [`HubError`].
    pub async fn status(&self) -> Result<Status, HubError> {
        self.ask(|reply| Ask::Status { reply }).await
    }

    /// Goes on with other settings.
    ///
    /// # Errors
    /// [`HubError`].
    pub async fn reload(&self, config: Config) -> Result<Changes, HubError> {
        self.ask(|reply| Ask::Reload { config: Box::new(config), reply }).await
    }

    /// Ends the owner, its state written.
    ///
    /// # Errors
    /// [`HubError::Failed`] if the state could not be written.
    pub async fn stop(&self) -> Result<(), HubError> {
        self.ask(|reply| Ask::Stop { reply }).await
    }

    async fn ask<T>(&self, question: impl FnOnce(Reply<T>) -> Ask) -> Result<T, HubError> {
        let (reply, answer) = oneshot::channel();
        self.asks.send(question(reply)).await.map_err(|_| HubError::Stopping)?;
        answer.await.map_err(|_| HubError::Stopping)?
    }
}

/// Something that takes memory while it waits.
pub trait Weight {
    /// Bytes it takes.
    fn weight(&self) -> usize;
}

impl Weight for Bytes {
    fn weight(&self) -> usize {
        self.len()
    }
}

impl Weight for Arc<[Event]> {
    fn weight(&self) -> usize {
        size_of_val::<[Event]>(self)
    }
}

/// How one subscriber stands, known to both sides.
#[derive(Debug, Default)]
struct Standing {
    waiting: AtomicUsize,
    behind: AtomicBool,
}

/// What one subscriber is sent.
#[derive(Debug)]
pub struct Subscription<T> {
    items: mpsc::UnboundedReceiver<T>,
    standing: Arc<Standing>,
}

impl<T: Weight> Subscription<T> {
    /// The next item; `None` when the owner ends, or when this subscriber fell behind and all that
    /// had been kept for it was taken.
    pub async fn next(&mut self) -> Option<T> {
        let item = self.items.recv().await?;
        self.standing.waiting.fetch_sub(item.weight(), Ordering::AcqRel);
        Some(item)
    }

    /// Whether it fell behind and was left out.
    pub fn fell_behind(&self) -> bool {
        self.standing.behind.load(Ordering::Acquire)
    }
}

/// The owner's side of all subscriptions of one kind.
#[derive(Debug)]
pub struct Subscribers<T> {
    each: Vec<(mpsc::UnboundedSender<T>, Arc<Standing>)>,
    dropped: Arc<AtomicU64>,
}

impl<T: Clone + Weight> Subscribers<T> {
    /// None yet. Those that fall behind are counted in `dropped`.
    pub fn new(dropped: Arc<AtomicU64>) -> Self {
        Self { each: Vec::new(), dropped }
    }

    /// One more. `first` is what it is sent before all others.
    pub fn subscribe(&mut self, first: Option<T>) -> Subscription<T> {
        let (sender, items) = mpsc::unbounded_channel();
        let standing = Arc::new(Standing::default());
        if let Some(first) = first {
            send(&sender, &standing, first);
        }
        self.each.push((sender, Arc::clone(&standing)));
        Subscription { items, standing }
    }

    /// Whether there is anybody to send to.
    pub fn is_empty(&self) -> bool {
        self.each.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.each.len()
    }

    /// Sends to all. Those that went away are forgotten, those for whom too much waits already are
    /// dropped and counted.
    pub fn send(&mut self, item: &T) {
        let weight = item.weight();
        self.each.retain(|(sender, standing)| {
            let waiting = standing.waiting.load(Ordering::Acquire);
            if waiting > 0 && waiting + weight > BACKLOG {
                standing.behind.store(true, Ordering::Release);
                self.dropped.fetch_add(1, Ordering::Relaxed);
                return false;
            }
            send(sender, standing, item.clone())
        });
    }
}

/// Sends one item to one subscriber; false if it went away.
fn send<T: Weight>(sender: &mpsc::UnboundedSender<T>, standing: &Standing, item: T) -> bool {
    standing.waiting.fetch_add(item.weight(), Ordering::AcqRel);
    sender.send(item).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    fn chunk(mark: u8) -> Bytes {
        Bytes::from(vec![mark; BACKLOG / 8])
    }

    #[test]
    fn a_subscriber_that_falls_behind_is_dropped_and_counted_and_the_others_are_not() {
        let dropped = Arc::new(AtomicU64::new(0));
        let mut subscribers = Subscribers::new(Arc::clone(&dropped));
        let mut slow = subscribers.subscribe(Some(chunk(0)));
        let mut quick = subscribers.subscribe(None);
        runtime().block_on(async {
            for mark in 1..=10 {
                subscribers.send(&chunk(mark));
                assert_eq!(quick.next().await, Some(chunk(mark)));
            }
            assert_eq!(subscribers.len(), 1);
            assert_eq!(dropped.load(Ordering::Relaxed), 1);
            for mark in 0..8 {
                assert_eq!(slow.next().await, Some(chunk(mark)), "what was kept is still given");
            }
            assert_eq!(slow.next().await, None);
            assert!(slow.fell_behind() && !quick.fell_behind());
            drop(subscribers);
            assert_eq!(quick.next().await, None);
            assert!(!quick.fell_behind(), "the owner's end is no fault of the subscriber");
        });
    }

    #[test]
    fn one_item_larger_than_the_backlog_still_arrives() {
        let mut subscribers = Subscribers::new(Arc::default());
        let mut only = subscribers.subscribe(None);
        let large = Bytes::from(vec![1; BACKLOG + 1]);
        subscribers.send(&large);
        assert_eq!(runtime().block_on(only.next()), Some(large));
    }

    #[test]
    fn a_subscriber_that_went_away_is_forgotten_without_a_count() {
        let dropped = Arc::new(AtomicU64::new(0));
        let mut subscribers = Subscribers::new(Arc::clone(&dropped));
        drop(subscribers.subscribe(None));
        subscribers.send(&chunk(1));
        assert!(subscribers.is_empty());
        assert_eq!(dropped.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn without_an_owner_every_question_is_answered_that_the_daemon_is_stopping() {
        let (hub, arriving) = Hub::new();
        drop(arriving);
        runtime().block_on(async {
            assert_eq!(hub.stop().await, Err(HubError::Stopping));
            let error = hub.summary(RowChoice::default()).await.unwrap_err();
            assert_eq!(error.to_string(), "the daemon is stopping");
        });
    }
}
