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

use aya_ebpf::{EbpfContext, bindings::BPF_NOEXIST};
use twtrace_common::{
    Counter, Entered, Field, Flow, Header, Kind, Live, NetnsKey, PortChoice, TCP_FIN_WAIT2,
    TCP_TIME_WAIT, ended_flags, entered_flags,
};

use crate::{
    maps::{ENTERING, Entering, LIVE, made},
    platform::{self, Env, Front, scratch},
    read::{self, GivesSockets, Pointer, config},
};

/// `tcp_time_wait(sk, state, timeo)` begins.
#[inline(always)]
pub fn on_time_wait(env: Env, sk: u64, state: u8, timeo: u32) {
    let entering = Entering { timeo, state: u32::from(state), tw: 0 };
    made(env, ENTERING.insert(sk, entering, 0));
}

/// `inet_twsk_hashdance_schedule(tw, sk, hashinfo, timeo)` or, before Linux 6.11,
/// `inet_twsk_hashdance(tw, sk, hashinfo)` just after the arming: the socket enters.
#[inline(always)]
pub fn on_hashdance<C: GivesSockets>(ctx: &C, env: Env, tw: u64, sk: u64, timeo: Option<u32>) {
    // SAFETY: copied before the entry is removed below.
    let call = match unsafe { ENTERING.get(sk) }.copied() {
        Some(call) => {
            made(env, ENTERING.remove(sk));
            call
        }
        None => Entering { timeo: 0, state: 0, tw: 0 },
    };
    // DCCP, up to 6.15, has the same timewait sockets and another destructor.
    let Some(sk) = ctx.tcp_socket(env, sk) else { return };
    let armed = match (timeo, env.handover()) {
        (Some(timeo), _) => timeo,
        (None, Some(handover)) if handover.armed_tw == tw => handover.armed as u32,
        _ => left(env, tw),
    };
    scratch!(env, Entering, entered, front);
    enter(ctx, env, (entered, front), (tw, sk), (call, armed));
}

/// `tcp_done(sk)`: reports the entry of `sk` if nobody has.
#[inline(always)]
pub fn on_done<C: GivesSockets>(ctx: &C, env: Env, sk: u64) {
    // SAFETY: copied before the entry is removed below.
    let Some(&call) = (unsafe { ENTERING.get(sk) }) else { return };
    made(env, ENTERING.remove(sk));
    let Some(sk) = ctx.tcp_socket(env, sk) else { return };
    scratch!(env, Closing, entered, front);
    if platform::HAS_FEXIT && call.tw != 0 {
        let armed = left(env, call.tw);
        enter(ctx, env, (entered, front), (call.tw, sk), (call, armed));
        return;
    }
    if !begin_full(env, (entered, front), sk, call.state as u8) {
        return;
    }
    entered.timeo = call.timeo;
    entered.header.flags |= entered_flags::OVERFLOW;
    add_all(env, entered, sk);
    count_entry(env, entered);
    env.count(Counter::Overflow);
    env.send(ctx, entered, Counter::LostEntered);
}

/// What is left of a timer that has just been armed, jiffies; 0 where that cannot be known.
#[inline(always)]
fn left(env: Env, tw: u64) -> u32 {
    let timer = tw.wrapping_add(u64::from(config!(env, layout.tw_timer.offset)));
    platform::jiffies_left(env, timer)
}

