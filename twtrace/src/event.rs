//! Typed events, decoded from the wire records of the kernel programs or of a recording.

use std::net::IpAddr;

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use twtrace_common::{
    Decode, EndReason, Ended, Entered, Flow, Header, Kind, ended_flags, entered_flags,
};

/// One thing that happened to one timewait socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// `tcp_time_wait()` was called.
    Entered(Entered),
    /// The socket was there when the session began.
    Present(Entered),
    /// It ended.
    Ended(Ended),
}

/// A record that could not be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a record of {len} bytes and kind {kind} is not one of this version")]
pub struct Undecodable {
    /// Bytes of the record.
    pub len: usize,
    /// First byte of it, 0 if there is none.
    pub kind: u8,
}

impl Event {
    /// Decodes one record.
    ///
    /// # Errors
    /// [`Undecodable`] if the kind is unknown or there are fewer bytes than its record has.
    pub fn decode(record: &[u8]) -> Result<Self, Undecodable> {
        let kind = record.first().copied().unwrap_or(0);
        let event = if kind == Kind::Entered as u8 {
            Entered::from_bytes(record).map(Self::Entered)
        } else if kind == Kind::Present as u8 {
            Entered::from_bytes(record).map(Self::Present)
        } else if kind == Kind::Ended as u8 {
            Ended::from_bytes(record).map(Self::Ended)
        } else {
            None
        };
        event.ok_or(Undecodable { len: record.len(), kind })
    }

    /// Addresses and ports.
    pub fn flow(&self) -> &Flow {
        match self {
            Self::Entered(event) | Self::Present(event) => &event.flow,
            Self::Ended(event) => &event.flow,
        }
    }

    /// Kind, state, flags and namespace.
    pub fn header(&self) -> &Header {
        match self {
            Self::Entered(event) | Self::Present(event) => &event.header,
            Self::Ended(event) => &event.header,
        }
    }

    /// `CLOCK_MONOTONIC` of the event, nanoseconds.
    pub fn mono_ns(&self) -> u64 {
        match self {
            Self::Entered(event) | Self::Present(event) => event.mono_ns,
            Self::Ended(event) => event.mono_ns,
        }
    }

    /// Which end of the connection this host was.
    pub fn role(&self) -> Role {
        let autobound = match self {
            Self::Entered(_) | Self::Present(_) => {
                self.header().flags & entered_flags::AUTOBOUND != 0
            }
            Self::Ended(_) => self.header().flags & ended_flags::AUTOBOUND != 0,
        };
        Role::of(self.flow(), autobound)
    }
}

/// Which end of a connection this host was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It connected: its port comes from the ephemeral range.
    Client,
    /// It listened.
    Server,
}

impl Role {
    /// Tells the client from the server.
    ///
    /// `connect()` marks the ports it picks by itself, which settles it. Otherwise the local port
    /// decides by the namespace's `ip_local_port_range`; with both ports in the range and none
    /// picked by `connect()`, this end listens on a high port.
    pub fn of(flow: &Flow, autobound: bool) -> Self {
        let range = match (flow.port_low, flow.port_high) {
            (0, 0) => DEFAULT_PORT_RANGE,
            (low, high) => low..=high,
        };
        if autobound || (range.contains(&flow.local_port) && !range.contains(&flow.remote_port)) {
            Self::Client
        } else {
            Self::Server
        }
    }

    /// `client` or `server`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}

/// `ip_local_port_range` since Linux 4.2; used where a record does not carry the namespace's own.
const DEFAULT_PORT_RANGE: std::ops::RangeInclusive<u16> = 32_768..=60_999;

/// The address behind sixteen bytes of the wire; v4-mapped ones come out as IPv4.
pub fn ip(bytes: [u8; 16]) -> IpAddr {
    IpAddr::from(bytes).to_canonical()
}

/// Whether an address is one that `tcp_tw_reuse=2` lets take ports over.
pub fn is_loopback(bytes: [u8; 16]) -> bool {
    ip(bytes).is_loopback()
}

/// Whether an entry tells whose the socket was: one that was there at the start does not, nor does
/// one on a kernel whose sockets do not have it or whose types are unknown.
pub fn owner_is_known(entered: &Entered) -> bool {
    entered.header.flags & entered_flags::OWNER_UNKNOWN == 0
        && (entered.rto != 0 || entered.cgroup != 0 || entered.uid != 0)
}

/// The reason an end was reported with.
pub fn end_reason(ended: &Ended) -> EndReason {
    EndReason::from_u8(ended.reason)
}

/// Records on their way from a source to whoever counts or keeps them: each with its length
/// in front, as a recording stores them.
#[derive(Debug, Default)]
pub struct BatchBuilder {
    bytes: BytesMut,
    records: usize,
}

impl BatchBuilder {
    /// Appends a record.
    pub fn push(&mut self, record: &[u8]) {
        debug_assert!(record.len() <= usize::from(u16::MAX), "wire records are small");
        self.bytes.put_u16_le(record.len() as u16);
        self.bytes.put_slice(record);
        self.records += 1;
    }

