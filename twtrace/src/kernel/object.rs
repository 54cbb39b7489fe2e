//! The embedded kernel object and its settings.

use std::{io::ErrorKind, path::PathBuf};

use aya::{Ebpf, EbpfError, EbpfLoader, maps::MapError};
use twtrace_common::{CallerRange, Config, EndReason, Field, Layout, MAX_CALLERS, entered_flags};

use super::{BtfError, BtfIndex, KernelError, Options, namespaces, preflight, symbols::Kallsyms};
use crate::{
    attached::{ObjectKind, TypesFrom},
    units::is_from,
};

/// The two embedded objects, compiled by build.rs from the same bodies.
static RINGBUF: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/twtrace-ringbuf"));
static PERF: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/twtrace-perf"));

/// The ELF file of an object.
pub const fn bytes(kind: ObjectKind) -> &'static [u8] {
    match kind {
        ObjectKind::RingBuf => RINGBUF,
        ObjectKind::Perf => PERF,
    }
}

/// Where the kernel publishes its own types.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Setting bytes as aya wants them.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct PodConfig(pub Config);
// SAFETY: Config is repr(C), integers only, without padding that matters: aya only copies it.
unsafe impl aya::Pod for PodConfig {}

/// Reads the kernel's types, or those of the file the user named.
pub fn read_types(options: &Options) -> Result<(PathBuf, BtfIndex<'static>), KernelError> {
    let path = match &options.btf {
        TypesFrom::Kernel => PathBuf::from(VMLINUX),
        TypesFrom::Nowhere => return Err(KernelError::TypesLeftOut),
        TypesFrom::File(path) => path.clone(),
    };
    match BtfIndex::from_file(&path) {
        Ok(types) => Ok((path, types)),
        Err(BtfError::Unreadable { source, .. }) if source.kind() == ErrorKind::NotFound => {
            Err(KernelError::NoBtf { path })
        }
        Err(source) => Err(KernelError::BadBtf { path, source }),
    }
}

/// What the programs need to know, with the fields where `layout` says.
pub fn configure(options: &Options, mut layout: Layout) -> Config {
    if namespaces::cookie() == 0 {
        // Both sides have to call a namespace the same.
        layout.net_cookie = Field::default();
    }
    if is_from(&preflight::release(), (6, 16)) {
        // By their protocol's name sockets of DCCP are told, which is gone.
        layout.proto_name = Field::default();
    }
    Config {
        layout,
        follow_ends: u32::from(options.follow_ends),
        wakeup_bytes: options.ring_bytes / 8,
        // Up to 4.14 a timer's callback is called with the socket, since then with the timer.
        timer_argument: match (layout.tw_timer.exists(), layout.timer_data.exists()) {
            (false, _) => Config::UNKNOWN,
            (true, true) => 0,
            (true, false) => layout.tw_timer.offset,
        },
        unknown: unknown(&layout),
        filter: options.filter,
        ..Config::default()
    }
}

/// What each entry says of the kernel it comes from, above all what that does not tell.
pub fn unknown(layout: &Layout) -> u16 {
    let flag = |holds: bool, flag: u16| if holds { flag } else { 0 };
    flag(!layout.ts_recent_stamp.exists(), entered_flags::TIMESTAMPS_UNKNOWN)
        | flag(!layout.sk_uid.exists(), entered_flags::OWNER_UNKNOWN)
        | flag(
            !layout.tcp_tw_reuse.exists() || !layout.tcp_timestamps.exists(),
            entered_flags::SETTINGS_UNKNOWN,
        )
        // 4.19 gave the stamp another type and 2 its meaning; RHEL 8 took over both.
        | flag(layout.ts_recent_stamp.size == 8, entered_flags::TWO_IS_ON)
}

