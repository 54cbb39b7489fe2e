//! Starts the object for ring buffers: the ways to attach in the order of their cost.

use std::time::Instant;

use aya::{Btf, Ebpf, EbpfLoader, Endianness};
use twtrace_common::{Config, Layout};

use super::{
    BtfIndex, KernelError, Options, binds,
    hooks::{self, Hook},
    kprobes::{self, Kprobes},
    layout,
    object::{self, Symbols},
    platform::RingBuf,
    preflight,
    programs::{attach_hook, attach_state, attach_tracepoint, detach},
    symbols::Kallsyms,
    walks,
};
use crate::attached::{Backend, FailedWay};

/// The object, running.
pub struct Started {
    /// The object.
    pub ebpf: Ebpf,
    /// How it tells.
    pub platform: RingBuf,
    /// Where the kernel keeps its fields.
    pub layout: Layout,
    /// The way that worked.
    pub backend: Backend,
    /// Better ways that did not.
    pub refused: Vec<FailedWay>,
    /// Its programs, in the order they were attached.
    pub attached: Vec<&'static str>,
    /// What holds the kprobes among them attached.
    pub kprobes: Kprobes,
    /// Whether programs of the root control group show refused `bind()` calls.
    pub binds_by_cgroup: bool,
}

/// Loads and attaches.
///
/// # Errors
/// What is missing, or what each way failed with.
pub fn start(options: &Options) -> Result<Started, KernelError> {
    let started = Instant::now();
    let candidates = match options.attach {
        Some(only) => vec![only],
        None => Backend::PREFERENCE.to_vec(),
    };
    // Each takes tens of milliseconds, and none needs another.
    let (loader, symbols, read) = std::thread::scope(|scope| {
        // It reads all of the kernel's types, asked to or not.
        let loader = scope.spawn(EbpfLoader::new);
        let symbols = needs_symbols(&candidates).then(|| scope.spawn(object::read_symbols));
        let read = object::read_types(options);
        let read = read.and_then(|(path, types)| {
            let layout = layout::of_file(&path, &types)?;
            let types = layout::check(&path, &layout, types)?;
            Ok((attachable(&types)?, types, object::configure(options, layout)))
        });
        tracing::debug!(elapsed = ?started.elapsed(), "offsets resolved");
        (loader.join().ok(), symbols.map(|symbols| symbols.join()), read)
    });
    let (btf, types, config) = read?;
    tracing::debug!(elapsed = ?started.elapsed(), "kernel types read");
    let symbols = symbols.and_then(Result::ok);
    let mut loader = ObjectLoader {
        options,
        config,
        symbols,
        loader,
        loaded: None,
        kprobes: Kprobes::default(),
        fatal: None,
    };
    let (found, refused) = choose(&candidates, |backend| loader.attach(backend, &types, &btf));
    tracing::debug!(elapsed = ?started.elapsed(), "attached");
    match (found, loader.loaded, loader.fatal) {
        (Some((backend, mut attached)), Some(mut ebpf), _) => {
            let mut binds_by_cgroup = false;
            if backend == Backend::Tracepoint {
                match binds::attach(&mut ebpf) {
                    Ok(programs) => {
                        attached.extend(programs);
                        binds_by_cgroup = true;
                    }
                    Err(reason) => tracing::info!("refused bind() calls are not seen: {reason}"),
                }
            }
            let platform = RingBuf::open(&mut ebpf)?;
            if options.follow_ends {
                walks::load(&mut ebpf, &btf)?;
            }
            let layout = config.layout;
            let kprobes = loader.kprobes;
            Ok(Started {
                ebpf,
                platform,
                layout,
                backend,
                refused,
                attached,
                kprobes,
                binds_by_cgroup,
            })
        }
        (_, _, Some(error)) => Err(error),
        _ => Err(KernelError::NothingAttached(refused)),
    }
}

/// Of the kernel's types those that programs are attached by.
fn attachable(types: &BtfIndex<'_>) -> Result<Btf, KernelError> {
    let points = hooks::TRACEPOINTS.iter().map(|it| format!("btf_trace_{}", it.point));
    let bytes = types.only(hooks::functions().chain([walks::FUNCTION]), points);
    Btf::parse(&bytes, Endianness::default())
        .map_err(|error| KernelError::Object(error.to_string()))
}

/// Tries the candidates in order until one works; what failed before it comes with it.
fn choose<T>(
    candidates: &[Backend],
    mut attempt: impl FnMut(Backend) -> Result<T, String>,
) -> (Option<(Backend, T)>, Vec<FailedWay>) {
    let mut refused = Vec::new();
    for &backend in candidates {
        match attempt(backend) {
            Ok(value) => return (Some((backend, value)), refused),
            Err(reason) => refused.push(FailedWay { backend, reason }),
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
    /// For the first time that the object is loaded.
    loader: Option<EbpfLoader<'static>>,
    loaded: Option<Ebpf>,
    kprobes: Kprobes,
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
            empty => {
                let loader = self.loader.take().unwrap_or_default();
                match object::load(loader, self.options, self.config) {
                    Ok(ebpf) => empty.insert(ebpf),
                    Err(error) => {
                        let reason = error.to_string();
                        self.fatal = Some(error);
                        return Err(reason);
                    }
                }
            }
        };
        if backend == Backend::Kprobe && kprobes::names_are_slow() {
            self.kprobes = Kallsyms::read(hooks::functions(), &[])
                .map(|kallsyms| Kprobes::new(&kallsyms))
                .unwrap_or_default();
        }
        let kprobes = &mut self.kprobes;
        let follow_ends = self.options.follow_ends;
        let mut attached = Vec::new();
        let result = match backend {
            Backend::Tracepoint => {
                let mut points =
                    hooks::TRACEPOINTS.iter().filter(|point| follow_ends || point.for_entries);
                points.try_for_each(|point| {
                    attached.push(attach_tracepoint(ebpf, point, btf)?);
                    Ok(())
                })
            }
            Backend::Fentry | Backend::Kprobe => {
                let hooks = if follow_ends { hooks::ALL } else { hooks::ENTRY };
                let entry = |hook: &Hook| types.function_args(hook.function).is_some();
                if !hooks::ENTRY.iter().any(entry) {
                    return Err("the kernel has no function inet_twsk_hashdance".to_owned());
                }
                let by_state = backend == Backend::Kprobe;
                let mut all = hooks.iter().chain(hooks::calls(by_state));
                let all = all.try_for_each(|hook| {
                    attach_hook(ebpf, kprobes, backend, hook, (types, btf), &mut attached)
                });
                all.and_then(|()| {
                    if by_state {
                        attached.push(attach_state(ebpf, kprobes)?);
                    }
                    Ok(())
                })
            }
        };
        if let Err(reason) = result {
            detach(ebpf, kprobes, &attached);
            return Err(reason);
        }
        Ok(attached)
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
        assert_eq!(
            refused,
            [FailedWay { backend: Backend::Fentry, reason: "no fentry".to_owned() }]
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
