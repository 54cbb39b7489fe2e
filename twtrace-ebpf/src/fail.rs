//! A `connect()` finds no port, or its port busy; a `bind()` is refused.
//!
//! A program that tries again and again fails a hundred thousand times a second: failures are counted
//! here by place, cause and process, and only a few a second of each are sent one by one. As long as
//! nothing fails, a call costs one look at a number.
//!
//! All of this happens in the caller's own context, with softirqs on: what passes between two programs
//! is kept by task or socket, and records are put together on the stack.

use aya_ebpf::{
    EbpfContext,
    bindings::BPF_NOEXIST,
    helpers::{
        bpf_get_current_pid_tgid, bpf_get_current_uid_gid, bpf_get_smp_processor_id,
        bpf_ktime_get_ns,
    },
    macros::map,
    maps::{Array, HashMap},
};
use twtrace_common::{
    CallResult, Counter, Failed, Failure, FailureKey, Field, Header, Kind, PerCpuFailure,
    failed_flags,
};

use crate::{
    enter,
    maps::{is_noted, note},
    platform::{self, Env, Recent, own_front},
    read::{self, GivesSockets, Pointer, config},
};

/// Failures by place, cause and process, and how the same programs fared otherwise. Each CPU has its
/// own, for want of an atomic addition; a program that interrupts itself there is not run.
#[map]
static FAILURES: HashMap<PerCpuFailure, Failure> = HashMap::with_max_entries(4096, 0);

/// Processes that failed, by namespace in the high half and number.
#[map]
static FAILING: HashMap<u64, Failing> = HashMap::with_max_entries(1024, 0);

/// Whether there ever was one. As long as there is none, a call asks nothing else.
#[map]
static ANY_FAILING: Array<u32> = Array::with_max_entries(1, 0);

/// Calls in progress, by task (kprobe only: a kretprobe has no arguments).
#[map]
static CALLS: Recent<u64, Call> = Recent::with_max_entries(4096, 0);

/// The refused `bind()` calls of a process of which it is not known yet whether one succeeds soon.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Failing {
    /// When the first of them was refused; 0 if none ever was.
    from_ns: u64,
    /// When the last one was.
    refused_ns: u64,
    /// How many there are.
    open: u64,
}

/// Arguments of a call in progress.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Call {
    /// The socket.
    sk: u64,
    /// The port asked for.
    port: u64,
}

/// A program that gets a port within this time was merely looking for one, nanoseconds.
const PATIENCE_NS: u64 = 1_000_000_000;
/// Events a second of one place, cause and process.
const EVENTS_A_SECOND: u16 = 10;
/// `-EADDRNOTAVAIL` as functions return it.
const NOT_AVAILABLE: i32 = -99;
/// `-EADDRINUSE`; `inet_csk_get_port()` returned 1 instead up to 5.16.
const IN_USE: i32 = -98;

/// Keeps the arguments of a call for its return (kprobe).
///
/// The kernel tells no return of calls beyond those it has a place for (see `connecting`), and what was kept
/// for one is still there at the next call.
#[inline(always)]
pub fn remember(env: Env, sk: u64, port: u64) {
    let task = bpf_get_current_pid_tgid();
    if CALLS.get_ptr(task).is_some() {
        env.count(Counter::AnswersMissed);
    }
    if CALLS.insert(task, Call { sk, port }, 0).is_err() {
        env.count(Counter::AnswersMissed);
    }
}

/// The arguments kept for a return (kprobe).
#[inline(always)]
fn recall() -> Option<Call> {
    let task = bpf_get_current_pid_tgid();
    // SAFETY: copied before the entry is removed; no other task has this key.
    let call = unsafe { CALLS.get(task) }.copied()?;
    let _ = CALLS.remove(task);
    Some(call)
}

/// `inet_hash_connect()` or `inet6_hash_connect()` returned, and its arguments were kept (kprobe).
#[inline(always)]
pub fn on_connect_return<C: GivesSockets>(ctx: &C, env: Env, returned: i32) {
    if let Some(call) = recall() {
        on_connect(ctx, env, call.sk, returned);
    }
}

