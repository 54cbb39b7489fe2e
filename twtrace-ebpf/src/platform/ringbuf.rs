//! What kernels with ring buffers offer: settings as constants, per-CPU maps, records put together
//! in scratch space, and a buffer with wake-ups under control.

use aya_ebpf::{
    EbpfContext, Global,
    bindings::{BPF_NOEXIST, BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP},
    helpers::{
        bpf_jiffies64, bpf_probe_read_kernel_buf,
        generated::{bpf_get_current_task, bpf_probe_read_kernel},
    },
    macros::map,
    maps::{LruHashMap, PerCpuArray, PerCpuHashMap, RingBuf},
};
use aya_log_ebpf::warn;
use twtrace_common::{
    AF_INET6, Config, Counter, Decode, Ended, Entered, Field, Flow, FlowKey, Handover, NetnsCounts,
    NetnsKey, RefusalKey, failed_flags,
};

use crate::read;

/// Whether there are fexit programs, which tell the timewait socket while it is being made.
pub const HAS_FEXIT: bool = true;

/// A map of what is over soon: it forgets what was not used for longest when it is full.
pub type Recent<K, V> = LruHashMap<K, V>;

/// Whether positions of fields are always known. Programs that are given typed pointers may not
/// compute with them otherwise.
pub const KNOWS_TYPES: bool = true;

/// Settings, written by userspace before the programs load.
#[unsafe(no_mangle)]
pub static CONFIG: Global<Config> = Global::new(EMPTY_CONFIG);

// SAFETY: Config is integers and arrays of them; all zero is a valid value.
const EMPTY_CONFIG: Config = unsafe { core::mem::zeroed() };

/// Records on their way to userspace. Its size is set by the loader.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(8 << 20, 0);

/// Exact totals, by [`Counter`].
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Counter::COUNT, 0);

/// Refused takeovers by peer. Its size is set by the loader.
#[map]
static REFUSALS: PerCpuHashMap<RefusalKey, u64> = PerCpuHashMap::with_max_entries(4096, 0);

/// What is counted of each network namespace.
#[map]
static NAMESPACES: PerCpuHashMap<NetnsKey, NetnsCounts> = PerCpuHashMap::with_max_entries(4096, 0);

#[map]
static HANDOVER: PerCpuArray<Handover> = PerCpuArray::with_max_entries(1, 0);

/// Scratch space by [`Slot`].
#[map]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(5, 0);

/// Scratch space of one CPU.
#[repr(C)]
pub struct Scratch {
    /// Entry being put together.
    pub entered: Entered,
    /// Entry that waited and is about to leave (tracepoints only).
    pub waiting: Entered,
    /// Connection being looked up (tracepoints only).
    pub key: FlowKey,
    /// End being put together.
    pub ended: Ended,
    /// Front of the socket being read.
    pub front: Front,
    /// Timewait socket that enters.
    pub timewait: Timewait,
    /// Return addresses of a stack (tracepoints only).
    pub stack: [u64; STACK_DEPTH],
    /// What the innermost known one of them means (tracepoints only).
    pub caller: u64,
    /// How far the search for it has come (tracepoints only).
    pub at: u64,
}

/// Return addresses looked at to tell who ended a socket.
pub const STACK_DEPTH: usize = 16;

/// Who uses scratch space: programs of different slots may interrupt one another, and where tasks switch
/// while a program runs (PREEMPT_RT) come in between. One program does not come in between itself:
/// the kernel skips it, and counts that.
#[derive(Clone, Copy)]
#[repr(u32)]
pub enum Slot {
    /// The end of a socket, by function, or what happens to its timer with interrupts off.
    Softirq = 0,
    /// The iterator, which runs with softirqs on.
    Iterator = 1,
    /// Reporting what is still waiting when the full socket closes.
    Closing = 2,
    /// Reporting an entry, from Linux 6.11 on with softirqs on.
    Entering = 3,
    /// A timer that has run out (tracepoints only).
    Expiring = 4,
}

/// Access to settings, totals and scratch space.
#[derive(Clone, Copy)]
pub struct Env(());

impl Env {
    /// The environment of a program that has just begun.
    #[inline(always)]
    pub fn get() -> Option<Self> {
        Some(Self(()))
    }

    /// The settings.
    #[inline(always)]
    pub fn config(self) -> *const Config {
        (&raw const CONFIG).cast()
    }

    /// Adds one to an exact total.
    #[inline(always)]
    pub fn count(self, counter: Counter) {
        if let Some(total) = COUNTERS.get_ptr_mut(counter as u32) {
            // SAFETY: the slot belongs to this CPU and the pointer was null-checked above.
            unsafe { *total += 1 };
        }
    }

