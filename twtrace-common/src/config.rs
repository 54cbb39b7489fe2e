//! Settings that userspace fixes before the programs load.

use crate::Layout;

/// Most address ranges a session can be narrowed to in the kernel.
pub const MAX_CIDRS: usize = 8;
/// Most kernel functions whose presence on a stack tells why a socket ended.
pub const MAX_CALLERS: usize = 24;

/// One address range of the remote end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct CidrFilter {
    /// Network address, IPv4 as `::ffff:a.b.c.d`, as two words in host order of the address's
    /// big-endian halves; bits outside `mask` are 0.
    pub network: [u64; 2],
    /// Mask over the same two words.
    pub mask: [u64; 2],
}

/// Which sockets are reported; 0 means "any" for each number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Filter {
    /// Inode number of the network namespace.
    pub netns: u32,
    /// Number of `cidrs` in use; with none, every address matches.
    pub cidr_count: u32,
    /// Address family on the wire: `AF_INET` (v4-mapped included) or `AF_INET6`.
    pub family: u16,
    /// Port of the other end.
    pub remote_port: u16,
    /// Port of this end.
    pub local_port: u16,
    /// Always 0.
    pub reserved: u16,
    /// Ranges of which one must hold the remote address.
    pub cidrs: [CidrFilter; MAX_CIDRS],
}

/// A kernel function's code, and what its frame on the stack of an early end means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct CallerRange {
    /// First address of the function.
    pub start: u64,
    /// First address behind it; 0 in an unused slot.
    pub end: u64,
    /// [`EndReason`](crate::EndReason) as a number, or [`CallerRange::REARM`], or
    /// [`CallerRange::PACKET`].
    pub meaning: u32,
    /// Always 0.
    pub reserved: u32,
}

impl CallerRange {
    /// The timer is only being set again: not an end.
    pub const REARM: u32 = 0x100;
    /// Packet receive code called the kill itself: a SYN was accepted on a TIME_WAIT socket, or
    /// a FIN_WAIT2 mini-socket was answered with a RST; the substate tells which.
    pub const PACKET: u32 = 0x101;
}

/// Everything the programs need to know, constant once loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Config {
    /// Where the running kernel keeps its fields.
    pub layout: Layout,
    /// Whether ends are followed (`--no-ends` clears it): 1 or 0.
    pub follow_ends: u32,
    /// Bytes waiting in the ring buffer that are worth waking the reader for.
    pub wakeup_bytes: u32,
    /// Number of `callers` in use.
    pub caller_count: u32,
    /// Always 0.
    pub reserved: u32,
    /// Address of `tw_timer_handler`, by which the timer tracepoints know their timers.
    pub tw_timer_handler: u64,
    /// Kernel functions that name the reason of an early end, first match wins.
    pub callers: [CallerRange; MAX_CALLERS],
    /// Which sockets are reported.
    pub filter: Filter,
}