/// `inet_csk_get_port()` returned, and its arguments were kept (kprobe).
#[inline(always)]
pub fn on_bind_return<C: GivesSockets>(ctx: &C, env: Env, returned: i32) {
    if let Some(call) = recall() {
        on_bind(ctx, env, call.sk, call.port as u16, returned);
    }
}

/// `inet_hash_connect(death_row, sk)` or its twin for IPv6 returned.
///
/// Both leave `inet_num` alone when they fail: it is the port that was bound beforehand, or 0
/// (net/ipv4/inet_hashtables.c, read from 4.4 to 6.18).
#[inline(always)]
pub fn on_connect<C: GivesSockets>(ctx: &C, env: Env, sk: u64, returned: i32) {
    if returned != NOT_AVAILABLE {
        tried(env, Pointer::untyped(sk));
    } else if let Some(sk) = ctx.tcp_socket(env, sk) {
        let port = sk.member(env, config!(env, layout.skc_num)) as u16;
        connect_failed(ctx, env, sk, port, true);
    }
}

/// A `connect()` with this port, 0 if it had to choose, got none. `count_try` unless it was counted
/// when it began.
#[inline(always)]
pub fn connect_failed<C: EbpfContext>(ctx: &C, env: Env, sk: Pointer, port: u16, count_try: bool) {
    let result = if port == 0 { CallResult::NoPort } else { CallResult::PortBusy };
    let mut key = begin(env, sk);
    key.key.local_port = port;
    key.key.result = result as u8;
    if !failed(ctx, env, sk, &key, 0) {
        return;
    }
    env.count(Counter::ConnectsFailed);
    if port != 0 {
        env.count(Counter::PortBusy);
    }
    let process = process(key.key.netns, key.key.pid);
    if FAILING.get_ptr(process).is_none() {
        begin_failing(env, process, Failing { from_ns: 0, refused_ns: 0, open: 0 });
    }
    trials(&mut key);
    if count_try || FAILURES.get_ptr(key).is_none() {
        add_or_insert(env, &key, 1);
    }
}

/// A `connect()` goes on, or fails for another reason: counted if its program failed to connect to
/// this peer before.
#[inline(always)]
pub fn tried(env: Env, sk: Pointer) {
    if !is_noted(&ANY_FAILING) {
        return;
    }
    let (netns, pid) = caller(env, sk);
    if FAILING.get_ptr(process(netns, pid)).is_none() {
        return;
    }
    let mut key = begin(env, sk);
    trials(&mut key);
    add(&key, 1);
}

/// Makes it the key of what a program tried.
#[inline(always)]
fn trials(key: &mut PerCpuFailure) {
    key.key.local = [0; 16];
    key.key.local_port = 0;
    key.key.result = CallResult::Tried as u8;
}

/// `inet_csk_get_port(sk, port)` returned; for `bind()`, and for the bind of a `listen()`.
#[inline(always)]
pub fn on_bind<C: GivesSockets>(ctx: &C, env: Env, sk: u64, port: u16, returned: i32) {
    if returned == 0 {
        bound(env, Pointer::untyped(sk));
    } else if (returned == 1 || returned == IN_USE)
        && let Some(sk) = ctx.tcp_socket(env, sk)
    {
        refused(ctx, env, sk, None, port);
    }
}

