//! A socket enters TIME_WAIT: `tcp_time_wait()`, the allocation inside it, and the first arming.
//!
//! The three run on one CPU with softirqs off. The event leaves at the arming, the last moment at
//! which no one else can find the socket: no end can overtake it.

use aya_ebpf::EbpfContext;
use aya_log_ebpf::warn;
use twtrace_common::{
    Counter, Entered, Field, Header, Kind, Live, TCP_FIN_WAIT2, ended_flags, entered_flags,
};

use crate::{
    emit,
    maps::{self, CpuState, LIVE, config, count},
    read,
};

/// `tcp_time_wait(sk, state, timeo)` begins: takes down what only the full socket knows.
#[inline(always)]
pub fn on_time_wait<C: EbpfContext>(ctx: &C, sk: u64, state: u8, timeo: u32) {
    let Some(cpu) = maps::cpu() else { return };
    send_unarmed(ctx, cpu);
    read::common(cpu, sk);
    if !begin(cpu, Kind::Entered, state) {
        return;
    }
    cpu.entered.timeo = timeo;
    cpu.entered.ts_recent_stamp = read::signed(sk, config!(layout.ts_recent_stamp));
    add_socket(cpu, sk, read::field(sk, config!(layout.icsk_bind_hash)));
    count_entry(cpu);
    if config!(follow_ends) == 0 {
        emit::send(&cpu.entered, Counter::LostEntered);
    } else {
        cpu.entering = 1;
    }
}

/// `inet_twsk_alloc()` returns: the socket's identity, or an overflow.
#[inline(always)]
pub fn on_alloc<C: EbpfContext>(ctx: &C, tw: u64) {
    let Some(cpu) = maps::cpu() else { return };
    if cpu.entering == 0 {
        return;
    }
    if tw == 0 {
        cpu.entering = 0;
        cpu.entered.header.flags |= entered_flags::OVERFLOW;
        count(Counter::Overflow);
        emit::send(&cpu.entered, Counter::LostEntered);
        return;
    }
    track(ctx, cpu, tw);
}

/// The timer of `tw` is armed, for the first time or again.
#[inline(always)]
pub fn on_arm(tw: u64, timeo: u32, rearm: bool) {
    let Some(cpu) = maps::cpu() else { return };
    if cpu.entering != 0 && cpu.entered.tw == tw {
        cpu.entering = 0;
        cpu.entered.armed = timeo;
        if let Some(live) = LIVE.get_ptr_mut(tw) {
            // SAFETY: null-checked; nobody else knows this socket yet.
            unsafe {
                (*live).first_armed = timeo;
                (*live).last_armed = timeo;
            }
        }
        emit::send(&cpu.entered, Counter::LostEntered);
    } else if rearm {
        rearmed(tw, timeo);
    }
}

/// Takes down that the timer of a live socket was set again.
#[inline(always)]
pub fn rearmed(tw: u64, timeo: u32) {
    if let Some(live) = LIVE.get_ptr_mut(tw) {
        // SAFETY: null-checked; two CPUs that write at once leave one of two true values.
        unsafe {
            (*live).last_armed = timeo;
            (*live).rearms += 1;
        }
    }
}

/// Starts an entry from the copied front of a socket; false if the user did not ask for it.
#[inline(always)]
pub fn begin(cpu: &mut CpuState, kind: Kind, state: u8) -> bool {
    let (flow, family, net) = read::flow(cpu);
    let netns = read::netns_inum(net);
    if !read::wanted(&flow, netns) {
        return false;
    }
    let (port_low, port_high) = read::port_range(net);
    cpu.entered = Entered {
        header: Header { kind: kind as u8, state, flags: 0, netns },
        // SAFETY: the helper has no preconditions.
        mono_ns: unsafe { aya_ebpf::helpers::bpf_ktime_get_ns() },
        tw: 0,
        ts_recent_stamp: 0,
        cgroup: 0,
        flow,
        timeo: 0,
        armed: 0,
        rto: 0,
        uid: 0,
        family,
        tcp_tw_reuse: read::field(net, config!(layout.tcp_tw_reuse)) as u8,
        tcp_timestamps: read::field(net, config!(layout.tcp_timestamps)) as u8,
        tcp_tw_recycle: read::field(net, config!(layout.tcp_tw_recycle)) as u8,
        reserved: [0; 3],
    };
    cpu.entered.flow.port_low = port_low;
    cpu.entered.flow.port_high = port_high;
    true
}

