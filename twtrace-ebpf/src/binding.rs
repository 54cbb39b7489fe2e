//! `bind()` calls that are refused, where functions cannot be hooked.
//!
//! The kernel shows an address that is to be bound to programs of control groups, and once more the socket
//! when it has its port (`__inet_bind()`, `__inet6_bind()`; net/ipv4/af_inet.c, net/ipv6/af_inet6.c, read from
//! 5.9 to 6.18). A call that began and got no port was refused: that is known when its socket is given up, or
//! tries once more. These programs decide nothing: what they return lets the call go on.
//!
//! What else refuses a `bind()` is told apart: a port that takes a right the caller has not, here; an address
//! that is not this host's, in userspace, which asks the kernel's routes for it. What can be mistaken: a
//! program of somebody else's at the same place that refuses the call. What is missed: the last call on a
//! socket that is nobody's descriptor (the kernel's own, and subflows of MPTCP).

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext,
    bindings::bpf_sock_addr,
    helpers::generated::bpf_get_current_task,
    macros::{cgroup_sock, cgroup_sock_addr, map},
    maps::{Array, LruHashMap},
    programs::{SockAddrContext, SockContext},
};
use twtrace_common::{AF_INET6, Counter, Field, TCP_CLOSE};

use crate::{
    fail,
    maps::{is_noted, made, note},
    platform::{Env, probe_read},
    read::{self, GivesSockets, Pointer, config},
};

/// What is asked for by calls of which it is not known yet whether they got it, by socket.
#[map]
static BINDING: LruHashMap<u64, Wish> = LruHashMap::with_max_entries(4096, 0);

/// Whether there ever was one.
#[map]
static ANY_BINDING: Array<u32> = Array::with_max_entries(1, 0);

/// Address and port that a `bind()` asks for.
#[derive(Clone, Copy)]
#[repr(C)]
struct Wish {
    /// The address, IPv4 as `::ffff:a.b.c.d`.
    local: [u8; 16],
    /// The port, 0 for any.
    port: u64,
}

/// The call goes on.
const LET_PASS: i32 = 1;
/// `CAP_NET_BIND_SERVICE`, include/uapi/linux/capability.h.
const CAP_NET_BIND_SERVICE: u64 = 10;
/// Ports below take that right (`ip_unprivileged_port_start`) where the kernel has no setting.
const UNPRIVILEGED: u64 = 1024;

impl GivesSockets for SockAddrContext {}
impl GivesSockets for SockContext {}

#[cgroup_sock_addr(bind4)]
pub fn cgroup_bind4(ctx: SockAddrContext) -> i32 {
    // SAFETY: the kernel hands over such a structure, and lets these members be read at this hook.
    let address = unsafe { (*ctx.sock_addr).user_ip4 };
    begins(&ctx, read::mapped(address.to_le_bytes()))
}

#[cgroup_sock_addr(bind6)]
pub fn cgroup_bind6(ctx: SockAddrContext) -> i32 {
    let mut local = [0; 16];
    let mut word = 0;
    while word < 4 {
        // SAFETY: as above; each word is read by itself.
        let part = unsafe { (&raw const (*ctx.sock_addr).user_ip6[word]).read_volatile() };
        local[4 * word..][..4].copy_from_slice(&part.to_le_bytes());
        word += 1;
    }
    begins(&ctx, local)
}

#[cgroup_sock(post_bind4)]
pub fn cgroup_post_bind4(ctx: SockContext) -> i32 {
    succeeds(&ctx)
}

#[cgroup_sock(post_bind6)]
pub fn cgroup_post_bind6(ctx: SockContext) -> i32 {
    succeeds(&ctx)
}

#[cgroup_sock(sock_release)]
pub fn cgroup_sock_release(ctx: SockContext) -> i32 {
    // SAFETY: the kernel hands over such a structure, and lets this member be read at this hook.
    let state = unsafe { (*ctx.sock).state };
    // Every socket that is closed comes by: what was connected, or listens, was not refused.
    if state == u32::from(TCP_CLOSE)
        && is_noted(&ANY_BINDING)
        && let Some(env) = Env::get()
    {
        decide(&ctx, env, address(env, ctx.as_ptr()));
    }
    LET_PASS
}

