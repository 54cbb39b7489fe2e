//! Starts the object for perf buffers, on kernels from 4.4 on: settings in a map, kprobes, and a connection of our own that
//! proves the positions of the fields right.

use std::path::Path;

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData},
    util::nr_cpus,
};
use twtrace_common::{Config, Field, Filter, Layout};

use super::{
    KernelError, Options,
    events::OwnEvents,
    hooks,
    kprobes::Kprobes,
    layout, listing,
    maps::take,
    object::{self, PodConfig},
    platform::Perf,
    programs::{attach_kprobes, attach_one_kprobe, detach},
    selftest::{self, Trial, Unproved},
    symbols::Kallsyms,
};
use crate::attached::{Backend, FailedWay, ObjectKind, Types, TypesFrom};

/// Connections tried before what is not seen is taken not to be there.
const TRIALS: usize = 3;
/// The setting, where it can be seen.
const RECYCLE: &str = "/proc/sys/net/ipv4/tcp_tw_recycle";
/// The object, running.
pub struct Started {
    pub ebpf: Ebpf,
    pub platform: Perf,
    pub types: Types,
    /// Whether the number of a namespace can be read.
    pub numbers_namespaces: bool,
    /// Where the kernel keeps its fields.
    pub layout: Layout,
    pub attached: Vec<&'static str>,
    /// What holds them attached.
    pub kprobes: Kprobes,
    /// Whether the kernel recycles TIME_WAIT sockets (`tcp_tw_recycle`, up to 4.11).
    pub recycles: bool,
    /// What the kprobes leave, to be held until after the programs.
    pub events: OwnEvents,
}

/// Loads, attaches, and tries itself out.
///
/// # Errors
/// What is missing, or what does not fit.
pub fn start(options: &Options) -> Result<Started, KernelError> {
    let known = match object::read_types(options) {
        Ok((path, types)) => Some((layout::of_file(&path, &types)?, path)),
        // Only the file that a user named has to be there.
        Err(KernelError::TypesLeftOut) => None,
        Err(KernelError::NoBtf { .. }) if options.btf == TypesFrom::Kernel => None,
        Err(error) => return Err(error),
    };
    let types = if known.is_some() { Types::Known } else { Types::Unknown };
    let layout = known.as_ref().map_or_else(layout::front, |(layout, _)| *layout);
    let mut config = object::configure(options, layout);
    let functions = hooks::functions().chain([RECYCLING]);
    let kallsyms = Kallsyms::read(functions, &globals(&layout)).unwrap_or_else(|error| {
        tracing::debug!(%error, "all functions are taken to be there");
        Kallsyms::default()
    });
    add_globals(&mut config, layout, &kallsyms);
    // Before the programs, so that it is dropped after them.
    let events = OwnEvents::begin();
    let mut ebpf = load(options)?;
    let mut platform = Perf::open(&mut ebpf, options.ring_bytes)?;
    let mut config_map = ConfigMap::take(&mut ebpf)?;
    let mut kprobes = Kprobes::new(&kallsyms);

    let trial = Trial::connect();
    if let (Types::Unknown, Ok(trial)) = (types, &trial) {
        config.layout.net_inum = learn(&mut ebpf, &mut platform, &mut config_map, config, trial)?;
    }
    let can_single_out = config.layout.net_inum.exists();
    if options.filter.netns != 0 && !can_single_out {
        return Err(KernelError::NoNamespaceNumber);
    }
    // Nothing but our own connection is reported until the positions have proved right.
    config_map.set(&Config { filter: nothing(), ..config })?;
    // Without types, what tcp_time_wait() is called with is all that tells the state.
    let wanted = if options.follow_ends || !types.are_known() { hooks::ALL } else { hooks::ENTRY };
    let attached = attach_kprobes(&mut ebpf, &mut kprobes, wanted, &kallsyms, types.are_known());
    let attached = attached.map_err(|reason| {
        KernelError::NothingAttached(vec![FailedWay { backend: Backend::Kprobe, reason }])
    })?;
    let types = match trial {
        Ok(trial) => {
            let ends = options.follow_ends;
            let outcome = try_out(trial, &mut platform, &mut config_map, config, ends)?;
            if let Err(what) = outcome {
                detach(&mut ebpf, &mut kprobes, &attached);
                return Err(match known {
                    Some((_, path)) => {
                        let what = format!("of a connection that twtrace made to itself, {what}");
                        KernelError::WrongTypes { path, what }
                    }
                    None => KernelError::UnknownLayout(what),
                });
            }
            types
        }
        Err(error) => {
            tracing::debug!(%error, "no connection over loopback to try the positions out with");
            if types.are_known() { Types::Unchecked } else { types }
        }
    };
    platform.begin()?;
    config_map.set(&config)?;
    let layout = config.layout;
    Ok(Started {
        ebpf,
        platform,
        types,
        numbers_namespaces: can_single_out,
        layout,
        attached,
        kprobes,
        recycles: recycles(&kallsyms),
        events,
    })
}

