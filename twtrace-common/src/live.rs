//! What the kernel programs keep of each live timewait socket.

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
    /// Always 0.
    pub reserved: u32,
}
