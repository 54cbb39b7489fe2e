//! The records that travel from the kernel programs to userspace.
//!
//! Host byte order throughout. Every record starts with a [`Header`]; recordings keep these bytes
//! as they are, so a change of meaning raises [`ABI`](crate::ABI).

use core::mem::{offset_of, size_of};

use crate::{Failed, Failure, FailureKey, PerCpuFailure};

/// What a record is about; the first byte of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// [`Entered`]: `tcp_time_wait()` was called.
    Entered = 1,
    /// [`Entered`]: the socket was there before the programs were.
    Present = 2,
    /// [`Ended`].
    Ended = 3,
    /// [`Failed`]: a `connect()` or `bind()` got no port.
    Failed = 4,
}

/// Start of every record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Header {
    /// A [`Kind`] as a number.
    pub kind: u8,
    /// `TCP_TIME_WAIT` (6) or `TCP_FIN_WAIT2` (5): at entry the second argument of
    /// `tcp_time_wait()`, at the end the substate.
    pub state: u8,
    /// [`entered_flags`] or [`ended_flags`], by kind.
    pub flags: u16,
    /// Inode number of the network namespace.
    pub netns: u32,
}

/// Both ends of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Flow {
    /// Address of this end in network byte order; IPv4 as `::ffff:a.b.c.d`.
    pub local: [u8; 16],
    /// Address of the other end, likewise.
    pub remote: [u8; 16],
    /// Port of this end.
    pub local_port: u16,
    /// Port of the other end.
    pub remote_port: u16,
    /// First port of the namespace's `ip_local_port_range`.
    pub port_low: u16,
    /// Last port of that range.
    pub port_high: u16,
}

/// Flags of [`Entered`]. Bit 1 was [`PortChoice::Connect`] in records of version 1.
pub mod entered_flags {
    /// The timestamps option was negotiated (`tstamp_ok`).
    pub const TSTAMP_OK: u16 = 1;
    /// No TIME_WAIT socket could be allocated; the connection simply closed.
    pub const OVERFLOW: u16 = 1 << 2;
    /// Beyond the cap of the live map: the end will carry no lifetime.
    pub const UNTRACKED: u16 = 1 << 3;
    /// An end will be reported for this socket.
    pub const FOLLOWED: u16 = 1 << 4;
    /// For a socket that was there at the start: somebody saw its entry, and `mono_ns` is that
    /// moment.
    pub const ENTRY_KNOWN: u16 = 1 << 5;
    /// Whether the connection had timestamps is not known: `ts_recent_stamp` and
    /// [`TSTAMP_OK`] mean nothing.
    pub const TIMESTAMPS_UNKNOWN: u16 = 1 << 6;
    /// The namespace's settings are not known: the sysctls mean nothing.
    pub const SETTINGS_UNKNOWN: u16 = 1 << 7;
    /// The owner is not known: `uid` means nothing.
    pub const OWNER_UNKNOWN: u16 = 1 << 8;
    /// The port range in the flow is that of the socket (`IP_LOCAL_PORT_RANGE`, Linux 6.3 on) within
    /// that of its namespace.
    pub const OWN_RANGE: u16 = 1 << 9;
    /// Whether the timestamps option was negotiated is not known: [`TSTAMP_OK`] means nothing.
    /// `ts_recent_stamp` does, unless [`TIMESTAMPS_UNKNOWN`] is there as well.
    pub const NEGOTIATED_UNKNOWN: u16 = 1 << 10;
    /// The entry was missed and the socket found later, by looking at those that live: the time of
    /// the entry is what its timer tells.
    pub const ADOPTED: u16 = 1 << 11;
    /// The socket was bound to the loopback device, which `tcp_tw_reuse=2` takes for loopback
    /// whatever the addresses.
    pub const LOOPBACK_DEVICE: u16 = 1 << 12;
    /// `tcp_tw_reuse=2` is no different from 1, as before Linux 4.19.
    pub const TWO_IS_ON: u16 = 1 << 14;
    /// `connect()` did not choose the port, and the socket does not show who did: `bind()` of any address and
    /// port 0 fixes neither, and a listener without a backlog leaves none. Only where the kernel notes what
    /// `connect()` chose (`tw_connect_bind`, 6.18 on).
    pub const NOT_CONNECT: u16 = 1 << 15;
    /// The socket had `SO_REUSEADDR`: `bind()` of another one that has it too is not refused for
    /// this one's sake.
    pub const REUSEADDR: u16 = 1 << 13;
}

