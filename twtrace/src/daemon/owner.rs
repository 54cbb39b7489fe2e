//! The one owner of the pipeline: takes in what the kernel sends, answers questions, tells those
//! who listen, and keeps the state.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, SystemTime},
};

use tokio::time::{Instant, Interval, MissedTickBehavior, interval, interval_at};

use super::{
    failure::DaemonFailure,
    feeds::Feeds,
    hub::{Ask, Asks, Events, Feed, HubError, Reply, Status, Subscribers},
    state::{self, Most, Unsaved},
};
use crate::{
    aggregate::Settings,
    config::{Changes, DaemonConfig, ring_bytes},
    diagnose::egress::Egress,
    event::Event,
    feed::{
        beside::{Beside, Progress},
        now,
    },
    filter::{Expr, Name, Selection, Term},
    kernel::{
        KernelError, Options, find_namespace, give_back_memory,
        rights::{self, Work},
    },
    origin::{Origin, Wishes},
    peer::{
        GroupBy, Prefixes,
        minutes::{Memory, Minute},
    },
    pipeline::{Pipeline, PipelineError},
    ticks::Ticks,
    units::Clock,
    view::{Format, events::EventWriter},
};

/// Time between two moments while somebody listens to the feed.
const MOMENTS: Duration = Duration::from_secs(1);
/// How often what is done beside is looked at while it is.
const BESIDE: Duration = Duration::from_millis(50);
/// Time between two looks at what was lost and refused while nobody does, and between two returns
/// of memory that is not needed any more.
const UPKEEP: Duration = Duration::from_secs(10);

/// Times the memory allowed that the state may unpack to: as text a minute takes some four times
/// what it takes in memory.
const STATE_TIMES: u64 = 5;