/// `tw` takes the place of `sk`: begins to follow it and sends the entry.
#[inline(always)]
fn enter<C: EbpfContext>(
    ctx: &C,
    env: Env,
    (entered, front): (&mut Entered, &mut Front),
    (tw, sk): (u64, Pointer),
    (call, armed): (Entering, u32),
) {
    let state = match read::field(env, tw, config!(env, layout.tw_substate)) as u8 {
        // Not known: what tcp_time_wait() was called with is the same.
        0 if call.state != 0 => call.state as u8,
        0 => TCP_TIME_WAIT,
        state => state,
    };
    if !begin_full(env, (entered, front), sk, state) {
        return;
    }
    entered.timeo = call.timeo;
    entered.armed = armed;
    add_all(env, entered, sk);
    if config!(env, follow_ends) != 0 {
        track(ctx, env, entered, tw, false);
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

/// Starts the entry of a full socket; false if the user did not ask for it.
#[inline(always)]
fn begin_full(
    env: Env,
    (entered, front): (&mut Entered, &mut Front),
    sk: Pointer,
    state: u8,
) -> bool {
    let (family, net) = front.read(env, sk.address, &mut entered.flow);
    let net = sk.followed(env, config!(env, layout.skc_net), net);
    begin(env, entered, (family, net), Kind::Entered, state)
}

/// Starts an entry, whose flow was read from a socket of this family and namespace; false if the
/// user did not ask for it.
#[inline(always)]
pub fn begin(
    env: Env,
    entered: &mut Entered,
    (family, net): (u16, Pointer),
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
    entered.chosen = PortChoice::Unknown as u8;
    entered.reserved = [0; 2];
    entered.netns_cookie = net.member(env, config!(env, layout.net_cookie));
    true
}

/// Adds the namespace's port range to a flow.
#[inline(always)]
pub fn set_port_range(env: Env, flow: &mut Flow, net: Pointer) {
    (flow.port_low, flow.port_high) = read::port_range(env, net);
}

/// Adds what the full socket knows to the entry in progress.
#[inline(always)]
fn add_all(env: Env, entered: &mut Entered, sk: Pointer) {
    let stamp: Field = config!(env, layout.ts_recent_stamp);
    entered.ts_recent_stamp = read::extend(sk.member(env, stamp), stamp);
    let bound_dev_if = sk.member(env, config!(env, layout.skc_bound_dev_if));
    add_common(entered, bound_dev_if, sk.member(env, config!(env, layout.skc_reuse)));
    let bucket = sk.follow(env, config!(env, layout.icsk_bind_hash));
    add_socket(env, entered, sk, || autobound(env, bucket));
}

/// Adds what only the full socket knows. `autobound` is asked whether `connect()` chose the port.
#[inline(always)]
pub fn add_socket(env: Env, entered: &mut Entered, sk: Pointer, autobound: impl FnOnce() -> bool) {
    entered.rto = sk.member(env, config!(env, layout.icsk_rto)) as u32;
    entered.uid = sk.member(env, config!(env, layout.sk_uid)) as u32;
    entered.cgroup = cgroup_id(env, sk);
    if sk.member(env, config!(env, layout.tstamp_ok)) != 0 {
        entered.header.flags |= entered_flags::TSTAMP_OK;
    }
    entered.chosen = port_choice(env, sk, autobound) as u8;
    if entered.chosen == PortChoice::Unknown as u8 && config!(env, layout.tw_connect_bind).exists()
    {
        entered.header.flags |= entered_flags::NOT_CONNECT;
    }
    if narrow(env, &mut entered.flow, sk) {
        entered.header.flags |= entered_flags::OWN_RANGE;
    }
}

/// `LOOPBACK_IFINDEX`, include/net/flow.h.
pub const LOOPBACK_IFINDEX: u64 = 1;

/// Adds what a full socket and the timewait socket in its place both know: the interface it is bound to,
/// and `SO_REUSEADDR`.
#[inline(always)]
pub fn add_common(entered: &mut Entered, bound_dev_if: u64, reuse: u64) {
    if bound_dev_if == LOOPBACK_IFINDEX {
        entered.header.flags |= entered_flags::LOOPBACK_DEVICE;
    }
    if reuse != 0 {
        entered.header.flags |= entered_flags::REUSEADDR;
    }
}

/// Narrows the port range of a flow to the socket's own, if it has one, as
/// `inet_sk_get_local_port_range()` does (net/ipv4/inet_connection_sock.c, read at 6.18): each end
/// counts if it lies within.
#[inline(always)]
pub fn narrow(env: Env, flow: &mut Flow, sk: Pointer) -> bool {
    // Two members in Linux 6.3 to 6.7, which no load takes at once.
    let own = read::field(env, sk.address, config!(env, layout.local_port_range)) as u32;
    if own == 0 {
        return false;
    }
    let (low, high) = (flow.port_low, flow.port_high);
    let (own_low, own_high) = (own as u16, (own >> 16) as u16);
    if low <= own_low && own_low <= high {
        flow.port_low = own_low;
    }
    if low <= own_high && own_high <= high {
        flow.port_high = own_high;
    }
    true
}

/// Counts the entry in progress in the exact totals.
#[inline(always)]
pub fn count_entry(env: Env, entered: &Entered) {
    env.count(Counter::Entered);
    if entered.header.state == TCP_FIN_WAIT2 {
        env.count(Counter::EnteredFinWait2);
    }
    let overflow = u64::from(entered.header.flags & entered_flags::OVERFLOW != 0);
    env.count_namespace(&NetnsKey::new(entered.header.netns, entered.netns_cookie), |counts| {
        counts.entered += 1;
        counts.overflow += overflow;
    });
}

/// Begins to follow `tw`, the socket of the entry in progress. `waiting` tells that its record does
/// not leave yet.
#[inline(always)]
pub fn track<C: EbpfContext>(ctx: &C, env: Env, entered: &mut Entered, tw: u64, waiting: bool) {
    entered.tw = tw;
    entered.header.flags |= entered_flags::FOLLOWED;
    let present = entered.header.kind == Kind::Present as u8;
    let flags = if present { ended_flags::PRESENT } else { 0 };
    let live = Live {
        entered_ns: if present { 0 } else { entered.mono_ns },
        first_armed: entered.armed,
        last_armed: entered.armed,
        rearms: 0,
        rto: entered.rto,
        flags,
        reason: 0,
        state: entered.header.state,
        chosen: entered.chosen,
        waiting: waiting as u8,
        reserved: [0; 2],
        netns: entered.header.netns,
        reserved_too: 0,
        netns_cookie: entered.netns_cookie,
    };
    let mut followed = LIVE.insert(tw, live, BPF_NOEXIST.into());
    if followed.is_err()
        // SAFETY: copied out before the value is replaced below.
        && let Some(before) = unsafe { LIVE.get(tw) }
    {
        env.count(Counter::MissedEnd);
        let key = NetnsKey::new(before.netns, before.netns_cookie);
        env.count_namespace(&key, |counts| counts.ended += 1);
        followed = LIVE.insert(tw, live, 0);
    }
    if followed.is_err() {
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
pub fn autobound(env: Env, bind_bucket: Pointer) -> bool {
    let position: Field = config!(env, layout.tb_fastreuse);
    bind_bucket.address != 0 && position.exists() && bind_bucket.member(env, position) as u8 == 0xff
}

/// `SOCK_BINDADDR_LOCK`, include/net/sock.h: an address was bound.
const SOCK_BINDADDR_LOCK: u64 = 4;
/// `SOCK_BINDPORT_LOCK`, include/net/sock.h: a port was named to `bind()`.
const SOCK_BINDPORT_LOCK: u64 = 8;

/// Who chose the local port of a full socket.
///
/// The listener's backlog is copied to what it accepts, and a client has none. `bind(address, 0)`
/// fixes the address and not the port, and so does an address bound with
/// `IP_BIND_ADDRESS_NO_PORT`, where `connect()` chooses all the same: the bucket tells.
#[inline(always)]
fn port_choice(env: Env, sk: Pointer, autobound: impl FnOnce() -> bool) -> PortChoice {
    let backlog: Field = config!(env, layout.sk_max_ack_backlog);
    if !backlog.exists() {
        return PortChoice::Unknown;
    }
    if sk.member(env, backlog) != 0 {
        return PortChoice::Accepted;
    }
    let locks = sk.member(env, config!(env, layout.sk_userlocks));
    if locks & SOCK_BINDPORT_LOCK != 0 {
        return PortChoice::Program;
    }
    if autobound() {
        return PortChoice::Connect;
    }
    // Neither: another program bound the port beside, or a listener without a backlog accepted it.
    if locks & SOCK_BINDADDR_LOCK != 0 { PortChoice::Bind } else { PortChoice::Unknown }
}

/// Set in the word of Linux 5.8 to 5.14 beside the pointer if the socket holds no reference
/// (`no_refcnt` of `struct sock_cgroup_data`, include/linux/cgroup-defs.h).
const NO_REFERENCE: u64 = 2;

/// Inode number of the control group that owns a socket; 0 when unknown.
#[inline(always)]
pub fn cgroup_id(env: Env, sk: Pointer) -> u64 {
    let pointer: Field = config!(env, layout.sk_cgroup);
    if pointer.exists() {
        return number_of(env, sk.follow(env, pointer));
    }
    let data: Field = config!(env, layout.sk_cgrp_data);
    if !data.exists() {
        return 0;
    }
    let cgroup = read::word(env, sk.address.wrapping_add(u64::from(data.offset)));
    // An odd word is a network class or priority, not a pointer.
    if cgroup & 1 != 0 { 0 } else { number_of(env, Pointer::untyped(cgroup & !NO_REFERENCE)) }
}

/// Inode number of a control group; 0 of none.
#[inline(always)]
fn number_of(env: Env, cgroup: Pointer) -> u64 {
    if cgroup.address == 0 {
        return 0;
    }
    let node = cgroup.follow(env, config!(env, layout.cgroup_kn));
    if node.address == 0 { 0 } else { node.member(env, config!(env, layout.kernfs_id)) }
}