/// Who chose the local port of a connection, which tells the client from the server as well.
///
/// `tcp_v4_connect()`, `__inet_bind()` and `sk_clone_lock()`, read from 4.9 to 6.18.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PortChoice {
    /// Not known.
    #[default]
    Unknown = 0,
    /// `connect()`: the port is held for this peer alone.
    Connect = 1,
    /// `bind(address, 0)`: the port is held for all peers.
    Bind = 2,
    /// The program, which named it to `bind()`.
    Program = 3,
    /// Nobody: the connection was accepted, and the port is the listener's.
    Accepted = 4,
}

impl PortChoice {
    /// The choice behind a number of the wire; [`PortChoice::Unknown`] for any other.
    pub const fn from_u8(number: u8) -> Self {
        match number {
            1 => Self::Connect,
            2 => Self::Bind,
            3 => Self::Program,
            4 => Self::Accepted,
            _ => Self::Unknown,
        }
    }
}

/// Flags of [`Ended`]. Bit 1 was [`PortChoice::Connect`] in records of version 1.
pub mod ended_flags {
    /// Was a FIN_WAIT2 mini-socket first and then became TIME_WAIT.
    pub const PROMOTED: u16 = 1;
    /// The socket was there before the programs were; its lifetime is unknown.
    pub const PRESENT: u16 = 1 << 2;
    /// Beyond the cap of the live map; its lifetime is unknown.
    pub const UNTRACKED: u16 = 1 << 3;
    /// The taking `connect()` had its port bound beforehand.
    pub const BOUND: u16 = 1 << 4;
    /// The reason was concluded from the caller's stack, not seen by a hook of its own.
    pub const INFERRED: u16 = 1 << 5;
}

/// One call of `tcp_time_wait()`, or one socket found in place at the start.
///
/// Fields that this kernel or backend cannot know are 0; each says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Entered {
    /// Kind, state, flags and namespace.
    pub header: Header,
    /// Nanoseconds of `CLOCK_MONOTONIC` at the call; together with `tw` the socket's identity.
    pub mono_ns: u64,
    /// Address of the timewait socket; 0 where none exists or ends are not followed.
    pub tw: u64,
    /// When the last timestamp of the peer was recorded, in the kernel's seconds; 0 means that
    /// it never sent one on this connection. This is what the kernel decides by.
    pub ts_recent_stamp: i64,
    /// Inode number of the owner's control group; 0 when unknown.
    pub cgroup: u64,
    /// Addresses and ports.
    pub flow: Flow,
    /// Third argument of `tcp_time_wait()`, jiffies: not what the timer is armed with.
    pub timeo: u32,
    /// What the timer was armed with, jiffies; 0 when not seen. For a socket that was present at
    /// the start, what was left of it.
    pub armed: u32,
    /// Retransmission timeout, jiffies; 0 when unknown.
    pub rto: u32,
    /// Owner's uid.
    pub uid: u32,
    /// Address family of the socket itself: a v4-mapped peer has `AF_INET6` here.
    pub family: u16,
    /// `net.ipv4.tcp_tw_reuse` of the namespace at that moment.
    pub tcp_tw_reuse: u8,
    /// `net.ipv4.tcp_timestamps` of the namespace at that moment.
    pub tcp_timestamps: u8,
    /// `net.ipv4.tcp_tw_recycle` at that moment; 0 where it does not exist.
    pub tcp_tw_recycle: u8,
    /// A [`PortChoice`] as a number.
    pub chosen: u8,
    /// Always 0.
    pub reserved: [u8; 2],
    /// `net_cookie` of the network namespace, which no other one ever has; 0 when unknown, as
    /// mostly before Linux 5.12.
    pub netns_cookie: u64,
}

