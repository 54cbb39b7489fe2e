//! A timewait socket ends: who announced it, and the record that leaves.
//!
//! Several hooks announce an end; `tcp_twsk_destructor()` is the end itself, exactly once a
//! socket. Whatever announced last holds.

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns},
};
use twtrace_common::{
    Config, Counter, EndReason, Ended, Header, Kind, TCP_FIN_WAIT2, TCP_TIME_WAIT, ended_flags,
};

use crate::{
    enter,
    maps::{LIVE, PURGING},
    platform::{Env, Front, KNOWS_TYPES, scratch},
    read::{self, config},
};

/// `enum tcp_tw_status`, include/net/tcp.h: the socket was killed or the packet consumed.
const TCP_TW_SUCCESS: u32 = 0;
/// The segment is answered with a RST and the socket killed.
const TCP_TW_RST: u32 = 1;
/// An acceptable SYN: the socket gives way if somebody listens.
const TCP_TW_SYN: u32 = 3;

/// Announces why `tw` is about to end.
#[inline(always)]
pub fn mark(env: Env, tw: u64, reason: EndReason, flags: u16) {
    if let Some(live) = LIVE.get_ptr_mut(tw) {
        // SAFETY: null-checked; two CPUs that write at once leave one of two true values.
        unsafe {
            (*live).reason = reason as u8;
            (*live).flags |= flags;
        }
    } else if let Some(handover) = env.handover() {
        handover.marked = tw;
        handover.marked_reason = reason as u64;
    }
}

/// `tw_timer_handler(argument)` begins: the time is up.
#[inline(always)]
pub fn on_timer(env: Env, argument: u64) {
    let distance = config!(env, timer_argument);
    if distance != Config::UNKNOWN {
        mark(env, argument.wrapping_sub(u64::from(distance)), EndReason::Expired, 0);
    } else if let Some(handover) = env.handover() {
        // The destructor usually follows on this CPU with softirqs still off.
        handover.expiring = argument;
    }
}

/// Smaller than any `struct tcp_timewait_sock` (4.4 to 7.2), larger than the distance to its timer
/// in any: an address so little behind a socket's is within that socket and no other.
const WITHIN_SOCKET: u64 = 200;

/// `tcp_timewait_state_process(tw, …)` begins.
#[inline(always)]
pub fn on_state_process(env: Env, tw: u64) {
    let Some(handover) = env.handover() else { return };
    handover.processing = tw;
    handover.processing_state = read::field(env, tw, config!(env, layout.tw_substate));
    if let Some(live) = LIVE.get_ptr_mut(tw) {
        // A SYN announced earlier found no listener, or the socket would not be here.
        // SAFETY: null-checked.
        unsafe { (*live).reason = EndReason::Unknown as u8 };
    }
}

/// `tcp_timewait_state_process()` returned an `enum tcp_tw_status`.
#[inline(always)]
pub fn on_state_processed(env: Env, status: u32) {
    let Some(handover) = env.handover() else { return };
    let tw = handover.processing;
    let state_before = handover.processing_state;
    handover.processing = 0;
    if tw == 0 {
        return;
    }
    match status {
        TCP_TW_SYN => mark(env, tw, EndReason::Replaced, 0),
        TCP_TW_RST => mark(env, tw, EndReason::Killed, 0),
        // Killed, but somebody still holds a reference: the destructor will run elsewhere.
        TCP_TW_SUCCESS if unhashed(env, tw) => {
            if let Some(live) = LIVE.get_ptr_mut(tw) {
                // SAFETY: null-checked.
                unsafe { (*live).reason = EndReason::Killed as u8 };
            }
        }
        _ => {}
    }
    if state_before == u64::from(TCP_FIN_WAIT2)
        && read::field(env, tw, config!(env, layout.tw_substate)) == u64::from(TCP_TIME_WAIT)
        && let Some(live) = LIVE.get_ptr_mut(tw)
    {
        // SAFETY: null-checked.
        unsafe { (*live).flags |= ended_flags::PROMOTED };
    }
}

/// Whether a socket has left the hash table: the kill is under way.
#[inline(always)]
fn unhashed(env: Env, tw: u64) -> bool {
    let link = config!(env, layout.skc_pprev);
    link.exists() && read::field(env, tw, link) == 0
}

