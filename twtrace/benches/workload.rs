//! Events as the kernel programs would send them, made up: who, how many, and in what order.

use std::net::Ipv4Addr;

use twtrace::{
    aggregate::{Aggregate, Settings},
    event::{Batch, BatchBuilder},
    units::Hz,
};
use twtrace_common::{
    Decode, EndReason, Ended, Entered, Flow, Header, Kind, PortChoice, TCP_TIME_WAIT, entered_flags,
};

/// Records of a batch, as many as one turn of the pipeline takes out of the ring buffer.
const BATCH: usize = 16_384;
/// Most rows: the default of `--max-peers`.
const MAX_PEERS: usize = 65_536;

/// A stream of events that ends as it began, so that it can be played again and again: whatever
/// enters has ended at its end.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// Name in the results.
    pub name: &'static str,
    /// Distinct peers, visited in turn.
    pub peers: u32,
    /// Entries, and as many ends, of one playing.
    pub sockets: u32,
    /// Sockets that live at once.
    pub live: u32,
}

/// The loads that the results are given for. In the floods no peer comes twice while anyone
/// remembers it: in the first they leave quickly and are evicted, in the second they stay, fill
/// the table, and all others are folded into one row.
pub const ALL: [Workload; 5] = [
    Workload { name: "100 peers", peers: 100, sockets: 65_536, live: 4_096 },
    Workload { name: "1,000 peers", peers: 1_000, sockets: 65_536, live: 4_096 },
    Workload { name: "65,536 peers", peers: 65_536, sockets: 131_072, live: 65_536 },
    Workload { name: "flood, ending", peers: 262_144, sockets: 262_144, live: 1_024 },
    Workload { name: "flood, staying", peers: 262_144, sockets: 262_144, live: 131_072 },
];

impl Workload {
    /// Events of one playing.
    pub const fn events(&self) -> u64 {
        self.sockets as u64 * 2
    }

    /// The records, in batches.
    pub fn batches(&self) -> Vec<Batch> {
        let mut builder = BatchBuilder::default();
        let mut batches = Vec::new();
        let mut push = |record: &[u8]| {
            builder.push(record);
            if builder.len() == BATCH {
                batches.push(builder.take());
            }
        };
        for id in 0..self.sockets + self.live {
            if id < self.sockets {
                push(self.entry(id).as_bytes());
            }
            if let Some(gone) = id.checked_sub(self.live) {
                push(self.end(gone).as_bytes());
            }
        }
        if !builder.is_empty() {
            batches.push(builder.take());
        }
        batches
    }

    /// What the events are folded into.
    pub fn aggregate(&self) -> Aggregate {
        Aggregate::new(Settings {
            max_peers: MAX_PEERS,
            max_live: 262_144,
            hz: Hz::new(250),
            ..Settings::default()
        })
    }

    /// Address of the timewait socket: a slab's stride apart.
    fn tw(id: u32) -> u64 {
        0xffff_8880_0400_0000 + u64::from(id) * 256
    }

    /// A second's worth of sockets, long after boot.
    fn entered_ns(id: u32) -> u64 {
        1_000_000_000_000 + u64::from(id) * 7_000
    }

    fn flow(&self, id: u32) -> Flow {
        let peer = id % self.peers;
        Flow {
            local: Ipv4Addr::new(10, 1, 0, 1).to_ipv6_mapped().octets(),
            remote: Ipv4Addr::from_bits(0x0a02_0000 + peer).to_ipv6_mapped().octets(),
            local_port: 32_768 + (id % 28_232) as u16,
            remote_port: 443,
            port_low: 32_768,
            port_high: 60_999,
        }
    }

    fn entry(&self, id: u32) -> Entered {
        let timestamps = !(id % self.peers).is_multiple_of(4);
        let kind = Kind::Entered as u8;
        let flags = entered_flags::FOLLOWED | (u16::from(timestamps) * entered_flags::TSTAMP_OK);
        Entered {
            header: Header { kind, state: TCP_TIME_WAIT, flags, netns: 4_026_531_840 },
            mono_ns: Self::entered_ns(id),
            tw: Self::tw(id),
            ts_recent_stamp: if timestamps { 1_000 } else { 0 },
            cgroup: 77,
            flow: self.flow(id),
            armed: 15_000,
            rto: 51,
            family: 2,
            tcp_tw_reuse: 1,
            tcp_timestamps: 1,
            chosen: PortChoice::Connect as u8,
            ..Entered::default()
        }
    }

    fn end(&self, id: u32) -> Ended {
        let reason = if id.is_multiple_of(3) { EndReason::Reused } else { EndReason::Expired };
        Ended {
            header: Header {
                kind: Kind::Ended as u8,
                state: TCP_TIME_WAIT,
                flags: 0,
                netns: 4_026_531_840,
            },
            mono_ns: Self::entered_ns(id + self.live),
            tw: Self::tw(id),
            entered_ns: Self::entered_ns(id),
            flow: self.flow(id),
            first_armed: 15_000,
            last_armed: 15_000,
            rto: 51,
            reason: reason as u8,
            chosen: PortChoice::Connect as u8,
            ..Ended::default()
        }
    }
}

/// Decodes and folds everything, as the pipeline does. Answers how many events there were.
pub fn play(batches: &[Batch], aggregate: &mut Aggregate) -> u64 {
    let mut events = 0;
    for event in batches.iter().flat_map(Batch::events) {
        let event = event.expect("the workload makes whole records");
        aggregate.apply(&event);
        events += 1;
    }
    events
}
