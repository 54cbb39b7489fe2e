//! connect() and bind() calls that got no port: the records, and what the kernel programs keep.

use crate::{Flow, Header};

/// What became of a call, as it is counted in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum CallResult {
    /// A `connect()` of a program that failed to connect to this peer before, or does now: all of
    /// them, however they went on. Without the ports and this end's address.
    Tried = 0,
    /// A `connect()` that had to choose a port and found none (`EADDRNOTAVAIL`).
    NoPort = 1,
    /// A `connect()` with a port bound beforehand that another connection to the same peer holds
    /// (`EADDRNOTAVAIL`).
    PortBusy = 2,
    /// A `bind()`, or the bind of a `listen()`, that was refused (`EADDRINUSE`).
    AddressInUse = 3,
    /// A `bind()` that succeeded, of a program that was refused one before. Without addresses.
    Bound = 4,
    /// A refused `bind()` that a successful one of the same program followed within a second.
    /// Without addresses.
    Answered = 5,
    /// A refused `bind()` that none followed so soon. Without addresses. Of the last ones it is not
    /// known yet: they are neither.
    Unanswered = 6,
}

impl CallResult {
    /// The result behind a number of the wire.
    pub const fn from_u8(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Tried,
            1 => Self::NoPort,
            2 => Self::PortBusy,
            3 => Self::AddressInUse,
            4 => Self::Bound,
            5 => Self::Answered,
            6 => Self::Unanswered,
            _ => return None,
        })
    }
}

/// Place, cause and process that failures are counted for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FailureKey {
    /// Address of this end, IPv4 as `::ffff:a.b.c.d`.
    pub local: [u8; 16],
    /// Address of the other end, likewise; 0 of a `bind()`.
    pub remote: [u8; 16],
    /// Inode number of the network namespace.
    pub netns: u32,
    /// Process (thread group) that called, as the initial PID namespace numbers it.
    pub pid: u32,
    /// Port of this end that was asked for; 0 where the kernel had to choose.
    pub local_port: u16,
    /// Port of the other end; 0 of a `bind()`.
    pub remote_port: u16,
    /// A [`CallResult`] as a number.
    pub result: u8,
    /// Always 0.
    pub reserved: [u8; 3],
}

/// [`FailureKey`] of one CPU: no two programs count for the same one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct PerCpuFailure {
    /// Place, cause and process.
    pub key: FailureKey,
    /// Number of the CPU.
    pub cpu: u32,
    /// Always 0.
    pub reserved: u32,
}

/// What is counted for a [`FailureKey`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Failure {
    /// Calls.
    pub count: u64,
    /// `CLOCK_MONOTONIC` of the first, nanoseconds.
    pub first_ns: u64,
    /// `CLOCK_MONOTONIC` of the last, nanoseconds.
    pub last_ns: u64,
    /// Inode number of the control group that owns the socket of the first; 0 when unknown.
    pub cgroup: u64,
    /// Name of the thread that called first, padded with zeroes.
    pub comm: [u8; 16],
    /// Owner of that socket, or of the caller where sockets have none.
    pub uid: u32,
    /// First port that the kernel could choose from.
    pub port_low: u16,
    /// The last one.
    pub port_high: u16,
    /// [`failed_flags`].
    pub flags: u16,
    /// Events sent in the second that began at `window_ns`.
    pub sent: u16,
    /// Calls that no event stands for yet.
    pub untold: u32,
    /// `CLOCK_MONOTONIC` of the start of a second in which events were sent, nanoseconds.
    pub window_ns: u64,
}

/// Flags of [`Failure`] and [`Failed`].
pub mod failed_flags {
    /// The port range is that of the socket (`IP_LOCAL_PORT_RANGE`) within that of its namespace.
    pub const OWN_RANGE: u16 = 1;
    /// A thread of the kernel called, on behalf of whoever owns the socket.
    pub const KERNEL_THREAD: u16 = 1 << 1;
    /// Whether it was a thread of the kernel is not known.
    pub const THREAD_UNKNOWN: u16 = 1 << 2;
    /// The owner is not known: `uid` means nothing.
    pub const OWNER_UNKNOWN: u16 = 1 << 3;
    /// A `bind()` that began and got no port, without its answer: what else than a port in use may have
    /// refused it is not all known.
    pub const INFERRED: u16 = 1 << 4;
}

/// A failed call, or the last of several: more than a few a second of the same place, cause and
/// process are told together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Failed {
    /// Kind, flags and namespace; the state is 0.
    pub header: Header,
    /// `CLOCK_MONOTONIC` of the failure, nanoseconds.
    pub mono_ns: u64,
    /// Inode number of the control group that owns the socket; 0 when unknown.
    pub cgroup: u64,
    /// `net_cookie` of the network namespace; 0 when unknown.
    pub netns_cookie: u64,
    /// Addresses and ports; the local port is the one asked for, 0 where the kernel had to choose.
    pub flow: Flow,
    /// Name of the thread that called, padded with zeroes.
    pub comm: [u8; 16],
    /// Process that called, as the initial PID namespace numbers it.
    pub pid: u32,
    /// Owner of the socket, or of the caller where sockets have none.
    pub uid: u32,
    /// Calls that this event stands for, itself among them.
    pub stands_for: u32,
    /// A [`CallResult`] as a number: one of the failures.
    pub result: u8,
    /// Always 0.
    pub reserved: [u8; 3],
}
