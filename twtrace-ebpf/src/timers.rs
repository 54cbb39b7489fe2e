//! The tracepoint backend: a whole life from the timer tracepoints, for kernels that offer
//! neither fentry nor kprobes.
//!
//! `timer_start` sees the arming with the timewait socket filled in: that is the entry, and it is
//! counted there. The kernel skips a program that is interrupted by itself, and with interrupts off,
//! as they are where timers are set and cancelled, nothing but a non-maskable one interrupts; what is
//! missed all the same the audit tells. Not so `inet_sock_set_state`, which
//! follows with the full socket: it adds what only that one knows and sends the record, which waits
//! in `ARMED` until then. Where it does not come, the record leaves as it is: with the socket's end,
//! with the next entry of the same connection, or by the reader, who looks now and then for what
//! waits. Whoever takes it out of the map is who sends it.
//!
//! `timer_cancel` without `timer_expire_entry` is an early end or the beginning of a re-arming, and
//! the functions on its stack tell which. A re-arm that lands in the same bucket of the timer wheel
//! fires nothing and stays unseen.

#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "by value, keys and records would be copied to a stack too small for them"
)]

use aya_ebpf::{
    EbpfContext,
    bindings::BPF_NOEXIST,
    helpers::{bpf_get_current_pid_tgid, bpf_get_stack},
    macros::map,
    maps::{Array, HashMap},
};
use twtrace_common::{
    CallerRange, Counter, EndReason, Entered, Field, FlowKey, Handover, Kind, MAX_CALLERS,
    PortChoice, TCP_CLOSE, TCP_CLOSING, TCP_FIN_WAIT1, TCP_FIN_WAIT2, TCP_SYN_SENT, TCP_TIME_WAIT,
    ended_flags, entered_flags,
};

use crate::{
    end, enter,
    maps::LIVE,
    platform::{Env, STACK_DEPTH, Scratch, Slot, jiffies_until},
    present,
    read::{self, GivesSockets, Pointer, config},
};

/// Records of entries between the arming and the closing of the full socket.
#[map]
static ARMED: HashMap<FlowKey, Entered> = HashMap::with_max_entries(4096, 0);

/// Timer wheels by CPU: those that timewait sockets are in, as their timers told. All lie in one of a
/// CPU's wheels, but for those that a CPU going offline left behind.
#[map]
static WHEELS: Array<u64> = Array::with_max_entries(4096, 0);

/// The CPU in a timer's flags, `TIMER_CPUMASK` (include/linux/timer.h, 4.8 on).
const CPU_MASK: u64 = 0x3_ffff;
/// Where the bucket begins in them, `TIMER_ARRAYSHIFT`.
const BUCKET_SHIFT: u32 = 22;

/// A timer, as a tracepoint hands it over.
#[derive(Clone, Copy)]
pub struct Timer(pub Pointer);

impl Timer {
    #[inline(always)]
    fn member(self, env: Env, field: Field) -> u64 {
        self.0.member(env, field)
    }

    /// The timewait socket it is of, or 0 if it is any other timer.
    #[inline(always)]
    fn timewait_socket(self, env: Env) -> u64 {
        if self.member(env, config!(env, layout.timer_function)) == config!(env, tw_timer_handler) {
            self.0.address.wrapping_sub(u64::from(config!(env, layout.tw_timer.offset)))
        } else {
            0
        }
    }

    /// What is left of it, jiffies.
    #[inline(always)]
    fn left(self, env: Env) -> u32 {
        jiffies_until(self.member(env, config!(env, layout.timer_expires)))
    }

    /// Its CPU's place in [`WHEELS`]; none if the kernel does not tell.
    #[inline(always)]
    fn wheel(self, env: Env) -> Option<*mut u64> {
        let flags: Field = config!(env, layout.timer_flags);
        let pprev: Field = config!(env, layout.timer_pprev);
        let vectors: Field = config!(env, layout.base_vectors);
        let running: Field = config!(env, layout.base_running);
        if !(flags.exists() && pprev.exists() && vectors.exists() && running.exists()) {
            return None;
        }
        let cpu = self.member(env, flags) & CPU_MASK;
        WHEELS.get_ptr_mut(cpu as u32)
    }

