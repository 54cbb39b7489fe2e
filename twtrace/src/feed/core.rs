//! The fold: inputs in, summaries out. It looks at nothing but its inputs.

use std::{collections::HashMap, time::Duration};

use crate::origin::{Input, Moment, Origin};
use crate::{
    aggregate::{Aggregate, Settings},
    diagnose::{Case, diagnose, egress::Egress},
    event::{Batch, Event},
    failures::FailedPlaces,
    host::{
        facts::{HostFacts, Minute, NamespaceFacts},
        netstat::TcpExt,
        open::OpenPast,
    },
    peer::{GroupBy, minutes::Memory},
    summary::{Context, Examined, RowChoice, Summary},
    trust::Trust,
    units::Clock,
};

/// Most namespaces whose first counters are kept, though no moment tells of them any more.
const MOST_BEFORE: usize = 1024;

/// A summary was asked for before the first moment was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nothing can be said yet: no moment has been told")]
pub struct NoMoment;

/// What is known of a namespace from one moment to the next.
#[derive(Debug)]
struct KnownNamespace {
    cookie: u64,
    /// Its counters when it was first told of.
    before: TcpExt,
    /// What they did of late.
    lately: Minute,
    /// What was open of late.
    open: OpenPast,
}

impl KnownNamespace {
    fn of(facts: &NamespaceFacts) -> Self {
        let before = facts.counters.clone();
        let (lately, open) = (Minute::default(), OpenPast::default());
        Self { cookie: facts.cookie, before, lately, open }
    }
}

/// Everything that was taken in so far.
#[derive(Debug)]
pub struct Core {
    origin: Origin,
    aggregate: Aggregate,
    /// The same by owner, where somebody may want to see both: rows by peer do not tell whose they are.
    by_owner: Option<Box<Aggregate>>,
    undecodable: u64,
    /// When the session was ready, `CLOCK_MONOTONIC` nanoseconds.
    ready_ns: u64,
    /// What is known of each namespace, by inode number.
    known: HashMap<u32, KnownNamespace>,
    moment: Option<Box<Moment>>,
    /// Addresses that connections leave through.
    egress: Vec<Egress>,
}

impl Core {
    /// Nothing taken in yet.
    pub fn new(origin: Origin, settings: Settings) -> Self {
        let by_owner = settings.also_by_owner.then(|| {
            let settings = Settings { group_by: GroupBy::Owner, ..settings.clone() };
            Box::new(Aggregate::new(settings))
        });
        let began_ns = origin.clock.mono_ns;
        let aggregate = Aggregate::new(settings);
        let mut core = Self {
            origin,
            aggregate,
            by_owner,
            undecodable: 0,
            ready_ns: 0,
            known: HashMap::new(),
            moment: None,
            egress: Vec::new(),
        };
        core.each(|aggregate| aggregate.set_began(began_ns));
        core
    }

    /// Tells all that gather.
    fn each(&mut self, tell: impl Fn(&mut Aggregate)) {
        tell(&mut self.aggregate);
        if let Some(by_owner) = &mut self.by_owner {
            tell(by_owner);
        }
    }

    /// Where the inputs come from.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// What was gathered.
    pub fn aggregate(&self) -> &Aggregate {
        &self.aggregate
    }

    /// The moment told last.
    pub fn moment(&self) -> Option<&Moment> {
        self.moment.as_deref()
    }

    /// When that was; the start of all clocks before the first moment.
    pub fn clock(&self) -> Clock {
        let none = Clock { mono_ns: 0, wall: std::time::SystemTime::UNIX_EPOCH };
        self.moment.as_ref().map_or(none, |moment| moment.clock)
    }

    /// Tells through which addresses connections leave.
    pub fn set_egress(&mut self, egress: Vec<Egress>) {
        self.egress = egress;
    }

    /// Whether connections leave through an address that somebody described.
    pub fn has_egress(&self) -> bool {
        !self.egress.is_empty()
    }

    /// Sets how much is kept of each peer's past, from now on.
    pub fn set_memory(&mut self, memory: Memory) {
        self.each(|aggregate| aggregate.set_memory(memory));
    }

    /// What could not be read of the host at the moment told last; each names its file.
    pub fn unread(&self) -> &[String] {
        let facts = self.moment.as_ref().and_then(|moment| moment.facts.as_ref());
        facts.map(|facts| facts.unread.as_slice()).unwrap_or_default()
    }

    /// When the session was ready, `CLOCK_MONOTONIC` nanoseconds; 0 if it is not yet.
    pub const fn ready_ns(&self) -> u64 {
        self.ready_ns
    }

    /// Time from the start of the session to the moment told last.
    pub fn elapsed(&self) -> Duration {
        let now = self.moment.as_ref().map_or(self.ready_ns, |moment| moment.clock.mono_ns);
        Duration::from_nanos(now.saturating_sub(self.ready_ns))
    }

    /// Takes one input in, showing each event to `observe`.
    pub fn take(&mut self, input: Input, observe: &mut dyn FnMut(&Event)) {
        match input {
            Input::Owners(owners) => self.each(|aggregate| {
                owners.iter().for_each(|owned| aggregate.own(owned));
            }),
            Input::Records(batch) => self.records(&batch, observe),
            Input::Refusals(refusals) => self.each(|aggregate| {
                refusals.iter().for_each(|(key, refused)| aggregate.refuse(key, refused));
            }),
            Input::Failures(failures) => self.each(|aggregate| {
                failures.iter().for_each(|failure| aggregate.fail(failure));
            }),
            Input::FailuresBefore(failures) => self.each(|aggregate| {
                failures.iter().for_each(|failure| aggregate.recall_failure(failure));
            }),
            Input::Vanished(sockets) => self.each(|aggregate| {
                let healed = aggregate.heal_vanished(&sockets);
                tracing::debug!(healed, "ends that were not seen are counted as unknown");
            }),
            Input::Unfollowed(namespaces) => self.each(|aggregate| {
                for (netns, most) in &namespaces {
                    aggregate.heal_unfollowed(*netns, *most);
                }
            }),
            Input::Past(peers) => self.aggregate.remember(&peers),
            Input::Ready(mono_ns) => {
                self.ready_ns = mono_ns;
                self.each(|aggregate| aggregate.set_ready(mono_ns));
            }
            Input::Moment(moment) => self.set_moment(moment),
        }
    }

