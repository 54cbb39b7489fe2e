//! How the rest of the daemon asks the owner of the pipeline, and how the owner sends to many.
//!
//! The owner never waits for anybody: it answers into a channel that has room by construction, and
//! a subscriber that does not keep up loses its subscription, with a count.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::{Mutex, OwnedMutexGuard, mpsc, oneshot},
    time::Instant,
};

pub use crate::agent::Status;
use crate::{
    config::{Changes, DaemonConfig},
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
        reply: Reply<Feed>,
    },
    /// How the owner is.
    Status {
        /// Where to.
        reply: Reply<Status>,
    },
    /// Go on with these settings, as far as they need no restart.
    Reload {
        /// All of them.
        config: Box<DaemonConfig>,
        /// What changed, and what waits for a restart.
        reply: Reply<Changes>,
    },
    /// Write the state and end; the answer comes when that is done.
    Stop {
        /// Where to.
        reply: Reply<()>,
    },
}

impl Ask {
    /// Whether nobody waits for the answer any more.
    fn is_abandoned(&self) -> bool {
        match self {
            Self::Summary { reply, .. } => reply.is_closed(),
            Self::Events { reply } => reply.is_closed(),
            Self::Feed { reply } => reply.is_closed(),
            Self::Status { reply } => reply.is_closed(),
            // These are to be done whoever waits.
            Self::Reload { .. } | Self::Stop { .. } => false,
        }
    }

    /// Whether it is answered at once, and so has its own way to the owner: nobody who asks for much
    /// stands before it.
    const fn is_light(&self) -> bool {
        matches!(self, Self::Status { .. } | Self::Reload { .. } | Self::Stop { .. })
    }
}

/// Where questions arrive.
#[derive(Debug)]
pub struct Asks {
    light: mpsc::Receiver<Ask>,
    others: mpsc::Receiver<Ask>,
}

impl Asks {
    /// The next question that somebody waits for, the light ones first; `None` when nobody can ask
    /// any more. May be dropped and called again.
    pub async fn next(&mut self) -> Option<Ask> {
        loop {
            let ask = tokio::select! {
                biased;
                ask = self.light.recv() => ask,
                ask = self.others.recv() => ask,
            };
            if ask.as_ref().is_none_or(|ask| !ask.is_abandoned()) {
                return ask;
            }
        }
    }
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
    /// Writes them as `twtrace.event/2`.
    pub writer: EventWriter,
}

/// The feed in the recording format.
#[derive(Debug)]
pub struct Feed {
    /// What comes first, from the header on; an error ends it.
    pub opening: mpsc::Receiver<io::Result<Bytes>>,
    /// What comes then.
    pub live: Subscription<Bytes>,
}

/// The turn to have an opening of the feed made: as large as all that is known, so that there is one
/// at a time. Given back when dropped.
#[derive(Debug)]
pub struct Turn {
    _next: OwnedMutexGuard<Instant>,
}

/// Asks the owner. Clones ask the same one.
#[derive(Clone, Debug)]
pub struct Hub {
    light: mpsc::Sender<Ask>,
    others: mpsc::Sender<Ask>,
    recent: Arc<Mutex<Option<Recent>>>,
    /// When the next opening may be asked for: by anybody, and by the privileged.
    turns: [Arc<Mutex<Instant>>; 2],
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
    pub fn new() -> (Self, Asks) {
        let (light, light_asks) = mpsc::channel(WAITING);
        let (others, other_asks) = mpsc::channel(WAITING);
        let turns = [(); 2].map(|()| Arc::new(Mutex::new(Instant::now())));
        let hub = Self { light, others, recent: Arc::default(), turns };
        (hub, Asks { light: light_asks, others: other_asks })
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
    /// One opening is made at a time, for the privileged one beside, and after each there is none
    /// for as long as it took. The turn is to be kept until the opening was taken.
    ///
    /// # Errors
    /// [`HubError`].
    pub async fn feed(&self, privileged: bool) -> Result<(Feed, Turn), HubError> {
        let mut next = Arc::clone(&self.turns[usize::from(privileged)]).lock_owned().await;
        tokio::time::sleep_until(*next).await;
        let asked = Instant::now();
        let feed = self.ask(|reply| Ask::Feed { reply }).await?;
        *next = Instant::now() + asked.elapsed();
        Ok((feed, Turn { _next: next }))
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
    pub async fn reload(&self, config: DaemonConfig) -> Result<Changes, HubError> {
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
        let ask = question(reply);
        let way = if ask.is_light() { &self.light } else { &self.others };
        way.send(ask).await.map_err(|_| HubError::Stopping)?;
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

    /// One more.
    pub fn subscribe(&mut self) -> Subscription<T> {
        let (sender, items) = mpsc::unbounded_channel();
        let standing = Arc::new(Standing::default());
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
        let mut slow = subscribers.subscribe();
        let mut quick = subscribers.subscribe();
        runtime().block_on(async {
            for mark in 0..=10 {
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
        let mut only = subscribers.subscribe();
        let large = Bytes::from(vec![1; BACKLOG + 1]);
        subscribers.send(&large);
        assert_eq!(runtime().block_on(only.next()), Some(large));
    }

    #[test]
    fn a_subscriber_that_went_away_is_forgotten_without_a_count() {
        let dropped = Arc::new(AtomicU64::new(0));
        let mut subscribers = Subscribers::new(Arc::clone(&dropped));
        drop(subscribers.subscribe());
        subscribers.send(&chunk(1));
        assert!(subscribers.is_empty());
        assert_eq!(dropped.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn light_questions_precede_all_others_and_those_nobody_waits_for_are_dropped() {
        let (hub, mut asks) = Hub::new();
        runtime().block_on(async {
            let asking = hub.clone();
            let summary = tokio::spawn(async move { asking.summary(RowChoice::default()).await });
            let asking = hub.clone();
            let abandoned = tokio::spawn(async move { asking.feed(false).await.map(drop) });
            let asking = hub.clone();
            let status = tokio::spawn(async move { asking.status().await.map(drop) });
            while hub.others.capacity() > WAITING - 2 || hub.light.capacity() == WAITING {
                tokio::task::yield_now().await;
            }
            abandoned.abort();
            let _ = abandoned.await;
            assert!(matches!(asks.next().await, Some(Ask::Status { .. })));
            assert!(matches!(asks.next().await, Some(Ask::Summary { .. })));
            drop((asks, summary, status));
        });
    }

    #[test]
    fn one_opening_is_made_at_a_time_and_another_for_the_privileged() {
        let (hub, mut asks) = Hub::new();
        runtime().block_on(async {
            let (_sender, opening) = mpsc::channel(1);
            let live = Subscribers::new(Arc::default()).subscribe();
            let asking = hub.clone();
            let first = tokio::spawn(async move { asking.feed(false).await });
            let Some(Ask::Feed { reply }) = asks.next().await else { panic!("a feed") };
            assert!(reply.send(Ok(Feed { opening, live })).is_ok());
            let (_feed, turn) = first.await.unwrap().unwrap();
            let mut second = Box::pin(hub.feed(false));
            let mut privileged = Box::pin(hub.feed(true));
            tokio::select! {
                biased;
                _ = &mut second => panic!("the first has its turn still"),
                _ = &mut privileged => panic!("nobody answers"),
                ask = asks.next() => assert!(matches!(ask, Some(Ask::Feed { .. }))),
            }
            drop(turn);
            tokio::select! {
                _ = &mut second => panic!("nobody answers"),
                ask = asks.next() => assert!(matches!(ask, Some(Ask::Feed { .. }))),
            }
        });
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