/// A `bind()` succeeded: were refusals before it a search?
#[inline(always)]
pub fn bound(env: Env, sk: Pointer) {
    if !is_noted(&ANY_FAILING) {
        return;
    }
    let (netns, pid) = caller(env, sk);
    let Some(failing) = FAILING.get_ptr_mut(process(netns, pid)) else { return };
    // SAFETY: null-checked; threads of one process that bind at once share one search.
    let (refused_ns, open) = unsafe { ((*failing).refused_ns, (*failing).open) };
    if refused_ns == 0 {
        return;
    }
    let result = CallResult::Bound as u8;
    let mut key = here(FailureKey { netns, pid, result, ..FailureKey::default() });
    add_or_insert(env, &key, 1);
    if open != 0 {
        // SAFETY: as above.
        unsafe { (*failing).open = 0 };
        // SAFETY: the helper has no preconditions.
        let soon = unsafe { bpf_ktime_get_ns() }.wrapping_sub(refused_ns) <= PATIENCE_NS;
        let result = if soon { CallResult::Answered } else { CallResult::Unanswered };
        key.key.result = result as u8;
        add_or_insert(env, &key, open);
    }
}

/// A `bind()` of this port, 0 for any, was refused. Without an `address` the socket still has it; with one
/// the call is long over, and it is for userspace to tell whether that is this host's.
#[inline(always)]
pub fn refused<C: EbpfContext>(
    ctx: &C,
    env: Env,
    sk: Pointer,
    address: Option<[u8; 16]>,
    port: u16,
) {
    let mut key = begin(env, sk);
    (key.key.remote, key.key.remote_port) = ([0; 16], 0);
    key.key.local_port = port;
    key.key.result = CallResult::AddressInUse as u8;
    let mut flags = 0;
    if let Some(address) = address {
        key.key.local = address;
        flags = failed_flags::INFERRED;
    }
    if !failed(ctx, env, sk, &key, flags) {
        return;
    }
    if address.is_none() {
        env.count(Counter::AddressInUse);
    }
    // SAFETY: the helper has no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    let process = process(key.key.netns, key.key.pid);
    let Some(failing) = FAILING.get_ptr_mut(process) else {
        begin_failing(env, process, Failing { from_ns: now, refused_ns: now, open: 1 });
        return;
    };
    // SAFETY: null-checked; threads of one process that bind at once share one search.
    let (from_ns, open) = unsafe { ((*failing).from_ns, (*failing).open) };
    let late = open != 0 && now.wrapping_sub(from_ns) > PATIENCE_NS;
    // SAFETY: as above.
    unsafe {
        if late || open == 0 {
            (*failing).from_ns = now;
        }
        (*failing).open = if late { 1 } else { open + 1 };
        (*failing).refused_ns = now;
    }
    if late {
        (key.key.local, key.key.local_port) = ([0; 16], 0);
        key.key.result = CallResult::Unanswered as u8;
        add_or_insert(env, &key, open);
    }
}

/// The first failure of a process.
#[inline(always)]
fn begin_failing(env: Env, process: u64, first: Failing) {
    if FAILING.insert(process, first, BPF_NOEXIST.into()).is_err() {
        env.count(Counter::FailuresDropped);
    }
    note(&ANY_FAILING);
}

/// Namespace of a socket, and the process that runs.
#[inline(always)]
fn caller(env: Env, sk: Pointer) -> (u32, u32) {
    let net = sk.follow(env, config!(env, layout.skc_net));
    (read::netns_inum(env, net), (bpf_get_current_pid_tgid() >> 32) as u32)
}

/// What [`FAILING`] knows a process by.
#[inline(always)]
fn process(netns: u32, pid: u32) -> u64 {
    u64::from(netns) << 32 | u64::from(pid)
}

/// The key of what is counted on this CPU.
#[inline(always)]
fn here(key: FailureKey) -> PerCpuFailure {
    // SAFETY: the helper has no preconditions.
    let cpu = unsafe { bpf_get_smp_processor_id() } as u32;
    PerCpuFailure { key, cpu, reserved: 0 }
}

/// The key of what a process does with a socket.
#[inline(always)]
fn begin(env: Env, sk: Pointer) -> PerCpuFailure {
    own_front!(front);
    let mut flow = Default::default();
    let (_family, net) = front.read(env, sk.address, &mut flow);
    let net = sk.followed(env, config!(env, layout.skc_net), net);
    here(FailureKey {
        local: flow.local,
        remote: flow.remote,
        netns: read::netns_inum(env, net),
        pid: (bpf_get_current_pid_tgid() >> 32) as u32,
        local_port: flow.local_port,
        remote_port: flow.remote_port,
        result: 0,
        reserved: [0; 3],
    })
}

