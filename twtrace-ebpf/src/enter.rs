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
use twtrace_common::{
    Counter, Entered, Field, Flow, Header, Kind, Live, TCP_FIN_WAIT2, TCP_TIME_WAIT, ended_flags,
    entered_flags,
};

use crate::{
    maps::{Entering, LIVE},
    platform::{self, ENTERING, Env, Front, scratch},
    read::{self, config},
};

/// `tcp_time_wait(sk, state, timeo)` begins.
#[inline(always)]
pub fn on_time_wait(sk: u64, state: u8, timeo: u32) {
    let entering = Entering { timeo, state: u32::from(state), tw: 0 };
    let _ = ENTERING.insert(sk, entering, 0);
}

/// `inet_twsk_hashdance_schedule(tw, sk, hashinfo, timeo)` or, before Linux 6.11,
/// `inet_twsk_hashdance(tw, sk, hashinfo)` just after the arming: the socket enters.
#[inline(always)]
pub fn on_hashdance<C: EbpfContext>(ctx: &C, env: Env, tw: u64, sk: u64, timeo: Option<u32>) {
    // SAFETY: copied before the entry is removed below.
    let call = unsafe { ENTERING.get(sk) }.copied();
    let call = call.unwrap_or(Entering { timeo: 0, state: 0, tw: 0 });
    let _ = ENTERING.remove(sk);
    let armed = match (timeo, env.handover()) {
        (Some(timeo), _) => timeo,
        (None, Some(handover)) if handover.armed_tw == tw => handover.armed as u32,
        _ => 0,
    };
    scratch!(env, Entering, entered, front);
    enter(ctx, env, (entered, front), (tw, sk), (call, armed));
}

/// `tcp_done(sk)`: reports the entry of `sk` if nobody has.
#[inline(always)]
pub fn on_done<C: EbpfContext>(ctx: &C, env: Env, sk: u64) {
    // SAFETY: copied before the entry is removed below.
    let Some(&call) = (unsafe { ENTERING.get(sk) }) else { return };
    let _ = ENTERING.remove(sk);
    scratch!(env, Closing, entered, front);
    if platform::HAS_FEXIT && call.tw != 0 {
        let timer = call.tw.wrapping_add(u64::from(config!(env, layout.tw_timer.offset)));
        let armed = platform::jiffies_left(env, timer);
        enter(ctx, env, (entered, front), (call.tw, sk), (call, armed));
        return;
    }
    let (family, net) = front.read(env, sk, &mut entered.flow);
    if !begin(env, entered, (family, net), Kind::Entered, call.state as u8) {
        return;
    }
    entered.timeo = call.timeo;
    entered.header.flags |= entered_flags::OVERFLOW;
    add_socket(env, entered, sk, read::field(env, sk, config!(env, layout.icsk_bind_hash)));
    count_entry(env, entered);
    env.count(Counter::Overflow);
    env.send(ctx, entered, Counter::LostEntered);
}

/// `tw` takes the place of `sk`: begins to follow it and sends the entry.
#[inline(always)]
fn enter<C: EbpfContext>(
    ctx: &C,
    env: Env,
    (entered, front): (&mut Entered, &mut Front),
    (tw, sk): (u64, u64),
    (call, armed): (Entering, u32),
) {
    let (family, net) = front.read(env, sk, &mut entered.flow);
    let state = match read::field(env, tw, config!(env, layout.tw_substate)) as u8 {
        // Not known: what tcp_time_wait() was called with is the same.
        0 if call.state != 0 => call.state as u8,
        0 => TCP_TIME_WAIT,
        state => state,
    };
    if !begin(env, entered, (family, net), Kind::Entered, state) {
        return;
    }
    entered.timeo = call.timeo;
    entered.armed = armed;
    add_socket(env, entered, sk, read::field(env, sk, config!(env, layout.icsk_bind_hash)));
    if config!(env, follow_ends) != 0 {
        track(ctx, env, entered, tw);
    }
    count_entry(env, entered);
    env.send(ctx, entered, Counter::LostEntered);
}

