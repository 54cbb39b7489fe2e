//! A timewait socket ends: who announced it, and the record that leaves.
//!
//! Several hooks announce an end; `tcp_twsk_destructor()` is the end itself, exactly once a
//! socket. Whatever announced last holds.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns};
use twtrace_common::{
    Counter, EndReason, Ended, Header, Kind, TCP_FIN_WAIT2, TCP_TIME_WAIT, ended_flags,
};

use crate::{
    emit,
    maps::{self, CpuState, LIVE, PURGING, config, count},
    read,
};

/// `enum tcp_tw_status`, include/net/tcp.h: the socket was killed or the packet consumed.
const TCP_TW_SUCCESS: u32 = 0;
/// The segment is answered with a RST and the socket killed.
const TCP_TW_RST: u32 = 1;
/// An acceptable SYN: the socket gives way if somebody listens.
const TCP_TW_SYN: u32 = 3;

/// Announces why `tw` is about to end.
#[inline(always)]
pub fn mark(tw: u64, reason: EndReason, flags: u16) {
    if let Some(live) = LIVE.get_ptr_mut(tw) {
        // SAFETY: null-checked; two CPUs that write at once leave one of two true values.
        unsafe {
            (*live).reason = reason as u8;
            (*live).flags |= flags;
        }
    } else if let Some(cpu) = maps::cpu() {
        cpu.marked = tw;
        cpu.marked_reason = reason as u64;
    }
}

/// `tw_timer_handler(timer)` begins: the time is up.
#[inline(always)]
pub fn on_timer(timer: u64) {
    mark(timer.wrapping_sub(u64::from(config!(layout.tw_timer.offset))), EndReason::Expired, 0);
}

/// `tcp_timewait_state_process(tw, …)` begins.
#[inline(always)]
pub fn on_state_process(tw: u64) {
    let Some(cpu) = maps::cpu() else { return };
    cpu.processing = tw;
    cpu.processing_state = read::field(tw, config!(layout.tw_substate));
    if let Some(live) = LIVE.get_ptr_mut(tw) {
        // A SYN announced earlier found no listener, or the socket would not be here.
        // SAFETY: null-checked.
        unsafe { (*live).reason = EndReason::Unknown as u8 };
    }
}

/// `tcp_timewait_state_process()` returned an `enum tcp_tw_status`.
#[inline(always)]
pub fn on_state_processed(status: u32) {
    let Some(cpu) = maps::cpu() else { return };
    let tw = cpu.processing;
    cpu.processing = 0;
    if tw == 0 {
        return;
    }
    match status {
        TCP_TW_SYN => mark(tw, EndReason::Replaced, 0),
        TCP_TW_RST => mark(tw, EndReason::Killed, 0),
        // Killed, but somebody still holds a reference: the destructor will run elsewhere.
        TCP_TW_SUCCESS if unhashed(tw) => {
            if let Some(live) = LIVE.get_ptr_mut(tw) {
                // SAFETY: null-checked.
                unsafe { (*live).reason = EndReason::Killed as u8 };
            }
        }
        _ => {}
    }
    if cpu.processing_state == u64::from(TCP_FIN_WAIT2)
        && read::field(tw, config!(layout.tw_substate)) == u64::from(TCP_TIME_WAIT)
        && let Some(live) = LIVE.get_ptr_mut(tw)
    {
        // SAFETY: null-checked.
        unsafe { (*live).flags |= ended_flags::PROMOTED };
    }
}

/// Whether a socket has left the hash table: the kill is under way.
#[inline(always)]
fn unhashed(tw: u64) -> bool {
    read::field(tw, config!(layout.skc_pprev)) == 0
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
pub fn on_abort(sk: u64) {
    if read::field(sk, config!(layout.skc_state)) == u64::from(TCP_TIME_WAIT) {
        mark(sk, EndReason::Aborted, 0);
    }
}

/// `tcp_twsk_destructor(tw)`: this is the end.
#[inline(always)]
pub fn on_destroy(tw: u64) {
    let Some(cpu) = maps::cpu() else { return };
    let announced = if cpu.marked == tw { cpu.marked_reason as u8 } else { 0 };
    cpu.marked = 0;
    let reason = if announced != 0 {
        announced
    } else if cpu.processing == tw {
        EndReason::Killed as u8
    } else {
        EndReason::Unknown as u8
    };
    finish(cpu, tw, reason, 0);
}

/// Sends the end of `tw`. A reason noted in its history precedes `reason`.
#[inline(always)]
pub fn finish(cpu: &mut CpuState, tw: u64, mut reason: u8, mut flags: u16) {
    read::common(cpu, tw);
    let (flow, _family, net) = read::flow(cpu);
    let netns = read::netns_inum(net);
    let (port_low, port_high) = read::port_range(net);
    cpu.ended = Ended {
        header: Header {
            kind: Kind::Ended as u8,
            state: read::field(tw, config!(layout.tw_substate)) as u8,
            flags: 0,
            netns,
        },
        // SAFETY: the helper has no preconditions.
        mono_ns: unsafe { bpf_ktime_get_ns() },
        tw,
        entered_ns: 0,
        flow,
        first_armed: 0,
        last_armed: 0,
        rearms: 0,
        rto: 0,
        reason: 0,
        reserved: [0; 7],
    };
    let ended = &mut cpu.ended;
    ended.flow.port_low = port_low;
    ended.flow.port_high = port_high;
    // SAFETY: read before the entry is removed below.
    if let Some(live) = unsafe { LIVE.get(tw) } {
        ended.entered_ns = live.entered_ns;
        ended.first_armed = live.first_armed;
        ended.last_armed = live.last_armed;
        ended.rearms = live.rearms;
        ended.rto = live.rto;
        flags |= live.flags;
        if live.state == TCP_FIN_WAIT2 && ended.header.state == TCP_TIME_WAIT {
            flags |= ended_flags::PROMOTED;
        }
        if live.reason != 0 {
            reason = live.reason;
        }
        let _ = LIVE.remove(tw);
        count(Counter::Ended);
    } else {
        if !read::wanted(&flow, netns) {
            return;
        }
        flags |= ended_flags::UNTRACKED;
        count(Counter::EndedUntracked);
    }
    if reason == EndReason::Unknown as u8 {
        let task = bpf_get_current_pid_tgid();
        // SAFETY: the value is not read.
        if unsafe { PURGING.get(task) }.is_some() {
            reason = EndReason::Purged as u8;
        }
    }
    ended.header.flags = flags;
    ended.reason = reason;
    emit::send(ended, Counter::LostEnded);
}
