//! The kernel programs as a feed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    net::SocketAddr,
    path::Path,
    sync::mpsc::{self, RecvTimeoutError},
    time::{Duration, Instant, SystemTime},
};

use twtrace_common::{Counter, Entered, Filter};

use super::{
    Core,
    auditor::{Auditor, Scope},
    crowds::Crowds,
    gathering::Gathering,
    nat::Nats,
    open::OpenCounts,
    owners::Resolver,
    walk::Walk,
};
use crate::origin::{Input, Moment, Origin, Wishes};
use crate::{
    attached::{ObjectKind, ProgramCost},
    audit::{Audit, Basis},
    event::{Batch, Event},
    filter::{self, Selection, Verdict},
    host::{
        HostFactError, cgroup,
        facts::{self, HostFacts, NamespaceFacts, Shared},
        files,
    },
    kernel::{
        KernelError, Namespace, Namespaces, Options, Source, Tracer, find_namespace,
        give_back_memory, netns_cookie,
        rights::{self, Work},
    },
    totals::Totals,
    units::{Clock, Hz},
};

pub use crate::kernel::monotonic_ns;

/// Where procfs is mounted.
const PROC: &str = "/proc";
/// This thread's own namespace.
const OWN: &str = "/proc/thread-self/ns/net";
/// That of the first process, which on a host is the initial one.
const INITIAL: &str = "/proc/1/ns/net";
/// Most namespaces whose facts are read at once.
const MAX_NAMESPACES: usize = 256;

/// Attached programs, and the host they run on.
pub struct KernelFeed {
    tracer: Tracer,
    source: Source,
    options: Options,
    selection: Selection,
    /// Open connections as they were counted last.
    open: OpenCounts,
    /// Where many connections are open.
    crowds: Crowds,
    /// What is known of NAT on this host.
    nats: Nats,
    /// Processes near their limit of open files.
    files: files::Look,
    /// Who finds out whose the sockets are.
    owners: Resolver,
    /// Records whose owners were told first.
    held: Option<Batch>,
    /// Records taken out while something else took long, in order.
    beside: VecDeque<Batch>,
    /// The comparison with the kernel's own counters, where that can be made.
    auditor: Option<Auditor>,
    /// Signs of trouble already dealt with: losses, skips and missed ends together.
    trouble: u64,
    /// Sockets that entered or ended unseen by the last moment.
    missed: u64,
    /// Whether there were ever more sockets than are followed.
    capped: bool,
    /// Whether entries were lost of sockets that nobody can tell from those that are missing.
    blurred: bool,
    /// When to take out what waits.
    gathering: Gathering,
}

impl KernelFeed {
    /// Attaches.
    ///
    /// # Errors
    /// Those of [`Tracer::start`].
    pub fn attach(
        options: Options,
        selection: Selection,
        wishes: Wishes,
    ) -> Result<(Self, Origin), KernelError> {
        let clock = now();
        let mut tracer = Tracer::start(&options)?;
        // What reading the kernel's types took.
        give_back_memory();
        let source = tracer.source()?;
        let origin = Origin {
            host: host_name(),
            kernel: crate::kernel::release(),
            boot_id: boot_id(),
            recycle_exists: tracer.recycles(),
            object: tracer.object(),
            types: tracer.types(),
            refused: tracer.refused().to_vec(),
            binds_by_cgroup: tracer.binds_by_cgroup(),
            follow_ends: options.follow_ends,
            selection: selection.clone(),
            netns_names: Namespaces::scan().names(),
            cgroup_names: cgroup_names(wishes),
            ..Origin::bare(tracer.backend(), clock, Hz::of_running_kernel())
        };
        let auditor = auditor(&tracer, &options);
        let open = OpenCounts::default();
        Ok((
            Self {
                tracer,
                source,
                options,
                selection,
                open,
                crowds: Crowds::default(),
                nats: Nats::default(),
                files: files::Look::default(),
                owners: Resolver::new(),
                held: None,
                beside: VecDeque::new(),
                auditor,
                trouble: 0,
                missed: 0,
                capped: false,
                blurred: false,
                gathering: Gathering::begin(),
            },
            origin,
        ))
    }