/// `__inet_twsk_schedule(tw, timeo, rearm)`: the timer is armed, for the first time or again.
#[inline(always)]
pub fn on_arm(env: Env, tw: u64, timeo: u32, rearm: bool) {
    if rearm {
        rearmed(tw, timeo);
    } else if let Some(handover) = env.handover() {
        // The hash dance follows on this CPU with softirqs still off.
        handover.armed_tw = tw;
        handover.armed = u64::from(timeo);
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

/// Starts an entry, whose flow was read from a socket of this family and namespace; false if the
/// user did not ask for it.
#[inline(always)]
pub fn begin(
    env: Env,
    entered: &mut Entered,
    (family, net): (u16, u64),
    kind: Kind,
    state: u8,
) -> bool {
    let netns = read::netns_inum(env, net);
    if !read::wanted(env, &entered.flow, netns) {
        return false;
    }
    // Field by field: a second record would take a fifth of the stack.
    entered.header = Header { kind: kind as u8, state, flags: config!(env, unknown), netns };
    // SAFETY: the helper has no preconditions.
    entered.mono_ns = unsafe { aya_ebpf::helpers::bpf_ktime_get_ns() };
    entered.tw = 0;
    entered.ts_recent_stamp = 0;
    entered.cgroup = 0;
    set_port_range(env, &mut entered.flow, net);
    entered.timeo = 0;
    entered.armed = 0;
    entered.rto = 0;
    entered.uid = 0;
    entered.family = family;
    let sysctl = |position, global| read::sysctl(env, net, position, global);
    entered.tcp_tw_reuse = sysctl(config!(env, layout.tcp_tw_reuse), config!(env, tcp_tw_reuse));
    entered.tcp_timestamps =
        sysctl(config!(env, layout.tcp_timestamps), config!(env, tcp_timestamps));
    entered.tcp_tw_recycle =
        sysctl(config!(env, layout.tcp_tw_recycle), config!(env, tcp_death_row));
    entered.reserved = [0; 3];
    true
}

/// Adds the namespace's port range to a flow.
#[inline(always)]
pub fn set_port_range(env: Env, flow: &mut Flow, net: u64) {
    (flow.port_low, flow.port_high) = read::port_range(env, net);
}

/// Adds what only the full socket knows to the entry in progress.
#[inline(always)]
pub fn add_socket(env: Env, entered: &mut Entered, sk: u64, bind_bucket: u64) {
    entered.ts_recent_stamp = read::signed(env, sk, config!(env, layout.ts_recent_stamp));
    entered.rto = read::field(env, sk, config!(env, layout.icsk_rto)) as u32;
    entered.uid = read::field(env, sk, config!(env, layout.sk_uid)) as u32;
    entered.cgroup = cgroup_id(env, sk);
    if read::field(env, sk, config!(env, layout.tstamp_ok)) != 0 {
        entered.header.flags |= entered_flags::TSTAMP_OK;
    }
    if autobound(env, bind_bucket) {
        entered.header.flags |= entered_flags::AUTOBOUND;
    }
}

/// Counts the entry in progress in the exact totals.
#[inline(always)]
pub fn count_entry(env: Env, entered: &Entered) {
    env.count(Counter::Entered);
    if entered.header.state == TCP_FIN_WAIT2 {
        env.count(Counter::EnteredFinWait2);
    }
}

/// Begins to follow `tw`, the socket of the entry in progress.
#[inline(always)]
pub fn track<C: EbpfContext>(ctx: &C, env: Env, entered: &mut Entered, tw: u64) {
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
        env.count(Counter::MissedEnd);
    }
    if LIVE.insert(tw, live, 0).is_err() {
        entered.header.flags |= entered_flags::UNTRACKED;
        env.count(Counter::Untracked);
        env.warn_live_is_full(ctx);
    }
}

/// Whether `connect()` made this bind bucket by choosing an ephemeral port itself.
///
/// `fastreuse` is -1 there and 0 or 1 where a program bound or listens: `__inet_hash_connect()`,
/// net/ipv4/inet_hashtables.c, unchanged from 3.10 to 7.1.
#[inline(always)]
pub fn autobound(env: Env, bind_bucket: u64) -> bool {
    let position: Field = config!(env, layout.tb_fastreuse);
    bind_bucket != 0 && position.exists() && read::field(env, bind_bucket, position) as u8 == 0xff
}

/// Inode number of the control group that owns a socket; 0 when unknown.
#[inline(always)]
fn cgroup_id(env: Env, sk: u64) -> u64 {
    let data: Field = config!(env, layout.sk_cgrp_data);
    if !data.exists() {
        return 0;
    }
    let cgroup = read::word(env, sk.wrapping_add(u64::from(data.offset)));
    // Before 5.15 an odd word is a network class or priority, not a pointer.
    if cgroup == 0 || cgroup & 1 != 0 {
        return 0;
    }
    let node = read::field(env, cgroup, config!(env, layout.cgroup_kn));
    if node == 0 { 0 } else { read::field(env, node, config!(env, layout.kernfs_id)) }
}
