//! Settings that userspace fixes before the programs load.

use crate::Layout;

/// Most address ranges a session can be narrowed to in the kernel.
pub const MAX_CIDRS: usize = 8;
/// Most kernel functions whose presence on a stack tells why a socket ended; a power of two, because
/// they are searched by halves.
pub const MAX_CALLERS: usize = 32;

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
    /// First address of the function; the highest there is in an unused slot.
    pub start: u64,
    /// First address behind it; 0 in an unused slot.
    pub end: u64,
    /// [`EndReason`](crate::EndReason) as a number, or [`CallerRange::REARM`],
    /// [`CallerRange::PACKET`] or [`CallerRange::MOVE`].
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
    /// The timers of a CPU that goes offline are moved to another one: nothing happens to the socket.
    pub const MOVE: u32 = 0x102;
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
    /// Bytes from a timewait socket to what `tw_timer_handler()` is called with: 0 up to Linux
    /// 4.14, where that is the socket; [`Config::UNKNOWN`] if not known.
    pub timer_argument: u32,
    /// [`entered_flags`](crate::entered_flags) that each entry has: what this session cannot know.
    pub unknown: u16,
    /// First and last port of `ip_local_port_range` where the namespace's own cannot be read.
    pub port_low: u16,
    /// The last one.
    pub port_high: u16,
    /// Always 0.
    pub reserved: [u16; 3],
    /// Address of `sysctl_tcp_tw_reuse` where it is global (before 4.10), 0 elsewhere.
    pub tcp_tw_reuse: u64,
    /// Address of `sysctl_tcp_timestamps` where it is global (before 4.13), 0 elsewhere.
    pub tcp_timestamps: u64,
    /// Address of `tcp_death_row` where it is global (before 4.11), 0 elsewhere.
    pub tcp_death_row: u64,
    /// Address of `tw_timer_handler`, by which the timer tracepoints know their timers.
    pub tw_timer_handler: u64,
    /// Kernel functions that name the reason of an early end, by address; the unused slots follow.
    pub callers: [CallerRange; MAX_CALLERS],
    /// Which sockets are reported.
    pub filter: Filter,
}

impl Config {
    /// A distance that is not known.
    pub const UNKNOWN: u32 = u32::MAX;
}