    /// The kernel side.
    pub fn tracer(&mut self) -> &mut Tracer {
        &mut self.tracer
    }

    /// What the attached programs have cost.
    pub fn costs(&self) -> Vec<ProgramCost> {
        self.tracer.costs()
    }

    /// Waits until it is time to take out what waits; with `soon` an interval at most.
    ///
    /// # Errors
    /// [`KernelError::Ring`].
    pub async fn due(&mut self, soon: bool) -> Result<(), KernelError> {
        if self.held.is_some() || !self.beside.is_empty() {
            return Ok(());
        }
        let source = &self.source;
        self.gathering.due(soon || !source.wakes(), || source.woken()).await
    }

    /// One bounded batch of what waits, or whose the sockets of the next one are; `None` when nothing
    /// waits.
    pub fn records(&mut self) -> Option<Input> {
        if let Some(batch) = self.held.take() {
            return Some(Input::Records(batch));
        }
        let batch = match self.beside.pop_front() {
            Some(batch) => batch,
            None => {
                let batch = self.source.drain();
                self.gathering.drained(batch.is_some());
                batch?
            }
        };
        let owners = self.owners.meet(&batch);
        if owners.is_empty() {
            return Some(Input::Records(batch));
        }
        self.held = Some(batch);
        Some(Input::Owners(owners))
    }

    /// Finds what is in TIME_WAIT already, namespace by namespace, taking records in meanwhile so
    /// that a crowded host does not overflow the buffer.
    ///
    /// # Errors
    /// [`KernelError::Inventory`].
    pub fn follow_present(&mut self, take: &mut dyn FnMut(Input)) -> Result<(), KernelError> {
        if !self.tracer.numbers_namespaces() {
            tracing::warn!(
                "cannot tell network namespaces apart: the ends of sockets present are counted as \
                 unseen"
            );
            return Ok(());
        }
        for missing in rights::missing(Work::of(self.options.filter.netns)) {
            tracing::warn!("{missing}");
        }
        let mut unread = Shut::default();
        for namespace in Tracer::namespaces_of(&self.options.filter) {
            let inventory = self.tracer.follow_present()?;
            let (source, selection) = (&mut self.source, &self.selection);
            let owners = &mut self.owners;
            let mut take = |batch: Batch| {
                let met = owners.meet(&batch);
                if !met.is_empty() {
                    take(Input::Owners(met));
                }
                take(Input::Records(batch));
            };
            let wanted = |socket: &Entered| {
                let socket = filter::Socket::from(&Event::Present(*socket));
                selection.whole.matches(&socket) != Verdict::No
            };
            let keep = |socket: Entered| Some(socket).filter(wanted);
            let read = beside(
                || inventory.read(&namespace, keep),
                || {
                    while let Some(batch) = source.drain_meanwhile() {
                        take(batch);
                    }
                },
            );
            match read {
                Ok(listed) if listed.is_empty() => {}
                Ok(listed) => take(source.follow(listed)),
                Err(error) => unread.add(namespace.inum, &error),
            }
        }
        for which in unread.sentences() {
            tracing::warn!(
                "cannot read the sockets present at the start in {which}; their ends are told apart"
            );
        }
        Ok(())
    }

    /// A walk over the sockets in TIME_WAIT, to be done beside.
    ///
    /// # Errors
    /// [`KernelError::Incomplete`] if ends are not followed.
    pub fn walk(&self) -> Result<Walk, KernelError> {
        Ok(Walk {
            inventory: self.tracer.list_live()?,
            filter: self.options.filter,
            names: self.source.names(),
            followed: self.source.followed(),
        })
    }

    /// The kernel side's exact totals, and the program runs it skipped.
    ///
    /// # Errors
    /// [`KernelError::Object`].
    pub fn totals(&mut self) -> Result<(Totals, u64), KernelError> {
        Ok((self.source.totals()?, self.tracer.skipped()))
    }

    /// Refusals that came since the last call; `None` if none did.
    pub fn refusals(&mut self) -> Option<Input> {
        let refusals = self.source.new_refusals();
        (!refusals.is_empty()).then_some(Input::Refusals(refusals))
    }

