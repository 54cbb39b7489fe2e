//! Loads and attaches the kernel programs, trying the ways in order of cost.

use std::fs;

use twtrace_common::{Filter, Layout};

use super::{
    Inventory, KernelError, Namespaces, Options, Source,
    events::OwnEvents,
    kprobes::Kprobes,
    maps, perf,
    platform::Platform,
    preflight, ringbuf,
    walks::{self, Loaded},
};
use crate::{
    attached::{Backend, FailedWay, ObjectKind, ProgramCost, Types, TypesFrom},
    audit::Basis,
};

/// Running kernel programs.
pub struct Tracer {
    ebpf: Loaded,
    backend: Backend,
    object: ObjectKind,
    types: Types,
    numbers_namespaces: bool,
    /// What the kernel's own counters are of, if that is known.
    basis: Option<Basis>,
    refused: Vec<FailedWay>,
    attached: Vec<&'static str>,
    binds_by_cgroup: bool,
    /// Holds those attached that are kprobes.
    _kprobes: Kprobes,
    /// Whether the kernel recycles TIME_WAIT sockets.
    recycles: bool,
    /// Whether it keeps the time of the last timestamp as a `long`.
    long_stamps: bool,
    platform: Option<Platform>,
    /// Behind the programs, so that it is dropped after them.
    _events: Option<OwnEvents>,
}

impl Tracer {
    /// Loads and attaches.
    ///
    /// The object for perf buffers is taken where the kernel has no ring buffer, no iterator over
    /// sockets, or no type information of its own, which the other needs.
    ///
    /// # Errors
    /// What is missing, or what each way failed with.
    pub fn start(options: &Options) -> Result<Self, KernelError> {
        preflight::check()?;
        preflight::raise_memlock_limit();
        let kprobe_only = options.attach.is_none_or(|only| only == Backend::Kprobe);
        match (options.object, options.attach) {
            (Some(ObjectKind::Perf), Some(other)) if !kprobe_only => {
                Err(KernelError::KprobesOnly(other))
            }
            (Some(ObjectKind::Perf), _) => Self::start_perf(options, Vec::new()),
            (Some(ObjectKind::RingBuf), _) => Self::start_ringbuf(options),
            (None, _) => match Self::start_ringbuf(options) {
                Err(
                    error @ (KernelError::TooOld { .. }
                    | KernelError::NoBtf { .. }
                    | KernelError::TypesLeftOut
                    | KernelError::Inventory(_)),
                ) if kprobe_only && !is_users_file(&error, options) => {
                    let reason = error.to_string();
                    let refusal = FailedWay { backend: Backend::Fentry, reason };
                    Self::start_perf(options, vec![refusal])
                }
                outcome => outcome,
            },
        }
    }

    /// Starts the object for ring buffers.
    fn start_ringbuf(options: &Options) -> Result<Self, KernelError> {
        let started = ringbuf::start(options)?;
        let ringbuf::Started { ebpf, platform, layout, backend, refused, .. } = started;
        let ringbuf::Started { attached, kprobes, binds_by_cgroup, .. } = started;
        Ok(Self {
            ebpf: Loaded::new(ebpf),
            backend,
            object: ObjectKind::RingBuf,
            types: Types::Known,
            numbers_namespaces: true,
            basis: Some(basis(&layout)),
            refused,
            attached,
            binds_by_cgroup,
            _kprobes: kprobes,
            // Gone long before ring buffers came.
            recycles: false,
            long_stamps: false,
            platform: Some(Platform::RingBuf(platform)),
            _events: None,
        })
    }

    /// Starts the object for perf buffers.
    fn start_perf(options: &Options, refused: Vec<FailedWay>) -> Result<Self, KernelError> {
        let started = perf::start(options)?;
        let perf::Started { ebpf, platform, types, numbers_namespaces, layout, .. } = started;
        let perf::Started { attached, kprobes, recycles, events, .. } = started;
        let basis = (types.are_known() && numbers_namespaces).then(|| basis(&layout));
        Ok(Self {
            ebpf: Loaded::new(ebpf),
            backend: Backend::Kprobe,
            object: ObjectKind::Perf,
            types,
            numbers_namespaces,
            basis,
            refused,
            attached,
            binds_by_cgroup: false,
            _kprobes: kprobes,
            recycles,
            long_stamps: layout.ts_recent_stamp.size == 8,
            platform: Some(Platform::Perf(platform)),
            _events: Some(events),
        })
    }

    /// Which object runs.
    pub fn object(&self) -> ObjectKind {
        self.object
    }

    /// Whether the positions of the kernel's fields are known.
    pub fn types(&self) -> Types {
        self.types
    }

    /// Whether records tell network namespaces apart.
    pub fn numbers_namespaces(&self) -> bool {
        self.numbers_namespaces
    }

    /// What the kernel's own counters are of, if that is known.
    pub fn basis(&self) -> Option<Basis> {
        self.basis
    }