/// Compares what the programs read of our own connection with what is known of it, more than once
/// if they do not see all of it. The inner error says what does not fit.
fn try_out(
    first: Trial,
    platform: &mut Perf,
    config_map: &mut ConfigMap,
    config: Config,
    ends: bool,
) -> Result<Result<(), String>, KernelError> {
    let mut next = Some(first);
    let mut fault = String::new();
    for _ in 0..TRIALS {
        let Some(trial) = next.take().or_else(|| Trial::connect().ok()) else { break };
        let config = Config { filter: trial.filter(), follow_ends: 1, ..config };
        config_map.set(&config)?;
        match selftest::run(trial, platform, &config, ends) {
            Ok(()) => return Ok(Ok(())),
            Err(Unproved::Differs(what)) => return Ok(Err(what)),
            Err(Unproved::Unseen(what)) => fault = what,
        }
    }
    Ok(Err(fault))
}

/// A filter that no socket passes.
fn nothing() -> Filter {
    // No namespace has number 1: they begin at 0xf0000000 (PROC_DYNAMIC_FIRST, fs/proc/generic.c).
    Filter { netns: 1, ..Filter::default() }
}

/// The map of what the programs are told.
pub struct ConfigMap(Array<MapData, PodConfig>);

impl ConfigMap {
    fn take(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        let map = Array::try_from(take(ebpf, "CONFIG")?);
        Ok(Self(map.map_err(|error| KernelError::Object(error.to_string()))?))
    }

    fn set(&mut self, config: &Config) -> Result<(), KernelError> {
        let set = self.0.set(0, PodConfig(*config), 0);
        set.map_err(|error| KernelError::Object(error.to_string()))
    }
}

/// Creates the maps and reads the programs.
fn load(options: &Options) -> Result<Ebpf, KernelError> {
    let cpus =
        nr_cpus().map_err(|(path, error)| KernelError::Object(format!("{path}: {error}")))?;
    let live = if options.follow_ends { options.max_live.max(1) } else { 1 };
    EbpfLoader::new()
        .btf(None)
        .map_max_entries("CPUS", u32::try_from(cpus).unwrap_or(u32::MAX))
        .map_max_entries("LIVE", live)
        .load(object::bytes(ObjectKind::Perf))
        .map_err(object::object_error)
}

/// Variables that hold settings where namespaces do not have their own.
const REUSE: &str = "sysctl_tcp_tw_reuse";
const TIMESTAMPS: &str = "sysctl_tcp_timestamps";
const DEATH_ROW: &str = "tcp_death_row";

/// Those that count with this layout.
fn globals(layout: &Layout) -> Vec<&'static str> {
    let recycles = !layout.tcp_tw_recycle.exists() && layout.death_row_recycle.exists();
    let all = [
        (REUSE, !layout.tcp_tw_reuse.exists()),
        (TIMESTAMPS, !layout.tcp_timestamps.exists()),
        (DEATH_ROW, recycles),
    ];
    all.into_iter().filter_map(|(name, counts)| counts.then_some(name)).collect()
}

