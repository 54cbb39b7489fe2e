//! Recordings made up, for what no traffic of a test brings about: names that are markup, a crowd, many
//! faults at once. The tests of the library use them as well.

use std::{
    collections::HashMap,
    net::Ipv4Addr,
    path::Path,
    time::{Duration, SystemTime},
};

use twtrace::{
    attached::Backend,
    event::BatchBuilder,
    host::{
        configured::Setting,
        facts::{Conntrack, HostFacts, NamespaceFacts},
        files::ProcessFiles,
        netstat::TcpExt,
    },
    origin::{Input, Moment, Origin},
    peer::Refused,
    recording::Recorder,
    totals::Totals,
    units::{Clock, Hz},
};
use twtrace_common::{
    CallResult, Counter, Decode, EndReason, Ended, Entered, Failure, FailureKey, Flow, Header,
    Kind, PortChoice, RefusalKey, TCP_FIN_WAIT2, TCP_TIME_WAIT, entered_flags,
};

/// The first of the network namespaces.
const NETNS: u32 = 4_026_531_841;
const SECOND: u64 = 1_000_000_000;
/// What is markup to whoever does not escape it, with what turns the reading direction.
pub const MARKUP: &str = "\"><script>alert(1)</script><img src=x onerror=alert(2)>&lt;\u{202e}";

/// What happens in a recording.
#[derive(Clone, Copy, Debug)]
pub struct Traffic {
    /// For how long.
    pub seconds: u64,
    /// Entries in each second.
    pub rate: u64,
    /// Peers that take turns.
    pub peers: u64,
    /// Whether whatever can be wrong is.
    pub faults: bool,
}

fn clock(seconds: u64) -> Clock {
    let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds);
    Clock { mono_ns: seconds * SECOND, wall }
}

/// An origin with a name in the place of every text.
pub fn origin(name: &str) -> Origin {
    Origin {
        host: name.into(),
        kernel: name.into(),
        boot_id: name.into(),
        program: name.into(),
        netns_names: HashMap::from([(NETNS, name.to_owned())]),
        ..Origin::bare(Backend::Tracepoint, clock(100), Hz::new(250))
    }
}

/// One entry; each peer is in one of the namespaces.
fn entered(number: u64, second: u64, traffic: &Traffic) -> Entered {
    let peer = number % traffic.peers;
    let remote = Ipv4Addr::from(0x0a00_0000 + peer as u32).to_ipv6_mapped().octets();
    let netns = NETNS + if traffic.faults { (number % 4) as u32 } else { 0 };
    let offers = !(traffic.faults && netns == NETNS + 1);
    Entered {
        header: Header {
            kind: Kind::Entered as u8,
            state: TCP_TIME_WAIT,
            flags: entered_flags::FOLLOWED,
            netns,
        },
        mono_ns: second * SECOND - SECOND / 2 + number % 1000,
        tw: number * 256,
        ts_recent_stamp: if traffic.faults && netns == NETNS + 2 { 5 } else { 0 },
        flow: Flow {
            local: Ipv4Addr::new(10, 1, 0, 1).to_ipv6_mapped().octets(),
            remote,
            local_port: 32_768 + (number % 28_000) as u16,
            remote_port: 443,
            port_low: 32_768,
            port_high: 60_999,
        },
        rto: 51,
        armed: 15_000,
        tcp_timestamps: offers.into(),
        tcp_tw_reuse: u8::from(!(traffic.faults && netns == NETNS + 2)),
        chosen: PortChoice::Connect as u8,
        ..Entered::default()
    }
}