/// Functions that mean something on the stack of an early end, as [`CallerRange`] says.
fn callers() -> [(&'static str, u32); 17] {
    [
        ("mod_timer", CallerRange::REARM),
        ("mod_timer_pending", CallerRange::REARM),
        ("__mod_timer", CallerRange::REARM),
        ("migrate_timer_list", CallerRange::MOVE),
        ("timers_dead_cpu", CallerRange::MOVE),
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

/// What the tracepoint programs know timers and callers by.
#[derive(Clone, Debug, Default)]
pub struct Symbols {
    tw_timer_handler: u64,
    callers: Vec<CallerRange>,
}

impl Symbols {
    /// Puts them into the settings.
    pub fn add_to(&self, config: &mut Config) {
        config.tw_timer_handler = self.tw_timer_handler;
        let unused = CallerRange { start: u64::MAX, ..CallerRange::default() };
        config.callers = [unused; MAX_CALLERS];
        config.callers[..self.callers.len()].copy_from_slice(&self.callers);
    }
}

/// Reads them.
pub fn read_symbols() -> Result<Symbols, String> {
    let callers = callers();
    let names = callers.iter().map(|(name, _)| *name).chain(["tw_timer_handler"]);
    let found = Kallsyms::read(names, &[])
        .and_then(|kallsyms| kallsyms.ranges())
        .map_err(|error| error.to_string())?;
    let handler = found.get("tw_timer_handler");
    let known = callers.iter().filter_map(|(name, meaning)| {
        let range = found.get(*name)?;
        Some(CallerRange { start: range.start, end: range.end, meaning: *meaning, reserved: 0 })
    });
    let mut callers: Vec<CallerRange> = known.collect();
    callers.sort_by_key(|range| range.start);
    Ok(Symbols {
        tw_timer_handler: handler.ok_or("the kernel has no symbol tw_timer_handler")?.start,
        callers,
    })
}

/// Creates the maps and reads the programs; none is in the kernel yet.
///
/// # Errors
/// [`KernelError::TooOld`] or [`KernelError::Object`].
pub fn load(
    loader: EbpfLoader<'_>,
    options: &Options,
    config: Config,
) -> Result<Ebpf, KernelError> {
    let config = PodConfig(config);
    let live = if options.follow_ends { options.max_live.max(1) } else { 1 };
    let mut loader = loader;
    loader
        // Where fields lie the settings say.
        .btf(None)
        .override_global("CONFIG", &config, true)
        .map_max_entries("EVENTS", options.ring_bytes)
        .map_max_entries("LIVE", live)
        .load(RINGBUF)
        .map_err(object_error)
}

/// Sorts out why the object itself could not be loaded.
pub fn object_error(error: EbpfError) -> KernelError {
    match &error {
        EbpfError::MapError(MapError::CreateError { name, io_error, .. })
            if ["EVENTS", "AYA_LOGS"].contains(&name.as_str())
                && io_error.raw_os_error() == Some(22) =>
        {
            KernelError::TooOld { release: preflight::release() }
        }
        EbpfError::MapError(MapError::CreateError { name, io_error })
            if io_error.raw_os_error() == Some(12) =>
        {
            KernelError::NoMemory { map: name.clone() }
        }
        EbpfError::MapError(MapError::CreateError { name, io_error })
            if io_error.raw_os_error() == Some(1) =>
        {
            match preflight::memlock_limit() {
                Some(limit) => KernelError::MemoryLimit { map: name.clone(), limit },
                None => KernelError::Object(chain(&error)),
            }
        }
        _ => KernelError::Object(chain(&error)),
    }
}

/// An error and its causes in one line, without saying one thing twice.
pub fn chain(error: &dyn std::error::Error) -> String {
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

    fn refused_map(name: &str, errno: i32) -> String {
        let io_error = std::io::Error::from_raw_os_error(errno);
        let error = MapError::CreateError { name: name.to_owned(), io_error };
        object_error(EbpfError::MapError(error)).to_string()
    }

    #[test]
    fn a_kernel_without_ring_buffers_is_told_what_would_be_needed() {
        let message = refused_map("EVENTS", 22);
        assert!(message.contains("has no BPF ring buffer"), "{message}");
        assert!(message.contains("needs Linux 5.8"), "{message}");
        assert!(message.contains(&preflight::release()), "{message}");
    }

    #[test]
    fn types_that_are_not_there_are_told_by_where_they_were_looked_for() {
        let told = |path: &str| KernelError::NoBtf { path: path.into() }.to_string();
        assert!(told(VMLINUX).contains("name a BTF file made for it with --btf FILE"));
        let given = told("/tmp/kernel.btf");
        assert!(given.starts_with("there is no file /tmp/kernel.btf"), "{given}");
    }

    #[test]
    fn a_map_refused_for_want_of_memory_is_named_with_the_flags_that_make_it_smaller() {
        let message = refused_map("LIVE", 12);
        assert!(message.contains("LIVE") && message.contains("--max-live"), "{message}");
    }
}