/// Adds the settings that were global variables before namespaces had their own, of which those were
/// looked for that count ([`globals`]), and the port range for where the namespace's cannot be read.
fn add_globals(config: &mut Config, layout: Layout, kallsyms: &Kallsyms) {
    let int = Field::whole(0, 4);
    if let Some(address) = kallsyms.variable(REUSE) {
        (config.layout.tcp_tw_reuse, config.tcp_tw_reuse) = (int, address);
    }
    if let Some(address) = kallsyms.variable(TIMESTAMPS) {
        (config.layout.tcp_timestamps, config.tcp_timestamps) = (int, address);
    }
    if let Some(address) = kallsyms.variable(DEATH_ROW) {
        config.layout.tcp_tw_recycle = layout.death_row_recycle;
        config.tcp_death_row = address;
    }
    config.unknown = object::unknown(&config.layout);
    if let Some((low, high)) = listing::port_range() {
        (config.port_low, config.port_high) = (low, high);
    }
}

/// Finds where a namespace keeps its number: it is looked for in what the programs show of the one
/// that our own connection is in. A position that is not there, or not the only one, is not known.
fn learn(
    ebpf: &mut Ebpf,
    platform: &mut Perf,
    config_map: &mut ConfigMap,
    config: Config,
    trial: &Trial,
) -> Result<Field, KernelError> {
    const PROGRAM: &str = "kprobe_show_namespace";
    let probe = Trial::connect().ok();
    let (Some(probe), Some(inum)) = (probe, trial.netns()) else { return Ok(Field::default()) };
    config_map.set(&Config { filter: probe.filter(), ..config })?;
    let mut kprobes = Kprobes::default();
    let attached = attach_one_kprobe(ebpf, &mut kprobes, PROGRAM, "tcp_time_wait");
    attached.map_err(|reason| {
        KernelError::NothingAttached(vec![FailedWay { backend: Backend::Kprobe, reason }])
    })?;
    let shown = probe.end().ok().and_then(|_| selftest::first_bytes(platform));
    detach(ebpf, &mut kprobes, &[PROGRAM]);
    Ok(shown.map_or_else(Field::default, |bytes| position(&bytes, inum)))
}

/// Where the only aligned word with this value lies.
fn position(bytes: &[u8], value: u32) -> Field {
    let (words, _) = bytes.as_chunks::<4>();
    let mut places = (0..).zip(words).filter(|(_, word)| u32::from_ne_bytes(**word) == value);
    match (places.next(), places.next()) {
        (Some((index, _)), None) => Field::whole(index * 4, 4),
        _ => Field::default(),
    }
}

/// Whether the kernel recycles: by the function that only recycling calls, since its sysctl is
/// there in the initial network namespace alone.
///
/// # Source
/// `tcp_tw_remember_stamp()`, net/ipv4/tcp_metrics.c, 4.4 to 4.11.
fn recycles(kallsyms: &Kallsyms) -> bool {
    if kallsyms.are_unknown() { Path::new(RECYCLE).exists() } else { kallsyms.has(RECYCLING) }
}

/// The function that tells.
const RECYCLING: &str = "tcp_tw_remember_stamp";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::symbols::tests::kallsyms;

    #[test]
    fn recycling_exists_where_its_function_does_whatever_namespace_asks() {
        let recycles = |text: &str| recycles(&kallsyms(text, &["tcp_time_wait", RECYCLING], &[]));
        assert!(recycles("0 T tcp_time_wait\n0 T tcp_tw_remember_stamp\n"));
        assert!(!recycles("0 T tcp_time_wait\n"));
    }

    #[test]
    fn a_number_is_found_only_where_it_is_the_only_one() {
        let bytes: Vec<u8> =
            [7_u32, 0xf000_0001, 9, 9].iter().flat_map(|word| word.to_ne_bytes()).collect();
        assert_eq!(position(&bytes, 0xf000_0001), Field::whole(4, 4));
        assert_eq!(position(&bytes, 9), Field::default(), "twice");
        assert_eq!(position(&bytes, 8), Field::default(), "nowhere");
    }
}
