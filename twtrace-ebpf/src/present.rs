//! Sockets that were in TIME_WAIT before the programs were: iterators over all TCP sockets.
//!
//! They walk the network namespace of the task that opens them, those that listen first, and see
//! FIN_WAIT2 mini-sockets and TIME_WAIT sockets alike. One, run at the start, begins to follow those that are not followed
//! yet; the other lists them, by which the reader finds out which ends were missed.
//!
//! Whether a socket was accepted is not always to be seen from it alone. The first that follows writes those
//! it has put aside until it has met all, and is then run again.

use aya_ebpf::{
    EbpfContext,
    bindings::BPF_F_NO_PREALLOC,
    helpers::bpf_seq_write,
    macros::map,
    maps::{HashMap, LruHashMap},
};
use core::ffi::c_void;
use twtrace_common::{
    Counter, Entered, Field, Kind, PortChoice, TCP_LISTEN, TCP_TIME_WAIT, entered_flags,
};

use crate::{
    enter,
    maps::{LIVE, made},
    platform::{self, Env, Scratch, Slot, Timewait},
    read::{self, Pointer, config},
};

/// Ports that a program listened on when its namespace was walked, as [`listening`] calls them: what is in
/// TIME_WAIT with such a port was accepted, which nothing else tells once the full socket is gone.
#[map]
static LISTENING: LruHashMap<u64, u32> = LruHashMap::with_max_entries(16_384, 0);

/// What [`LISTENING`] knows a port of a network namespace by.
#[inline(always)]
fn listening(netns: u32, port: u16) -> u64 {
    u64::from(netns) << 16 | u64::from(port)
}

/// One port of a peer in a network namespace.
#[derive(Clone, Copy)]
#[repr(C)]
struct PeerPort {
    remote: [u8; 16],
    netns: u32,
    port: u32,
}

/// The first port of this end that was met with a port of a peer, and [`SEVERAL`] if there was another:
/// who has several ports towards one of a peer connected, as nobody is called by one port on many.
#[map]
static TOWARDS: HashMap<PeerPort, u32> = HashMap::with_max_entries(16_384, BPF_F_NO_PREALLOC);

/// Flag beside the port in [`TOWARDS`].
const SEVERAL: u32 = 1 << 16;

/// `struct bpf_iter__tcp`, net/ipv4/tcp_ipv4.c: its layout is part of the BPF interface.
#[repr(C)]
struct TcpIterator {
    meta: *const IteratorMeta,
    socket: *const c_void,
}

/// `struct bpf_iter_meta`, include/linux/bpf.h.
#[repr(C)]
struct IteratorMeta {
    seq: *mut c_void,
}

/// A context of the iterator, so that diagnostics can be logged.
struct IteratorContext(*mut c_void);

impl EbpfContext for IteratorContext {
    fn as_ptr(&self) -> *mut c_void {
        self.0
    }
}

/// Called for each TCP socket of the namespace, and once more with none: follows those in place.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
pub fn iter_tcp_follow(raw: *mut c_void) -> i32 {
    let Some(env) = Env::get() else { return 0 };
    if let Some(tw) = timewait_socket(env, raw) {
        follow(&IteratorContext(raw), env, tw);
    }
    0
}

/// Likewise, and writes the address of each to the reader: what still lives.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
pub fn iter_tcp_list(raw: *mut c_void) -> i32 {
    if let Some(env) = Env::get()
        && let Some(tw) = timewait_socket(env, raw)
    {
        list(raw, env, tw);
    }
    0
}

/// The timewait socket an iterator is called for, if it is one. Takes note of one that listens.
#[inline(always)]
fn timewait_socket(env: Env, raw: *mut c_void) -> Option<u64> {
    // SAFETY: the kernel passes a valid context; its second member is a pointer or null.
    let socket = unsafe { (*raw.cast::<TcpIterator>()).socket };
    if socket.is_null() {
        return None;
    }
    let socket = socket as u64;
    let state = read::field(env, socket, config!(env, layout.skc_state)) as u8;
    if state == TCP_LISTEN {
        let net = read::field(env, socket, config!(env, layout.skc_net));
        let netns = read::netns_inum(env, Pointer::untyped(net));
        let port = read::field(env, socket, config!(env, layout.skc_num)) as u16;
        made(env, LISTENING.insert(listening(netns, port), 1, 0));
    }
    (state == TCP_TIME_WAIT).then_some(socket)
}