/// Why a timewait socket ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum EndReason {
    /// No hook saw why.
    Unknown = 0,
    /// Its timer ran out.
    Expired = 1,
    /// An outgoing `connect()` took its port over (`TWRecycled`).
    Reused = 2,
    /// A new SYN of the peer was accepted on it.
    Replaced = 3,
    /// A RST ended it, or it answered unexpected data with one.
    Killed = 4,
    /// Its network namespace was deleted.
    Purged = 5,
    /// An administrator destroyed it (`ss -K`).
    Aborted = 6,
}

impl EndReason {
    /// The reason behind a number of the wire; [`EndReason::Unknown`] for any other.
    pub const fn from_u8(number: u8) -> Self {
        match number {
            1 => Self::Expired,
            2 => Self::Reused,
            3 => Self::Replaced,
            4 => Self::Killed,
            5 => Self::Purged,
            6 => Self::Aborted,
            _ => Self::Unknown,
        }
    }
}

/// The end of one timewait socket, with the history of its timer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Ended {
    /// Kind, substate, flags and namespace.
    pub header: Header,
    /// Nanoseconds of `CLOCK_MONOTONIC` at the end.
    pub mono_ns: u64,
    /// Address the timewait socket had.
    pub tw: u64,
    /// `mono_ns` of its entry; 0 when the entry was not seen.
    pub entered_ns: u64,
    /// Addresses and ports.
    pub flow: Flow,
    /// What the timer was first armed with, jiffies; 0 when not seen.
    pub first_armed: u32,
    /// What it was last armed with, jiffies; 0 when not seen.
    pub last_armed: u32,
    /// Times the timer was set again.
    pub rearms: u32,
    /// Retransmission timeout at entry, jiffies; 0 when unknown.
    pub rto: u32,
    /// An [`EndReason`] as a number.
    pub reason: u8,
    /// A [`PortChoice`] as a number, as it was at the entry.
    pub chosen: u8,
    /// Always 0.
    pub reserved: [u8; 6],
    /// `net_cookie` of the network namespace; 0 when unknown.
    pub netns_cookie: u64,
}

/// Why an outgoing `connect()` could not take a TIME_WAIT socket's port over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RefusalReason {
    /// `ts_recent_stamp` is 0: the peer never sent a timestamp.
    NoTimestamps = 0,
    /// `tcp_tw_reuse` is 0.
    ReuseOff = 1,
    /// `tcp_tw_reuse` is 2 and this is not loopback.
    LoopbackOnly = 2,
    /// It is still a FIN_WAIT2 mini-socket.
    FinWait2 = 3,
    /// Younger than the reuse delay.
    TooYoung = 4,
}

/// Peer and reason that refusals are counted for.
///
/// The reason is in the key because verifiers before 4.9 allow no variable index into a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct RefusalKey {
    /// Address of the other end, IPv4 as `::ffff:a.b.c.d`.
    pub remote: [u8; 16],
    /// Inode number of the network namespace.
    pub netns: u32,
    /// Port of the other end.
    pub remote_port: u16,
    /// A [`RefusalReason`] as a number; 0 where counts of all reasons follow.
    pub reason: u16,
}

/// Refusals by [`RefusalReason`], in its order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Refusals {
    /// One count a reason.
    pub by_reason: [u64; 5],
}

/// [`RefusalKey`] of one CPU, for kernels without per-CPU maps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct PerCpuRefusal {
    /// Peer and reason.
    pub key: RefusalKey,
    /// Number of the CPU.
    pub cpu: u32,
    /// Always 0.
    pub reserved: u32,
}