    /// How many sockets are missing, by namespace, as far as they can be looked for. Beyond the cap
    /// of those followed nobody can tell them from those that are counted and not followed; nor,
    /// where they are known by their ends alone, from those whose record was lost.
    pub fn missing(&self) -> HashMap<u32, u64> {
        let auditor = self.auditor.as_ref().filter(|_| !self.capped && !self.blurred);
        auditor.map(Auditor::missing).unwrap_or_default()
    }

    /// Whether more sockets entered or ended unseen than when this was last asked.
    pub fn disagrees_more(&mut self, audit: Option<&Audit>) -> bool {
        let unseen = |audit: &Audit| {
            let living = audit.namespaces.values().filter_map(|audited| audited.live);
            let living = living.map(|live| live.kernel.abs_diff(live.counted)).sum::<u64>();
            living + audit.total().entries.missing
        };
        let now = audit.map_or(0, unseen);
        let before = std::mem::replace(&mut self.missed, now);
        now > before && self.options.follow_ends
    }

    /// Takes note of sockets that had ended and that the kernel side did not know of, by namespace.
    pub fn vanish(&mut self, netns: &[u32]) {
        if let Some(auditor) = &mut self.auditor {
            netns.iter().for_each(|netns| auditor.vanish(*netns));
        }
    }

    /// Takes in sockets whose entry was missed; `None` if there are none.
    pub fn adopt(&mut self, entries: Vec<Entered>) -> Option<Input> {
        let missing = self.missing();
        let auditor = &mut self.auditor;
        let note = |entry: &Entered| {
            if let Some(auditor) = auditor {
                auditor.adopt(entry.header.netns);
            }
        };
        self.source.adopt(entries, missing, note).map(Input::Records)
    }

    /// Failures that came since the last call, and before them whose they are.
    pub fn failures(&mut self) -> Vec<Input> {
        let failures = self.source.new_failures();
        let owners = self.owners.meet_failures(&failures);
        let owners = (!owners.is_empty()).then_some(Input::Owners(owners));
        let failures = (!failures.is_empty()).then_some(Input::Failures(failures));
        owners.into_iter().chain(failures).collect()
    }

    /// Whether something was lost, skipped or missed since the last call.
    pub fn is_in_trouble(&mut self, totals: &Totals, skipped: u64) -> bool {
        let trouble = totals.lost() + skipped + totals.of(Counter::MissedEnd);
        let more = trouble > self.trouble && self.options.follow_ends;
        let capped = totals.of(Counter::Untracked) > 0;
        // With ring buffers the programs say so themselves.
        if capped && !self.capped && self.tracer.object() == ObjectKind::Perf {
            let most = self.options.max_live;
            tracing::warn!(
                "more than {most} sockets lived at once: from here on lifetimes are of \
                            those followed; a larger max-live follows more"
            );
        }
        self.capped |= capped;
        self.blurred |=
            self.tracer.object() == ObjectKind::Perf && totals.of(Counter::LostEntered) > 0;
        self.trouble = trouble;
        more
    }

    /// The facts of this moment. The first moment has those of all namespaces, so that counters
    /// are compared with the start whenever a namespace gets a row.
    pub fn moment(
        &mut self,
        core: &Core,
        clock: Clock,
        (totals, skipped): (Totals, u64),
        wishes: Wishes,
    ) -> Moment {
        let namespaces = Namespaces::scan();
        let audit = self.audit(&namespaces);
        let facts = wishes.facts.then(|| self.facts(&namespaces, core));
        Moment {
            clock,
            totals,
            skipped,
            audit,
            facts,
            netns_names: namespaces.names(),
            cgroup_names: cgroup_names(wishes),
        }
    }

    /// Compares what was counted with the kernel's own counters.
    fn audit(&mut self, namespaces: &Namespaces) -> Option<Audit> {
        let only = self.options.filter.netns;
        Some(self.auditor.as_mut()?.look(&mut self.source, namespaces, only))
    }

