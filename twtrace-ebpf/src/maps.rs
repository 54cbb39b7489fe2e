//! Maps and settings, shared by all programs.

use aya_ebpf::{
    Global,
    macros::map,
    maps::{HashMap, LruHashMap, PerCpuArray, PerCpuHashMap, RingBuf},
};
use twtrace_common::{Config, Counter, Ended, Entered, Flow, Live, RefusalKey, Refusals};

/// Settings, written by userspace before the programs load.
#[unsafe(no_mangle)]
pub static CONFIG: Global<Config> = Global::new(EMPTY_CONFIG);

// SAFETY: Config is integers and arrays of them; all zero is a valid value.
const EMPTY_CONFIG: Config = unsafe { core::mem::zeroed() };

/// Reads one setting, without copying the others.
macro_rules! config {
    ($($path:tt)+) => {{
        let config = (&raw const $crate::maps::CONFIG).cast::<twtrace_common::Config>();
        // SAFETY: the static is never written while a program runs. The read is volatile
        // because the value at load time is not the one the compiler sees.
        unsafe { core::ptr::read_volatile(&raw const (*config).$($path)+) }
    }};
}
pub(crate) use config;

/// Reads one element of a setting that is an array; the index must be below its length.
macro_rules! config_at {
    ($array:ident $(. $path:ident)*, $index:expr) => {{
        let config = (&raw const $crate::maps::CONFIG).cast::<twtrace_common::Config>();
        // SAFETY: as for `config!`; the caller keeps the index in bounds.
        unsafe { $crate::maps::element(&raw const (*config).$array $(. $path)*, $index) }
    }};
}
pub(crate) use config_at;

/// One element of an array of settings.
///
/// # Safety
/// `array` is readable and `index` below its length.
#[inline(always)]
pub unsafe fn element<T, const N: usize>(array: *const [T; N], index: usize) -> T {
    // SAFETY: promised by the caller.
    unsafe { core::ptr::read_volatile(array.cast::<T>().add(index)) }
}

/// Records on their way to userspace. Its size is set by the loader.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(8 << 20, 0);

/// Exact totals, by [`Counter`].
#[map]
pub static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Counter::COUNT, 0);

/// What is known of each live timewait socket, by its address. Its size is set by the loader.
#[map]
pub static LIVE: HashMap<u64, Live> = HashMap::with_max_entries(262_144, 0);

/// Sockets inside `tcp_time_wait()`, by address.
#[map]
pub static ENTERING: LruHashMap<u64, Entering> = LruHashMap::with_max_entries(4096, 0);

/// Entries of the tracepoint way between the arming and the closing of the full socket.
#[map]
pub static ARMED: LruHashMap<FlowKey, Entered> = LruHashMap::with_max_entries(4096, 0);

/// Tasks that are deleting a network namespace's sockets right now.
#[map]
pub static PURGING: HashMap<u64, u32> = HashMap::with_max_entries(256, 0);

/// Refused takeovers by peer. Its size is set by the loader.
#[map]
pub static REFUSALS: PerCpuHashMap<RefusalKey, Refusals> = PerCpuHashMap::with_max_entries(4096, 0);

/// Scratch space, and what passes between programs on one CPU with softirqs off. The first slot
/// belongs to programs that run with softirqs off, the others to one program each that may be
/// interrupted.
#[map]
pub static CPU: PerCpuArray<CpuState> = PerCpuArray::with_max_entries(4, 0);

/// Arguments of a `tcp_time_wait()` call in progress.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Entering {
    /// Third argument, jiffies.
    pub timeo: u32,
    /// Second argument.
    pub state: u32,
    /// The timewait socket, 0 until there is one.
    pub tw: u64,
}

/// A connection within its network namespace.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct FlowKey {
    /// Addresses and ports; the port range is 0.
    pub flow: Flow,
    /// Address of the namespace.
    pub net: u64,
}

/// Scratch space and hand-overs of one CPU.
#[repr(C)]
pub struct CpuState {
    /// Entry being put together.
    pub entered: Entered,
    /// Connection being looked up.
    pub key: FlowKey,
    /// End being put together.
    pub ended: Ended,
    /// Timewait socket that was armed last (before Linux 6.11).
    pub armed_tw: u64,
    /// What it was armed with, jiffies.
    pub armed: u64,
    /// Timewait socket inside `tcp_timewait_state_process()`, 0 if none.
    pub processing: u64,
    /// Its substate when it went in.
    pub processing_state: u64,
    /// Timewait socket whose end was announced last, for those not in [`LIVE`].
    pub marked: u64,
    /// The `EndReason` announced.
    pub marked_reason: u64,
    /// Timewait socket inside `tcp_twsk_unique()` (kprobe only).
    pub unique_tw: u64,
    /// Whether that `connect()` came with its port bound beforehand.
    pub unique_bound: u64,
    /// Front of the socket being read: all of `sock_common` that is needed.
    pub common: [u8; COMMON_LEN],
    /// Return addresses of a stack.
    pub stack: [u64; STACK_DEPTH],
}

/// Bytes of `struct sock_common` read at once; the addresses end at 88 on every 64-bit kernel
/// read (3.10 to 7.2), and [`crate::read`] checks each offset against it.
pub const COMMON_LEN: usize = 128;
/// Return addresses looked at to tell who ended a socket.
pub const STACK_DEPTH: usize = 24;

/// This CPU's scratch space for programs that run with softirqs off and so do not nest.
#[inline(always)]
pub fn cpu() -> Option<&'static mut CpuState> {
    slot(0)
}

/// Scratch space of the iterator, which runs with softirqs on and may be interrupted by the rest.
#[inline(always)]
pub fn iterator_cpu() -> Option<&'static mut CpuState> {
    slot(1)
}

/// Scratch space for reporting an entry, from Linux 6.11 on with softirqs on.
#[inline(always)]
pub fn entering_cpu() -> Option<&'static mut CpuState> {
    slot(3)
}

/// Scratch space for reporting what is still waiting when the full socket closes.
#[inline(always)]
pub fn overflow_cpu() -> Option<&'static mut CpuState> {
    slot(2)
}

#[inline(always)]
fn slot(index: u32) -> Option<&'static mut CpuState> {
    // SAFETY: the slot belongs to this CPU, programs do not migrate, and the kernel does not run
    // a program again on a CPU while it runs there. Each slot serves programs that do not
    // interrupt one another.
    CPU.get_ptr_mut(index).map(|state| unsafe { &mut *state })
}

/// Adds one to an exact total.
#[inline(always)]
pub fn count(counter: Counter) {
    if let Some(total) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: the slot belongs to this CPU and the pointer was null-checked above.
        unsafe { *total += 1 };
    }
}
