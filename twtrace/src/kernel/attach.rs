//! Loads and attaches the kernel programs, trying the ways in order of cost.

use std::{collections::HashSet, fs, path::PathBuf, time::Instant};

use aya::{
    Btf, Ebpf,
    programs::{FEntry, FExit, Iter, KProbe, Program, ProgramError, RawTracePoint},
};
use serde::{Deserialize, Serialize};
use twtrace_common::{Config, Filter};

use super::{
    Backend, BtfIndex, Inventory, KernelError, Namespaces, ObjectKind, Source, Types,
    hooks::{self, Hook},
    layout,
    object::{self, Symbols},
    old,
    outlet::{Outlet, RingBufOutlet},
    preflight, source,
};

/// How to attach and what to report.
#[derive(Clone, Debug)]
pub struct Options {
    /// The only object to load; `None` takes the one for ring buffers where the kernel has them.
    pub object: Option<ObjectKind>,
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The way.
    pub backend: Backend,
    /// What the kernel said, in one line.
    pub reason: String,
}

/// What an attached program has cost so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgramCost {
    /// Its name in the object.
    pub name: &'static str,
    /// Times it ran and nanoseconds it took; `None` while `kernel.bpf_stats_enabled` is 0.
    pub runs: Option<(u64, u64)>,
}

/// Running kernel programs.
pub struct Tracer {
    ebpf: Ebpf,
    backend: Backend,
    object: ObjectKind,
    types: Types,
    numbers_namespaces: bool,
    refused: Vec<Refusal>,
    attached: Vec<&'static str>,
    outlet: Option<Outlet>,
}