    /// It has just been put first into its bucket, which tells the wheel (`enqueue_timer()`,
    /// kernel/time/timer.c, 4.8 to 7.2).
    #[inline(always)]
    fn learn_wheel(self, env: Env) {
        let Some(wheel) = self.wheel(env) else { return };
        let bucket = self.member(env, config!(env, layout.timer_flags)) >> BUCKET_SHIFT;
        let first = self.member(env, config!(env, layout.timer_pprev));
        let vectors = u64::from(config!(env, layout.base_vectors.offset));
        // SAFETY: null-checked; whoever writes at once writes the same.
        unsafe { *wheel = first.wrapping_sub(vectors).wrapping_sub(bucket * 8) };
    }

    /// Whether it is being cancelled because its time is up: its wheel names it as what runs next
    /// (`expire_timers()`, kernel/time/timer.c, 4.8 to 7.2). False also where the wheel is not known.
    #[inline(always)]
    fn is_expiring(self, env: Env) -> bool {
        let Some(wheel) = self.wheel(env) else { return false };
        // SAFETY: null-checked.
        let wheel = unsafe { *wheel };
        let running = u64::from(config!(env, layout.base_running.offset));
        wheel != 0 && read::word(env, wheel.wrapping_add(running)) == self.0.address
    }
}

/// Whether a timewait socket is one of DCCP, which had the same timers up to 6.15: its protocol's
/// name begins so, as IPv6's does (net/dccp/ipv4.c, net/dccp/ipv6.c).
#[inline(always)]
fn is_dccp(env: Env, tw: u64) -> bool {
    let name: Field = config!(env, layout.proto_name);
    if !name.exists() {
        return false;
    }
    let protocol = read::field(env, tw, config!(env, layout.skc_prot));
    read::field(env, protocol, name) as u32 == u32::from_le_bytes(*b"DCCP")
}

/// `timer_start(timer, …)`: a timewait socket is armed, first or again.
#[inline(always)]
pub fn on_start<C: EbpfContext>(ctx: &C, env: Env, timer: Timer) {
    let tw = timer.timewait_socket(env);
    if tw == 0 {
        return;
    }
    timer.learn_wheel(env);
    let armed = timer.left(env);
    if let Some(handover) = env.handover()
        && handover.setting == timer.0.address
    {
        handover.setting = 0;
        if handover.moving == 0 {
            enter::rearmed(tw, armed);
        }
        return;
    }
    let Some(scratch) = env.scratch(Slot::Softirq) else { return };
    let entered = &mut scratch.entered;
    let timewait = &mut scratch.timewait;
    let (family, net) = timewait.read(env, tw, &mut entered.flow);
    scratch.key = FlowKey { flow: entered.flow, net };
    let state = timewait.member(env, tw, config!(env, layout.tw_substate)) as u8;
    // What comes of a socket left out is decided before anything is asked that takes more reads.
    let namespace = Pointer::untyped(net);
    if !enter::begin(env, entered, (family, namespace), Kind::Entered, state) || is_dccp(env, tw) {
        return;
    }
    entered.armed = armed;
    present::add_timewait(env, entered, timewait, tw);
    if config!(env, follow_ends) != 0 {
        enter::track(ctx, env, entered, tw, true);
    } else {
        entered.tw = tw;
    }
    enter::count_entry(env, entered);
    let (key, entered) = (&scratch.key, &scratch.entered);
    if ARMED.insert(key, entered, BPF_NOEXIST.into()).is_err() {
        // That of the socket before, whose closing was not seen, or there is no room.
        release(ctx, env, key, &mut scratch.waiting);
        if ARMED.insert(key, entered, BPF_NOEXIST.into()).is_err() {
            send(ctx, env, &mut scratch.entered);
        }
    }
}

/// Sends the record of an entry that waits, if it still does.
#[inline(always)]
fn release<C: EbpfContext>(ctx: &C, env: Env, key: &FlowKey, copy: &mut Entered) {
    // SAFETY: copied before the entry is removed.
    match unsafe { ARMED.get(key) } {
        Some(waiting) => *copy = *waiting,
        None => return,
    }
    if ARMED.remove(key).is_ok() {
        send(ctx, env, copy);
    }
}

/// Sends the record of an entry.
#[inline(always)]
fn send<C: EbpfContext>(ctx: &C, env: Env, entered: &mut Entered) {
    if config!(env, follow_ends) == 0 {
        entered.tw = 0;
    }
    env.send(ctx, entered, Counter::LostEntered);
}