/// The facts of a moment.
fn facts(origin: &Origin, second: u64, live: u64, faults: bool) -> HostFacts {
    let usual = NamespaceFacts {
        tw_reuse: Some(1),
        timestamps: Some(1),
        port_range: Some(32_768..=60_999),
        max_tw_buckets: Some(262_144),
        fin_timeout: Some(60),
        time_wait: Some(live),
        ..NamespaceFacts::default()
    };
    let mut namespaces = std::collections::BTreeMap::from([(NETNS, usual.clone())]);
    if faults {
        let conntrack = Conntrack {
            time_wait_s: 120,
            count: 990 + second,
            max: 1_100,
            dropped: Some(second.saturating_sub(100) * 5),
            refused: Some(0),
        };
        let short = Some(32_768..=33_067);
        let of = |timestamps, reuse| NamespaceFacts {
            timestamps: Some(timestamps),
            tw_reuse: Some(reuse),
            port_range: short.clone(),
            max_tw_buckets: Some(400),
            fin_timeout: Some(600),
            rfc1337: Some(1),
            conntrack: Some(conntrack),
            ..usual.clone()
        };
        // One is changed in the middle.
        let later = u64::from(second > 110);
        namespaces.extend([
            (NETNS, of(1, 1)),
            (NETNS + 1, of(0, 1)),
            (NETNS + 2, of(1, 0)),
            (NETNS + 3, of(1, later)),
        ]);
    }
    HostFacts {
        kernel: origin.kernel.clone(),
        namespaces,
        unread: vec![origin.host.clone()],
        near_limit: if faults {
            let comm = origin.host.clone();
            vec![ProcessFiles { pid: 7, comm, netns: NETNS, open: 99, limit: 100, sockets: 90 }]
        } else {
            Vec::new()
        },
        recycle_configured: if faults {
            let value = origin.host.clone();
            vec![Setting { file: origin.host.clone().into(), line: 1, value }]
        } else {
            Vec::new()
        },
        ..HostFacts::default()
    }
}

/// Calls of a program of that name that found no port.
fn failures(name: &str, second: u64) -> Input {
    let mut comm = [0; 16];
    comm.iter_mut().zip(name.bytes()).for_each(|(to, byte)| *to = byte);
    let key = FailureKey {
        local: Ipv4Addr::new(10, 1, 0, 1).to_ipv6_mapped().octets(),
        remote: Ipv4Addr::new(10, 0, 0, 0).to_ipv6_mapped().octets(),
        netns: NETNS,
        pid: 4711,
        remote_port: 443,
        result: CallResult::NoPort as u8,
        ..FailureKey::default()
    };
    let failure = Failure {
        count: 30,
        first_ns: 105 * SECOND,
        last_ns: second * SECOND,
        comm,
        port_low: 32_768,
        port_high: 33_067,
        ..Failure::default()
    };
    Input::Failures(vec![(key, failure)])
}

/// Writes a recording.
pub fn record(path: &Path, origin: &Origin, traffic: &Traffic) {
    let mut recorder = Recorder::create(path, origin, None).expect("the file can be made");
    let mut write = |input: &Input| recorder.write(input).expect("it can be written");
    write(&Input::Ready(100 * SECOND));
    let mut number = 0;
    for second in 100..=100 + traffic.seconds {
        let mut builder = BatchBuilder::default();
        for _ in 0..if second == 100 { 0 } else { traffic.rate } {
            number += 1;
            builder.push(entered(number, second, traffic).as_bytes());
        }
        write(&Input::Records(builder.take()));
        let mut totals = Totals::default().with(Counter::Entered, number);
        if traffic.faults && second > 105 {
            write(&failures(&origin.host, second));
            totals = totals
                .with(Counter::LostEnded, 7)
                .with(Counter::ConnectsFailed, 30 * (second - 105));
        }
        let moment = Moment {
            totals,
            facts: Some(facts(origin, second, number, traffic.faults)),
            netns_names: origin.netns_names.clone(),
            ..Moment::bare(clock(second))
        };
        write(&Input::Moment(Box::new(moment)));
    }
    recorder.finish().expect("it can be ended");
}

/// An address that connections leave through, of which [`record_catalogue`] takes all ports.
pub const EGRESS: &str = "ports=100 hold=60s";

/// Namespaces of [`record_catalogue`] beside those of faults, in which something else is wrong each, as
/// some findings stand for others where they meet.
const RECYCLES: u32 = NETNS + 4;
const REFUSES: u32 = NETNS + 5;
const ENDS_ODDLY: u32 = NETNS + 6;
const LOOPBACK: u32 = NETNS + 7;
const FIXED_PORT: u32 = NETNS + 8;

/// The facts of a moment, with what else can be wrong.
fn catalogue_facts(origin: &Origin, second: u64, live: u64) -> HostFacts {
    let mut facts = facts(origin, second, live, true);
    let usual = NamespaceFacts {
        tw_reuse: Some(1),
        timestamps: Some(1),
        port_range: Some(32_768..=33_067),
        max_tw_buckets: Some(262_144),
        fin_timeout: Some(60),
        rfc1337: Some(0),
        time_wait: Some(live),
        ..NamespaceFacts::default()
    };
    let grows = |counter: &str| TcpExt::default().with(counter, second);
    let counting = |counter: &str| NamespaceFacts { counters: grows(counter), ..usual.clone() };
    facts.namespaces.extend([
        (RECYCLES, NamespaceFacts { tw_recycle: Some(1), ..counting("PAWSPassive") }),
        (REFUSES, counting("PAWSTimewait")),
        (ENDS_ODDLY, usual.clone()),
        (LOOPBACK, usual.clone()),
        (FIXED_PORT, usual.clone()),
    ]);
    facts
}