/// Adds to a count, if there is one.
#[inline(always)]
fn add(key: &PerCpuFailure, calls: u64) -> bool {
    let Some(failure) = FAILURES.get_ptr_mut(key) else { return false };
    // SAFETY: null-checked; the entry belongs to this CPU.
    unsafe {
        (*failure).count += calls;
        (*failure).last_ns = bpf_ktime_get_ns();
    }
    true
}

/// Adds to a count, which begins if there is none.
#[inline(always)]
fn add_or_insert(env: Env, key: &PerCpuFailure, calls: u64) {
    if add(key, calls) {
        return;
    }
    // SAFETY: the helper has no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    let first = Failure { count: calls, first_ns: now, last_ns: now, ..Failure::default() };
    if FAILURES.insert(key, first, BPF_NOEXIST.into()).is_err() {
        env.count(Counter::FailuresDropped);
    }
}

/// Counts a failed call and sends it, unless enough were sent of late. False if the user did not ask
/// for it.
#[inline(always)]
fn failed<C: EbpfContext>(ctx: &C, env: Env, sk: Pointer, key: &PerCpuFailure, flags: u16) -> bool {
    let mut record = Failed { mono_ns: 0, ..Failed::default() };
    record.flow.local = key.key.local;
    record.flow.remote = key.key.remote;
    record.flow.local_port = key.key.local_port;
    record.flow.remote_port = key.key.remote_port;
    if !read::wanted(env, &record.flow, key.key.netns) {
        return false;
    }
    let net = sk.follow(env, config!(env, layout.skc_net));
    enter::set_port_range(env, &mut record.flow, net);
    let mut flags = flags | platform::thread_kind(env);
    if enter::narrow(env, &mut record.flow, sk) {
        flags |= failed_flags::OWN_RANGE;
    }
    let owner: Field = config!(env, layout.sk_uid);
    record.uid = if owner.exists() {
        sk.member(env, owner) as u32
    } else {
        bpf_get_current_uid_gid() as u32
    };
    record.header = Header { kind: Kind::Failed as u8, state: 0, flags, netns: key.key.netns };
    // SAFETY: the helper has no preconditions.
    record.mono_ns = unsafe { bpf_ktime_get_ns() };
    record.cgroup = enter::cgroup_id(env, sk);
    record.netns_cookie = net.member(env, config!(env, layout.net_cookie));
    platform::process_name(env, &mut record.comm);
    record.pid = key.key.pid;
    record.result = key.key.result;
    record.stands_for = 1;
    if add(key, 1) {
        let Some(failure) = FAILURES.get_ptr_mut(key) else { return true };
        // SAFETY: null-checked; the entry belongs to this CPU.
        unsafe {
            if record.mono_ns.wrapping_sub((*failure).window_ns) >= PATIENCE_NS {
                (*failure).window_ns = record.mono_ns;
                (*failure).sent = 0;
            }
            if (*failure).sent >= EVENTS_A_SECOND {
                (*failure).untold += 1;
                return true;
            }
            (*failure).sent += 1;
            record.stands_for += (*failure).untold;
            (*failure).untold = 0;
        }
    } else {
        let first = Failure {
            count: 1,
            first_ns: record.mono_ns,
            last_ns: record.mono_ns,
            cgroup: record.cgroup,
            comm: record.comm,
            uid: record.uid,
            port_low: record.flow.port_low,
            port_high: record.flow.port_high,
            flags,
            sent: 1,
            untold: 0,
            window_ns: record.mono_ns,
        };
        if FAILURES.insert(key, first, BPF_NOEXIST.into()).is_err() {
            // Counted by cause all the same; the caller does that.
            env.count(Counter::FailuresDropped);
            return true;
        }
    }
    env.send(ctx, &record, Counter::LostFailed);
    true
}
