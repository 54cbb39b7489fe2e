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
    EbpfContext, bindings::BPF_NOEXIST, helpers::bpf_get_stack, macros::map, maps::HashMap,
};
use twtrace_common::{
    CallerRange, Counter, EndReason, Entered, Field, FlowKey, Kind, MAX_CALLERS, TCP_TIME_WAIT,
    ended_flags, entered_flags,
};

use crate::{
    end, enter,
    maps::LIVE,
    platform::{Env, STACK_DEPTH, Slot, jiffies_left},
    present,
    read::{self, config},
};

/// Records of entries between the arming and the closing of the full socket.
#[map]
static ARMED: HashMap<FlowKey, Entered> = HashMap::with_max_entries(4096, 0);

/// `TCP_CLOSE`, include/net/tcp_states.h.
const TCP_CLOSE: u64 = 7;

/// The timewait socket of a timer, or 0 if the timer is anything else.
#[inline(always)]
fn timewait_socket(env: Env, timer: u64) -> u64 {
    let function = read::field(env, timer, config!(env, layout.timer_function));
    if function == config!(env, tw_timer_handler) {
        timer.wrapping_sub(u64::from(config!(env, layout.tw_timer.offset)))
    } else {
        0
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
pub fn on_start<C: EbpfContext>(ctx: &C, env: Env, timer: u64) {
    let tw = timewait_socket(env, timer);
    if tw == 0 {
        return;
    }
    let armed = jiffies_left(env, timer);
    if let Some(handover) = env.handover()
        && handover.setting == timer
    {
        handover.setting = 0;
        if handover.moving == 0 {
            enter::rearmed(tw, armed);
        }
        return;
    }
    let Some(scratch) = env.scratch(Slot::Softirq) else { return };
    let entered = &mut scratch.entered;
    let (family, net) = scratch.front.read(env, tw, &mut entered.flow);
    scratch.key = FlowKey { flow: entered.flow, net };
    let state = read::field(env, tw, config!(env, layout.tw_substate)) as u8;
    // What comes of a socket left out is decided before anything is asked that takes more reads.
    if !enter::begin(env, entered, (family, net), Kind::Entered, state) || is_dccp(env, tw) {
        return;
    }
    entered.armed = armed;
    present::add_timewait(env, entered, tw);
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
pub fn on_set_state<C: EbpfContext>(ctx: &C, env: Env, sk: u64, new_state: u64) {
    if new_state as u32 as u64 != TCP_CLOSE {
        return;
    }
    let Some(scratch) = env.scratch(Slot::Closing) else { return };
    let key = &mut scratch.key;
    (_, key.net) = scratch.front.read(env, sk, &mut key.flow);
    // The local port was put back before this: skc_num is 0, inet_sport is still there.
    let sport = read::field(env, sk, config!(env, layout.inet_sport)) as u16;
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
    enter::add_socket(env, entered, sk, read::field(env, tw, config!(env, layout.tw_tb)));
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
pub fn on_expire<C: EbpfContext>(ctx: &C, env: Env, timer: u64) {
    let tw = timewait_socket(env, timer);
    if tw == 0 {
        return;
    }
    finish(ctx, env, Slot::Expiring, tw, (EndReason::Expired as u8, 0));
}

/// `timer_cancel(timer)`: an early end, a re-arm, or the start of an expiry; the stack tells.
#[inline(always)]
pub fn on_cancel<C: EbpfContext>(ctx: &C, env: Env, timer: u64) {
    let tw = timewait_socket(env, timer);
    if tw == 0 {
        return;
    }
    let Some(scratch) = env.scratch(Slot::Softirq) else { return };
    let reason = match caller(ctx, env, &mut scratch.stack) {
        // `timer_start` follows.
        meaning @ (CallerRange::REARM | CallerRange::MOVE) => {
            if let Some(handover) = env.handover() {
                handover.setting = timer;
                handover.moving = u64::from(meaning == CallerRange::MOVE);
            }
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
    finish(ctx, env, Slot::Softirq, tw, (reason, ended_flags::INFERRED));
}

/// Sends the end of `tw`, and before it the record of its entry if that still waits.
#[inline(always)]
fn finish<C: EbpfContext>(ctx: &C, env: Env, slot: Slot, tw: u64, why: (u8, u16)) {
    let Some(scratch) = env.scratch(slot) else { return };
    let record = (&mut scratch.ended, &mut scratch.front);
    let (key, waiting) = (&mut scratch.key, &mut scratch.waiting);
    let is_strange = || is_dccp(env, tw);
    end::finish(ctx, env, record, tw, why, is_strange, |flow, net| {
        *key = FlowKey { flow: *flow, net };
        release(ctx, env, key, waiting);
    });
}

/// What the innermost known function on the stack means; `EndReason::Unknown` if none is known.
#[inline(always)]
fn caller<C: EbpfContext>(ctx: &C, env: Env, stack: &mut [u64; STACK_DEPTH]) -> u32 {
    let bytes = size_of_val(stack) as u32;
    // SAFETY: the buffer is as long as said.
    let got = unsafe { bpf_get_stack(ctx.as_ptr(), stack.as_mut_ptr().cast(), bytes, 0) };
    if got <= 0 {
        env.count(Counter::ReadFailed);
        return EndReason::Unknown as u32;
    }
    let frames = got as usize / size_of::<u64>();
    let callers = config!(env, caller_count) as usize;
    let mut frame = 0;
    while frame < STACK_DEPTH && frame < frames {
        let address = stack[frame];
        let mut index = 0;
        while index < MAX_CALLERS && index < callers {
            let range: CallerRange = config!(env, callers[index]);
            if address >= range.start && address < range.end {
                return range.meaning;
            }
            index += 1;
        }
        frame += 1;
    }
    EndReason::Unknown as u32
}