    /// Number of records so far.
    pub fn len(&self) -> usize {
        self.records
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Takes the batch out; the memory is used again once the batch is dropped.
    pub fn take(&mut self) -> Batch {
        self.records = 0;
        Batch { bytes: self.bytes.split().freeze() }
    }
}

/// A number of records.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    bytes: Bytes,
}

impl Batch {
    /// A batch as a recording has it: each record with its length in front.
    pub const fn from_bytes(bytes: Bytes) -> Self {
        Self { bytes }
    }

    /// The records as a recording stores them.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The records, undecoded and in order.
    pub fn records(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest: &[u8] = &self.bytes;
        std::iter::from_fn(move || {
            let (length, behind) = rest.split_first_chunk::<2>()?;
            let (record, behind) = behind.split_at_checked(u16::from_le_bytes(*length).into())?;
            rest = behind;
            Some(record)
        })
    }

    /// Whether the last record is whole.
    pub fn is_whole(&self) -> bool {
        self.records().map(|record| record.len() + 2).sum::<usize>() == self.bytes.len()
    }

    /// The records, decoded.
    pub fn events(&self) -> impl Iterator<Item = Result<Event, Undecodable>> {
        self.records().map(Event::decode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(local_port: u16, remote_port: u16) -> Flow {
        Flow { local_port, remote_port, port_low: 32_768, port_high: 60_999, ..Flow::default() }
    }

    #[test]
    fn the_ephemeral_end_is_the_client() {
        assert_eq!(Role::of(&flow(40_000, 80), false), Role::Client);
        assert_eq!(Role::of(&flow(80, 40_000), false), Role::Server);
        assert_eq!(Role::of(&flow(32_768, 80), false), Role::Client, "lowest port of the range");
        assert_eq!(Role::of(&flow(60_999, 80), false), Role::Client, "highest port of the range");
        assert_eq!(Role::of(&flow(61_000, 80), false), Role::Server, "one above it");
    }

    #[test]
    fn with_both_ports_in_the_range_only_connects_own_choice_makes_a_client() {
        assert_eq!(Role::of(&flow(40_000, 50_000), true), Role::Client);
        assert_eq!(Role::of(&flow(40_000, 50_000), false), Role::Server);
    }

    #[test]
    fn a_v4_mapped_address_is_an_ipv4_address() {
        let mut bytes = [0; 16];
        bytes[10..].copy_from_slice(&[0xff, 0xff, 127, 0, 0, 1]);
        assert_eq!(ip(bytes).to_string(), "127.0.0.1");
        assert!(is_loopback(bytes));
    }

    #[test]
    fn a_batch_gives_back_its_records_in_order_and_stops_at_a_cut() {
        let entered = Entered {
            header: Header { kind: Kind::Entered as u8, ..Header::default() },
            mono_ns: 7,
            ..Entered::default()
        };
        let mut builder = BatchBuilder::default();
        builder.push(entered.as_bytes());
        builder.push(&[9, 9]);
        assert_eq!(builder.len(), 2);
        let batch = builder.take();
        let events: Vec<_> = batch.events().collect();
        assert_eq!(events, [Ok(Event::Entered(entered)), Err(Undecodable { len: 2, kind: 9 })]);
        assert!(builder.is_empty());

        let cut = Batch { bytes: batch.bytes.slice(..20) };
        assert!(batch.is_whole() && !cut.is_whole());
        assert_eq!(cut.records().count(), 0, "an unfinished record is not a record");
    }
}
