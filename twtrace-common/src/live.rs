//! What the kernel programs keep of each live timewait socket.

use crate::Flow;

/// History of one live timewait socket, by its address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Live {
    /// `CLOCK_MONOTONIC` at entry, nanoseconds; 0 if it was present at the start.
    pub entered_ns: u64,
    /// Jiffies of the first arming.
    pub first_armed: u32,
    /// Jiffies of the last arming.
    pub last_armed: u32,
    /// How often it was armed again.
    pub rearms: u32,
    /// Retransmission timeout at entry, jiffies.
    pub rto: u32,
    /// `ended_flags` gathered so far.
    pub flags: u16,
    /// An `EndReason` announced so far; whatever comes last holds.
    pub reason: u8,
    /// State at entry.
    pub state: u8,
    /// A `PortChoice` as a number.
    pub chosen: u8,
    /// Whether the record of its entry waited for the full socket to close, 1 or 0 (tracepoints
    /// only).
    pub waiting: u8,
    /// Always 0.
    pub reserved: [u8; 2],
    /// Inode number of its network namespace.
    pub netns: u32,
    /// Always 0.
    pub reserved_too: u32,
    /// `net_cookie` of that; 0 when unknown.
    pub netns_cookie: u64,
}

/// A connection within its network namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FlowKey {
    /// Addresses and ports; the port range is 0.
    pub flow: Flow,
    /// Address of the namespace.
    pub net: u64,
}
