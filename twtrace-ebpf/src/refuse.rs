//! An outgoing `connect()` meets a TIME_WAIT socket on its 4-tuple: may it take it over?
//!
//! In an exhausted port range `tcp_twsk_unique()` runs once a port, tens of thousands of times in
//! one `connect()`: refusals are counted here and never sent one by one.

use twtrace_common::{
    Counter, EndReason, RefusalKey, RefusalReason, Refusals, TCP_FIN_WAIT2, ended_flags,
};

use crate::{
    end,
    maps::{self, REFUSALS, config, count},
    read,
};

/// Keeps the arguments of `tcp_twsk_unique()` for its return (kprobe).
#[inline(always)]
pub fn remember(tw: u64, bound: bool) {
    if let Some(cpu) = maps::cpu() {
        cpu.unique_tw = tw;
        cpu.unique_bound = u64::from(bound);
    }
}

/// `tcp_twsk_unique()` returned, and its arguments were kept (kprobe).
#[inline(always)]
pub fn on_unique_return(allowed: u32) {
    let Some(cpu) = maps::cpu() else { return };
    let tw = cpu.unique_tw;
    cpu.unique_tw = 0;
    if tw != 0 {
        on_unique(tw, cpu.unique_bound != 0, allowed);
    }
}

/// `tcp_twsk_unique(sk, tw, twp)` returned whether the port may be taken; `bound` is `twp == NULL`.
#[inline(always)]
pub fn on_unique(tw: u64, bound: bool, allowed: u32) {
    if allowed != 0 {
        end::mark(tw, EndReason::Reused, if bound { ended_flags::BOUND } else { 0 });
        return;
    }
    let Some(cpu) = maps::cpu() else { return };
    read::common(cpu, tw);
    let (flow, _family, net) = read::flow(cpu);
    let netns = read::netns_inum(net);
    if !read::wanted(&flow, netns) {
        return;
    }
    let loopback = is_loopback(&flow.local)
        || is_loopback(&flow.remote)
        || read::field(tw, config!(layout.skc_bound_dev_if)) == LOOPBACK_IFINDEX;
    let reason = if read::field(tw, config!(layout.tw_ts_recent_stamp)) == 0 {
        RefusalReason::NoTimestamps
    } else {
        match read::field(net, config!(layout.tcp_tw_reuse)) {
            _ if bound => RefusalReason::TooYoung,
            0 => RefusalReason::ReuseOff,
            2 if !loopback => RefusalReason::LoopbackOnly,
            _ if read::field(tw, config!(layout.tw_substate)) == u64::from(TCP_FIN_WAIT2) => {
                RefusalReason::FinWait2
            }
            _ => RefusalReason::TooYoung,
        }
    };
    add(
        &RefusalKey { remote: flow.remote, netns, remote_port: flow.remote_port, reserved: 0 },
        reason,
    );
}

/// `LOOPBACK_IFINDEX`, include/net/flow.h.
const LOOPBACK_IFINDEX: u64 = 1;

/// Adds one refusal to a peer's count on this CPU.
#[inline(always)]
fn add(peer: &RefusalKey, reason: RefusalReason) {
    let mut slot = REFUSALS.get_ptr_mut(peer);
    if slot.is_none() {
        let _ = REFUSALS.insert(peer, Refusals::default(), 0);
        slot = REFUSALS.get_ptr_mut(peer);
    }
    match slot {
        // SAFETY: the slot belongs to this CPU and was null-checked; the reason is an index
        // below the array's length.
        Some(slot) => unsafe {
            *(&raw mut (*slot).by_reason).cast::<u64>().add(reason as usize) += 1
        },
        None => count(Counter::RefusalsDropped),
    }
}

/// `tcp_twsk_unique()`'s own test: 127/8, as IPv4 or v4-mapped, or ::1.
#[inline(always)]
fn is_loopback(address: &[u8; 16]) -> bool {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *address;
    let front = a | b | c | d | e | f | g | h | i | j;
    if k == 0xff && l == 0xff {
        front == 0 && m == 127
    } else {
        (front | k | l | m | n | o) == 0 && p == 1
    }
}
