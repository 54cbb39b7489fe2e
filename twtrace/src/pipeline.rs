//! The one owner of the aggregate: source in, summaries out.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use twtrace_common::Counter;

use crate::{
    aggregate::{Aggregate, Settings},
    event::Event,
    examiner::Examiner,
    host::cgroup,
    kernel::{Inventory, KernelError, Namespace, Namespaces, Options, Source, Totals, Tracer},
    peer::GroupBy,
    summary::{Context, RowChoice, Summary},
};

/// How often the buffer is looked into when it is too empty to be woken for.
pub const DRAIN_INTERVAL: Duration = Duration::from_millis(50);

/// Where control groups are mounted; hosts with both versions have the second below `unified`.
const CGROUP_ROOTS: [&str; 2] = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];

/// A session's machinery.
pub struct Pipeline {
    tracer: Tracer,
    source: Source,
    aggregate: Aggregate,
    options: Options,
    started: Instant,
    undecodable: u64,
    /// Applies the rules, where rows and ends allow it.
    examiner: Option<Examiner>,
    /// Signs of trouble already dealt with: losses, skips and missed ends together.
    trouble: u64,
}

impl Pipeline {
    /// Attaches, then reads the sockets that are in TIME_WAIT already, showing each to `observe`.
    ///
    /// # Errors
    /// Those of [`Tracer::start`] and of the reading.
    pub fn start(
        options: Options,
        settings: Settings,
        observe: &mut dyn FnMut(&Event),
    ) -> Result<Self, KernelError> {
        let mut tracer = Tracer::start(&options)?;
        let source = tracer.source()?;
        let netns = options.filter.netns;
        let examines = settings.group_by == GroupBy::Peer && options.follow_ends;
        let mut pipeline = Self {
            tracer,
            source,
            aggregate: Aggregate::new(settings),
            options,
            started: Instant::now(),
            undecodable: 0,
            examiner: examines.then(|| Examiner::begin(netns)),
            trouble: 0,
        };
        if pipeline.options.follow_ends {
            pipeline.read_present(observe)?;
            pipeline.aggregate.set_ready(monotonic_ns());
        }
        pipeline.started = Instant::now();
        if let Some(examiner) = &mut pipeline.examiner {
            examiner.set_ready(monotonic_ns());
        }
        Ok(pipeline)
    }

    /// The kernel side.
    pub fn tracer(&mut self) -> &mut Tracer {
        &mut self.tracer
    }

    /// What was gathered.
    pub fn aggregate(&self) -> &Aggregate {
        &self.aggregate
    }

    /// Waits until the kernel side says that much is waiting.
    ///
    /// # Errors
    /// [`KernelError::Ring`].
    pub async fn readable(&self) -> Result<(), KernelError> {
        self.source.readable().await
    }

    /// Takes in one bounded batch, showing each event to `observe`. True if there may be more.
    pub fn drain(&mut self, observe: &mut dyn FnMut(&Event)) -> bool {
        drain(&mut self.source, &mut self.aggregate, &mut self.undecodable, observe)
    }

    /// Takes in everything that waits.
    pub fn drain_all(&mut self, observe: &mut dyn FnMut(&Event)) {
        while self.drain(observe) {}
    }

    /// Takes the summary of this moment, healing what was lost before.
    ///
    /// # Errors
    /// The kernel's totals could not be read.
    pub fn summary(
        &mut self,
        choice: RowChoice,
        observe: &mut dyn FnMut(&Event),
    ) -> Result<Summary, KernelError> {
        let totals = self.source.totals()?;
        let skipped = self.tracer.skipped();
        // After the totals, so that whatever they count is in the rows as well, unless it is lost.
        self.drain_all(observe);
        for (key, refused) in self.source.new_refusals() {
            self.aggregate.refuse(&key, &refused);
        }
        let trouble = totals.lost() + skipped + totals.of(Counter::MissedEnd);
        if trouble > self.trouble && self.options.follow_ends {
            self.trouble = trouble;
            self.heal(observe);
        }
        let mut summary = Summary::new(&self.aggregate, choice, self.context(totals, skipped));
        if let Some(examiner) = &mut self.examiner {
            let now_ns = monotonic_ns();
            summary.examined = Some(examiner.examine(&self.aggregate, &summary.trust, now_ns));
        }
        Ok(summary)
    }

