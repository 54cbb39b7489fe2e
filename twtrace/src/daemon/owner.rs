//! The one owner of the pipeline: takes in what the kernel sends, answers questions, tells those
//! who listen, and keeps the state.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, SystemTime},
};

use tokio::{
    sync::mpsc,
    time::{Instant, Interval, MissedTickBehavior, interval, interval_at},
};

use super::{
    feeds::Feeds,
    hub::{Ask, Events, HubError, Status, Subscribers},
    state,
};
use crate::{
    aggregate::Settings,
    config::{Changes, Config},
    event::Event,
    feed::{Origin, Wishes, now},
    filter::{Expr, Name, Selection, Term},
    kernel::{KernelError, Options, find_namespace, give_back_memory, rights},
    peer::{
        GroupBy, Prefixes,
        minutes::{Memory, Minute},
    },
    pipeline::{DRAIN_INTERVAL, Pipeline, PipelineError},
    units::Clock,
    view::{Format, events::EventWriter},
};

/// Time between two moments while somebody listens to the feed.
const MOMENTS: Duration = Duration::from_secs(1);
/// Time between two looks at what was lost and refused while nobody does, and between two returns
/// of memory that is not needed any more.
const UPKEEP: Duration = Duration::from_secs(10);

/// Owns the pipeline.
pub struct Owner {
    pipeline: Pipeline,
    config: Config,
    restart_needed: Vec<&'static str>,
    asks: mpsc::Receiver<Ask>,
    feeds: Feeds,
    events: Subscribers<Arc<[Event]>>,
    since_ns: u64,
    /// What gives moments their time of day.
    clock: Clock,
    state_saved: Option<SystemTime>,
    state_fault: Option<String>,
    /// When a look without listeners was last taken.
    kept_up: Instant,
}

impl Owner {
    /// Attaches, reads the sockets present and the state.
    ///
    /// `dropped` counts the subscribers that fell behind.
    ///
    /// # Errors
    /// [`KernelError`] and whatever else keeps a pipeline from starting.
    pub fn start(
        config: Config,
        asks: mpsc::Receiver<Ask>,
        dropped: &Arc<AtomicU64>,
    ) -> Result<Self, PipelineError> {
        let (options, selection) = options(&config)?;
        let settings = config.clone();
        let mut pipeline = Pipeline::attach(
            options,
            selection,
            Wishes { facts: true, cgroup_names: false },
            |origin| aggregate(&settings, origin),
            &mut |_| {},
        )?;
        let feeds = Feeds::new(Arc::clone(dropped));
        pipeline.set_tap(Box::new(feeds.clone()));
        if let Some(diagnostics) = pipeline.diagnostics() {
            tokio::spawn(diagnostics);
        }
        let clock = now();
        let mut owner = Self {
            pipeline,
            config,
            restart_needed: Vec::new(),
            asks,
            feeds,
            events: Subscribers::new(Arc::clone(dropped)),
            since_ns: clock.mono_ns,
            clock,
            state_saved: None,
            state_fault: None,
            kept_up: Instant::now(),
        };
        owner.restore();
        give_back_memory();
        Ok(owner)
    }

    /// Where the events come from.
    pub fn origin(&self) -> &Origin {
        self.pipeline.core().origin()
    }

    /// Works until it is asked to stop, or nobody can ask any more; then writes the state.
    ///
    /// # Errors
    /// The kernel side failed; the state has been written all the same.
    pub async fn run(mut self) -> Result<(), PipelineError> {
        let outcome = self.work().await;
        if let Err(error) = self.feeds.end() {
            tracing::warn!(%error, "listeners were not told of the end");
        }
        let (outcome, stopped) = match outcome {
            Ok(reply) => (Ok(()), reply),
            Err(error) => (Err(error), None),
        };
        self.save();
        if let Some(reply) = stopped {
            let saved = self.state_fault.take().map_or(Ok(()), |why| Err(HubError::Failed(why)));
            // Whoever asked may have gone.
            let _ = reply.send(saved);
        }
        outcome
    }

    async fn work(&mut self) -> Result<Option<super::hub::Reply<()>>, PipelineError> {
        let mut drain = every(DRAIN_INTERVAL);
        let mut moments = every(MOMENTS);
        let mut save = self.saving();
        let mut tidy = every(UPKEEP);
        loop {
            tokio::select! {
                ask = self.asks.recv() => match ask {
                    None => return Ok(None),
                    Some(Ask::Stop { reply }) => return Ok(Some(reply)),
                    Some(Ask::Reload { config, reply }) => {
                        let changes = self.reload(*config);
                        save = self.saving();
                        let _ = reply.send(Ok(changes));
                    }
                    Some(ask) => self.answer(ask),
                },
                readable = self.pipeline.readable() => readable?,
                _ = drain.tick() => {}
                _ = moments.tick() => self.look()?,
                _ = save.tick() => self.save(),
                // What large answers took is kept by the allocator otherwise.
                _ = tidy.tick() => give_back_memory(),
            }
            self.drain()?;
        }
    }