impl Tracer {
    /// Loads and attaches.
    ///
    /// The object for old kernels is taken where the kernel has no ring buffer, no iterator over
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
            (Some(ObjectKind::Perf), _) => Self::start_old(options, Vec::new()),
            (Some(ObjectKind::RingBuf), _) => Self::start_ringbuf(options),
            (None, _) => match Self::start_ringbuf(options) {
                Err(
                    error @ (KernelError::TooOld { .. }
                    | KernelError::NoBtf { .. }
                    | KernelError::Inventory(_)),
                ) if kprobe_only && !is_users_file(&error, options) => {
                    let reason = error.to_string();
                    let refusal = Refusal { backend: Backend::Fentry, reason };
                    Self::start_old(options, vec![refusal])
                }
                outcome => outcome,
            },
        }
    }

    /// Starts the object for ring buffers.
    fn start_ringbuf(options: &Options) -> Result<Self, KernelError> {
        let started = Instant::now();
        let candidates = match options.attach {
            Some(only) => vec![only],
            None => Backend::PREFERENCE.to_vec(),
        };
        // Each takes tens of milliseconds, and none needs another.
        let (btf, symbols, read) = std::thread::scope(|scope| {
            let btf = scope.spawn(Btf::from_sys_fs);
            let symbols = needs_symbols(&candidates).then(|| scope.spawn(object::read_symbols));
            let read = object::read_types(options);
            let read = read.and_then(|(path, types)| {
                let layout = layout::of_file(&path, &types)?;
                layout::check(&path, &layout)?;
                Ok((types, object::configure(options, layout)))
            });
            tracing::debug!(elapsed = ?started.elapsed(), "offsets resolved");
            (btf.join(), symbols.map(|symbols| symbols.join()), read)
        });
        let (types, config) = read?;
        let btf = match btf {
            Ok(Ok(btf)) => btf,
            Ok(Err(_)) | Err(_) => {
                return Err(KernelError::NoBtf { path: object::VMLINUX.into() });
            }
        };
        tracing::debug!(elapsed = ?started.elapsed(), "kernel types parsed for attaching");
        let symbols = symbols.and_then(Result::ok);
        let mut loader = ObjectLoader { options, config, symbols, loaded: None, fatal: None };
        let (found, refused) = choose(&candidates, |backend| loader.attach(backend, &types, &btf));
        tracing::debug!(elapsed = ?started.elapsed(), "attached");
        match (found, loader.loaded, loader.fatal) {
            (Some((backend, attached)), Some(mut ebpf), _) => {
                let outlet = Some(Outlet::RingBuf(RingBufOutlet::open(&mut ebpf)?));
                let (object, types) = (ObjectKind::RingBuf, Types::Known);
                if options.follow_ends {
                    load_walks(&mut ebpf, &btf)?;
                }
                Ok(Self {
                    ebpf,
                    backend,
                    object,
                    types,
                    numbers_namespaces: true,
                    refused,
                    attached,
                    outlet,
                })
            }
            (_, _, Some(error)) => Err(error),
            _ => Err(KernelError::NothingAttached(refused)),
        }
    }

    /// Starts the object for old kernels.
    fn start_old(options: &Options, refused: Vec<Refusal>) -> Result<Self, KernelError> {
        let started = old::start(options)?;
        let old::Started { ebpf, outlet, types, numbers_namespaces, attached } = started;
        Ok(Self {
            ebpf,
            backend: Backend::Kprobe,
            object: ObjectKind::Perf,
            types,
            numbers_namespaces,
            refused,
            attached,
            outlet: Some(Outlet::Perf(outlet)),
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
        let outlet = self.outlet.take().ok_or(KernelError::Incomplete("EVENTS"))?;
        Source::new(&mut self.ebpf, outlet)
    }

    /// The walk that makes the kernel side follow the sockets that are in TIME_WAIT already.
    ///
    /// # Errors
    /// [`KernelError::Incomplete`] if ends are not followed, or with the object for old kernels.
    pub fn follow_present(&mut self) -> Result<Inventory<'_>, KernelError> {
        self.inventory(FOLLOW)
    }

    /// The walk that lists the sockets in TIME_WAIT.
    ///
    /// # Errors
    /// As for [`Tracer::follow_present`].
    pub fn list_live(&mut self) -> Result<Inventory<'_>, KernelError> {
        self.inventory(LIST)
    }

    fn inventory(&mut self, name: &'static str) -> Result<Inventory<'_>, KernelError> {
        if self.object == ObjectKind::Perf {
            // The kernels it is for have no iterator over sockets.
            return Ok(Inventory::Listing);
        }
        let program = walk(&mut self.ebpf, name)?;
        if program.fd().is_err() {
            return Err(KernelError::Incomplete(name));
        }
        Ok(Inventory::Walk(program))
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

    /// The namespaces to read the present sockets of: all, or the one the filter names.
    pub fn namespaces_of(filter: &Filter) -> Vec<super::Namespace> {
        let all = Namespaces::scan();
        all.iter().filter(|ns| filter.netns == 0 || ns.inum == filter.netns).cloned().collect()
    }
}

/// The program that makes the kernel side follow the sockets present.
const FOLLOW: &str = "iter_tcp_follow";
/// The one that lists them.
const LIST: &str = "iter_tcp_list";

/// Loads the walks over sockets. At the start, though one may never be needed: later the right to
/// may be gone, and the kernel's types, which loading takes, are 13 MB to keep.
///
/// # Errors
/// [`KernelError::Inventory`] if the kernel has no iterator over TCP sockets (before 5.9).
fn load_walks(ebpf: &mut Ebpf, btf: &Btf) -> Result<(), KernelError> {
    for name in [FOLLOW, LIST] {
        let loaded = walk(ebpf, name)?.load("tcp", btf);
        loaded.map_err(|error| KernelError::Inventory(brief(&error)))?;
    }
    Ok(())
}

fn walk<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Iter, KernelError> {
    let program = ebpf.program_mut(name).ok_or(KernelError::Incomplete(name))?;
    program.try_into().map_err(|error: ProgramError| KernelError::Inventory(error.to_string()))
}

/// Whether it is the file that the user named which is missing: then nothing else will do.
fn is_users_file(error: &KernelError, options: &Options) -> bool {
    !object::wants_none(options)
        && matches!(error, KernelError::NoBtf { path } if options.btf.as_ref() == Some(path))
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

/// Whether to read the kernel's symbols, which takes longest of all, before anything is tried: when
/// nothing but the tracepoints will work, or a kernel without kprobes makes that likely.
fn needs_symbols(candidates: &[Backend]) -> bool {
    match candidates {
        [only] => *only == Backend::Tracepoint,
        several => several.contains(&Backend::Tracepoint) && !preflight::has_kprobes(),
    }
}

/// Loads the object when it is needed and keeps it for the next way to try.
struct ObjectLoader<'a> {
    options: &'a Options,
    config: Config,
    /// What the tracepoint programs know timers and callers by, once it was read.
    symbols: Option<Result<Symbols, String>>,
    loaded: Option<Ebpf>,
    /// Why no way will work at all.
    fatal: Option<KernelError>,
}

impl ObjectLoader<'_> {
    /// Tries one way; answers the programs attached, in order.
    ///
    /// The object is loaded once for the ways that hook functions: whatever the first of them
    /// attached is detached again, and nothing is in the maps, because the hook that begins all is
    /// attached last. The tracepoints need symbols in the settings: where those were read before
    /// anything was tried, they are in it from the start and the object serves all.
    fn attach(
        &mut self,
        backend: Backend,
        types: &BtfIndex<'_>,
        btf: &Btf,
    ) -> Result<Vec<&'static str>, String> {
        if backend == Backend::Tracepoint && self.symbols.is_none() {
            self.symbols = Some(object::read_symbols());
            self.loaded = None;
        }
        match &self.symbols {
            Some(Ok(symbols)) => symbols.add_to(&mut self.config),
            Some(Err(reason)) if backend == Backend::Tracepoint => return Err(reason.clone()),
            Some(Err(_)) | None => {}
        }
        let ebpf = match &mut self.loaded {
            Some(ebpf) => ebpf,
            empty => match object::load(self.options, self.config, btf) {
                Ok(ebpf) => empty.insert(ebpf),
                Err(error) => {
                    let reason = error.to_string();
                    self.fatal = Some(error);
                    return Err(reason);
                }
            },
        };
        let follow_ends = self.options.follow_ends;
        let mut attached = Vec::new();
        let result = match backend {
            Backend::Tracepoint => {
                let points =
                    if follow_ends { hooks::TRACEPOINTS } else { hooks::ENTRY_TRACEPOINTS };
                points.iter().try_for_each(|(point, program)| {
                    attach_tracepoint(ebpf, point, program)?;
                    attached.push(*program);
                    Ok(())
                })
            }
            Backend::Fentry | Backend::Kprobe => {
                let hooks = if follow_ends { hooks::ALL } else { hooks::ENTRY };
                let entry = |hook: &Hook| types.function_args(hook.function).is_some();
                if !hooks::ENTRY.iter().any(entry) {
                    return Err("the kernel has no function inet_twsk_hashdance".to_owned());
                }
                hooks.iter().try_for_each(|hook| {
                    attach_hook(ebpf, backend, hook, (types, btf), &mut attached)
                })
            }
        };
        if let Err(reason) = result {
            detach(ebpf, &attached);
            return Err(reason);
        }
        Ok(attached)
    }
}