    /// Facts of the host, of the namespace asked for or this process's own, and of those seen.
    fn facts(&mut self, all: &Namespaces, core: &Core) -> HostFacts {
        let only = self.options.filter.netns;
        let asked = if only == 0 { find_namespace(OWN).ok() } else { Some(only) };
        let rows = core.aggregate().table().rows();
        let first = core.moment().is_none();
        let there = all.iter().map(|namespace| namespace.inum).filter(|_| first);
        self.nats.refresh(all, Instant::now());
        let seen = rows.iter().filter_map(|row| row.group.netns()).chain(there);
        // Of those that are NAT for others the table of connections counts.
        let seen = self.nats.namespaces().chain(seen);
        let shares = core.has_egress() || self.nats.namespaces().next().is_some();
        let crowded = shares.then(|| self.crowds.look(all, Instant::now()));
        let seen = seen.chain(crowded.into_iter().flatten().copied());
        let seen = seen.filter(|inum| *inum != 0 && (only == 0 || *inum == only));
        let wanted: BTreeSet<u32> = asked.into_iter().chain(seen).take(MAX_NAMESPACES).collect();
        let mut host = facts::host(Path::new(PROC), Path::new("/"));
        self.open.retain(|inum| wanted.contains(&inum));
        let mut shut = Shut::default();
        let recycles = self.tracer.recycles();
        let mut shared = None;
        let asked_for = |inum| only == inum || shares && self.crowds.have(inum);
        for inum in wanted {
            // One that is gone, or held by nothing that can be found, is of no consequence.
            let Some(namespace) = all.get(inum) else { continue };
            let now_ns = monotonic_ns();
            let servers = self.open.due(inum, rows, now_ns, asked_for(inum));
            let read = match servers.as_deref() {
                // Of a crowded namespace the list of connections takes longer than the buffer lasts.
                servers @ Some(_) => {
                    let work = || read_facts(namespace, servers);
                    keeping_beside(&mut self.source, &mut self.beside, work)
                }
                None => read_facts(namespace, None),
            };
            match read {
                Ok(Read { mut facts, took, errors }) => {
                    host.unread.extend(errors.iter().map(ToString::to_string));
                    if let Some(ports) = facts.open.take() {
                        // Where nobody was asked for yet, whoever comes has not to wait for it.
                        let nobody = servers.as_ref().is_some_and(Vec::is_empty);
                        let took = if nobody { Duration::ZERO } else { took };
                        self.open.note(inum, ports, now_ns, took);
                    }
                    facts.open = self.open.of(inum);
                    if facts.lacks_shared(recycles) {
                        facts.take_shared(*shared.get_or_insert_with(|| read_shared(all)));
                    }
                    facts.long_stamps = self.tracer.long_stamps();
                    host.namespaces.insert(inum, facts);
                }
                Err(error) => shut.add(inum, &error),
            }
        }
        let open = self.open.ways().filter(|(_, local, _)| !local.is_loopback());
        host.nats = self.nats.found(all, rows, open);
        host.near_limit = self.files.look(Path::new(PROC), only, Instant::now());
        host.unread.extend(shut.sentences().map(|which| format!("cannot enter {which}")));
        host
    }
}

/// What compares, unless the programs count only some of a namespace's sockets. Of a kernel that
/// counts expiries, ends have to be followed.
fn auditor(tracer: &Tracer, options: &Options) -> Option<Auditor> {
    let all = Filter { netns: options.filter.netns, ..Filter::default() } == options.filter;
    let basis = tracer.basis().filter(|_| all)?;
    let ends = options.follow_ends;
    let overflow = ends && tracer.backend().sees_refusals();
    (ends || basis == Basis::Creations).then(|| Auditor::new(Scope { basis, overflow, ends }))
}

/// Namespaces that could not be looked into, by why: one sentence for all of a kind, and none where
/// that a capability is missing has been said.
#[derive(Default)]
struct Shut(BTreeMap<String, (u32, usize)>);

impl Shut {
    fn add(&mut self, inum: u32, error: &std::io::Error) {
        if rights::explain(error) {
            return;
        }
        self.0.entry(error.to_string()).or_insert((inum, 0)).1 += 1;
    }

    /// Which, and why.
    fn sentences(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|(error, (first, count))| match count {
            1 => format!("network namespace {first}: {error}"),
            _ => format!("{count} network namespaces, such as {first}: {error}"),
        })
    }
}

