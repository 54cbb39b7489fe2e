//! Loads and attaches the kernel programs, trying the ways in order of cost.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use aya::{
    Btf, Ebpf, EbpfError, EbpfLoader,
    maps::MapError,
    programs::{FEntry, FExit, Iter, KProbe, Program, ProgramError, RawTracePoint},
};
use twtrace_common::{CallerRange, Config, EndReason, Filter, MAX_CALLERS};

use super::{
    Backend, BtfIndex, Inventory, KernelError, Namespaces, Source,
    hooks::{self, Hook},
    layout, preflight, source, symbols,
};

/// The kernel programs, compiled by build.rs.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/twtrace-ringbuf"));

/// Where the kernel publishes its own types.
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// How to attach and what to report.
#[derive(Clone, Debug)]
pub struct Options {
    /// The only way to try; `None` tries all.
    pub attach: Option<Backend>,
    /// Whether ends are followed.
    pub follow_ends: bool,
    /// Which sockets are reported.
    pub filter: Filter,
    /// Type information to use for offsets instead of the running kernel's own.
    pub btf: Option<PathBuf>,
    /// Most sockets followed at once.
    pub max_live: u32,
    /// Size of the ring buffer, bytes; rounded up to a power of two by the loader.
    pub ring_bytes: u32,
}

/// A way that was tried and did not work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The way.
    pub backend: Backend,
    /// What the kernel said, in one line.
    pub reason: String,
}

/// Running kernel programs.
pub struct Tracer {
    ebpf: Ebpf,
    btf: Btf,
    backend: Backend,
    refused: Vec<Refusal>,
    attached: Vec<&'static str>,
}

/// Setting bytes as aya wants them.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct PodConfig(Config);
// SAFETY: Config is repr(C), integers only, without padding that matters: aya only copies it.
unsafe impl aya::Pod for PodConfig {}

impl Tracer {
    /// Loads and attaches.
    ///
    /// # Errors
    /// What is missing, or what each way failed with.
    pub fn start(options: &Options) -> Result<Self, KernelError> {
        let started = Instant::now();
        preflight::check()?;
        preflight::raise_memlock_limit();
        let config = configure(options)?;
        tracing::debug!(elapsed = ?started.elapsed(), "offsets resolved");
        let btf =
            Btf::from_sys_fs().map_err(|_| KernelError::NoBtf { path: PathBuf::from(VMLINUX) })?;
        tracing::debug!(elapsed = ?started.elapsed(), "kernel types parsed for attaching");
        let candidates = match options.attach {
            Some(only) => vec![only],
            None => Backend::PREFERENCE.to_vec(),
        };
        let mut fatal = None;
        let (found, refused) =
            choose(&candidates, |backend| match try_backend(backend, options, config, &btf) {
                Ok(tracer) => Ok(tracer),
                Err(Failure::Refused(reason)) => Err(reason),
                Err(Failure::Fatal(error)) => {
                    let reason = error.to_string();
                    fatal = Some(error);
                    Err(reason)
                }
            });
        tracing::debug!(elapsed = ?started.elapsed(), "attached");
        match (found, fatal) {
            (Some((backend, (ebpf, attached))), _) => {
                Ok(Self { ebpf, btf, backend, refused, attached })
            }
            (None, Some(error)) => Err(error),
            (None, None) => Err(KernelError::NothingAttached(refused)),
        }
    }

    /// The way that worked.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// The better ways that did not.
    pub fn refused(&self) -> &[Refusal] {
        &self.refused
    }

    /// Sends the programs' own diagnostics to the log, until the future it gives is dropped.
    /// `None` when this object has none to send.
    pub fn diagnostics(&mut self) -> Option<impl Future<Output = ()> + use<>> {
        let logger = aya_log::EbpfLogger::init(&mut self.ebpf).ok()?;
        let mut watched = source::watch(logger).ok()?;
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
        Source::new(&mut self.ebpf)
    }