/// Adds what only the full socket knows to the entry in progress.
#[inline(always)]
pub fn add_socket(cpu: &mut CpuState, sk: u64, bind_bucket: u64) {
    let entered = &mut cpu.entered;
    entered.rto = read::field(sk, config!(layout.icsk_rto)) as u32;
    entered.uid = read::field(sk, config!(layout.sk_uid)) as u32;
    entered.cgroup = cgroup_id(sk);
    if read::field(sk, config!(layout.tstamp_ok)) != 0 {
        entered.header.flags |= entered_flags::TSTAMP_OK;
    }
    if autobound(bind_bucket) {
        entered.header.flags |= entered_flags::AUTOBOUND;
    }
}

/// Counts the entry in progress in the exact totals.
#[inline(always)]
pub fn count_entry(cpu: &CpuState) {
    count(Counter::Entered);
    if cpu.entered.header.state == TCP_FIN_WAIT2 {
        count(Counter::EnteredFinWait2);
    }
}

/// Begins to follow `tw`, the socket of the entry in progress.
#[inline(always)]
pub fn track<C: EbpfContext>(ctx: &C, cpu: &mut CpuState, tw: u64) {
    let entered = &mut cpu.entered;
    entered.tw = tw;
    entered.header.flags |= entered_flags::FOLLOWED;
    let present = entered.header.kind == Kind::Present as u8;
    let mut flags = if present { ended_flags::PRESENT } else { 0 };
    if entered.header.flags & entered_flags::AUTOBOUND != 0 {
        flags |= ended_flags::AUTOBOUND;
    }
    let live = Live {
        entered_ns: if present { 0 } else { entered.mono_ns },
        first_armed: entered.armed,
        last_armed: entered.armed,
        rearms: 0,
        rto: entered.rto,
        flags,
        reason: 0,
        state: entered.header.state,
        reserved: 0,
    };
    // SAFETY: the value is not read through the reference.
    if unsafe { LIVE.get(tw) }.is_some() {
        count(Counter::MissedEnd);
    }
    if LIVE.insert(tw, live, 0).is_err() {
        entered.header.flags |= entered_flags::UNTRACKED;
        count(Counter::Untracked);
        warn!(ctx, "the live map is full: lifetimes are sampled from here on");
    }
}

/// Sends an entry whose arming was never seen, so that its count is not lost with it.
#[inline(always)]
pub fn send_unarmed<C: EbpfContext>(ctx: &C, cpu: &mut CpuState) {
    if cpu.entering != 0 {
        cpu.entering = 0;
        count(Counter::MissedArm);
        emit::send(&cpu.entered, Counter::LostEntered);
        warn!(ctx, "an entry was never seen armed: a hook was missed");
    }
}

/// Whether `connect()` made this bind bucket by choosing an ephemeral port itself.
///
/// `fastreuse` is -1 there and 0 or 1 where a program bound or listens: `__inet_hash_connect()`,
/// net/ipv4/inet_hashtables.c, unchanged from 3.10 to 7.1.
#[inline(always)]
pub fn autobound(bind_bucket: u64) -> bool {
    bind_bucket != 0 && read::field(bind_bucket, config!(layout.tb_fastreuse)) as u8 == 0xff
}

/// Inode number of the control group that owns a socket; 0 when unknown.
#[inline(always)]
fn cgroup_id(sk: u64) -> u64 {
    let data: Field = config!(layout.sk_cgrp_data);
    if !data.exists() {
        return 0;
    }
    let cgroup: u64 = read::value(sk.wrapping_add(u64::from(data.offset)));
    // Before 5.15 an odd word is a network class or priority, not a pointer.
    if cgroup == 0 || cgroup & 1 != 0 {
        return 0;
    }
    let node = read::field(cgroup, config!(layout.cgroup_kn));
    if node == 0 { 0 } else { read::field(node, config!(layout.kernfs_id)) }
}
