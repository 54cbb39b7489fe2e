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

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_get_stack, bpf_jiffies64},
};
use twtrace_common::{
    CallerRange, Counter, EndReason, Kind, MAX_CALLERS, TCP_TIME_WAIT, ended_flags, entered_flags,
};

use crate::{
    emit, end, enter,
    maps::{self, ARMED, CpuState, FlowKey, LIVE, STACK_DEPTH, config, config_at, count},
    read,
};

/// `TCP_CLOSE`, include/net/tcp_states.h.
const TCP_CLOSE: u64 = 7;

/// The timewait socket of a timer, or 0 if the timer is anything else.
#[inline(always)]
fn timewait_socket(timer: u64) -> u64 {
    let position = u64::from(config!(layout.timer_function.offset));
    if read::value::<u64>(timer.wrapping_add(position)) == config!(tw_timer_handler) {
        timer.wrapping_sub(u64::from(config!(layout.tw_timer.offset)))
    } else {
        0
    }
}

/// Jiffies until a timer is due.
#[inline(always)]
pub fn jiffies_left(timer: u64) -> u32 {
    let expires: u64 = read::field(timer, config!(layout.timer_expires));
    // SAFETY: the helper has no preconditions.
    let now = unsafe { bpf_jiffies64() };
    // Jiffies are as wide as a pointer; the low half is enough for any timeout.
    (expires as u32).wrapping_sub(now as u32)
}

/// `timer_start(timer, …)`: a timewait socket is armed, first or again.
///
/// The entry waits in `ARMED` for the full socket to close, which happens later in the same
/// `tcp_time_wait()`, but possibly after a softirq has come in between.
#[inline(always)]
pub fn on_start<C: EbpfContext>(ctx: &C, timer: u64) {
    let tw = timewait_socket(timer);
    if tw == 0 {
        return;
    }
    let armed = jiffies_left(timer);
    let follow_ends = config!(follow_ends) != 0;
    // SAFETY: the value is not read through the reference.
    if follow_ends && unsafe { LIVE.get(tw) }.is_some() {
        enter::rearmed(tw, armed);
        return;
    }
    let Some(cpu) = maps::cpu() else { return };
    read::common(cpu, tw);
    let state = read::field(tw, config!(layout.tw_substate)) as u8;
    if !enter::begin(cpu, Kind::Entered, state) {
        return;
    }
    cpu.entered.armed = armed;
    if follow_ends {
        enter::track(ctx, cpu, tw);
    } else {
        cpu.entered.tw = tw;
    }
    remember_key(cpu);
    let _ = ARMED.insert(&cpu.key, &cpu.entered, 0);
}

/// Leaves the connection of the copied front of a socket in `cpu.key`.
#[inline(always)]
fn remember_key(cpu: &mut CpuState) {
    let (flow, _family, net) = read::flow(cpu);
    cpu.key = FlowKey { flow, net };
}

/// `inet_sock_set_state(sk, old, new)`: the full socket of an entry closes.
///
/// A socket that closes with no arming before was reset, aborted or lost to overflow, and never
/// entered.
#[inline(always)]
pub fn on_set_state(sk: u64, new_state: u64) {
    if new_state as u32 as u64 != TCP_CLOSE {
        return;
    }
    let Some(cpu) = maps::overflow_cpu() else { return };
    read::common(cpu, sk);
    remember_key(cpu);
    // The local port was put back before this: skc_num is 0, inet_sport is still there.
    cpu.key.flow.local_port = u16::from_be(read::field(sk, config!(layout.inet_sport)) as u16);
    // SAFETY: copied before the entry is removed below.
    match unsafe { ARMED.get(&cpu.key) } {
        Some(entered) => cpu.entered = *entered,
        None => return,
    }
    let _ = ARMED.remove(&cpu.key);
    let tw = cpu.entered.tw;
    enter::add_socket(cpu, sk, read::field(tw, config!(layout.tw_tb)));
    if config!(follow_ends) == 0 {
        cpu.entered.tw = 0;
    } else if let Some(live) = LIVE.get_ptr_mut(tw) {
        // SAFETY: null-checked; the socket is live and these fields are written only here.
        unsafe {
            (*live).rto = cpu.entered.rto;
            if cpu.entered.header.flags & entered_flags::AUTOBOUND != 0 {
                (*live).flags |= ended_flags::AUTOBOUND;
            }
        }
    }
    enter::count_entry(cpu);
    emit::send(&cpu.entered, Counter::LostEntered);
}

/// `timer_expire_entry(timer, …)`: the time is up.
#[inline(always)]
pub fn on_expire(timer: u64) {
    let tw = timewait_socket(timer);
    if tw == 0 {
        return;
    }
    if let Some(cpu) = maps::cpu() {
        end::finish(cpu, tw, EndReason::Expired as u8, 0);
    }
}

/// `timer_cancel(timer)`: an early end, a re-arm, or the start of an expiry; the stack tells.
#[inline(always)]
pub fn on_cancel<C: EbpfContext>(ctx: &C, timer: u64) {
    let tw = timewait_socket(timer);
    if tw == 0 {
        return;
    }
    let Some(cpu) = maps::cpu() else { return };
    let reason = match caller(ctx, cpu) {
        // Re-arming is seen by `timer_start`, expiry by `timer_expire_entry`.
        CallerRange::REARM => return,
        CallerRange::PACKET => {
            if read::field(tw, config!(layout.tw_substate)) == u64::from(TCP_TIME_WAIT) {
                EndReason::Replaced as u8
            } else {
                EndReason::Killed as u8
            }
        }
        meaning if meaning == EndReason::Expired as u32 => return,
        meaning => meaning as u8,
    };
    end::finish(cpu, tw, reason, ended_flags::INFERRED);
}

/// What the innermost known function on the stack means; `EndReason::Unknown` if none is known.
#[inline(always)]
fn caller<C: EbpfContext>(ctx: &C, cpu: &mut CpuState) -> u32 {
    let bytes = size_of_val(&cpu.stack) as u32;
    // SAFETY: the buffer is as long as said.
    let got = unsafe { bpf_get_stack(ctx.as_ptr(), cpu.stack.as_mut_ptr().cast(), bytes, 0) };
    if got <= 0 {
        count(Counter::ReadFailed);
        return EndReason::Unknown as u32;
    }
    let frames = got as usize / size_of::<u64>();
    let callers = config!(caller_count) as usize;
    let mut frame = 0;
    while frame < STACK_DEPTH && frame < frames {
        let address = cpu.stack[frame];
        let mut index = 0;
        while index < MAX_CALLERS && index < callers {
            let range: CallerRange = config_at!(callers, index);
            if address >= range.start && address < range.end {
                return range.meaning;
            }
            index += 1;
        }
        frame += 1;
    }
    EndReason::Unknown as u32
}
