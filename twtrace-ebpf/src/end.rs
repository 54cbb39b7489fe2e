//! A timewait socket ends: who announced it, and the record that leaves.
//!
//! Several hooks announce an end; `tcp_twsk_destructor()` is the end itself, exactly once a
//! socket. Whatever announced last holds.

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_get_current_pid_tgid, bpf_get_smp_processor_id, bpf_ktime_get_ns},
    macros::map,
    maps::HashMap,
};
use twtrace_common::{
    Config, Counter, EndReason, Ended, Flow, Header, Kind, NetnsKey, TCP_FIN_WAIT2, TCP_TIME_WAIT,
    ended_flags,
};

use crate::{
    enter,
    maps::{LIVE, PURGING, made},
    platform::{Env, KNOWS_TYPES, scratch},
    read::{self, Pointer, config},
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

/// Timewait sockets inside `tcp_timewait_state_process()`, for its return (kprobe only: a kretprobe has no
/// arguments). By task and CPU: every CPU's idle task has the number 0.
#[map]
static PROCESSING: HashMap<u64, u64> = HashMap::with_max_entries(4096, 0);

/// What [`PROCESSING`] knows a call by: it has softirqs off and stays where it is.
#[inline(always)]
fn processing() -> u64 {
    // SAFETY: the helper has no preconditions.
    let cpu = unsafe { bpf_get_smp_processor_id() } as u32;
    bpf_get_current_pid_tgid() << 32 | u64::from(cpu)
}

/// Keeps the socket of `tcp_timewait_state_process()` for its return (kprobe).
#[inline(always)]
pub fn remember_processed(env: Env, tw: u64) {
    made(env, PROCESSING.insert(processing(), tw, 0));
}

/// `tcp_timewait_state_process()` returned, and its socket was kept (kprobe).
#[inline(always)]
pub fn on_processed_return(env: Env, status: u32) {
    let call = processing();
    // SAFETY: copied before the entry is removed; no other call has this key.
    let Some(&tw) = (unsafe { PROCESSING.get(call) }) else { return };
    made(env, PROCESSING.remove(call));
    on_state_processed(env, tw, status);
}

/// `tcp_timewait_state_process(tw, …)` begins.
#[inline(always)]
pub fn on_state_process(env: Env, tw: u64) {
    if let Some(handover) = env.handover() {
        handover.processing = tw;
    }
    if let Some(live) = LIVE.get_ptr_mut(tw) {
        // A SYN announced earlier found no listener, or the socket would not be here.
        // SAFETY: null-checked.
        unsafe { (*live).reason = EndReason::Unknown as u8 };
    }
}

/// `tcp_timewait_state_process(tw, …)` returned an `enum tcp_tw_status`.
#[inline(always)]
pub fn on_state_processed(env: Env, tw: u64, status: u32) {
    if let Some(handover) = env.handover() {
        handover.processing = 0;
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
}

/// Whether a socket has left the hash table: the kill is under way.
#[inline(always)]
fn unhashed(env: Env, tw: u64) -> bool {
    let link = config!(env, layout.skc_pprev);
    link.exists() && read::field(env, tw, link) == 0
}

/// This task begins (`true`) or has finished to purge a namespace's timewait sockets.
#[inline(always)]
pub fn on_purge(env: Env, begins: bool) {
    let task = bpf_get_current_pid_tgid();
    // SAFETY: the value is not read.
    let noted = unsafe { PURGING.get(task) }.is_some();
    match (begins, noted) {
        (true, false) => made(env, PURGING.insert(task, 1, 0)),
        (false, true) => made(env, PURGING.remove(task)),
        _ => {}
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
    let ended: &mut Ended = ended;
    let (_family, net) = front.read(env, tw, &mut ended.flow);
    finish(ctx, env, ended, (tw, net), (reason, 0), || false, |_| {});
}

/// Sends the end of `tw`, whose ends are in the record and whose namespace is `net`. A reason noted in its
/// history precedes `reason`. `is_strange` is asked whether one that is not followed is none of TCP's.
/// `release` is called before, with the ends, if the record of its entry may be waiting still.
#[inline(always)]
pub fn finish<C: EbpfContext>(
    ctx: &C,
    env: Env,
    ended: &mut Ended,
    (tw, net): (u64, u64),
    (mut reason, mut flags): (u8, u16),
    is_strange: impl FnOnce() -> bool,
    release: impl FnOnce(&Flow),
) {
    let net = Pointer::untyped(net);
    let mut state = read::field(env, tw, config!(env, layout.tw_substate)) as u8;
    ended.header = Header { kind: Kind::Ended as u8, state, flags: 0, netns: 0 };
    // SAFETY: the helper has no preconditions.
    ended.mono_ns = unsafe { bpf_ktime_get_ns() };
    ended.tw = tw;
    ended.entered_ns = 0;
    ended.first_armed = 0;
    ended.last_armed = 0;
    ended.rearms = 0;
    ended.rto = 0;
    ended.chosen = 0;
    ended.reserved = [0; 6];
    let mut removed = Ok(());
    // SAFETY: read before the entry is removed below.
    if let Some(live) = unsafe { LIVE.get(tw) } {
        ended.header.netns = live.netns;
        ended.netns_cookie = live.netns_cookie;
        ended.entered_ns = live.entered_ns;
        ended.first_armed = live.first_armed;
        ended.last_armed = live.last_armed;
        ended.rearms = live.rearms;
        ended.rto = live.rto;
        ended.chosen = live.chosen;
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
        if live.waiting != 0 {
            release(&ended.flow);
        }
        // Counted before the removal: as the last thing here the compiler would merge it with the
        // count below, into one at a computed place, which Linux 4.4 does not allow.
        env.count(Counter::Ended);
        removed = LIVE.remove(tw);
    } else {
        ended.header.netns = read::netns_inum(env, net);
        if !read::wanted(env, &ended.flow, ended.header.netns) || is_strange() {
            return;
        }
        ended.netns_cookie = net.member(env, config!(env, layout.net_cookie));
        flags |= ended_flags::UNTRACKED;
        ended.last_armed = read::field(env, tw, config!(env, layout.tw_timeout)) as u32;
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
    let key = NetnsKey::new(ended.header.netns, ended.netns_cookie);
    let expired = u64::from(reason == EndReason::Expired as u8);
    let reused = u64::from(reason == EndReason::Reused as u8);
    env.count_namespace(&key, |counts| {
        counts.ended += 1;
        counts.expired += expired;
        counts.reused += reused;
    });
    ended.header.state = if state == 0 { TCP_TIME_WAIT } else { state };
    ended.header.flags = flags;
    ended.reason = reason;
    // What stays is found as a missed end when the address comes back. Counted this late for the same
    // reason as above.
    made(env, removed);
    env.send(ctx, ended, Counter::LostEnded);
}