/// Starts to follow a timewait socket, unless it is followed already.
#[inline(always)]
fn follow(ctx: &IteratorContext, env: Env, tw: u64) {
    // SAFETY: the value is not read through the reference.
    if unsafe { LIVE.get(tw) }.is_some() {
        return;
    }
    let Some(scratch) = env.scratch(Slot::Iterator) else { return };
    if !describe(env, scratch, tw) {
        return;
    }
    let entered = &mut scratch.entered;
    if !settle(entered) {
        return write(ctx.0, entered);
    }
    enter::track(ctx, env, entered, tw, false);
    env.count(Counter::Present);
    env.send(ctx, entered, Counter::LostPresent);
}

/// Writes the record of a timewait socket to the reader.
#[inline(always)]
fn list(raw: *mut c_void, env: Env, tw: u64) {
    let Some(scratch) = env.scratch(Slot::Iterator) else { return };
    if !describe(env, scratch, tw) {
        return;
    }
    let entered = &mut scratch.entered;
    entered.tw = tw;
    settle(entered);
    write(raw, entered);
}

/// Writes a record to the reader.
#[inline(always)]
fn write(raw: *mut c_void, entered: &Entered) {
    // SAFETY: the kernel passes a valid context, whose first member leads to the output.
    let seq = unsafe { (*(*raw.cast::<TcpIterator>()).meta).seq };
    // SAFETY: the record lives in this CPU's scratch space during the call.
    unsafe {
        bpf_seq_write(
            seq.cast(),
            (&raw const *entered).cast_mut().cast(),
            size_of::<Entered>() as u32,
        )
    };
}

/// Puts together the record of a timewait socket in place; false if the user did not ask for it.
#[inline(always)]
fn describe(env: Env, scratch: &mut Scratch, tw: u64) -> bool {
    let (entered, timewait) = (&mut scratch.entered, &mut scratch.timewait);
    let (family, net) = timewait.read(env, tw, &mut entered.flow);
    let state = timewait.member(env, tw, config!(env, layout.tw_substate)) as u8;
    if !enter::begin(env, entered, (family, Pointer::untyped(net)), Kind::Present, state) {
        return false;
    }
    let timer = tw.wrapping_add(u64::from(config!(env, layout.tw_timer.offset)));
    entered.armed = platform::jiffies_left(env, timer);
    add_timewait(env, entered, timewait, tw);
    true
}

/// Finds out who chose the port of a socket that does not tell, where another one does; false if it may yet
/// be met.
#[inline(always)]
fn settle(entered: &mut Entered) -> bool {
    let (netns, flow) = (entered.header.netns, entered.flow);
    if entered.chosen != PortChoice::Unknown as u8 {
        return true;
    }
    if LISTENING.get_ptr(listening(netns, flow.local_port)).is_some() {
        entered.chosen = PortChoice::Accepted as u8;
        return true;
    }
    let ephemeral = |port: u16| (flow.port_low..=flow.port_high).contains(&port);
    let is_ephemeral = ephemeral(flow.local_port);
    if is_ephemeral && !ephemeral(flow.remote_port) {
        return true;
    }
    let towards = PeerPort { remote: flow.remote, netns, port: flow.remote_port.into() };
    let port = u32::from(flow.local_port);
    let Some(met) = TOWARDS.get_ptr_mut(towards) else {
        // Where there is no room for it, it is none of few.
        return TOWARDS.insert(towards, port, 0).is_err();
    };
    // SAFETY: entries are never deleted, and one walk is at work at a time; an update lost to another
    // would be made again by the next socket.
    let met = unsafe { &mut *met };
    if *met & !SEVERAL != port {
        *met |= SEVERAL;
    }
    if *met & SEVERAL != 0 {
        let choice = if is_ephemeral { PortChoice::Bind } else { PortChoice::Program };
        entered.chosen = choice as u8;
    }
    true
}

/// Adds to the entry in progress what a timewait socket, copied, still knows of the full one, when that
/// is gone or not at hand.
#[inline(always)]
pub fn add_timewait(env: Env, entered: &mut Entered, timewait: &Timewait, tw: u64) {
    let member = |field| timewait.member(env, tw, field);
    let stamp: Field = config!(env, layout.tw_ts_recent_stamp);
    entered.ts_recent_stamp = read::extend(member(stamp), stamp);
    let bound = member(config!(env, layout.skc_bound_dev_if));
    enter::add_common(entered, bound, member(config!(env, layout.skc_reuse)));
    entered.header.flags |= entered_flags::NEGOTIATED_UNKNOWN;
    if member(config!(env, layout.tw_connect_bind)) != 0
        || enter::autobound(env, Pointer::untyped(member(config!(env, layout.tw_tb))))
    {
        entered.chosen = PortChoice::Connect as u8;
    }
}