/// Detaches programs, the last attached first.
pub(super) fn detach(ebpf: &mut Ebpf, attached: &[&'static str]) {
    for name in attached.iter().rev() {
        let Some(program) = ebpf.program_mut(name) else { continue };
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

/// Attaches kprobes to what the kernel has of these hooks, by the list of its functions; answers
/// the programs.
pub(super) fn attach_kprobes(
    ebpf: &mut Ebpf,
    wanted: &[Hook],
    functions: &HashSet<String>,
) -> Result<Vec<&'static str>, String> {
    let exists = |hook: &Hook| old::has(functions, hook.function);
    if !hooks::ENTRY.iter().any(exists) {
        return Err("the kernel has no function inet_twsk_hashdance".to_owned());
    }
    let mut attached = Vec::new();
    let result = wanted.iter().try_for_each(|hook| {
        for name in programs_for(Backend::Kprobe, hook, exists(hook).then_some(0))? {
            attach_one_kprobe(ebpf, name, hook.function)?;
            attached.push(name);
        }
        Ok(())
    });
    match result {
        Ok(()) => Ok(attached),
        Err(reason) => {
            detach(ebpf, &attached);
            Err(reason)
        }
    }
}

/// Loads and attaches one kprobe program; the error is one line.
pub(super) fn attach_one_kprobe(ebpf: &mut Ebpf, name: &str, function: &str) -> Result<(), String> {
    let program = ebpf.program_mut(name).ok_or("the embedded object lacks a program")?;
    let attach = |program: &mut Program| attach_kprobe(program.try_into()?, function);
    attach(program)
        .map_err(|error| format!("{function}: {}{}", brief(&error), preflight::perf_hint()))
}

fn attach_hook(
    ebpf: &mut Ebpf,
    backend: Backend,
    hook: &Hook,
    (types, btf): (&BtfIndex<'_>, &Btf),
    attached: &mut Vec<&'static str>,
) -> Result<(), String> {
    let programs = programs_for(backend, hook, types.function_args(hook.function))?;
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

/// The programs a hook takes, in the order they are attached; none for an optional function that
/// this kernel lacks. `arguments` is the function's number of them, if it exists.
fn programs_for(
    backend: Backend,
    hook: &Hook,
    arguments: Option<usize>,
) -> Result<Vec<&'static str>, String> {
    let Some(arguments) = arguments else {
        return if hook.optional {
            Ok(Vec::new())
        } else {
            Err(format!("the kernel has no function {}", hook.function))
        };
    };
    let mut programs = Vec::new();
    if backend == Backend::Fentry {
        programs.extend(hook.entry.map(|(fentry, _)| fentry));
        if let Some((fexit, _)) = hook.exit {
            programs.push(fexit.program(arguments).ok_or_else(|| {
                format!("{} has {arguments} arguments, as in no kernel known", hook.function)
            })?);
        }
    } else {
        programs.extend(hook.kprobe_entry);
        programs.extend(hook.entry.map(|(_, kprobe)| kprobe));
        programs.extend(hook.exit.and_then(|(_, kretprobe)| kretprobe));
    }
    Ok(programs)
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
                !["processed", "verif", "stack depth"].iter().any(|noise| line.starts_with(noise))
                    && !line.is_empty()
            });
            tracing::debug!("the verifier said:\n{log}");
            match said {
                Some(said) => format!("load refused: {io_error}; {said}"),
                None => format!("load refused: {io_error}"),
            }
        }
        other => object::chain(other),
    }
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

    fn hook(function: &str) -> &'static Hook {
        hooks::ALL.iter().find(|hook| hook.function == function).unwrap()
    }

    #[test]
    fn a_function_the_kernel_lacks_is_named_unless_it_is_optional() {
        let missing = programs_for(Backend::Kprobe, hook("tcp_twsk_unique"), None);
        assert_eq!(missing, Err("the kernel has no function tcp_twsk_unique".to_owned()));
        assert_eq!(programs_for(Backend::Kprobe, hook("tcp_abort"), None), Ok(Vec::new()));
    }

    #[test]
    fn the_fexit_program_fits_the_number_of_arguments() {
        let programs = |arguments| {
            programs_for(Backend::Fentry, hook("tcp_timewait_state_process"), Some(arguments))
        };
        assert_eq!(programs(4), Ok(vec!["fentry_state_process", "fexit_state_process_4"]));
        let error = programs(9).unwrap_err();
        assert_eq!(error, "tcp_timewait_state_process has 9 arguments, as in no kernel known");
    }

    #[test]
    fn a_kretprobe_comes_after_the_kprobe_that_keeps_its_arguments() {
        assert_eq!(
            programs_for(Backend::Kprobe, hook("tcp_twsk_unique"), Some(3)),
            Ok(vec!["kprobe_twsk_unique", "kretprobe_twsk_unique"])
        );
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