/// Owns the pipeline.
pub struct Owner {
    pipeline: Pipeline,
    config: DaemonConfig,
    duties: Work,
    restart_needed: Vec<&'static str>,
    asks: Asks,
    feeds: Feeds,
    /// Those who wait to begin to listen.
    listening: VecDeque<Reply<Feed>>,
    events: Subscribers<Arc<[Event]>>,
    since_ns: u64,
    /// What gives moments their time of day.
    clock: Clock,
    state_saved: Option<SystemTime>,
    state_fault: Option<String>,
    /// The state being written.
    saving: Option<Beside<Result<SystemTime, Unsaved>>>,
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
        config: DaemonConfig,
        asks: Asks,
        dropped: &Arc<AtomicU64>,
    ) -> Result<Self, PipelineError> {
        let (options, selection) = options(&config)?;
        let duties = Work::of(options.filter.netns);
        let settings = config.clone();
        let mut pipeline = Pipeline::attach(
            options,
            selection,
            Wishes { facts: true, cgroup_names: false },
            |origin| aggregate(&settings, origin),
            &mut |_| {},
        )?;
        pipeline.set_egress(egress(&config));
        let feeds = Feeds::new(Arc::clone(dropped));
        pipeline.set_tap(Box::new(feeds.clone()));
        if let Some(diagnostics) = pipeline.diagnostics() {
            tokio::spawn(diagnostics);
        }
        let clock = now();
        let mut owner = Self {
            pipeline,
            config,
            duties,
            restart_needed: Vec::new(),
            asks,
            feeds,
            listening: VecDeque::new(),
            events: Subscribers::new(Arc::clone(dropped)),
            since_ns: clock.mono_ns,
            clock,
            state_saved: None,
            state_fault: None,
            saving: None,
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

    /// What it does once it is attached, as far as that takes rights.
    pub fn duties(&self) -> Work {
        self.duties
    }

    /// Works until it is asked to stop, or nobody can ask any more; then writes the state.
    ///
    /// # Errors
    /// The kernel side failed; the state has been written all the same, if it can be. Or it cannot.
    pub async fn run(mut self) -> Result<(), DaemonFailure> {
        let outcome = self.work().await;
        // What happened until now belongs to what is kept and told.
        if outcome.is_ok()
            && let Err(error) = self.look_now()
        {
            tracing::warn!(%error, "the last look failed");
        }
        if let Err(error) = self.feeds.end() {
            tracing::warn!(%error, "listeners were not told of the end");
        }
        // The one being written is older, and would take the newer one's place.
        self.saving.take().map(Beside::end);
        self.save();
        if let Some(saving) = self.saving.take() {
            self.saved(saving.end());
        }
        let stopped = outcome?;
        if let Some(reply) = stopped {
            // Whoever asked may have gone.
            let _ = reply.send(Ok(()));
        }
        self.state_fault.map_or(Ok(()), |why| Err(DaemonFailure::State(why)))
    }

    async fn work(&mut self) -> Result<Option<Reply<()>>, PipelineError> {
        let mut beside = every(BESIDE);
        let moments = Ticks::every(MOMENTS).map_err(PipelineError::Timer)?;
        let mut save = self.save_interval();
        let mut tidy = every(UPKEEP);
        loop {
            tokio::select! {
                ask = self.asks.next() => match ask {
                    None => return Ok(None),
                    Some(Ask::Stop { reply }) => return Ok(Some(reply)),
                    Some(Ask::Reload { config, reply }) => {
                        let changes = self.reload(*config);
                        save = self.save_interval();
                        let _ = reply.send(Ok(changes));
                    }
                    Some(ask) => self.answer(ask),
                },
                readable = self.pipeline.readable() => readable?,
                _ = beside.tick(), if self.saving.is_some() || !self.listening.is_empty() => {}
                ticked = moments.tick() => {
                    ticked.map_err(PipelineError::Timer)?;
                    self.look()?;
                }
                _ = save.tick() => self.save(),
                // What large answers took is kept by the allocator otherwise.
                _ = tidy.tick() => give_back_memory(),
            }
            self.drain()?;
            self.open();
            if let Some(saving) = self.saving.take() {
                match saving.look() {
                    Progress::Under => self.saving = Some(saving),
                    Progress::Done(written) => self.saved(Some(written)),
                    Progress::Failed => self.saved(None),
                }
            }
        }
    }

    /// Lets the next of those who wait begin to listen, once the sockets that live are found.
    fn open(&mut self) {
        self.listening.retain(|reply| !reply.is_closed());
        if self.listening.is_empty() {
            return self.pipeline.forget_opening();
        }
        let mut seen = Vec::new();
        let begun = self.pipeline.begin_opening();
        let opening = begun.and_then(|()| self.pipeline.opening(&mut |event| seen.push(*event)));
        self.publish(seen);
        let feed = match opening {
            Ok(None) => return,
            Ok(Some(opening)) => {
                self.feeds.join(opening).map_err(|error| HubError::Failed(error.to_string()))
            }
            Err(error) => Err(failed(error)),
        };
        if let Some(reply) = self.listening.pop_front() {
            let _ = reply.send(feed);
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
                let core = self.pipeline.core();
                let (hz, recycle_exists) = (core.origin().hz, core.origin().recycle_exists);
                let owners = core.aggregate().owners().clone();
                let bare = EventWriter::bare(Format::Ndjson, hz, recycle_exists);
                let writer = EventWriter { owners, ..bare };
                let events = self.events.subscribe();
                let _ = reply.send(Ok(Events { events, writer }));
            }
            Ask::Feed { reply } => self.listening.push_back(reply),
            Ask::Status { reply } => {
                let _ = reply.send(Ok(self.status()));
            }
            Ask::Reload { .. } | Ask::Stop { .. } => {}
        }
    }

    fn status(&mut self) -> Status {
        self.clock = self.clock.unless_set(now());
        let core = self.pipeline.core();
        let (origin, moment) = (core.origin(), core.moment());
        Status {
            audit: moment.and_then(|moment| moment.audit.clone()),
            netns_names: moment.map(|moment| moment.netns_names.clone()).unwrap_or_default(),
            backend: origin.backend,
            object: origin.object,
            types: origin.types,
            refused_backends: origin.refused.clone(),
            sees_binds: origin.sees_binds(),
            since_ns: self.since_ns,
            clock: self.clock,
            programs: self.pipeline.kernel().map(|kernel| kernel.costs()).unwrap_or_default(),
            limits: [rights::missing(self.duties), self.pipeline.core().unread().to_vec()].concat(),
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
        if self.feeds.is_empty() && self.kept_up.elapsed() < UPKEEP {
            return Ok(());
        }
        self.look_now()
    }

    fn look_now(&mut self) -> Result<(), PipelineError> {
        self.kept_up = Instant::now();
        let facts = !self.feeds.is_empty();
        let mut seen = Vec::new();
        let looked = self.pipeline.look_for(Wishes { facts, cgroup_names: facts }, &mut |event| {
            seen.push(*event);
        });
        self.publish(seen);
        looked
    }

    fn reload(&mut self, config: DaemonConfig) -> Changes {
        let changes = self.config.changes(&config);
        self.config = self.config.reloaded(&config);
        self.restart_needed.clone_from(&changes.restart);
        self.pipeline.set_memory(memory(&self.config));
        self.pipeline.set_egress(egress(&self.config));
        changes
    }

    fn save_interval(&self) -> Interval {
        let time = self.config.save_every;
        let mut saving = interval_at(Instant::now() + time, time);
        saving.set_missed_tick_behavior(MissedTickBehavior::Delay);
        saving
    }

    fn restore(&mut self) {
        let Some(path) = self.config.state_file.clone() else { return };
        let most = Most {
            peers: self.config.max_peers,
            minutes: memory(&self.config).entries,
            bytes: self.config.memory.as_u64().saturating_mul(STATE_TIMES),
        };
        match state::load(&path, now(), most) {
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

    /// Begins to write the state, unless it is being written.
    fn save(&mut self) {
        let Some(path) = self.config.state_file.clone().filter(|_| self.saving.is_none()) else {
            return;
        };
        let core = self.pipeline.core();
        let (origin, pasts, now) = (core.origin().clone(), core.aggregate().table().pasts(), now());
        let save = move || state::save(&path, &origin, pasts.into_iter(), now).map(|()| now.wall);
        match Beside::begin("state", save) {
            Ok(saving) => self.saving = Some(saving),
            Err(error) => self.state_fault = Some(format!("no thread to write the state: {error}")),
        }
    }

    /// Notes how the writing of the state ended.
    fn saved(&mut self, written: Option<Result<SystemTime, Unsaved>>) {
        self.state_fault = match written {
            Some(Ok(written)) => {
                self.state_saved = Some(written);
                None
            }
            Some(Err(error)) => Some(error.to_string()),
            None => Some("the thread that writes the state failed".into()),
        };
        if let Some(fault) = &self.state_fault {
            tracing::error!("{fault}");
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

fn options(config: &DaemonConfig) -> Result<(Options, Selection), KernelError> {
    let netns = config.netns.as_deref().map(find_namespace).transpose()?;
    let only = netns.map(|inum| Term::Netns(Name::Number(inum.into())).into());
    let (filter, selection) = Selection::split(only.unwrap_or(Expr::ANY));
    let options = Options {
        object: config.object.only(),
        attach: config.attach.only(),
        follow_ends: true,
        filter,
        btf: config.btf.clone(),
        max_live: config.max_live,
        ring_bytes: ring_bytes(config.buffer),
    };
    Ok((options, selection))
}

fn aggregate(config: &DaemonConfig, origin: &Origin) -> Settings {
    Settings {
        selection: origin.selection.clone(),
        group_by: GroupBy::Peer,
        also_by_owner: false,
        prefixes: Prefixes::default(),
        max_peers: config.max_peers,
        max_live: config.max_live as usize,
        memory: memory(config),
        hz: origin.hz,
        recycle_exists: origin.recycle_exists,
        follow_ends: true,
    }
}

/// Through which addresses connections leave.
fn egress(config: &DaemonConfig) -> Vec<Egress> {
    config.egress.clone().map(|egress| egress.0).unwrap_or_default()
}

/// How much history the settings leave room for.
fn memory(config: &DaemonConfig) -> Memory {
    let minutes = config.history.as_secs() / 60;
    let entry = size_of::<(u32, Minute)>() as u64;
    Memory {
        minutes: i32::try_from(minutes).unwrap_or(i32::MAX),
        entries: usize::try_from(config.history_bytes() / entry).unwrap_or(usize::MAX),
    }
}