    fn context(&self, totals: Totals, skipped: u64) -> Context {
        let cgroup_names = if self.aggregate.settings().group_by == GroupBy::Cgroup {
            let root = CGROUP_ROOTS.iter().map(std::path::Path::new).find(|root| root.is_dir());
            root.map(cgroup::names).unwrap_or_default()
        } else {
            Default::default()
        };
        Context {
            backend: self.tracer.backend(),
            refused_backends: self.tracer.refused().to_vec(),
            elapsed: self.started.elapsed(),
            totals,
            skipped,
            undecodable: self.undecodable,
            netns_names: Namespaces::scan().names(),
            cgroup_names,
        }
    }

    /// Reads what is in TIME_WAIT already, namespace by namespace, taking records in meanwhile so
    /// that a crowded host does not overflow the buffer.
    fn read_present(&mut self, observe: &mut dyn FnMut(&Event)) -> Result<(), KernelError> {
        for namespace in Tracer::namespaces_of(&self.options.filter) {
            let mut inventory = self.tracer.follow_present()?;
            let (source, aggregate) = (&mut self.source, &mut self.aggregate);
            let undecodable = &mut self.undecodable;
            let read = read_beside(&mut inventory, &namespace, || {
                while drain(source, aggregate, undecodable, observe) {}
            });
            if let Err(error) = read {
                tracing::warn!(
                    namespace = namespace.inum,
                    %error,
                    "cannot read the sockets present; their ends will be told apart"
                );
            }
        }
        Ok(())
    }

    /// Finds the sockets whose end was lost or missed, and counts them as ended unseen.
    fn heal(&mut self, observe: &mut dyn FnMut(&Event)) {
        let before = monotonic_ns();
        // First what the kernel side itself missed: sockets it follows that are no more.
        let mut alive = std::collections::HashMap::new();
        for namespace in Tracer::namespaces_of(&self.options.filter) {
            let Ok(mut inventory) = self.tracer.list_live() else { break };
            if let Ok(sockets) = inventory.read(&namespace) {
                alive.insert(namespace.inum, sockets);
            }
        }
        let missed = self.aggregate.vanished(before, |tw, socket| {
            alive.get(&socket.netns).is_none_or(|sockets| sockets.contains(&tw))
        });
        for (tw, socket) in &missed {
            self.source.forget(*tw, socket.entered_ns);
        }
        // Then the ends whose event was lost: sockets it follows no more.
        let source = &self.source;
        let gone =
            self.aggregate.vanished(before, |tw, socket| source.follows(tw, socket.entered_ns));
        // Ends that are merely on their way arrive now and are no longer tracked afterwards.
        self.drain_all(observe);
        let healed = self.aggregate.heal_vanished(&gone);
        tracing::debug!(healed, "ends that were not seen are counted as unknown");
    }
}

/// Takes one bounded batch from the source into the aggregate. True if there may be more.
fn drain(
    source: &mut Source,
    aggregate: &mut Aggregate,
    undecodable: &mut u64,
    observe: &mut dyn FnMut(&Event),
) -> bool {
    let Some(batch) = source.drain() else { return false };
    for event in batch.events() {
        match event {
            Ok(event) => {
                aggregate.apply(&event);
                observe(&event);
            }
            Err(error) => {
                tracing::warn!(%error);
                *undecodable += 1;
            }
        }
    }
    true
}

/// Reads a namespace on another thread while `meanwhile` runs again and again on this one.
fn read_beside(
    inventory: &mut Inventory<'_>,
    namespace: &Namespace,
    mut meanwhile: impl FnMut(),
) -> std::io::Result<()> {
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| inventory.read(namespace).map(drop));
        while !reader.is_finished() {
            meanwhile();
            std::thread::yield_now();
        }
        meanwhile();
        reader.join().unwrap_or_else(|_| Err(std::io::Error::other("the reader failed")))
    })
}

/// `CLOCK_MONOTONIC` now, nanoseconds: the clock of the kernel programs.
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}