    /// What passes between programs on this CPU.
    #[inline(always)]
    pub fn handover(self) -> Option<&'static mut Handover> {
        // SAFETY: the slot belongs to this CPU, programs do not migrate, and only programs that
        // run with softirqs off use it.
        HANDOVER.get_ptr_mut(0).map(|slot| unsafe { &mut *slot })
    }

    /// This CPU's scratch space.
    #[inline(always)]
    pub fn scratch(self, slot: Slot) -> Option<&'static mut Scratch> {
        // SAFETY: the slot belongs to this CPU, programs do not migrate, and the kernel does not
        // run a program again on a CPU while it runs there. Each slot serves programs that do not
        // interrupt one another.
        SCRATCH.get_ptr_mut(slot as u32).map(|scratch| unsafe { &mut *scratch })
    }

    /// Sends `record`, or adds one to `lost` when the buffer is full. Never waits.
    ///
    /// The kernel wakes the reader for the first record after it has taken out all before
    /// (`ringbuf_commit()`, kernel/bpf/ringbuf.c, 5.8 on), and this once enough bytes wait; in between
    /// the reader lets them gather, because a wake-up an event would cost more than the event.
    #[inline(always)]
    pub fn send<C: EbpfContext, T: Decode + 'static>(self, _ctx: &C, record: &T, lost: Counter) {
        let Some(mut slot) = EVENTS.reserve::<T>(0) else {
            self.count(lost);
            return;
        };
        slot.write(*record);
        let waiting = EVENTS.query(u64::from(BPF_RB_AVAIL_DATA));
        let is_much = waiting >= u64::from(read::config!(self, wakeup_bytes));
        slot.submit(if is_much { BPF_RB_FORCE_WAKEUP.into() } else { 0 });
    }

    /// Adds one refusal to a peer's count on this CPU.
    #[inline(always)]
    pub fn count_refusal(self, key: &RefusalKey) {
        let mut slot = REFUSALS.get_ptr_mut(key);
        if slot.is_none() {
            // A program that came in between may have made it.
            slot = match REFUSALS.insert(key, 0, BPF_NOEXIST.into()) {
                Ok(()) | Err(_) => REFUSALS.get_ptr_mut(key),
            };
        }
        match slot {
            // SAFETY: the slot belongs to this CPU and was null-checked.
            Some(slot) => unsafe { *slot += 1 },
            None => self.count(Counter::RefusalsDropped),
        }
    }

    /// Counts something of a network namespace.
    #[inline(always)]
    pub fn count_namespace(self, key: &NetnsKey, count: impl Fn(&mut NetnsCounts)) {
        let mut slot = NAMESPACES.get_ptr_mut(key);
        if slot.is_none() {
            // A program that came in between may have made it.
            slot = match NAMESPACES.insert(key, NetnsCounts::default(), BPF_NOEXIST.into()) {
                Ok(()) | Err(_) => NAMESPACES.get_ptr_mut(key),
            };
        }
        match slot {
            // SAFETY: the slot belongs to this CPU and was null-checked.
            Some(slot) => count(unsafe { &mut *slot }),
            None => self.count(Counter::MapFailed),
        }
    }

    /// Says in the log that the live map is full, when it was found so for the first time: once a
    /// processor at most.
    #[inline(always)]
    pub fn warn_live_is_full<C: EbpfContext>(self, ctx: &C) {
        // Counted just before.
        if COUNTERS.get(Counter::Untracked as u32).is_some_and(|count| *count == 1) {
            warn!(
                ctx,
                "more sockets live than are followed: from here on lifetimes are of those \
                 followed; a larger max-live follows more"
            );
        }
    }
}

/// Binds a record to put together, and the front of the socket it is about, or returns.
macro_rules! scratch {
    ($env:expr, $slot:ident, $record:ident, $front:ident) => {
        let Some(scratch) = $env.scratch($crate::platform::Slot::$slot) else { return };
        let ($record, $front) = (&mut scratch.$record, &mut scratch.front);
    };
}
pub(crate) use scratch;

/// Binds the front of a socket when there is nothing to send: scratch space could be somebody else's in
/// between.
macro_rules! own_front {
    ($front:ident) => {
        let $front = &mut $crate::platform::Front::empty();
    };
}
pub(crate) use own_front;

/// `PF_KTHREAD`, include/linux/sched.h.
const PF_KTHREAD: u64 = 0x0020_0000;

/// [`failed_flags`] that tell whether a thread of the kernel runs.
#[inline(always)]
pub fn thread_kind(env: Env) -> u16 {
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_task() };
    let flags = read::field(env, task, read::config!(env, layout.task_flags));
    if flags & PF_KTHREAD != 0 { failed_flags::KERNEL_THREAD } else { 0 }
}