/// This task begins (`true`) or has finished to purge a namespace's timewait sockets.
#[inline(always)]
pub fn on_purge(begins: bool) {
    let task = bpf_get_current_pid_tgid();
    if begins {
        let _ = PURGING.insert(task, 1, 0);
    } else {
        let _ = PURGING.remove(task);
    }
}

/// `tcp_abort(sk, err)` begins; from Linux 6.0 on it may be given a timewait socket.
#[inline(always)]
pub fn on_abort(env: Env, sk: u64) {
    if read::field(env, sk, config!(env, layout.skc_state)) == u64::from(TCP_TIME_WAIT) {
        mark(env, sk, EndReason::Aborted, 0);
    }
}

/// `tcp_twsk_destructor(tw)`: this is the end.
#[inline(always)]
pub fn on_destroy<C: EbpfContext>(ctx: &C, env: Env, tw: u64) {
    let Some(handover) = env.handover() else { return };
    let announced = if handover.marked == tw { handover.marked_reason as u8 } else { 0 };
    handover.marked = 0;
    let reason = if announced != 0 {
        announced
    } else if handover.processing == tw {
        // Up to 4.4 the RST for unexpected data is reported only after the end.
        handover.processing = 0;
        EndReason::Killed as u8
    } else if !KNOWS_TYPES && handover.expiring.wrapping_sub(tw) < WITHIN_SOCKET {
        handover.expiring = 0;
        EndReason::Expired as u8
    } else {
        EndReason::Unknown as u8
    };
    scratch!(env, Softirq, ended, front);
    finish(ctx, env, (ended, front), tw, reason, 0);
}

/// Sends the end of `tw`. A reason noted in its history precedes `reason`.
#[inline(always)]
pub fn finish<C: EbpfContext>(
    ctx: &C,
    env: Env,
    (ended, front): (&mut Ended, &mut Front),
    tw: u64,
    mut reason: u8,
    mut flags: u16,
) {
    let (_family, net) = front.read(env, tw, &mut ended.flow);
    let netns = read::netns_inum(env, net);
    let mut state = read::field(env, tw, config!(env, layout.tw_substate)) as u8;
    ended.header = Header { kind: Kind::Ended as u8, state, flags: 0, netns };
    // SAFETY: the helper has no preconditions.
    ended.mono_ns = unsafe { bpf_ktime_get_ns() };
    ended.tw = tw;
    ended.entered_ns = 0;
    ended.first_armed = 0;
    ended.last_armed = 0;
    ended.rearms = 0;
    ended.rto = 0;
    ended.reserved = [0; 7];
    // SAFETY: read before the entry is removed below.
    if let Some(live) = unsafe { LIVE.get(tw) } {
        ended.entered_ns = live.entered_ns;
        ended.first_armed = live.first_armed;
        ended.last_armed = live.last_armed;
        ended.rearms = live.rearms;
        ended.rto = live.rto;
        flags |= live.flags;
        if state == 0 {
            // Not known: nothing but the peer's FIN arms a mini-socket's timer again.
            let promoted = live.state == TCP_FIN_WAIT2 && live.rearms != 0;
            state = if promoted { TCP_TIME_WAIT } else { live.state };
        }
        if live.state == TCP_FIN_WAIT2 && state == TCP_TIME_WAIT {
            flags |= ended_flags::PROMOTED;
        }
        if live.reason != 0 {
            reason = live.reason;
        }
        // Counted before the removal: as the last thing here the compiler would merge it with the
        // count below, into one at a computed place, which Linux 4.4 does not allow.
        env.count(Counter::Ended);
        let _ = LIVE.remove(tw);
    } else {
        if !read::wanted(env, &ended.flow, netns) {
            return;
        }
        flags |= ended_flags::UNTRACKED;
        env.count(Counter::EndedUntracked);
    }
    enter::set_port_range(env, &mut ended.flow, net);
    if reason == EndReason::Unknown as u8 {
        let task = bpf_get_current_pid_tgid();
        // SAFETY: the value is not read.
        if unsafe { PURGING.get(task) }.is_some() {
            reason = EndReason::Purged as u8;
        }
    }
    ended.header.state = if state == 0 { TCP_TIME_WAIT } else { state };
    ended.header.flags = flags;
    ended.reason = reason;
    env.send(ctx, ended, Counter::LostEnded);
}