/// A `bind()` of this address begins.
#[inline(always)]
fn begins(ctx: &SockAddrContext, local: [u8; 16]) -> i32 {
    let asked: *const bpf_sock_addr = ctx.sock_addr;
    // SAFETY: the kernel hands over such a structure, and lets these members be read at this hook.
    let (protocol, port, sk) =
        unsafe { ((*asked).protocol, (*asked).user_port, (*asked).__bindgen_anon_1.sk) };
    let Some(env) = Env::get() else { return LET_PASS };
    if protocol != read::IPPROTO_TCP as u32 {
        return LET_PASS;
    }
    let sk = address(env, sk.cast());
    let port = u16::from_be(port as u16);
    decide(ctx, env, sk);
    if !has_nothing(env, sk) || !may_have(env, sk, port) {
        return LET_PASS;
    }
    note(&ANY_BINDING);
    made(env, BINDING.insert(sk, Wish { local, port: port.into() }, 0));
    LET_PASS
}

/// The socket has the port that was asked for.
#[inline(always)]
fn succeeds(ctx: &SockContext) -> i32 {
    if let (true, Some(env)) = (is_noted(&ANY_BINDING), Env::get()) {
        let sk = address(env, ctx.as_ptr());
        if BINDING.remove(sk).is_ok() {
            fail::bound(env, Pointer::untyped(sk));
        }
    }
    LET_PASS
}

/// Where a socket lies: the verifier knows its type, and computes with no pointer of such a type.
#[inline(always)]
fn address(env: Env, sk: *mut c_void) -> u64 {
    let mut address = 0_u64;
    // SAFETY: eight initialised bytes on the stack, and eight to read.
    if !unsafe { probe_read((&raw mut address).cast(), 8, (&raw const sk) as u64) } {
        env.count(Counter::ReadFailed);
    }
    address
}

/// The call before on this socket, if there was one, is over: did it get what it asked for?
#[inline(always)]
fn decide<C: GivesSockets>(ctx: &C, env: Env, sk: u64) {
    // SAFETY: copied before the entry is removed; a socket that is bound or given up belongs to the caller.
    let Some(&wish) = (unsafe { BINDING.get(sk) }) else { return };
    made(env, BINDING.remove(sk));
    // An address without a port (`IP_BIND_ADDRESS_NO_PORT`) or the port of a `connect()` came since.
    if has_nothing(env, sk) {
        fail::refused(ctx, env, Pointer::untyped(sk), Some(wish.local), wish.port as u16);
    }
}

/// Whether a socket has neither address nor port, nor is connected.
#[inline(always)]
fn has_nothing(env: Env, sk: u64) -> bool {
    let sk = Pointer::untyped(sk);
    let state = sk.member(env, config!(env, layout.skc_state));
    let port = sk.member(env, config!(env, layout.skc_num));
    let mut address = sk.member(env, config!(env, layout.skc_rcv_saddr));
    if sk.member(env, config!(env, layout.skc_family)) == u64::from(AF_INET6) {
        let v6: Field = config!(env, layout.skc_v6_rcv_saddr);
        let at = sk.address.wrapping_add(v6.offset.into());
        address |= read::word(env, at) | read::word(env, at.wrapping_add(8));
    }
    state == u64::from(TCP_CLOSE) && port == 0 && address == 0
}

/// Whether the caller has the right to bind this port (`inet_port_requires_bind_service()`): the answer is
/// EACCES otherwise.
#[inline(always)]
fn may_have(env: Env, sk: u64, port: u16) -> bool {
    let net = Pointer::untyped(sk).follow(env, config!(env, layout.skc_net));
    let setting: Field = config!(env, layout.ip_prot_sock);
    let from = if setting.exists() { net.member(env, setting) } else { UNPRIVILEGED };
    if port == 0 || u64::from(port) >= from {
        return true;
    }
    // SAFETY: the helper has no preconditions.
    let task = Pointer::untyped(unsafe { bpf_get_current_task() });
    let cred = task.follow(env, config!(env, layout.task_cred));
    let rights = cred.member(env, config!(env, layout.cap_effective));
    rights >> CAP_NET_BIND_SERVICE & 1 != 0
}
