//! What Linux 4.4 offers: hash maps, arrays, a perf buffer per CPU and a handful of helpers.
//!
//! The rules of its verifier (kernel/bpf/verifier.c, read at 4.4) that shape this file:
//!
//! - what a helper reads or writes lies on the stack and was initialised before; so records are put
//!   together there and sockets are read field by field;
//! - a pointer into a map's value may not be added to, only accessed at fixed offsets;
//! - neither loops nor calls, 4,096 instructions a program, and 32,768 over all paths: hence no
//!   branch in a read.
//!
//! There are no per-CPU maps before 4.6: an array with an element for each CPU, whose number a
//! program can ask for, is the same. Nothing else writes there meanwhile, because the kernel runs
//! no kprobe program on a CPU that is running one.

use aya_ebpf::{
    EbpfContext,
    bindings::BPF_NOEXIST,
    helpers::{
        bpf_get_smp_processor_id,
        generated::{bpf_get_current_comm, bpf_probe_read},
    },
    macros::map,
    maps::{Array, HashMap, PerfEventArray},
};
use twtrace_common::{
    AF_INET6, Config, Counter, Cpu, Decode, Field, Flow, Handover, NetnsCounts, NetnsKey,
    PerCpuNetns, PerCpuRefusal, RefusalKey, failed_flags,
};

use crate::read;

/// There are none: an entry that the hash dance was not seen of stays unseen.
pub const HAS_FEXIT: bool = false;

/// A map of what is over soon. One that forgets what was not used for longest exists from 4.10 on alone:
/// when this one is full, nothing more fits.
pub type Recent<K, V> = HashMap<K, V>;

/// Whether positions of fields are always known.
pub const KNOWS_TYPES: bool = false;

/// Settings, written by userspace before the programs are attached.
#[map]
static CONFIG: Array<Config> = Array::with_max_entries(1, 0);

/// Records on their way to userspace.
#[map]
static EVENTS: PerfEventArray<u8> = PerfEventArray::new(0);

/// One element a CPU. Its size is set by the loader.
#[map]
static CPUS: Array<Cpu> = Array::with_max_entries(1, 0);

/// Refused takeovers by peer and CPU.
#[map]
static REFUSALS: HashMap<PerCpuRefusal, u64> = HashMap::with_max_entries(16_384, 0);

/// What is counted of each network namespace, by CPU.
#[map]
static NAMESPACES: HashMap<PerCpuNetns, NetnsCounts> = HashMap::with_max_entries(16_384, 0);

/// Access to settings and totals: two map look-ups at the start of a program.
#[derive(Clone, Copy)]
pub struct Env {
    config: *const Config,
    cpu: *mut Cpu,
    number: u32,
}

impl Env {
    /// The environment of a program that has just begun.
    #[inline(always)]
    pub fn get() -> Option<Self> {
        // SAFETY: the helper has no preconditions.
        let number = unsafe { bpf_get_smp_processor_id() } as u32;
        let config = checked(CONFIG.get_ptr_mut(0)?);
        Some(Self { config, cpu: checked(CPUS.get_ptr_mut(number)?), number })
    }

    /// The settings.
    #[inline(always)]
    pub fn config(self) -> *const Config {
        self.config
    }

    /// Adds one to an exact total.
    #[inline(always)]
    pub fn count(self, counter: Counter) {
        // SAFETY: the element belongs to this CPU; every counter is an index below the length.
        unsafe { *(&raw mut (*self.cpu).totals).cast::<u64>().add(counter as usize) += 1 };
    }

    /// What passes between programs on this CPU.
    #[inline(always)]
    pub fn handover(self) -> Option<&'static mut Handover> {
        // SAFETY: the element belongs to this CPU, programs do not migrate, and only programs that
        // run with softirqs off use this part of it.
        Some(unsafe { &mut (*self.cpu).handover })
    }

    /// Sends `record`. Never waits.
    ///
    /// Before 5.0 the helper succeeds even when the buffer is full: the reader finds out what was
    /// lost by comparing what arrived with the totals.
    #[inline(always)]
    pub fn send<C: EbpfContext, T: Decode + 'static>(self, ctx: &C, record: &T, _lost: Counter) {
        self.send_bytes(ctx, record);
    }

    /// Sends whatever it is.
    #[inline(always)]
    pub fn send_bytes<C: EbpfContext, T>(self, ctx: &C, record: &T) {
        // BPF_F_CURRENT_CPU came with 4.7; the number itself is understood by all.
        // SAFETY: the record lives on the stack during the call and is as long as said.
        unsafe {
            aya_ebpf::helpers::bpf_perf_event_output(
                ctx.as_ptr(),
                (&raw const EVENTS).cast_mut().cast(),
                u64::from(self.number),
                (&raw const *record).cast_mut().cast(),
                size_of::<T>() as u64,
            );
        }
    }

    /// Adds one refusal to a peer's count on this CPU.
    #[inline(always)]
    pub fn count_refusal(self, key: &RefusalKey) {
        let key = PerCpuRefusal { key: *key, cpu: self.number, reserved: 0 };
        if let Some(slot) = REFUSALS.get_ptr_mut(key) {
            // SAFETY: null-checked; the slot belongs to this CPU.
            unsafe { *slot += 1 };
        } else if REFUSALS.insert(key, 1, BPF_NOEXIST.into()).is_err() {
            self.count(Counter::RefusalsDropped);
        }
    }

    /// Counts something of a network namespace.
    #[inline(always)]
    pub fn count_namespace(self, key: &NetnsKey, count: impl Fn(&mut NetnsCounts)) {
        let key = PerCpuNetns { key: *key, cpu: self.number, reserved: 0 };
        if let Some(slot) = NAMESPACES.get_ptr_mut(key) {
            // SAFETY: null-checked; the slot belongs to this CPU.
            count(unsafe { &mut *slot });
            return;
        }
        let mut first = NetnsCounts::default();
        count(&mut first);
        if NAMESPACES.insert(key, first, BPF_NOEXIST.into()).is_err() {
            self.count(Counter::MapFailed);
        }
    }

    /// The log needs a ring buffer: the agent says it, who reads the counter.
    #[inline(always)]
    pub fn warn_live_is_full<C: EbpfContext>(self, _ctx: &C) {}
}

