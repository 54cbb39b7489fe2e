//! Events that could have happened.

use std::net::IpAddr;

use twtrace::event::Event;
use twtrace_common::{
    EndReason, Ended, Entered, Flow, Header, Kind, PortChoice, TCP_TIME_WAIT, entered_flags,
};

use crate::owner::own_netns;

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

fn flow(remote: &str) -> Flow {
    Flow {
        local: octets("10.9.0.1".parse().expect("an address")),
        remote: octets(remote.parse().expect("an address")),
        local_port: 40_000,
        remote_port: 8080,
        port_low: 32_768,
        port_high: 60_999,
    }
}

/// A socket enters, as client of `remote`, port 8080. `id` tells it from all others.
pub fn entry(id: u64, remote: &str, with_timestamps: bool) -> Event {
    Event::Entered(Entered {
        header: Header {
            kind: Kind::Entered as u8,
            state: TCP_TIME_WAIT,
            flags: entered_flags::FOLLOWED
                | (u16::from(with_timestamps) * entered_flags::TSTAMP_OK),
            netns: own_netns(),
        },
        mono_ns: twtrace::feed::monotonic_ns(),
        tw: id * 256,
        ts_recent_stamp: i64::from(with_timestamps) * 77,
        flow: flow(remote),
        armed: 15_000,
        rto: 51,
        tcp_timestamps: 1,
        tcp_tw_reuse: 1,
        family: 2,
        chosen: PortChoice::Connect as u8,
        ..Entered::default()
    })
}

/// The same socket ends.
pub fn end(entry: &Event, reason: EndReason) -> Event {
    let Event::Entered(entered) = entry else { panic!("not an entry: {entry:?}") };
    Event::Ended(Ended {
        header: Header { kind: Kind::Ended as u8, flags: 0, ..entered.header },
        mono_ns: entered.mono_ns + 1_500_000_000,
        tw: entered.tw,
        entered_ns: entered.mono_ns,
        flow: entered.flow,
        first_armed: 15_000,
        last_armed: 15_000,
        rto: 51,
        reason: reason as u8,
        chosen: PortChoice::Connect as u8,
        ..Ended::default()
    })
}

/// `count` sockets to one peer each: 10.1.0.0 and up.
pub fn peers(count: u32) -> Vec<Event> {
    (0..count)
        .map(|n| {
            let [_, b, c, d] = n.to_be_bytes();
            entry(1_000_000 + u64::from(n), &format!("10.{}.{c}.{d}", b + 1), true)
        })
        .collect()
}
