//! A socket enters TIME_WAIT.
//!
//! `tcp_time_wait()` may run with softirqs on (from the backlog of a socket in use), so another
//! call can come in between on the same CPU: what is taken down is kept by socket. The kernel
//! does not run a program that is running on the CPU already, so one call in thousands is not
//! seen by one of the programs; hence each has another to stand in for it:
//!
//! - `inet_twsk_hashdance*()` has both sockets at hand, and the event leaves there, in the last
//!   moment at which no one else can find the timewait socket: no end can overtake it;
//! - `inet_twsk_alloc()` returns the timewait socket, or nothing: the overflow;
//! - `tcp_done()`, the last thing `tcp_time_wait()` does, reports what is still waiting then: an
//!   overflow, or an entry the hash dance was not seen of.

use aya_ebpf::EbpfContext;
use aya_log_ebpf::warn;
use twtrace_common::{
    Counter, Entered, Field, Header, Kind, Live, TCP_FIN_WAIT2, ended_flags, entered_flags,
};

use crate::{
    emit,
    maps::{self, CpuState, ENTERING, Entering, LIVE, config, count},
    read, timers,
};

/// `tcp_time_wait(sk, state, timeo)` begins.
#[inline(always)]
pub fn on_time_wait(sk: u64, state: u8, timeo: u32) {
    let entering = Entering { timeo, state: u32::from(state), tw: 0 };
    let _ = ENTERING.insert(sk, entering, 0);
}

/// `inet_twsk_alloc(sk, …)` returned.
#[inline(always)]
pub fn on_alloc(sk: u64, tw: u64) {
    if let Some(entering) = ENTERING.get_ptr_mut(sk) {
        // SAFETY: null-checked; only this call of `tcp_time_wait()` is about this socket.
        unsafe { (*entering).tw = tw };
    }
}

/// `inet_twsk_hashdance_schedule(tw, sk, hashinfo, timeo)` or, before Linux 6.11,
/// `inet_twsk_hashdance(tw, sk, hashinfo)` just after the arming: the socket enters.
#[inline(always)]
pub fn on_hashdance<C: EbpfContext>(ctx: &C, tw: u64, sk: u64, timeo: Option<u32>) {
    // SAFETY: read before the entry is removed below.
    let argument = unsafe { ENTERING.get(sk) }.map_or(0, |entering| entering.timeo);
    let _ = ENTERING.remove(sk);
    let armed = match (timeo, maps::cpu()) {
        (Some(timeo), _) => timeo,
        (None, Some(cpu)) if cpu.armed_tw == tw => cpu.armed as u32,
        _ => 0,
    };
    if let Some(cpu) = maps::entering_cpu() {
        enter(ctx, cpu, tw, sk, argument, armed);
    }
}

/// `tcp_done(sk)`: reports the entry of `sk` if nobody has.
#[inline(always)]
pub fn on_done<C: EbpfContext>(ctx: &C, sk: u64) {
    // SAFETY: copied before the entry is removed below.
    let Some(&Entering { timeo, state, tw }) = (unsafe { ENTERING.get(sk) }) else { return };
    let _ = ENTERING.remove(sk);
    let Some(cpu) = maps::overflow_cpu() else { return };
    if tw != 0 {
        let timer = tw.wrapping_add(u64::from(config!(layout.tw_timer.offset)));
        enter(ctx, cpu, tw, sk, timeo, timers::jiffies_left(timer));
        return;
    }
    read::common(cpu, sk);
    if !begin(cpu, Kind::Entered, state as u8) {
        return;
    }
    cpu.entered.timeo = timeo;
    cpu.entered.header.flags |= entered_flags::OVERFLOW;
    add_socket(cpu, sk, read::field(sk, config!(layout.icsk_bind_hash)));
    count_entry(cpu);
    count(Counter::Overflow);
    emit::send(&cpu.entered, Counter::LostEntered);
}

/// `tw` takes the place of `sk`: begins to follow it and sends the entry.
#[inline(always)]
fn enter<C: EbpfContext>(ctx: &C, cpu: &mut CpuState, tw: u64, sk: u64, timeo: u32, armed: u32) {
    read::common(cpu, sk);
    let state = read::field(tw, config!(layout.tw_substate)) as u8;
    if !begin(cpu, Kind::Entered, state) {
        return;
    }
    cpu.entered.timeo = timeo;
    cpu.entered.armed = armed;
    add_socket(cpu, sk, read::field(sk, config!(layout.icsk_bind_hash)));
    if config!(follow_ends) != 0 {
        track(ctx, cpu, tw);
    }
    count_entry(cpu);
    emit::send(&cpu.entered, Counter::LostEntered);
}

/// `__inet_twsk_schedule(tw, timeo, rearm)`: the timer is armed, for the first time or again.
#[inline(always)]
pub fn on_arm(tw: u64, timeo: u32, rearm: bool) {
    if rearm {
        rearmed(tw, timeo);
    } else if let Some(cpu) = maps::cpu() {
        // The hash dance follows on this CPU with softirqs still off.
        cpu.armed_tw = tw;
        cpu.armed = u64::from(timeo);
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
    // Field by field: a record built on the stack would take a fifth of it.
    let entered: &mut Entered = &mut cpu.entered;
    entered.header = Header { kind: kind as u8, state, flags: 0, netns };
    // SAFETY: the helper has no preconditions.
    entered.mono_ns = unsafe { aya_ebpf::helpers::bpf_ktime_get_ns() };
    entered.tw = 0;
    entered.ts_recent_stamp = 0;
    entered.cgroup = 0;
    entered.flow = flow;
    (entered.flow.port_low, entered.flow.port_high) = read::port_range(net);
    entered.timeo = 0;
    entered.armed = 0;
    entered.rto = 0;
    entered.uid = 0;
    entered.family = family;
    entered.tcp_tw_reuse = read::field(net, config!(layout.tcp_tw_reuse)) as u8;
    entered.tcp_timestamps = read::field(net, config!(layout.tcp_timestamps)) as u8;
    entered.tcp_tw_recycle = read::field(net, config!(layout.tcp_tw_recycle)) as u8;
    entered.reserved = [0; 3];
    true
}

/// Adds what only the full socket knows to the entry in progress.
#[inline(always)]
pub fn add_socket(cpu: &mut CpuState, sk: u64, bind_bucket: u64) {
    let entered = &mut cpu.entered;
    entered.ts_recent_stamp = read::signed(sk, config!(layout.ts_recent_stamp));
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
