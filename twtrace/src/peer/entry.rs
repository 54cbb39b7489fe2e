//! One entry, as far as a row's past looks at it.

use twtrace_common::PortChoice;

/// What tells the spaces of a row apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpaceKey {
    /// Address of this end, v4-mapped where it is IPv4.
    pub local: [u8; 16],
    /// Who chose the port.
    pub chosen: PortChoice,
    /// First and last port of the range that it was chosen from, 0 where that is its namespace's;
    /// where this end accepted, the port it listens on, twice.
    pub range: (u16, u16),
}

/// One entry, as far as the history looks at it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Entry {
    /// `CLOCK_MONOTONIC` nanoseconds of the entry.
    pub mono_ns: u64,
    /// Whether the peer sends timestamps: the option was negotiated.
    pub with_timestamps: bool,
    /// Whether that is not known after all.
    pub timestamps_unknown: bool,
    /// Whether this end offered timestamps then and the peer sent none.
    pub not_from_peer: bool,
    /// Whether this end offered none.
    pub not_offered: bool,
    /// Whether it holds a port whose fast path is closed, by a reason other than FIN_WAIT2.
    pub blocked: bool,
    /// Whether it entered as a FIN_WAIT2 mini-socket.
    pub fin_wait2: bool,
    /// Whether `connect()` chose the local port.
    pub autobound: bool,
    /// Where its port is scarce.
    pub space: SpaceKey,
    /// Port of this end.
    pub local_port: u16,
    /// Port of the other end.
    pub remote_port: u16,
}

impl Entry {
    /// Whether the peer is known to have sent none.
    pub const fn is_without_timestamps(&self) -> bool {
        !self.with_timestamps && !self.timestamps_unknown
    }
}