/// A pointer that was found not to be null, as a value of its own.
///
/// Before 4.9 the verifier learns of the check only for the register that was checked. The compiler
/// may have put a copy aside before, and use that one; of this value there is none so early.
#[inline(always)]
fn checked<T>(pointer: *mut T) -> *mut T {
    // SAFETY: a local variable is read.
    unsafe { core::ptr::read_volatile(&raw const pointer) }
}

/// Binds a record to put together, and the front of the socket it is about.
macro_rules! scratch {
    ($env:expr, $slot:ident, $record:ident, $front:ident) => {
        let ($record, $front) = (&mut Default::default(), &mut $crate::platform::Front);
    };
}
pub(crate) use scratch;

/// Binds the front of a socket when there is nothing to send.
macro_rules! own_front {
    ($front:ident) => {
        let $front = &mut $crate::platform::Front;
    };
}
pub(crate) use own_front;

/// Whether a thread of the kernel runs: there is no helper that tells (4.8).
#[inline(always)]
pub fn thread_kind(_env: Env) -> u16 {
    failed_flags::THREAD_UNKNOWN
}

/// The name of the thread that runs; that of its process is out of reach.
#[inline(always)]
pub fn process_name(env: Env, name: &mut [u8; 16]) {
    // SAFETY: sixteen bytes of a record on the stack, which began as zeroes.
    if unsafe { bpf_get_current_comm(name.as_mut_ptr().cast(), 16) } < 0 {
        env.count(Counter::ReadFailed);
    }
}

/// Reads kernel memory; answers whether that went well.
///
/// # Safety
/// `to` must be valid for writes of `bytes` bytes, lie on the stack and be initialised.
#[inline(always)]
pub unsafe fn probe_read(to: *mut u8, bytes: u32, from: u64) -> bool {
    // SAFETY: promised by the caller; the helper checks the address it reads from.
    unsafe { bpf_probe_read(to.cast(), bytes, from as *const _) >= 0 }
}

/// Jiffies until a timer is due: there is no helper to ask what time it is, so not known.
#[inline(always)]
pub fn jiffies_left(_env: Env, _timer: u64) -> u32 {
    0
}

/// A socket's front, read field by field.
pub struct Front;

impl Front {
    /// Addresses and ports of a socket of whatever kind go to `flow`; answers its family and its
    /// namespace. A v4 address comes out as `::ffff:a.b.c.d`; the port range becomes 0.
    #[inline(always)]
    pub fn read(&mut self, env: Env, sk: u64, flow: &mut Flow) -> (u16, u64) {
        let family = read::field(env, sk, read::config!(env, layout.skc_family)) as u16;
        if family == AF_INET6 {
            self.address(env, sk, read::config!(env, layout.skc_v6_rcv_saddr), &mut flow.local);
            self.address(env, sk, read::config!(env, layout.skc_v6_daddr), &mut flow.remote);
        } else {
            let v4 = |field| (read::field(env, sk, field) as u32).to_ne_bytes();
            flow.local = read::mapped(v4(read::config!(env, layout.skc_rcv_saddr)));
            flow.remote = read::mapped(v4(read::config!(env, layout.skc_daddr)));
        }
        flow.local_port = read::field(env, sk, read::config!(env, layout.skc_num)) as u16;
        let remote_port = read::field(env, sk, read::config!(env, layout.skc_dport)) as u16;
        flow.remote_port = u16::from_be(remote_port);
        (flow.port_low, flow.port_high) = (0, 0);
        (family, read::field(env, sk, read::config!(env, layout.skc_net)))
    }

    /// Reads an IPv6 address.
    #[inline(always)]
    fn address(&self, env: Env, sk: u64, field: Field, to: &mut [u8; 16]) {
        let from = sk.wrapping_add(u64::from(field.offset));
        // SAFETY: sixteen bytes of a record on the stack, which began as zeroes.
        if !unsafe { probe_read(to.as_mut_ptr(), 16, from) } {
            env.count(Counter::ReadFailed);
        }
    }
}