/// `inet_sock_set_state(sk, old, new)`: the full socket of an entry closes.
///
/// A socket that closes with no arming before was reset, aborted or lost to overflow, and never
/// entered.
#[inline(always)]
pub fn on_set_state<C: GivesSockets>(ctx: &C, env: Env, sk: u64, (old, new): (u8, u8)) {
    // From other states than these `tcp_time_wait()` is not called.
    if new != TCP_CLOSE || !matches!(old, TCP_FIN_WAIT1 | TCP_FIN_WAIT2 | TCP_CLOSING) {
        return;
    }
    let Some(sk) = ctx.tcp_socket(env, sk) else { return };
    let Some(scratch) = env.scratch(Slot::Closing) else { return };
    let key = &mut scratch.key;
    (_, key.net) = scratch.front.read(env, sk.address, &mut key.flow);
    // The local port was put back before this: skc_num is 0, inet_sport is still there.
    let sport = sk.member(env, config!(env, layout.inet_sport)) as u16;
    key.flow.local_port = u16::from_be(sport);
    let entered = &mut scratch.entered;
    // SAFETY: copied before the entry is removed below.
    match unsafe { ARMED.get(&scratch.key) } {
        Some(armed) => *entered = *armed,
        None => return,
    }
    if ARMED.remove(&scratch.key).is_err() {
        return;
    }
    let tw = entered.tw;
    entered.header.flags &= !entered_flags::NEGOTIATED_UNKNOWN;
    let autobound = entered.chosen == PortChoice::Connect as u8;
    enter::add_socket(env, entered, sk, || autobound);
    if config!(env, follow_ends) != 0
        && let Some(live) = LIVE.get_ptr_mut(tw)
    {
        // SAFETY: null-checked; if the socket is still the same these fields are written only here.
        unsafe {
            if (*live).entered_ns == entered.mono_ns {
                (*live).rto = entered.rto;
                (*live).chosen = entered.chosen;
                (*live).waiting = 0;
            }
        }
    }
    send(ctx, env, entered);
}

/// `timer_expire_entry(timer, …)`: the time is up.
#[inline(always)]
pub fn on_expire<C: EbpfContext>(ctx: &C, env: Env, timer: Timer) {
    let tw = timer.timewait_socket(env);
    if tw == 0 {
        return;
    }
    let Some(scratch) = env.scratch(Slot::Expiring) else { return };
    let (_family, net) = scratch.front.read(env, tw, &mut scratch.ended.flow);
    finish(ctx, env, scratch, (tw, net), (EndReason::Expired as u8, 0));
}

/// `timer_cancel(timer)`: an early end, a re-arm, or the start of an expiry; where nothing cheaper tells,
/// the stack does.
#[inline(always)]
pub fn on_cancel<C: EbpfContext>(ctx: &C, env: Env, timer: Timer) {
    let tw = timer.timewait_socket(env);
    // For what expires `timer_expire_entry` follows.
    if tw == 0 || timer.is_expiring(env) {
        return;
    }
    let (Some(scratch), Some(handover)) = (env.scratch(Slot::Softirq), env.handover()) else {
        return;
    };
    let (_family, net) = scratch.front.read(env, tw, &mut scratch.ended.flow);
    let cookie = || read::field(env, net, config!(env, layout.net_cookie));
    let reason = if took_over(env, scratch, handover, net) {
        EndReason::Reused as u32
    } else if handover.purging != 0 && handover.purging == cookie() {
        EndReason::Purged as u32
    } else {
        let caller = caller(ctx, env, scratch);
        if caller == EndReason::Purged as u32 {
            handover.purging = cookie();
        }
        caller
    };
    let reason = match reason {
        // `timer_start` follows.
        meaning @ (CallerRange::REARM | CallerRange::MOVE) => {
            handover.setting = timer.0.address;
            handover.moving = u64::from(meaning == CallerRange::MOVE);
            return;
        }
        CallerRange::PACKET => {
            let substate = read::field(env, tw, config!(env, layout.tw_substate));
            if substate == u64::from(TCP_TIME_WAIT) {
                EndReason::Replaced as u8
            } else {
                EndReason::Killed as u8
            }
        }
        _ if config!(env, follow_ends) == 0 => return,
        // `timer_expire_entry` follows.
        meaning if meaning == EndReason::Expired as u32 => return,
        meaning => meaning as u8,
    };
    finish(ctx, env, scratch, (tw, net), (reason, ended_flags::INFERRED));
}

