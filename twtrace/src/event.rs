//! Typed events, decoded from the wire records of the kernel programs or of a recording.

use std::net::IpAddr;

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use twtrace_common::{
    CallResult, Decode, EndReason, Ended, Entered, Failed, Flow, Header, Kind, PortChoice,
    entered_flags,
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
    /// A `connect()` or `bind()` got no port: there is no socket in TIME_WAIT, but perhaps because
    /// of some.
    Failed(Failed),
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
        } else if kind == Kind::Failed as u8 {
            Failed::from_bytes(record).map(Self::Failed)
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
            Self::Failed(event) => &event.flow,
        }
    }

    /// Kind, state, flags and namespace.
    pub fn header(&self) -> &Header {
        match self {
            Self::Entered(event) | Self::Present(event) => &event.header,
            Self::Ended(event) => &event.header,
            Self::Failed(event) => &event.header,
        }
    }

    /// `CLOCK_MONOTONIC` of the event, nanoseconds.
    pub fn mono_ns(&self) -> u64 {
        match self {
            Self::Entered(event) | Self::Present(event) => event.mono_ns,
            Self::Ended(event) => event.mono_ns,
            Self::Failed(event) => event.mono_ns,
        }
    }

    /// Cookie of its network namespace; `None` when unknown.
    pub fn netns_cookie(&self) -> Option<u64> {
        let cookie = match self {
            Self::Entered(event) | Self::Present(event) => event.netns_cookie,
            Self::Ended(event) => event.netns_cookie,
            Self::Failed(event) => event.netns_cookie,
        };
        (cookie != 0).then_some(cookie)
    }

    /// Which end of the connection this host was.
    ///
    /// Who binds means to be a server.
    pub fn role(&self) -> Role {
        match self {
            Self::Failed(failed) if failed.result == CallResult::AddressInUse as u8 => Role::Server,
            Self::Failed(_) => Role::Client,
            _ => Role::of(self.flow(), self.port_choice()).0,
        }
    }

    /// Whether the role is concluded from the numbers of the ports, for want of anything better.
    pub fn role_is_inferred(&self) -> bool {
        !matches!(self, Self::Failed(_)) && Role::of(self.flow(), self.port_choice()).1
    }

    /// Who chose the local port.
    pub fn port_choice(&self) -> PortChoice {
        PortChoice::from_u8(match self {
            Self::Entered(event) | Self::Present(event) => event.chosen,
            Self::Ended(event) => event.chosen,
            Self::Failed(_) => PortChoice::Unknown as u8,
        })
    }
}

/// Which end of a connection this host was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It connected.
    Client,
    /// It accepted the connection.
    Server,
}

impl Role {
    /// Tells the client from the server, and whether that is inferred.
    ///
    /// Who chose the port settles it. Where that is not known the namespace's
    /// `ip_local_port_range` decides: with both ports in it this end listens on a high one. What
    /// looks as if `bind(address, 0)` chose the port outside that range was accepted by a listener
    /// without a backlog.
    pub fn of(flow: &Flow, choice: PortChoice) -> (Self, bool) {
        let range = match (flow.port_low, flow.port_high) {
            (0, 0) => DEFAULT_PORT_RANGE,
            (low, high) => low..=high,
        };
        let ephemeral = range.contains(&flow.local_port);
        match choice {
            PortChoice::Connect | PortChoice::Program => (Self::Client, false),
            PortChoice::Accepted => (Self::Server, false),
            PortChoice::Bind if ephemeral => (Self::Client, false),
            PortChoice::Unknown if ephemeral && !range.contains(&flow.remote_port) => {
                (Self::Client, true)
            }
            PortChoice::Bind | PortChoice::Unknown => (Self::Server, true),
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

/// The sixteen bytes of the wire that an address has: an IPv4 one is v4-mapped.
pub fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
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
    fn where_nobody_knows_who_chose_the_port_the_ephemeral_end_is_the_client() {
        let inferred = |local, remote| Role::of(&flow(local, remote), PortChoice::Unknown);
        assert_eq!(inferred(40_000, 80), (Role::Client, true));
        assert_eq!(inferred(80, 40_000), (Role::Server, true));
        assert_eq!(inferred(32_768, 80), (Role::Client, true), "lowest port of the range");
        assert_eq!(inferred(60_999, 80), (Role::Client, true), "highest port of the range");
        assert_eq!(inferred(61_000, 80), (Role::Server, true), "one above it");
        assert_eq!(inferred(40_000, 50_000), (Role::Server, true), "both in the range");
    }

    #[test]
    fn who_chose_the_port_tells_the_client_wherever_the_port_lies() {
        let role = |local, remote, choice| Role::of(&flow(local, remote), choice);
        assert_eq!(role(20_000, 80, PortChoice::Program), (Role::Client, false));
        assert_eq!(role(40_000, 50_000, PortChoice::Connect), (Role::Client, false));
        assert_eq!(role(40_000, 50_000, PortChoice::Bind), (Role::Client, false));
        assert_eq!(role(50_051, 2_000, PortChoice::Accepted), (Role::Server, false));
        assert_eq!(role(80, 2_000, PortChoice::Bind), (Role::Server, true), "no backlog");
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
