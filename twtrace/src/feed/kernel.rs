//! The kernel programs as a feed.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use twtrace_common::{Counter, Entered};

use super::{Core, Input, Moment, Origin, Wishes, open::Counted};
use crate::{
    aggregate::Aggregate,
    event::Event,
    filter::{self, Selection, Verdict},
    host::{
        HostFactError, cgroup,
        facts::{self, HostFacts, NamespaceFacts},
    },
    kernel::{
        Inventory, KernelError, Namespace, Namespaces, Options, ProgramCost, Source, Totals,
        Tracer, find_namespace,
    },
    units::{Clock, Hz},
};

pub use crate::kernel::monotonic_ns;

/// Where procfs is mounted.
const PROC: &str = "/proc";
/// This thread's own namespace.
const OWN: &str = "/proc/thread-self/ns/net";
/// Most namespaces whose facts are read at once.
const MAX_NAMESPACES: usize = 256;

/// Attached programs, and the host they run on.
pub struct KernelFeed {
    tracer: Tracer,
    source: Source,
    options: Options,
    selection: Selection,
    /// Open connections as they were counted last.
    open: Counted,
    /// Signs of trouble already dealt with: losses, skips and missed ends together.
    trouble: u64,
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
        let source = tracer.source()?;
        let origin = Origin {
            host: host_name(),
            kernel: crate::kernel::release(),
            boot_id: boot_id(),
            // Gone since 4.12.
            recycle_exists: Path::new("/proc/sys/net/ipv4/tcp_tw_recycle").exists(),
            object: tracer.object(),
            types: tracer.types(),
            refused: tracer.refused().to_vec(),
            follow_ends: options.follow_ends,
            selection: selection.clone(),
            netns_names: Namespaces::scan().names(),
            cgroup_names: cgroup_names(wishes),
            ..Origin::bare(tracer.backend(), clock, Hz::of_running_kernel())
        };
        let open = Counted::default();
        Ok((Self { tracer, source, options, selection, open, trouble: 0 }, origin))
    }

    /// The kernel side.
    pub fn tracer(&mut self) -> &mut Tracer {
        &mut self.tracer
    }

    /// What the attached programs have cost.
    pub fn costs(&self) -> Vec<ProgramCost> {
        self.tracer.costs()
    }

    /// Waits until the kernel side says that much is waiting.
    ///
    /// # Errors
    /// [`KernelError::Ring`].
    pub async fn readable(&self) -> Result<(), KernelError> {
        self.source.readable().await
    }

    /// One bounded batch of what waits; `None` when nothing does.
    pub fn records(&mut self) -> Option<Input> {
        self.source.drain().map(Input::Records)
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
        for namespace in Tracer::namespaces_of(&self.options.filter) {
            let mut inventory = self.tracer.follow_present()?;
            let (source, selection) = (&mut self.source, &self.selection);
            let wanted = |socket: &Entered| {
                let socket = filter::Socket::from(&Event::Present(*socket));
                selection.whole.matches(&socket) != Verdict::No
            };
            let keep = |socket: Entered| Some(socket).filter(wanted);
            let read = read_beside(&mut inventory, &namespace, keep, || {
                while let Some(batch) = source.drain_meanwhile() {
                    take(Input::Records(batch));
                }
            });
            match read {
                Ok(listed) if listed.is_empty() => {}
                Ok(listed) => take(Input::Records(source.follow(listed))),
                Err(error) => tracing::warn!(
                    namespace = namespace.inum,
                    %error,
                    "cannot read the sockets present; their ends will be told apart"
                ),
            }
        }
        Ok(())
    }

    /// What `keep` keeps of the sockets in TIME_WAIT now, as the kernel has them. Namespaces that
    /// cannot be read are missing from the answer.
    pub fn live_now<T: Send>(
        &mut self,
        keep: impl Fn(Entered) -> T + Sync,
    ) -> HashMap<u32, Vec<T>> {
        let mut alive = HashMap::new();
        let source = &self.source;
        for namespace in Tracer::namespaces_of(&self.options.filter) {
            let Ok(mut inventory) = self.tracer.list_live() else { break };
            if let Ok(sockets) =
                inventory.read(&namespace, |socket| source.named(socket).map(&keep))
            {
                alive.insert(namespace.inum, sockets);
            }
        }
        alive
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

    /// Whether something was lost, skipped or missed since the last call.
    pub fn is_in_trouble(&mut self, totals: &Totals, skipped: u64) -> bool {
        let trouble = totals.lost() + skipped + totals.of(Counter::MissedEnd);
        let more = trouble > self.trouble && self.options.follow_ends;
        self.trouble = trouble;
        more
    }

    /// Finds the sockets followed whose end was lost or missed. Ends of some may be on their way
    /// still: take in all that waits before taking this in.
    pub fn vanished(&mut self, aggregate: &Aggregate) -> Input {
        let before = monotonic_ns();
        // First what the kernel side itself missed: sockets it follows that are no more.
        let alive: HashMap<u32, HashSet<u64>> = self
            .live_now(|socket| socket.tw)
            .into_iter()
            .map(|(inum, sockets)| (inum, sockets.into_iter().collect()))
            .collect();
        let missed: HashSet<(u64, u64)> = aggregate
            .vanished(before, |tw, socket| {
                alive.get(&socket.netns).is_none_or(|sockets| sockets.contains(&tw))
            })
            .into_iter()
            .collect();
        for (tw, entered_ns) in &missed {
            self.source.forget(*tw, *entered_ns);
        }
        // Then the ends whose event was lost: sockets it follows no more.
        let source = &self.source;
        Input::Vanished(aggregate.vanished(before, |tw, socket| {
            !missed.contains(&(tw, socket.entered_ns)) && source.follows(tw, socket.entered_ns)
        }))
    }

    /// The facts of this moment. The first moment has those of all namespaces, so that counters
    /// are compared with the start whenever a namespace gets a row.
    pub fn moment(&mut self, core: &Core, totals: Totals, skipped: u64, wishes: Wishes) -> Moment {
        let namespaces = Namespaces::scan();
        let facts = wishes.facts.then(|| self.facts(&namespaces, core));
        Moment {
            clock: now(),
            totals,
            skipped,
            facts,
            netns_names: namespaces.names(),
            cgroup_names: cgroup_names(wishes),
        }
    }

    /// Facts of the host, of the namespace asked for or this process's own, and of those seen.
    fn facts(&mut self, all: &Namespaces, core: &Core) -> HostFacts {
        let only = self.options.filter.netns;
        let asked = if only == 0 { find_namespace(OWN).ok() } else { Some(only) };
        let rows = core.aggregate().table().rows();
        let first = core.moment().is_none();
        let there = all.iter().map(|namespace| namespace.inum).filter(|_| first);
        let seen = rows.iter().filter_map(|row| row.group.netns()).chain(there);
        let seen = seen.filter(|inum| *inum != 0 && (only == 0 || *inum == only));
        let wanted: BTreeSet<u32> = asked.into_iter().chain(seen).take(MAX_NAMESPACES).collect();
        let mut host = facts::host(Path::new(PROC), Path::new("/"));
        self.open.retain(|inum| wanted.contains(&inum));
        for inum in wanted {
            // One that is gone, or held by nothing that can be found, is of no consequence.
            let Some(namespace) = all.get(inum) else { continue };
            let now_ns = monotonic_ns();
            let servers = self.open.due(inum, rows, now_ns);
            match read_facts(namespace, &servers) {
                Ok(Read { mut facts, took, errors }) => {
                    host.unread.extend(errors.iter().map(ToString::to_string));
                    if let Some(ports) = facts.open.take() {
                        self.open.note(inum, ports, now_ns, took);
                    }
                    facts.open = self.open.of(inum);
                    host.namespaces.insert(inum, facts);
                }
                Err(error) => {
                    host.unread.push(format!("cannot enter network namespace {inum}: {error}"));
                }
            }
        }
        host
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
fn read_facts(namespace: &Namespace, servers: &[SocketAddr]) -> std::io::Result<Read> {
    namespace.run(|| {
        let (mut facts, mut errors) = facts::namespace(Path::new(PROC));
        let started = Instant::now();
        if !servers.is_empty() {
            match facts::open_ports(Path::new(PROC), &facts, servers) {
                Ok(ports) => facts.open = Some(ports),
                Err(error) => errors.push(error),
            }
        }
        Read { facts, took: started.elapsed(), errors }
    })
}

/// Names of control groups, if they are wished for: thousands of directories on a crowded host.
fn cgroup_names(wishes: Wishes) -> HashMap<u64, String> {
    let root = cgroup::root().filter(|_| wishes.cgroup_names);
    root.map(cgroup::names).unwrap_or_default()
}

/// Reads a namespace on another thread while `meanwhile` runs again and again on this one.
fn read_beside(
    inventory: &mut Inventory<'_>,
    namespace: &Namespace,
    keep: impl Fn(Entered) -> Option<Entered> + Send,
    mut meanwhile: impl FnMut(),
) -> std::io::Result<Vec<Entered>> {
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| inventory.read(namespace, keep));
        while !reader.is_finished() {
            meanwhile();
            std::thread::yield_now();
        }
        meanwhile();
        reader.join().unwrap_or_else(|_| Err(std::io::Error::other("the reader failed")))
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