/// What was read of a namespace.
struct Read {
    facts: NamespaceFacts,
    /// How long the open connections took.
    took: Duration,
    /// What could not be read.
    errors: Vec<HostFactError>,
}

/// Reads a namespace's facts on a thread inside it; of open connections those to some servers, if
/// any are given.
fn read_facts(namespace: &Namespace, servers: Option<&[SocketAddr]>) -> std::io::Result<Read> {
    namespace.run(|| {
        let (mut facts, mut errors) = facts::namespace(Path::new(PROC));
        facts.cookie = netns_cookie();
        let started = Instant::now();
        if let Some(servers) = servers {
            match facts::open_ports(Path::new(PROC), &facts, servers) {
                Ok(ports) => facts.open = Some(ports),
                Err(error) => errors.push(error),
            }
        }
        Read { facts, took: started.elapsed(), errors }
    })
}

/// The settings that the initial namespace may have for all; nothing where it cannot be looked into,
/// which is told as for any other.
fn read_shared(all: &Namespaces) -> Shared {
    let initial = find_namespace(INITIAL).ok().and_then(|inum| all.get(inum));
    let read = initial.map(|namespace| namespace.run(|| Shared::read(Path::new(PROC))));
    match read {
        Some(Ok(Ok(shared))) => shared,
        Some(Ok(Err(_)) | Err(_)) | None => Shared::default(),
    }
}

/// Names of control groups, if they are wished for: thousands of directories on a crowded host.
fn cgroup_names(wishes: Wishes) -> HashMap<u64, String> {
    let root = cgroup::root().filter(|_| wishes.cgroup_names);
    root.map(cgroup::names).unwrap_or_default()
}

/// How often what comes in is taken out while something else takes long.
const BESIDE: Duration = Duration::from_millis(1);

/// Bytes of records kept until that is done, or a batch more; what comes then waits in the kernel's buffer,
/// and is counted if that overflows.
const MOST_BESIDE: usize = 32 << 20;

/// Does some work while records are taken out and kept.
fn keeping_beside<T: Send>(
    source: &mut Source,
    records: &mut VecDeque<Batch>,
    work: impl FnOnce() -> std::io::Result<T> + Send,
) -> std::io::Result<T> {
    let mut kept: usize = records.iter().map(|batch| batch.bytes().len()).sum();
    beside(work, || {
        while kept < MOST_BESIDE
            && let Some(batch) = source.drain()
        {
            kept += batch.bytes().len();
            records.push_back(batch);
        }
    })
}

/// Does some work on another thread while `meanwhile` runs again and again on this one.
fn beside<T: Send>(
    work: impl FnOnce() -> std::io::Result<T> + Send,
    mut meanwhile: impl FnMut(),
) -> std::io::Result<T> {
    std::thread::scope(|scope| {
        // Dropped as the work ends, also by a panic.
        let (working, done) = mpsc::channel::<()>();
        let worker = scope.spawn(move || {
            let _working = working;
            work()
        });
        while done.recv_timeout(BESIDE) == Err(RecvTimeoutError::Timeout) {
            meanwhile();
        }
        meanwhile();
        worker.join().unwrap_or_else(|_| Err(std::io::Error::other("the thread beside failed")))
    })
}

/// Identifier of the running kernel's boot; empty where it cannot be read.
pub fn boot_id() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    text.map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// Name of this host.
fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// This moment by both clocks.
pub fn now() -> Clock {
    Clock { mono_ns: monotonic_ns(), wall: SystemTime::now() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_that_cannot_be_looked_into_are_told_in_a_sentence_for_each_reason() {
        let mut shut = Shut::default();
        let denied = std::io::Error::from_raw_os_error(24);
        (1..=300).for_each(|inum| shut.add(inum, &denied));
        shut.add(7, &std::io::Error::from_raw_os_error(2));
        let told: Vec<_> = shut.sentences().collect();
        assert_eq!(told.len(), 2);
        assert!(told[0].starts_with("network namespace 7: No such file"), "{told:?}");
        let many = "300 network namespaces, such as 1: Too many open files";
        assert!(told[1].starts_with(many), "{told:?}");
    }
}