/// Whether the task that runs is taking over the timewait socket whose end is put together: the socket it
/// connects has the same ends by now, which no two sockets have but in that moment
/// (`__inet_check_established()`, net/ipv4/inet_hashtables.c, 5.8 to 7.2).
#[inline(always)]
fn took_over(env: Env, scratch: &mut Scratch, handover: &Handover, net: u64) -> bool {
    let sk = handover.connecting;
    if sk == 0 || handover.task != bpf_get_current_pid_tgid() {
        return false;
    }
    scratch.key.net = scratch.front.read(env, sk, &mut scratch.key.flow).1;
    let state = scratch.front.member(env, sk, config!(env, layout.skc_state));
    state == u64::from(TCP_SYN_SENT) && scratch.key == FlowKey { flow: scratch.ended.flow, net }
}

/// Sends the end of `tw`, whose ends are in place, and before it the record of its entry if that still
/// waits.
#[inline(always)]
fn finish<C: EbpfContext>(
    ctx: &C,
    env: Env,
    scratch: &mut Scratch,
    (tw, net): (u64, u64),
    why: (u8, u16),
) {
    let Scratch { ended, key, waiting, .. } = scratch;
    let is_strange = || is_dccp(env, tw);
    end::finish(ctx, env, ended, (tw, net), why, is_strange, |flow| {
        *key = FlowKey { flow: *flow, net };
        release(ctx, env, key, waiting);
    });
}

/// Frames that are walked first: a known function lies within five of the timer's own, and each frame
/// costs the kernel some 100 ns to find.
const FIRST_FRAMES: usize = 7;

/// What the innermost known function on the stack means; `EndReason::Unknown` if none is known.
#[inline(always)]
fn caller<C: EbpfContext>(ctx: &C, env: Env, scratch: &mut Scratch) -> u32 {
    scratch.caller = EndReason::Unknown as u64;
    let mut depth = FIRST_FRAMES;
    while depth <= STACK_DEPTH {
        let bytes = (depth * size_of::<u64>()) as u32;
        let stack = &mut scratch.stack;
        // SAFETY: the buffer is at least as long as said.
        let got = unsafe { bpf_get_stack(ctx.as_ptr(), stack.as_mut_ptr().cast(), bytes, 0) };
        if got <= 0 {
            env.count(Counter::ReadFailed);
            break;
        }
        let mut frame = 0;
        while frame < depth && frame < got as usize / size_of::<u64>() {
            let known = innermost(env, stack[frame], &mut scratch.at);
            let start: u64 = config!(env, callers[known].start);
            let end: u64 = config!(env, callers[known].end);
            if stack[frame] >= start && stack[frame] < end {
                let meaning: u32 = config!(env, callers[known].meaning);
                scratch.caller = u64::from(meaning);
                break;
            }
            frame += 1;
        }
        if read_back(&scratch.caller) != EndReason::Unknown as u64 || (got as u32) < bytes {
            break;
        }
        depth += STACK_DEPTH - FIRST_FRAMES;
    }
    read_back(&scratch.caller) as u32
}

/// The last of the known functions that begin at or before an address; the first if none does.
///
/// `at` lies in a map: what is kept there the verifier does not know, so that it need not follow each way
/// through the search, at each frame, to the end.
#[inline(always)]
fn innermost(env: Env, address: u64, at: &mut u64) -> usize {
    *at = 0;
    let mut step = MAX_CALLERS / 2;
    while step > 0 {
        let next = (read_back(at) as usize + step) & (MAX_CALLERS - 1);
        let start: u64 = config!(env, callers[next].start);
        if start <= address {
            *at = next as u64;
        }
        step /= 2;
    }
    read_back(at) as usize & (MAX_CALLERS - 1)
}

/// Reads what was written to a map, where the compiler would know it.
#[inline(always)]
fn read_back(kept: &u64) -> u64 {
    // SAFETY: a reference is valid for reads.
    unsafe { core::ptr::read_volatile(kept) }
}
