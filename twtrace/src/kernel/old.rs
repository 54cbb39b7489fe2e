//! Starts the object for old kernels: settings in a map, kprobes, and a connection of our own that
//! proves the positions of the fields right.

use std::{collections::HashSet, path::Path};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData},
    util::nr_cpus,
};
use twtrace_common::{Config, Field, Filter, Layout};

use super::{
    Backend, KernelError, Options, Refusal, Types,
    attach::{attach_kprobes, attach_one_kprobe, detach},
    hooks, layout,
    object::{self, ObjectKind, PodConfig},
    perf::PerfOutlet,
    selftest::{self, Fault, Trial},
    source::take,
    symbols,
};

/// Where the kernel lists its symbols.
const KALLSYMS: &str = "/proc/kallsyms";
/// Connections tried before what is not seen is taken not to be there.
const TRIALS: usize = 3;
/// Where the range of ephemeral ports is told.
const PORT_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Running programs of the object for old kernels.
pub struct Started {
    pub ebpf: Ebpf,
    pub outlet: PerfOutlet,
    pub types: Types,
    /// Whether the number of a namespace can be read.
    pub numbers_namespaces: bool,
    pub attached: Vec<&'static str>,
}

/// Loads, attaches, and tries itself out.
///
/// # Errors
/// What is missing, or what does not fit.
pub fn start(options: &Options) -> Result<Started, KernelError> {
    let known = match object::read_types(options) {
        Ok((path, types)) => Some((layout::of_file(&path, &types)?, path)),
        // Only the file that a user named has to be there.
        Err(KernelError::NoBtf { .. }) if options.btf.is_none() || object::wants_none(options) => {
            None
        }
        Err(error) => return Err(error),
    };
    let types = if known.is_some() { Types::Known } else { Types::Unknown };
    let layout = known.as_ref().map_or_else(layout::front, |(layout, _)| *layout);
    let mut config = object::configure(options, layout);
    add_globals(&mut config, layout);
    let mut ebpf = load(options)?;
    let mut outlet = PerfOutlet::open(&mut ebpf, options.ring_bytes)?;
    let mut settings = Settings::take(&mut ebpf)?;

    let trial = Trial::connect();
    if let (Types::Unknown, Ok(trial)) = (types, &trial) {
        config.layout.net_inum = learn(&mut ebpf, &mut outlet, &mut settings, config, trial)?;
    }
    let can_single_out = config.layout.net_inum.exists();
    if options.filter.netns != 0 && !can_single_out {
        return Err(KernelError::NoNamespaceNumber);
    }
    // Nothing but our own connection is reported until the positions have proved right.
    settings.set(&Config { filter: nothing(), ..config })?;
    let functions = symbols::function_names(Path::new(KALLSYMS));
    // Without types, what tcp_time_wait() is called with is all that tells the state.
    let wanted = if options.follow_ends || !types.are_known() { hooks::ALL } else { hooks::ENTRY };
    let attached = attach_kprobes(&mut ebpf, wanted, &functions).map_err(|reason| {
        KernelError::NothingAttached(vec![Refusal { backend: Backend::Kprobe, reason }])
    })?;
    let types = match trial {
        Ok(trial) => {
            let ends = options.follow_ends;
            let outcome = try_out(trial, &mut outlet, &mut settings, config, ends)?;
            if let Err(what) = outcome {
                detach(&mut ebpf, &attached);
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
    outlet.begin()?;
    settings.set(&config)?;
    Ok(Started { ebpf, outlet, types, numbers_namespaces: can_single_out, attached })
}

/// Compares what the programs read of our own connection with what is known of it, more than once
/// if they do not see all of it. The inner error says what does not fit.
fn try_out(
    first: Trial,
    outlet: &mut PerfOutlet,
    settings: &mut Settings,
    config: Config,
    ends: bool,
) -> Result<Result<(), String>, KernelError> {
    let mut next = Some(first);
    let mut fault = String::new();
    for _ in 0..TRIALS {
        let Some(trial) = next.take().or_else(|| Trial::connect().ok()) else { break };
        let config = Config { filter: trial.filter(), follow_ends: 1, ..config };
        settings.set(&config)?;
        match selftest::run(trial, outlet, &config, ends) {
            Ok(()) => return Ok(Ok(())),
            Err(Fault::Differs(what)) => return Ok(Err(what)),
            Err(Fault::Unseen(what)) => fault = what,
        }
    }
    Ok(Err(fault))
}

/// A filter that no socket passes.
fn nothing() -> Filter {
    // No namespace has number 1: they begin at 0xf0000000 (PROC_DYNAMIC_FIRST, fs/proc/generic.c).
    Filter { netns: 1, ..Filter::default() }
}

/// The settings' map.
pub struct Settings(Array<MapData, PodConfig>);

impl Settings {
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
        .load(ObjectKind::Perf.bytes())
        .map_err(object::object_error)
}

/// Adds the settings that were global variables before namespaces had their own, and the port range
/// for where the namespace's cannot be read.
fn add_globals(config: &mut Config, layout: Layout) {
    const REUSE: &str = "sysctl_tcp_tw_reuse";
    const TIMESTAMPS: &str = "sysctl_tcp_timestamps";
    const DEATH_ROW: &str = "tcp_death_row";
    let found = symbols::variables(Path::new(KALLSYMS), &[REUSE, TIMESTAMPS, DEATH_ROW]);
    let address = |name: &str| found.get(name).copied().unwrap_or(0);
    let int = Field::whole(0, 4);
    if !layout.tcp_tw_reuse.exists() && address(REUSE) != 0 {
        (config.layout.tcp_tw_reuse, config.tcp_tw_reuse) = (int, address(REUSE));
    }
    if !layout.tcp_timestamps.exists() && address(TIMESTAMPS) != 0 {
        (config.layout.tcp_timestamps, config.tcp_timestamps) = (int, address(TIMESTAMPS));
    }
    if !layout.tcp_tw_recycle.exists() && layout.death_row_recycle.exists() {
        config.tcp_death_row = address(DEATH_ROW);
        if config.tcp_death_row != 0 {
            config.layout.tcp_tw_recycle = layout.death_row_recycle;
        }
    }
    config.unknown = object::unknown(&config.layout);
    if let Some((low, high)) = port_range() {
        (config.port_low, config.port_high) = (low, high);
    }
}

/// `ip_local_port_range` of this namespace.
pub fn port_range() -> Option<(u16, u16)> {
    let text = std::fs::read_to_string(PORT_RANGE).ok()?;
    let mut words = text.split_whitespace().map(str::parse);
    Some((words.next()?.ok()?, words.next()?.ok()?))
}

/// Finds where a namespace keeps its number: it is looked for in what the programs show of the one
/// that our own connection is in. A position that is not there, or not the only one, is not known.
fn learn(
    ebpf: &mut Ebpf,
    outlet: &mut PerfOutlet,
    settings: &mut Settings,
    config: Config,
    trial: &Trial,
) -> Result<Field, KernelError> {
    const PROGRAM: &str = "kprobe_show_namespace";
    let probe = Trial::connect().ok();
    let (Some(probe), Some(inum)) = (probe, trial.netns()) else { return Ok(Field::default()) };
    settings.set(&Config { filter: probe.filter(), ..config })?;
    attach_one_kprobe(ebpf, PROGRAM, "tcp_time_wait").map_err(|reason| {
        KernelError::NothingAttached(vec![Refusal { backend: Backend::Kprobe, reason }])
    })?;
    let shown = probe.end().ok().and_then(|_| selftest::first_bytes(outlet));
    detach(ebpf, &[PROGRAM]);
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

/// Whether the kernel has a function; all are taken to be there where the list cannot be read.
pub fn has(functions: &HashSet<String>, name: &str) -> bool {
    functions.is_empty() || functions.contains(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_found_only_where_it_is_the_only_one() {
        let bytes: Vec<u8> =
            [7_u32, 0xf000_0001, 9, 9].iter().flat_map(|word| word.to_ne_bytes()).collect();
        assert_eq!(position(&bytes, 0xf000_0001), Field::whole(4, 4));
        assert_eq!(position(&bytes, 9), Field::default(), "twice");
        assert_eq!(position(&bytes, 8), Field::default(), "nowhere");
    }
}