    fn records(&mut self, batch: &Batch, observe: &mut dyn FnMut(&Event)) {
        let follow_ends = self.aggregate.settings().follow_ends;
        let undecodable = self.undecodable;
        for event in batch.events() {
            match event {
                // A session that does not follow ends has neither these nor what was there.
                Ok(Event::Present(_) | Event::Ended(_)) if !follow_ends => {}
                Ok(event) => {
                    if let Some(by_owner) = &mut self.by_owner {
                        by_owner.apply(&event);
                    }
                    if self.aggregate.apply(&event) {
                        observe(&event);
                    }
                }
                Err(error) => {
                    // One line of a batch: the rest is counted.
                    if self.undecodable == undecodable {
                        tracing::warn!(%error);
                    }
                    self.undecodable += 1;
                }
            }
        }
    }

    fn set_moment(&mut self, mut moment: Box<Moment>) {
        moment.totals = moment.totals.since(&self.origin.totals_before);
        moment.skipped = moment.skipped.saturating_sub(self.origin.skipped_before);
        if let Some(before) = &self.origin.audit_before {
            moment.audit = moment.audit.map(|audit| audit.since(before));
        }
        if let Some(only) = self.aggregate.settings().selection.netns() {
            if let Some(facts) = &mut moment.facts {
                facts.namespaces.retain(|inum, _| *inum == only);
            }
            moment.audit = moment.audit.map(|audit| audit.of(only));
        }
        let now_ns = moment.clock.mono_ns;
        if self.known.len() > MOST_BEFORE {
            let told = moment.facts.as_ref().map(|facts| &facts.namespaces);
            let is_told = |inum: &u32| told.is_some_and(|told| told.contains_key(inum));
            self.known.retain(|inum, _| is_told(inum));
        }
        for (inum, facts) in moment.facts.iter_mut().flat_map(|facts| &mut facts.namespaces) {
            self.each(|aggregate| {
                aggregate.namespace(*inum, facts.cookie);
            });
            let known = self.known.entry(*inum).or_insert_with(|| KnownNamespace::of(facts));
            if known.cookie != facts.cookie {
                // Another namespace has the number now.
                *known = KnownNamespace::of(facts);
            }
            facts.counters_before.clone_from(&known.before);
            facts.lately = known.lately.lately(now_ns, facts);
            if let Some(open) = &facts.open {
                facts.open_growth = known.open.growth(open);
            }
        }
        self.moment = Some(moment);
    }

    /// The summary of the moment told last.
    ///
    /// # Errors
    /// [`NoMoment`].
    pub fn summary(&self, choice: &RowChoice) -> Result<Summary, NoMoment> {
        let moment = self.moment.as_deref().ok_or(NoMoment)?;
        let context = Context {
            backend: self.origin.backend,
            object: self.origin.object,
            types: self.origin.types,
            refused_backends: self.origin.refused.clone(),
            sees_binds: self.origin.sees_binds(),
            elapsed: self.elapsed(),
            totals: moment.totals,
            skipped: moment.skipped,
            audit: moment.audit.clone(),
            undecodable: self.undecodable,
            netns_names: moment.netns_names.clone(),
            cgroup_names: moment.cgroup_names.clone(),
        };
        let by_owner = self.by_owner.as_deref().filter(|_| choice.by == Some(GroupBy::Owner));
        let mut summary = match by_owner {
            Some(by_owner) => {
                Summary::new(by_owner, &RowChoice { by: None, ..choice.clone() }, context)
            }
            None => Summary::new(&self.aggregate, choice, context),
        };
        if self.origin.counts_failures {
            let now_ns = moment.clock.mono_ns;
            summary.failed = Some(FailedPlaces::at(self.aggregate.failures(), now_ns));
        }
        let settings = self.aggregate.settings();
        if let Some(facts) = &moment.facts
            && settings.group_by == GroupBy::Peer
            && settings.follow_ends
        {
            summary.examined = Some(self.examine(moment, facts, &summary.trust));
        }
        Ok(summary)
    }

    /// Applies the rules to a moment.
    fn examine(&self, moment: &Moment, facts: &HostFacts, trust: &Trust) -> Examined {
        let owners = self.aggregate.owners().read();
        let diagnosis = diagnose(&Case {
            owners: Some(&owners),
            egress: &self.egress,
            netns_names: Some(&moment.netns_names),
            peers: self.aggregate.table().rows(),
            failures: self.aggregate.failures(),
            sockets: Some(self.aggregate.sockets()),
            fin_wait2_taken: self.aggregate.fin_wait2_taken(),
            sees_connects: self.origin.counts_failures,
            sees_binds: self.origin.sees_binds(),
            facts,
            trust: *trust,
            now_ns: moment.clock.mono_ns,
            wall: moment.clock.wall,
            since_ns: self.ready_ns,
        });
        Examined { diagnosis, facts: facts.clone(), clock: moment.clock }
    }
}