    /// Answers; whoever asked may have gone, which is no fault.
    fn answer(&mut self, ask: Ask) {
        match ask {
            Ask::Summary { choice, reply } => {
                let mut seen = Vec::new();
                let summary = self.pipeline.summary(&choice, &mut |event| seen.push(*event));
                self.publish(seen);
                let _ = reply.send(summary.map(Arc::new).map_err(failed));
            }
            Ask::Events { reply } => {
                let origin = self.pipeline.core().origin();
                let writer = EventWriter {
                    format: Format::Ndjson,
                    hz: origin.hz,
                    recycle_exists: origin.recycle_exists,
                };
                let events = self.events.subscribe(None);
                let _ = reply.send(Ok(Events { events, writer }));
            }
            Ask::Feed { reply } => {
                let mut seen = Vec::new();
                let begun = self.pipeline.begin_in_the_middle(&mut |event| seen.push(*event));
                self.publish(seen);
                let subscribed = begun.map_err(failed).and_then(|(origin, inputs)| {
                    let subscribed = self.feeds.subscribe(&origin, &inputs);
                    subscribed.map_err(|error| HubError::Failed(error.to_string()))
                });
                let _ = reply.send(subscribed);
            }
            Ask::Status { reply } => {
                let _ = reply.send(Ok(self.status()));
            }
            Ask::Reload { .. } | Ask::Stop { .. } => {}
        }
    }

    fn status(&mut self) -> Status {
        self.clock = self.clock.unless_set(now());
        let origin = self.pipeline.core().origin();
        Status {
            backend: origin.backend,
            object: origin.object,
            types: origin.types,
            refused_backends: origin.refused.clone(),
            since_ns: self.since_ns,
            clock: self.clock,
            programs: self.pipeline.kernel().map(|kernel| kernel.costs()).unwrap_or_default(),
            limits: [rights::missing(), self.pipeline.core().unread().to_vec()].concat(),
            restart_needed: self.restart_needed.clone(),
            state_saved: self.state_saved,
            state_fault: self.state_fault.clone(),
        }
    }

    fn drain(&mut self) -> Result<(), PipelineError> {
        if self.events.is_empty() {
            return self.pipeline.drain(&mut |_| {}).map(drop);
        }
        let mut seen = Vec::new();
        let drained = self.pipeline.drain(&mut |event| seen.push(*event)).map(drop);
        self.publish(seen);
        drained
    }

    fn publish(&mut self, seen: Vec<Event>) {
        if !seen.is_empty() && !self.events.is_empty() {
            self.events.send(&seen.into());
        }
    }

    /// Finds out what was lost and refused; with the host's facts when somebody wants them.
    fn look(&mut self) -> Result<(), PipelineError> {
        let listened_to = !self.feeds.is_empty();
        if !listened_to && self.kept_up.elapsed() < UPKEEP {
            return Ok(());
        }
        self.kept_up = Instant::now();
        let mut seen = Vec::new();
        let facts = listened_to;
        let looked = self.pipeline.look_for(Wishes { facts, cgroup_names: facts }, &mut |event| {
            seen.push(*event);
        });
        self.publish(seen);
        looked
    }

    fn reload(&mut self, config: Config) -> Changes {
        let changes = self.config.changes(&config);
        self.config = self.config.reloaded(&config);
        self.restart_needed.clone_from(&changes.restart);
        self.pipeline.set_memory(memory(&self.config));
        changes
    }

    fn saving(&self) -> Interval {
        let time = self.config.save_every;
        let mut saving = interval_at(Instant::now() + time, time);
        saving.set_missed_tick_behavior(MissedTickBehavior::Delay);
        saving
    }

    fn restore(&mut self) {
        let Some(path) = self.config.state_file.clone() else { return };
        match state::load(&path, now()) {
            Ok(restored) => {
                let (peers, forgotten) = (restored.peers.len(), restored.forgotten);
                if restored.written.is_some() {
                    tracing::info!(peers, forgotten, "the history goes on");
                }
                self.state_saved = restored.written;
                self.pipeline.remember(restored.peers);
            }
            Err(error) => tracing::warn!("{error}"),
        }
    }

    fn save(&mut self) {
        let Some(path) = self.config.state_file.clone() else { return };
        let core = self.pipeline.core();
        let past = core.aggregate().table().past();
        let now = now();
        match state::save(&path, core.origin(), past, now) {
            Ok(()) => {
                self.state_saved = Some(now.wall);
                self.state_fault = None;
            }
            Err(error) => {
                tracing::error!("{error}");
                self.state_fault = Some(error.to_string());
            }
        }
    }
}

fn failed(error: PipelineError) -> HubError {
    HubError::Failed(error.to_string())
}

/// A steady interval that does not catch up.
fn every(time: Duration) -> Interval {
    let mut interval = interval(time);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

fn options(config: &Config) -> Result<(Options, Selection), KernelError> {
    let netns = config.netns.as_deref().map(find_namespace).transpose()?;
    let only = netns.map(|inum| Term::Netns(Name::Number(inum.into())).into());
    let (filter, selection) = Selection::split(only.unwrap_or(Expr::ANY));
    let bytes = config.buffer.as_u64().next_power_of_two();
    let options = Options {
        object: config.object.only(),
        attach: config.attach.only(),
        follow_ends: true,
        filter,
        btf: config.btf.clone(),
        max_live: config.max_live,
        ring_bytes: u32::try_from(bytes).unwrap_or(1 << 31),
    };
    Ok((options, selection))
}

fn aggregate(config: &Config, origin: &Origin) -> Settings {
    Settings {
        selection: origin.selection.clone(),
        group_by: GroupBy::Peer,
        prefixes: Prefixes::default(),
        max_peers: config.max_peers,
        max_live: config.max_live as usize,
        memory: memory(config),
        hz: origin.hz,
        recycle_exists: origin.recycle_exists,
        follow_ends: true,
    }
}

/// How much history the settings leave room for.
fn memory(config: &Config) -> Memory {
    let minutes = config.history.as_secs() / 60;
    let entry = size_of::<(u32, Minute)>() as u64;
    Memory {
        minutes: i32::try_from(minutes).unwrap_or(i32::MAX),
        entries: usize::try_from(config.history_bytes() / entry).unwrap_or(usize::MAX),
    }
}