    /// The reader of the sockets that are in TIME_WAIT already.
    ///
    /// # Errors
    /// [`KernelError::Inventory`] if the kernel has no iterator over TCP sockets (before 5.9).
    pub fn inventory(&mut self) -> Result<Inventory<'_>, KernelError> {
        let failed = |error: &dyn std::fmt::Display| KernelError::Inventory(error.to_string());
        let program = self.ebpf.program_mut("iter_tcp");
        let program = program.ok_or(KernelError::Incomplete("program iter_tcp"))?;
        let program: &mut Iter =
            program.try_into().map_err(|error: ProgramError| failed(&error))?;
        if program.fd().is_err() {
            program
                .load("tcp", &self.btf)
                .map_err(|error| KernelError::Inventory(brief(&error)))?;
        }
        Ok(Inventory::new(program))
    }

    /// How often each attached program was skipped because another one ran on its CPU, as the
    /// kernel counts it (Linux 5.12 on; 0 before).
    pub fn skipped(&self) -> u64 {
        self.attached.iter().map(|name| self.program_stat(name, "recursion_misses")).sum()
    }

    /// A figure of a program from its descriptor's `fdinfo`, 0 where the kernel has none.
    fn program_stat(&self, name: &str, key: &str) -> u64 {
        let fd = match self.ebpf.program(name).map(|program| program.fd()) {
            Some(Ok(fd)) => std::os::fd::AsRawFd::as_raw_fd(&std::os::fd::AsFd::as_fd(fd)),
            _ => return 0,
        };
        let text = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap_or_default();
        text.lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))
            .and_then(|value| value.trim().parse().ok())
            .unwrap_or(0)
    }

    /// Detaches everything, beginnings before ends, so that what has begun is still seen whole.
    pub fn detach(&mut self) {
        for name in self.attached.drain(..).rev() {
            let Some(program) = self.ebpf.program_mut(name) else { continue };
            let unloaded = match program {
                Program::FEntry(program) => program.unload(),
                Program::FExit(program) => program.unload(),
                Program::KProbe(program) => program.unload(),
                Program::RawTracePoint(program) => program.unload(),
                _ => Ok(()),
            };
            if let Err(error) = unloaded {
                tracing::warn!(program = name, %error, "cannot detach");
            }
        }
    }

    /// The namespaces to read the present sockets of: all, or the one the filter names.
    pub fn namespaces_of(filter: &Filter) -> Vec<super::Namespace> {
        let all = Namespaces::scan();
        all.iter().filter(|ns| filter.netns == 0 || ns.inum == filter.netns).cloned().collect()
    }
}

/// Tries the candidates in order until one works; what failed before it comes with it.
fn choose<T>(
    candidates: &[Backend],
    mut attempt: impl FnMut(Backend) -> Result<T, String>,
) -> (Option<(Backend, T)>, Vec<Refusal>) {
    let mut refused = Vec::new();
    for &backend in candidates {
        match attempt(backend) {
            Ok(value) => return (Some((backend, value)), refused),
            Err(reason) => refused.push(Refusal { backend, reason }),
        }
    }
    (None, refused)
}

/// Everything the programs need to know, from this kernel's types and symbols.
fn configure(options: &Options) -> Result<Config, KernelError> {
    let path = options.btf.clone().unwrap_or_else(|| PathBuf::from(VMLINUX));
    if !path.exists() {
        return Err(KernelError::NoBtf { path });
    }
    let bad = |source| KernelError::BadBtf { path: path.clone(), source };
    let index = BtfIndex::from_file(&path).map_err(bad)?;
    let layout = layout::resolve(&index).map_err(bad)?;
    Ok(Config {
        layout,
        state_process_args: index.function_args("tcp_timewait_state_process").unwrap_or(3) as u32,
        follow_ends: u32::from(options.follow_ends),
        wakeup_bytes: options.ring_bytes / 8,
        filter: options.filter,
        ..Config::default()
    })
}

