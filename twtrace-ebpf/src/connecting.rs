//! `connect()` calls that fail, as the socket's own state tells it: through tracepoints and kprobes.
//!
//! A kretprobe would tell less: the kernel keeps as many places for calls that are yet to return as it has
//! processors (`register_kretprobe()`, kernel/kprobes.c; ten or more since 6.0), a search for a port lets
//! others run meanwhile, and of calls without a place it tells nothing. Of 3,200 by sixteen threads it told
//! of 200. It is what there is where the kernel's types are not known.
//!
//! `tcp_v4_connect()` and `tcp_v6_connect()` set SYN_SENT before they look for a port, and CLOSE when
//! they find none: in the caller's own context, before any packet, with addresses still in place
//! (net/ipv4/tcp_ipv4.c, net/ipv6/tcp_ipv6.c, read from 4.18 to 6.18). What can be mistaken: a bound
//! port's `connect()` that fails for want of memory or of a route passes for a busy port.

use aya_ebpf::{helpers::bpf_get_current_pid_tgid, macros::map, maps::Array};
use twtrace_common::{Counter, TCP_CLOSE, TCP_SYN_SENT};

use crate::{
    fail,
    maps::{is_noted, note},
    platform::{Env, Recent},
    read::{self, GivesSockets, Pointer, config},
};

/// Ports of sockets that had one when they began to connect: `inet_num` in the low half, and
/// `inet_sport`, which stays behind from an earlier connection, in the high one.
#[map]
static CONNECTING: Recent<u64, u32> = Recent::with_max_entries(4096, 0);

/// Whether there ever was one.
#[map]
static ANY_BOUND: Array<u32> = Array::with_max_entries(1, 0);

/// `inet_sock_set_state(sk, old, new)`.
#[inline(always)]
pub fn on_set_state<C: GivesSockets>(ctx: &C, env: Env, sk: u64, (old, new): (u8, u8)) {
    if old == TCP_CLOSE && new == TCP_SYN_SENT {
        begins(ctx, env, sk);
    } else if old == TCP_SYN_SENT {
        if new == TCP_CLOSE {
            ends(ctx, env, sk);
        }
        if is_noted(&ANY_BOUND) {
            let _ = CONNECTING.remove(sk);
        }
    }
}

/// `tcp_set_state(sk, new)`, which the tracepoint is in: the state is still the old one.
#[inline(always)]
pub fn on_setting_state<C: GivesSockets>(ctx: &C, env: Env, sk: u64, new: u8) {
    let old = read::field(env, sk, config!(env, layout.skc_state)) as u8;
    on_set_state(ctx, env, sk, (old, new));
}

/// A `connect()` begins: is its port bound already?
#[inline(always)]
fn begins<C: GivesSockets>(ctx: &C, env: Env, sk: u64) {
    let Some(socket) = ctx.tcp_socket(env, sk) else { return };
    let ports = ports(env, socket);
    // With a port bound before, it may have the ends of the timewait socket before it takes that over.
    if ports as u16 == 0
        && let Some(handover) = env.handover()
    {
        handover.connecting = sk;
        handover.task = bpf_get_current_pid_tgid();
    }
    if ports != 0 {
        if CONNECTING.insert(sk, ports, 0).is_err() {
            env.count(Counter::FailuresDropped);
        }
        note(&ANY_BOUND);
    }
    fail::tried(env, socket);
}

/// A `connect()` ends before it was answered: because there was no port?
#[inline(always)]
fn ends<C: GivesSockets>(ctx: &C, env: Env, sk: u64) {
    let Some(socket) = ctx.tcp_socket(env, sk) else { return };
    let something_else = socket.member(env, config!(env, layout.sk_err)) != 0
        || socket.member(env, config!(env, layout.packets_out)) != 0
        || socket.member(env, config!(env, layout.sk_shutdown)) != 0;
    if something_else {
        return;
    }
    // SAFETY: copied at once.
    let before = unsafe { CONNECTING.get(sk) }.copied().unwrap_or(0);
    let (bound, sport_before) = (before as u16, before >> 16);
    // With a port chosen since, whatever went wrong came later.
    if bound != 0 || ports(env, socket) >> 16 == sport_before {
        fail::connect_failed(ctx, env, socket, bound, false);
    }
}

/// `inet_num`, and above it `inet_sport` as it is.
#[inline(always)]
fn ports(env: Env, sk: Pointer) -> u32 {
    let num = sk.member(env, config!(env, layout.skc_num)) as u32;
    let sport = sk.member(env, config!(env, layout.inet_sport)) as u32;
    num & 0xffff | sport << 16
}