    /// Whether the kernel recycles TIME_WAIT sockets if it is told to (up to 4.11).
    pub fn recycles(&self) -> bool {
        self.recycles
    }

    /// Whether the kernel keeps the time of the last timestamp as a `long`, as it did up to 4.18: then a
    /// port is taken over up to two seconds after, later up to one.
    pub fn long_stamps(&self) -> bool {
        self.long_stamps
    }

    /// The way that worked.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Whether, with tracepoints, programs of the root control group show refused `bind()` calls.
    pub fn binds_by_cgroup(&self) -> bool {
        self.binds_by_cgroup
    }

    /// The better ways that did not.
    pub fn refused(&self) -> &[FailedWay] {
        &self.refused
    }

    /// Sends the programs' own diagnostics to the log, until the future it gives is dropped.
    /// `None` when this object has none to send.
    pub fn diagnostics(&mut self) -> Option<impl Future<Output = ()> + use<>> {
        let logger = aya_log::EbpfLogger::init(&mut self.ebpf.lock()).ok()?;
        let mut watched = maps::watch(logger).ok()?;
        Some(async move {
            while let Ok(mut ready) = watched.readable_mut().await {
                ready.get_inner_mut().flush();
                ready.clear_ready();
            }
        })
    }

    /// The reader of what the programs send.
    ///
    /// # Errors
    /// [`KernelError::Incomplete`] when called twice, [`KernelError::Ring`].
    pub fn source(&mut self) -> Result<Source, KernelError> {
        let platform = self.platform.take().ok_or(KernelError::Incomplete("EVENTS"))?;
        Source::new(&mut self.ebpf.lock(), platform)
    }

    /// The walk that makes the kernel side follow the sockets that are in TIME_WAIT already.
    ///
    /// # Errors
    /// [`KernelError::Incomplete`] if ends are not followed, or with the object for perf buffers.
    pub fn follow_present(&self) -> Result<Inventory, KernelError> {
        self.inventory(walks::FOLLOW)
    }

    /// The walk that lists the sockets in TIME_WAIT.
    ///
    /// # Errors
    /// As for [`Tracer::follow_present`].
    pub fn list_live(&self) -> Result<Inventory, KernelError> {
        self.inventory(walks::LIST)
    }

    fn inventory(&self, name: &'static str) -> Result<Inventory, KernelError> {
        if self.object == ObjectKind::Perf {
            // The kernels it is for have no iterator over sockets.
            return Ok(Inventory::Listing);
        }
        if walks::walk(&mut self.ebpf.lock(), name)?.fd().is_err() {
            return Err(KernelError::Incomplete(name));
        }
        Ok(Inventory::Walk(self.ebpf.clone(), name))
    }

    /// How often each attached program was skipped because another one ran on its CPU, as the
    /// kernel counts it (Linux 5.12 on; 0 before).
    pub fn skipped(&self) -> u64 {
        self.attached.iter().map(|name| self.program_stat(name, "recursion_misses")).sum()
    }

    /// What the attached programs have cost, in the order they were attached.
    ///
    /// The kernel counts runs and time only while the sysctl `kernel.bpf_stats_enabled` is 1
    /// (`bpf_prog_show_fdinfo()`, kernel/bpf/syscall.c, 5.1 on).
    pub fn costs(&self) -> Vec<ProgramCost> {
        let counted = fs::read_to_string("/proc/sys/kernel/bpf_stats_enabled")
            .is_ok_and(|text| text.trim() == "1");
        let cost = |name: &&'static str| ProgramCost {
            name,
            runs: counted.then(|| {
                (self.program_stat(name, "run_cnt"), self.program_stat(name, "run_time_ns"))
            }),
        };
        self.attached.iter().map(cost).collect()
    }

    /// A figure of a program from its descriptor's `fdinfo`, 0 where the kernel has none.
    fn program_stat(&self, name: &str, key: &str) -> u64 {
        let ebpf = self.ebpf.lock();
        let fd = match ebpf.program(name).map(|program| program.fd()) {
            Some(Ok(fd)) => std::os::fd::AsRawFd::as_raw_fd(&std::os::fd::AsFd::as_fd(fd)),
            _ => return 0,
        };
        let text = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap_or_default();
        text.lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))
            .and_then(|value| value.trim().parse().ok())
            .unwrap_or(0)
    }

    /// The namespaces to read the present sockets of: all, or the one the filter names.
    pub fn namespaces_of(filter: &Filter) -> Vec<super::Namespace> {
        let all = Namespaces::scan();
        all.iter().filter(|ns| filter.netns == 0 || ns.inum == filter.netns).cloned().collect()
    }
}

/// What the counters of a kernel are of that has these fields.
fn basis(layout: &Layout) -> Basis {
    if layout.tw_kill.exists() { Basis::Expiries } else { Basis::Creations }
}

/// Whether it is the file that the user named which is missing: then nothing else will do.
fn is_users_file(error: &KernelError, options: &Options) -> bool {
    matches!((error, &options.btf), (KernelError::NoBtf { path }, TypesFrom::File(own)) if path == own)
}