/// A record that can be taken from and written as bytes.
///
/// # Safety
/// Implementers are `repr(C)`, have no padding and accept every bit pattern.
pub unsafe trait Decode: Copy {
    /// Copies a record out of `bytes`, which need no alignment; `None` if they are too few.
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < size_of::<Self>() {
            return None;
        }
        // SAFETY: there are enough bytes, and any bit pattern is a valid record.
        Some(unsafe { bytes.as_ptr().cast::<Self>().read_unaligned() })
    }

    /// The record's bytes.
    fn as_bytes(&self) -> &[u8] {
        // SAFETY: the record has no padding, so each of its bytes is initialised.
        unsafe { core::slice::from_raw_parts((&raw const *self).cast::<u8>(), size_of::<Self>()) }
    }
}

macro_rules! decode {
    ($($record:ident: $($field:ident $size:literal)+;)*) => {$(
        // SAFETY: repr(C), integers only; the assertion proves that the fields leave no gap.
        unsafe impl Decode for $record {}
        const _: () = assert!(size_of::<$record>() == 0 $(+ $size)+, "hidden padding");
        const _: () = assert!(size_of::<$record>() % 8 == 0, "the buffers align to 8");
        const _: () = { $(let _ = offset_of!($record, $field);)+ };
    )*};
}

decode! {
    Header: kind 1 state 1 flags 2 netns 4;
    Flow: local 16 remote 16 local_port 2 remote_port 2 port_low 2 port_high 2;
    Entered: header 8 mono_ns 8 tw 8 ts_recent_stamp 8 cgroup 8 flow 40 timeo 4 armed 4 rto 4
        uid 4 family 2 tcp_tw_reuse 1 tcp_timestamps 1 tcp_tw_recycle 1 chosen 1 reserved 2
        netns_cookie 8;
    Ended: header 8 mono_ns 8 tw 8 entered_ns 8 flow 40 first_armed 4 last_armed 4 rearms 4 rto 4
        reason 1 chosen 1 reserved 6 netns_cookie 8;
    RefusalKey: remote 16 netns 4 remote_port 2 reason 2;
    PerCpuRefusal: key 24 cpu 4 reserved 4;
    Refusals: by_reason 40;
    FailureKey: local 16 remote 16 netns 4 pid 4 local_port 2 remote_port 2 result 1 reserved 3;
    PerCpuFailure: key 48 cpu 4 reserved 4;
    Failure: count 8 first_ns 8 last_ns 8 cgroup 8 comm 16 uid 4 port_low 2 port_high 2 flags 2
        sent 2 untold 4 window_ns 8;
    Failed: header 8 mono_ns 8 cgroup 8 netns_cookie 8 flow 40 comm 16 pid 4 uid 4 stands_for 4
        result 1 reserved 3;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_the_trip_through_bytes_at_any_alignment() {
        let ended = Ended {
            header: Header { kind: Kind::Ended as u8, state: 6, flags: 3, netns: 7 },
            mono_ns: 1 << 40,
            reason: EndReason::Replaced as u8,
            ..Ended::default()
        };
        let mut shifted = [0_u8; size_of::<Ended>() + 1];
        shifted[1..].copy_from_slice(ended.as_bytes());
        assert_eq!(Ended::from_bytes(&shifted[1..]), Some(ended));
        assert_eq!(Ended::from_bytes(&shifted[2..]), None, "one byte short");
    }

    #[test]
    fn the_bytes_of_an_entry_are_pinned() {
        let entered = Entered {
            header: Header { kind: Kind::Entered as u8, state: 5, flags: 0x0201, netns: 0x04 },
            mono_ns: 0x11,
            tcp_tw_reuse: 2,
            ..Entered::default()
        };
        let bytes = entered.as_bytes();
        assert_eq!(bytes.len(), 112);
        assert_eq!(bytes[..9], [1, 5, 1, 2, 4, 0, 0, 0, 0x11]);
        assert_eq!(bytes[98], 2);
    }
}