/// Functions that mean something on the stack of an early end, as [`CallerRange`] says.
fn callers() -> [(&'static str, u32); 15] {
    [
        ("mod_timer", CallerRange::REARM),
        ("mod_timer_pending", CallerRange::REARM),
        ("__mod_timer", CallerRange::REARM),
        ("__run_timers", EndReason::Expired as u32),
        ("expire_timers", EndReason::Expired as u32),
        ("run_timer_softirq", EndReason::Expired as u32),
        ("__inet_check_established", EndReason::Reused as u32),
        ("__inet6_check_established", EndReason::Reused as u32),
        ("__inet_hash_connect", EndReason::Reused as u32),
        ("inet_twsk_purge", EndReason::Purged as u32),
        ("tcp_twsk_purge", EndReason::Purged as u32),
        ("tcp_abort", EndReason::Aborted as u32),
        ("tcp_timewait_state_process", EndReason::Killed as u32),
        ("tcp_v4_rcv", CallerRange::PACKET),
        ("tcp_v6_rcv", CallerRange::PACKET),
    ]
}

/// Adds what the tracepoint programs know timers and callers by.
fn add_symbols(config: &mut Config) -> Result<(), String> {
    let callers = callers();
    let mut names: Vec<&str> = callers.iter().map(|(name, _)| *name).collect();
    names.push("tw_timer_handler");
    let found = symbols::functions(Path::new("/proc/kallsyms"), &names)
        .map_err(|error| error.to_string())?;
    let handler = found.get("tw_timer_handler");
    config.tw_timer_handler = handler.ok_or("the kernel has no symbol tw_timer_handler")?.start;
    let known = callers.iter().filter_map(|(name, meaning)| {
        let range = found.get(*name)?;
        Some(CallerRange { start: range.start, end: range.end, meaning: *meaning, reserved: 0 })
    });
    for (slot, range) in config.callers.iter_mut().zip(known.take(MAX_CALLERS)) {
        *slot = range;
        config.caller_count += 1;
    }
    Ok(())
}

/// Why a way did not work.
enum Failure {
    /// Another way may.
    Refused(String),
    /// No way will.
    Fatal(KernelError),
}

fn try_backend(
    backend: Backend,
    options: &Options,
    mut config: Config,
    btf: &Btf,
) -> Result<(Ebpf, Vec<&'static str>), Failure> {
    if backend == Backend::Tracepoint {
        add_symbols(&mut config).map_err(Failure::Refused)?;
    }
    let config = PodConfig(config);
    let live = if options.follow_ends { options.max_live.max(1) } else { 1 };
    let mut ebpf = EbpfLoader::new()
        .btf(Some(btf))
        .override_global("CONFIG", &config, true)
        .map_max_entries("EVENTS", options.ring_bytes)
        .map_max_entries("LIVE", live)
        .load(OBJECT)
        .map_err(|error| Failure::Fatal(object_error(error)))?;
    let mut programs = Vec::new();
    let attached = match backend {
        Backend::Tracepoint => {
            let points =
                if options.follow_ends { hooks::TRACEPOINTS } else { hooks::ENTRY_TRACEPOINTS };
            points.iter().try_for_each(|(point, program)| {
                attach_tracepoint(&mut ebpf, point, program)?;
                programs.push(*program);
                Ok(())
            })
        }
        Backend::Fentry | Backend::Kprobe => {
            let hooks = if options.follow_ends { hooks::ALL } else { &[hooks::ENTRY] };
            hooks
                .iter()
                .try_for_each(|hook| attach_hook(&mut ebpf, backend, hook, btf, &mut programs))
        }
    };
    attached.map_err(Failure::Refused)?;
    Ok((ebpf, programs))
}

/// Sorts out why the object itself could not be loaded.
fn object_error(error: EbpfError) -> KernelError {
    match &error {
        EbpfError::MapError(MapError::CreateError { name, io_error, .. })
            if name == "EVENTS" && io_error.raw_os_error() == Some(22) =>
        {
            KernelError::TooOld { release: preflight::release() }
        }
        _ => KernelError::Object(chain(&error)),
    }
}

fn attach_hook(
    ebpf: &mut Ebpf,
    backend: Backend,
    hook: &Hook,
    btf: &Btf,
    attached: &mut Vec<&'static str>,
) -> Result<(), String> {
    let exists = btf.id_by_type_name_kind(hook.function, aya_obj::btf::BtfKind::Func).is_ok();
    if !exists && hook.optional {
        return Ok(());
    }
    let mut programs = Vec::new();
    if backend == Backend::Fentry {
        programs.extend(hook.entry.map(|(fentry, _)| fentry));
        programs.extend(hook.exit.map(|(fexit, _)| fexit));
    } else {
        programs.extend(hook.kprobe_entry);
        programs.extend(hook.entry.map(|(_, kprobe)| kprobe));
        programs.extend(hook.exit.map(|(_, kretprobe)| kretprobe));
    }
    for name in programs {
        let program = ebpf.program_mut(name).ok_or("the embedded object lacks a program")?;
        let result = match program {
            Program::FEntry(program) => attach_fentry(program, hook.function, btf),
            Program::FExit(program) => attach_fexit(program, hook.function, btf),
            Program::KProbe(program) => attach_kprobe(program, hook.function),
            _ => return Err(format!("{name} is of an unexpected kind")),
        };
        result.map_err(|error| format!("{}: {}", hook.function, brief(&error)))?;
        attached.push(name);
    }
    Ok(())
}

fn attach_fentry(program: &mut FEntry, function: &str, btf: &Btf) -> Result<(), ProgramError> {
    program.load(function, btf)?;
    program.attach().map(drop)
}

fn attach_fexit(program: &mut FExit, function: &str, btf: &Btf) -> Result<(), ProgramError> {
    program.load(function, btf)?;
    program.attach().map(drop)
}

fn attach_kprobe(program: &mut KProbe, function: &str) -> Result<(), ProgramError> {
    program.load()?;
    program.attach(function, 0).map(drop)
}

fn attach_tracepoint(ebpf: &mut Ebpf, point: &str, name: &str) -> Result<(), String> {
    let program = ebpf.program_mut(name).ok_or("the embedded object lacks a program")?;
    let attach = |program: &mut Program| -> Result<(), ProgramError> {
        let program: &mut RawTracePoint = program.try_into()?;
        program.load()?;
        program.attach(point).map(drop)
    };
    attach(program).map_err(|error| format!("{point}: {}", brief(&error)))
}

/// A program's error in one line; the verifier's log goes to the debug log.
fn brief(error: &ProgramError) -> String {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            let said = log.lines().rfind(|line| {
                !line.is_empty() && !line.starts_with("processed") && !line.starts_with("verif")
            });
            tracing::debug!("the verifier said:\n{log}");
            match said {
                Some(said) => format!("load refused: {io_error}; {said}"),
                None => format!("load refused: {io_error}"),
            }
        }
        other => chain(other),
    }
}

/// An error and its causes in one line, without saying one thing twice.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_way_that_works_is_taken_and_the_others_before_it_are_told() {
        let mut tried = Vec::new();
        let (found, refused) = choose(&Backend::PREFERENCE, |backend| {
            tried.push(backend);
            if backend == Backend::Kprobe { Ok(7) } else { Err(format!("no {backend}")) }
        });
        assert_eq!(found, Some((Backend::Kprobe, 7)));
        assert_eq!(tried, [Backend::Fentry, Backend::Kprobe], "nothing behind it is tried");
        assert_eq!(refused, [Refusal { backend: Backend::Fentry, reason: "no fentry".to_owned() }]);
    }

    #[test]
    fn when_nothing_works_the_message_has_a_line_for_each_way() {
        let (found, refused) =
            choose(&Backend::PREFERENCE, |backend| Err::<(), _>(format!("no {backend}")));
        assert!(found.is_none());
        assert_eq!(
            KernelError::NothingAttached(refused).to_string(),
            "no way to attach to the kernel worked:\n  fentry: no fentry\n  kprobe: no kprobe\n  \
             tracepoint: no tracepoint"
        );
    }
}
