//! Sockets that were in TIME_WAIT before the programs were: iterators over all TCP sockets.
//!
//! They walk the network namespace of the task that opens them and see FIN_WAIT2 mini-sockets and
//! TIME_WAIT sockets alike. One, run at the start, begins to follow those that are not followed
//! yet; the other lists them, by which the reader finds out which ends were missed.

use aya_ebpf::{EbpfContext, helpers::bpf_seq_write};
use core::ffi::c_void;
use twtrace_common::{Counter, Entered, Kind, TCP_TIME_WAIT, entered_flags};

use crate::{
    emit, enter,
    maps::{self, CpuState, LIVE, config, count},
    read, timers,
};

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
    if let Some(tw) = timewait_socket(raw) {
        follow(&IteratorContext(raw), tw);
    }
    0
}

/// Likewise, and writes each to the reader: what still lives.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
pub fn iter_tcp_list(raw: *mut c_void) -> i32 {
    if let Some(tw) = timewait_socket(raw)
        && let Some(cpu) = maps::iterator_cpu()
        && describe(cpu, tw)
    {
        cpu.entered.tw = tw;
        // SAFETY: the kernel passes a valid context, whose first member leads to the output.
        let seq = unsafe { (*(*raw.cast::<TcpIterator>()).meta).seq };
        // SAFETY: the record lives in this CPU's scratch space during the call.
        unsafe {
            bpf_seq_write(seq.cast(), (&raw const cpu.entered).cast(), size_of::<Entered>() as u32)
        };
    }
    0
}

/// The timewait socket an iterator is called for, if it is one.
#[inline(always)]
fn timewait_socket(raw: *mut c_void) -> Option<u64> {
    // SAFETY: the kernel passes a valid context; its second member is a pointer or null.
    let socket = unsafe { (*raw.cast::<TcpIterator>()).socket };
    if socket.is_null() {
        return None;
    }
    let state = read::field(socket as u64, config!(layout.skc_state));
    (state == u64::from(TCP_TIME_WAIT)).then_some(socket as u64)
}

/// Starts to follow a timewait socket, unless it is followed already.
#[inline(always)]
fn follow(ctx: &IteratorContext, tw: u64) {
    // SAFETY: the value is not read through the reference.
    if unsafe { LIVE.get(tw) }.is_some() {
        return;
    }
    let Some(cpu) = maps::iterator_cpu() else { return };
    if !describe(cpu, tw) {
        return;
    }
    enter::track(ctx, cpu, tw);
    count(Counter::Present);
    emit::send(&cpu.entered, Counter::LostPresent);
}

/// Puts together the record of a timewait socket in place; false if the user did not ask for it.
#[inline(always)]
fn describe(cpu: &mut CpuState, tw: u64) -> bool {
    read::common(cpu, tw);
    let state = read::field(tw, config!(layout.tw_substate)) as u8;
    if !enter::begin(cpu, Kind::Present, state) {
        return false;
    }
    let timer = tw.wrapping_add(u64::from(config!(layout.tw_timer.offset)));
    cpu.entered.armed = timers::jiffies_left(timer);
    cpu.entered.ts_recent_stamp = read::signed(tw, config!(layout.tw_ts_recent_stamp));
    if enter::autobound(read::field(tw, config!(layout.tw_tb))) {
        cpu.entered.header.flags |= entered_flags::AUTOBOUND;
    }
    true
}
