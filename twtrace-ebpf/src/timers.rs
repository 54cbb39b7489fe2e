//! The tracepoint backend: a whole life from the timer tracepoints, for kernels that offer
//! neither fentry nor kprobes.
//!
//! `timer_start` sees the arming with the timewait socket filled in; `inet_sock_set_state`
//! follows on the same CPU with the full socket. `timer_cancel` without `timer_expire_entry` is an
//! early end, and the functions on its stack tell why. A re-arm that lands in the same bucket of
//! the timer wheel fires nothing and stays unseen.

#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "by value, keys and records would be copied to a stack too small for them"
)]

use aya_ebpf::{EbpfContext, helpers::bpf_get_stack, macros::map, maps::LruHashMap};
use twtrace_common::{
    CallerRange, Counter, EndReason, Entered, Kind, MAX_CALLERS, TCP_TIME_WAIT, ended_flags,
    entered_flags,
};

use crate::{
    end, enter,
    maps::LIVE,
    platform::{Env, FlowKey, STACK_DEPTH, Slot, jiffies_left},
    read::{self, config},
};

/// Entries between the arming and the closing of the full socket.
#[map]
static ARMED: LruHashMap<FlowKey, Entered> = LruHashMap::with_max_entries(4096, 0);

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

/// `timer_start(timer, …)`: a timewait socket is armed, first or again.
///
/// The entry waits in `ARMED` for the full socket to close, which happens later in the same
/// `tcp_time_wait()`, but possibly after a softirq has come in between.
#[inline(always)]
pub fn on_start<C: EbpfContext>(ctx: &C, env: Env, timer: u64) {
    let tw = timewait_socket(env, timer);
    if tw == 0 {
        return;
    }
    let armed = jiffies_left(env, timer);
    let follow_ends = config!(env, follow_ends) != 0;
    // SAFETY: the value is not read through the reference.
    if follow_ends && unsafe { LIVE.get(tw) }.is_some() {
        enter::rearmed(tw, armed);
        return;
    }
    let Some(scratch) = env.scratch(Slot::Softirq) else { return };
    let entered = &mut scratch.entered;
    let (family, net) = scratch.front.read(env, tw, &mut entered.flow);
    scratch.key = FlowKey { flow: entered.flow, net };
    let state = read::field(env, tw, config!(env, layout.tw_substate)) as u8;
    if !enter::begin(env, entered, (family, net), Kind::Entered, state) {
        return;
    }
    entered.armed = armed;
    if follow_ends {
        enter::track(ctx, env, entered, tw);
    } else {
        entered.tw = tw;
    }
    let _ = ARMED.insert(&scratch.key, &scratch.entered, 0);
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
    let _ = ARMED.remove(&scratch.key);
    let tw = entered.tw;
    enter::add_socket(env, entered, sk, read::field(env, tw, config!(env, layout.tw_tb)));
    if config!(env, follow_ends) == 0 {
        entered.tw = 0;
    } else if let Some(live) = LIVE.get_ptr_mut(tw) {
        // SAFETY: null-checked; the socket is live and these fields are written only here.
        unsafe {
            (*live).rto = entered.rto;
            if entered.header.flags & entered_flags::AUTOBOUND != 0 {
                (*live).flags |= ended_flags::AUTOBOUND;
            }
        }
    }
    enter::count_entry(env, entered);
    env.send(ctx, entered, Counter::LostEntered);
}

/// `timer_expire_entry(timer, …)`: the time is up.
#[inline(always)]
pub fn on_expire<C: EbpfContext>(ctx: &C, env: Env, timer: u64) {
    let tw = timewait_socket(env, timer);
    if tw == 0 {
        return;
    }
    let Some(scratch) = env.scratch(Slot::Softirq) else { return };
    let record = (&mut scratch.ended, &mut scratch.front);
    end::finish(ctx, env, record, tw, EndReason::Expired as u8, 0);
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
        // Re-arming is seen by `timer_start`, expiry by `timer_expire_entry`.
        CallerRange::REARM => return,
        CallerRange::PACKET => {
            let substate = read::field(env, tw, config!(env, layout.tw_substate));
            if substate == u64::from(TCP_TIME_WAIT) {
                EndReason::Replaced as u8
            } else {
                EndReason::Killed as u8
            }
        }
        meaning if meaning == EndReason::Expired as u32 => return,
        meaning => meaning as u8,
    };
    let record = (&mut scratch.ended, &mut scratch.front);
    end::finish(ctx, env, record, tw, reason, ended_flags::INFERRED);
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