/// What entered in a second in the namespaces beside those of faults, and how three of them ended.
fn catalogue_records(number: u64, second: u64, like: &Entered, builder: &mut BatchBuilder) {
    let in_netns = |netns, offset: u64| {
        let header = Header { netns, ..like.header };
        Entered { header, tw: number * 256 + offset, ..*like }
    };
    let from = |flow: Flow, last: u8| Flow {
        remote: Ipv4Addr::new(10, 6, 0, last).to_ipv6_mapped().octets(),
        ..flow
    };
    let slow = Entered { rto: 7_500, ..in_netns(RECYCLES, 1) };
    let fixed = in_netns(FIXED_PORT, 2);
    let flow = Flow { local_port: 33_000, ..from(fixed.flow, 9) };
    let fixed = Entered { flow, chosen: PortChoice::Program as u8, ..fixed };
    let local = Ipv4Addr::LOCALHOST.to_ipv6_mapped().octets();
    let own = in_netns(LOOPBACK, 3);
    let flow = Flow { local, remote: local, remote_port: 6379, ..own.flow };
    let own = Entered { flow, ts_recent_stamp: 5, ..own };
    for entered in [slow, fixed, own] {
        builder.push(entered.as_bytes());
    }
    let ends = [
        (TCP_FIN_WAIT2, EndReason::Expired, 0),
        (TCP_TIME_WAIT, EndReason::Expired, 2),
        (TCP_TIME_WAIT, EndReason::Killed, 0),
    ];
    for ((state, reason, rearms), peer) in ends.into_iter().zip(1_u8..) {
        let entered = in_netns(ENDS_ODDLY, 3 + u64::from(peer));
        let header = Header { state, ..entered.header };
        let entered = Entered { header, flow: from(entered.flow, peer), ..entered };
        builder.push(entered.as_bytes());
        let ended = Ended {
            header: Header { kind: Kind::Ended as u8, flags: 0, ..header },
            mono_ns: second * SECOND,
            tw: entered.tw,
            entered_ns: entered.mono_ns,
            flow: entered.flow,
            first_armed: entered.armed,
            last_armed: entered.armed,
            rearms,
            reason: reason as u8,
            ..Ended::default()
        };
        builder.push(ended.as_bytes());
    }
}

/// Writes a recording in which there is something for each rule of the catalogue to find, together with
/// the address of [`EGRESS`].
pub fn record_catalogue(path: &Path) {
    let origin = origin("host");
    let traffic = Traffic { seconds: 20, rate: 40, peers: 4, faults: true };
    let mut recorder = Recorder::create(path, &origin, None).expect("the file can be made");
    let mut write = |input: &Input| recorder.write(input).expect("it can be written");
    write(&Input::Ready(100 * SECOND));
    let (mut number, mut more) = (0, 0);
    for second in 100..=100 + traffic.seconds {
        let mut builder = BatchBuilder::default();
        for _ in 0..if second == 100 { 0 } else { traffic.rate } {
            number += 1;
            let mut entered = entered(number, second, &traffic);
            if entered.ts_recent_stamp != 0 {
                entered.header.flags |= entered_flags::TSTAMP_OK;
            }
            builder.push(entered.as_bytes());
            if number % 4 == 0 {
                more += 6;
                catalogue_records(number, second, &entered, &mut builder);
            }
        }
        write(&Input::Records(builder.take()));
        let key = RefusalKey {
            remote: Ipv4Addr::new(10, 6, 0, 9).to_ipv6_mapped().octets(),
            netns: FIXED_PORT,
            remote_port: 443,
            reason: 0,
        };
        write(&Input::Refusals(vec![(key, Refused { by_reason: [1, 0, 0, 0, 0] })]));
        if second > 105 {
            write(&failures(&origin.host, second));
        }
        let totals = Totals::default()
            .with(Counter::Entered, number + more)
            .with(Counter::LostEnded, 7)
            .with(Counter::ConnectsFailed, 30 * second.saturating_sub(105));
        let facts = Some(catalogue_facts(&origin, second, number));
        write(&Input::Moment(Box::new(Moment { totals, facts, ..Moment::bare(clock(second)) })));
    }
    recorder.finish().expect("it can be ended");
}