/// The name of the process that runs: that of its first thread.
#[inline(always)]
pub fn process_name(env: Env, name: &mut [u8; 16]) {
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_task() };
    let leader = read::field(env, task, read::config!(env, layout.task_group_leader));
    let comm: Field = read::config!(env, layout.task_comm);
    // SAFETY: sixteen bytes, as a task's name has.
    if !unsafe { probe_read(name.as_mut_ptr(), 16, leader.wrapping_add(comm.offset.into())) } {
        env.count(Counter::ReadFailed);
    }
}

/// Reads kernel memory; answers whether that went well.
///
/// # Safety
/// `to` must be valid for writes of `bytes` bytes.
#[inline(always)]
pub unsafe fn probe_read(to: *mut u8, bytes: u32, from: u64) -> bool {
    // SAFETY: promised by the caller; the helper checks the address it reads from.
    unsafe { bpf_probe_read_kernel(to.cast(), bytes, from as *const _) >= 0 }
}

/// Jiffies until a timer is due.
#[inline(always)]
pub fn jiffies_left(env: Env, timer: u64) -> u32 {
    jiffies_until(read::field(env, timer, read::config!(env, layout.timer_expires)))
}

/// Jiffies until a moment.
#[inline(always)]
pub fn jiffies_until(expires: u64) -> u32 {
    // SAFETY: the helper has no preconditions.
    let now = unsafe { bpf_jiffies64() };
    // Jiffies are as wide as a pointer; the low half is enough for any timeout.
    (expires as u32).wrapping_sub(now as u32)
}

/// Bytes of a socket, copied in one read.
#[repr(C)]
pub struct Copied<const BYTES: usize>([u8; BYTES]);

/// All that is needed of `struct sock_common`: the addresses end at 88 on every 64-bit kernel read
/// (3.10 to 7.2), and userspace checks each offset against it.
pub type Front = Copied<128>;

/// All of a `struct tcp_timewait_sock`, whose members end below 288 (5.8 to 7.2).
pub type Timewait = Copied<288>;

impl<const BYTES: usize> Copied<BYTES> {
    /// Nothing read yet.
    #[inline(always)]
    pub const fn empty() -> Self {
        Self([0; BYTES])
    }

    /// Addresses and ports of a socket of whatever kind go to `flow`; answers its family and its
    /// namespace. A v4 address comes out as `::ffff:a.b.c.d`; the port range becomes 0.
    #[inline(always)]
    pub fn read(&mut self, env: Env, sk: u64, flow: &mut Flow) -> (u16, u64) {
        // SAFETY: the helper checks the address and fails cleanly on a bad one.
        if unsafe { bpf_probe_read_kernel_buf(sk as *const u8, &mut self.0) }.is_err() {
            env.count(Counter::ReadFailed);
        }
        let family: u16 = self.part(read::config!(env, layout.skc_family));
        if family == AF_INET6 {
            flow.local = self.part(read::config!(env, layout.skc_v6_rcv_saddr));
            flow.remote = self.part(read::config!(env, layout.skc_v6_daddr));
        } else {
            flow.local = read::mapped(self.part(read::config!(env, layout.skc_rcv_saddr)));
            flow.remote = read::mapped(self.part(read::config!(env, layout.skc_daddr)));
        }
        flow.local_port = self.part(read::config!(env, layout.skc_num));
        flow.remote_port = u16::from_be(self.part(read::config!(env, layout.skc_dport)));
        (flow.port_low, flow.port_high) = (0, 0);
        (family, self.part(read::config!(env, layout.skc_net)))
    }

    /// A member of the socket that was read, at `sk`, as [`read::field`] has it.
    #[inline(always)]
    pub fn member(&self, env: Env, sk: u64, field: Field) -> u64 {
        if field.offset as usize > BYTES - size_of::<[u8; 16]>() {
            return read::field(env, sk, field);
        }
        (self.part::<u64>(field) >> (field.bit & 7)) & field.mask
    }

    /// Takes `T` out of the copy.
    #[inline(always)]
    fn part<T: Copy + Default>(&self, field: Field) -> T {
        let offset = field.offset as usize;
        if offset > BYTES - size_of::<[u8; 16]>() {
            // Userspace refuses such a kernel; this is for the verifier.
            return T::default();
        }
        // SAFETY: sixteen bytes follow `offset` in the copy, and no T is longer.
        unsafe { self.0.as_ptr().add(offset).cast::<T>().read_unaligned() }
    }
}
