//! An outgoing `connect()` meets a TIME_WAIT socket on its 4-tuple: may it take it over?
//!
//! In an exhausted port range `tcp_twsk_unique()` runs once a port, tens of thousands of times in
//! one `connect()`: refusals are counted here and never sent one by one.

use aya_ebpf::{helpers::bpf_get_current_pid_tgid, macros::map, maps::HashMap};
use twtrace_common::{
    EndReason, Flow, RefusalKey, RefusalReason, TCP_FIN_WAIT2, ended_flags, entered_flags,
};

use crate::{
    end, enter,
    maps::made,
    platform::{Env, own_front},
    read::{self, Pointer, config},
};

/// A timewait socket inside `tcp_twsk_unique()`, and whether that `connect()` came with its port bound
/// beforehand.
#[derive(Clone, Copy)]
#[repr(C)]
struct Unique {
    tw: u64,
    bound: u64,
}

/// Calls of `tcp_twsk_unique()` in progress, by task (kprobe only: a kretprobe has no arguments).
#[map]
static UNIQUE: HashMap<u64, Unique> = HashMap::with_max_entries(4096, 0);

/// Keeps the arguments of `tcp_twsk_unique()` for its return (kprobe).
#[inline(always)]
pub fn remember(env: Env, tw: u64, bound: bool) {
    let call = Unique { tw, bound: u64::from(bound) };
    made(env, UNIQUE.insert(bpf_get_current_pid_tgid(), call, 0));
}

/// `tcp_twsk_unique()` returned, and its arguments were kept (kprobe).
#[inline(always)]
pub fn on_unique_return(env: Env, allowed: u32) {
    let task = bpf_get_current_pid_tgid();
    // SAFETY: copied before the entry is removed; no other task has this key.
    let Some(&call) = (unsafe { UNIQUE.get(task) }) else { return };
    made(env, UNIQUE.remove(task));
    on_unique(env, call.tw, call.bound != 0, allowed);
}

/// `tcp_twsk_unique(sk, tw, twp)` returned whether the port may be taken; `bound` is `twp == NULL`.
#[inline(always)]
pub fn on_unique(env: Env, tw: u64, bound: bool, allowed: u32) {
    if allowed != 0 {
        end::mark(env, tw, EndReason::Reused, if bound { ended_flags::BOUND } else { 0 });
        return;
    }
    let stamp = config!(env, layout.tw_ts_recent_stamp);
    if !stamp.exists() {
        // The reason is not known.
        return;
    }
    own_front!(front);
    let mut flow = Flow::default();
    let (_family, net) = front.read(env, tw, &mut flow);
    let net = Pointer::untyped(net);
    let netns = read::netns_inum(env, net);
    if !read::wanted(env, &flow, netns) {
        return;
    }
    let loopback = is_loopback(&flow.local)
        || is_loopback(&flow.remote)
        || read::field(env, tw, config!(env, layout.skc_bound_dev_if)) == enter::LOOPBACK_IFINDEX;
    let reuse = config!(env, layout.tcp_tw_reuse);
    let reason = if read::field(env, tw, stamp) == 0 {
        RefusalReason::NoTimestamps
    } else {
        match read::sysctl(env, net, reuse, config!(env, tcp_tw_reuse)) {
            _ if bound => RefusalReason::TooYoung,
            0 => RefusalReason::ReuseOff,
            2 if !loopback && config!(env, unknown) & entered_flags::TWO_IS_ON == 0 => {
                RefusalReason::LoopbackOnly
            }
            _ if read::field(env, tw, config!(env, layout.tw_substate))
                == u64::from(TCP_FIN_WAIT2) =>
            {
                RefusalReason::FinWait2
            }
            _ => RefusalReason::TooYoung,
        }
    };
    env.count_refusal(&RefusalKey {
        remote: flow.remote,
        netns,
        remote_port: flow.remote_port,
        reason: reason as u16,
    });
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
