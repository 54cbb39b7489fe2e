//! Writes a large recording, to measure what replay and export cost:
//!
//! ```text
//! cargo run --release --example make-recording -- /tmp/big.twtrace 10000000
//! /usr/bin/time -v target/release/twtrace watch --replay /tmp/big.twtrace -o json >/dev/null
//! ```
//!
//! Half of the events are entries at 5,000 a second to 500 peers, of which every fifth sends no
//! timestamps; half are their ends, after a second where the fast path is open and after 60 where
//! not. Ports, addresses and times are those of a busy proxy, so that they compress as they would.

use std::{
    collections::VecDeque,
    net::Ipv4Addr,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result};
use twtrace::{
    attached::{Backend, ObjectKind, Types},
    event::BatchBuilder,
    origin::{Input, Moment, Origin},
    recording::Recorder,
    totals::Totals,
    units::{Clock, Hz},
};
use twtrace_common::{
    ABI, Counter, Decode, EndReason, Ended, Entered, Flow, Header, Kind, PortChoice, TCP_TIME_WAIT,
    entered_flags,
};

const SECOND: u64 = 1_000_000_000;
const BEGIN: u64 = 1_000 * SECOND;
const RATE: u64 = 5_000;
const PEERS: u64 = 500;
/// Batches a second, as a session that looks every 50 ms has them.
const BATCHES: u64 = 20;

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let path = args.next().context("give a file")?;
    let events: u64 = args.next().context("give a number of events")?.parse()?;
    let mut recorder = Recorder::create(path.as_ref(), &origin(), None)?;
    recorder.write(&Input::Ready(BEGIN))?;
    let mut builder = BatchBuilder::default();
    // Those that sit out 2MSL, and those that are taken over.
    let mut live = [VecDeque::new(), VecDeque::new()];
    let (mut entered, mut ended, mut batch) = (0, 0, 0);
    while entered + ended < events {
        batch += 1;
        let now = BEGIN + batch * SECOND / BATCHES;
        for queue in &mut live {
            while let Some((due, entry)) = queue.pop_front_if(|(due, _)| *due <= now) {
                builder.push(end(&entry, due).as_bytes());
                ended += 1;
            }
        }
        while entered < batch * RATE / BATCHES && entered + ended < events {
            let entry = entry(entered);
            let fast = entry.ts_recent_stamp != 0;
            let lives = if fast { SECOND } else { 60 * SECOND };
            live[usize::from(fast)].push_back((entry.mono_ns + lives, entry));
            builder.push(entry.as_bytes());
            entered += 1;
        }
        recorder.write(&Input::Records(builder.take()))?;
        if batch.is_multiple_of(BATCHES) {
            recorder.write(&moment(now, entered))?;
        }
    }
    recorder.write(&moment(BEGIN + batch * SECOND / BATCHES, entered))?;
    recorder.finish()?;
    println!("{entered} entries, {ended} ends, {} bytes", recorder.bytes());
    Ok(())
}

fn clock(mono_ns: u64) -> Clock {
    Clock { mono_ns, wall: SystemTime::UNIX_EPOCH + Duration::from_nanos(mono_ns) }
}

fn origin() -> Origin {
    Origin {
        abi: ABI,
        program: env!("CARGO_PKG_VERSION").into(),
        host: "made-up".into(),
        kernel: "none".into(),
        boot_id: "none".into(),
        clock: clock(BEGIN),
        hz: Hz::new(250),
        recycle_exists: false,
        backend: Backend::Fentry,
        object: ObjectKind::RingBuf,
        types: Types::Known,
        refused: Vec::new(),
        follow_ends: true,
        binds_by_cgroup: false,
        counts_failures: true,
        selection: Default::default(),
        netns_names: Default::default(),
        cgroup_names: Default::default(),
        totals_before: Totals::default(),
        skipped_before: 0,
        audit_before: None,
    }
}

fn moment(now: u64, entered: u64) -> Input {
    let totals = Totals::default().with(Counter::Entered, entered);
    Input::Moment(Box::new(Moment { totals, ..Moment::bare(clock(now)) }))
}

/// The same numbers each time, without a pattern for the compressor.
fn mixed(number: u64) -> u64 {
    let mixed = (number ^ (number >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
}

fn entry(number: u64) -> Entered {
    let random = mixed(number);
    let peer = random % PEERS;
    let remote = Ipv4Addr::new(10, 2, (peer / 200) as u8, (peer % 200) as u8 + 1);
    Entered {
        header: Header {
            kind: Kind::Entered as u8,
            state: TCP_TIME_WAIT,
            flags: entered_flags::FOLLOWED
                | (u16::from(!peer.is_multiple_of(5)) * entered_flags::TSTAMP_OK),
            netns: 4_026_531_840,
        },
        mono_ns: BEGIN + number * SECOND / RATE + random % 150_000,
        // A kernel uses an address again within microseconds; these are each used once.
        tw: 0xffff_8880_0000_0000 + number * 256,
        ts_recent_stamp: if peer.is_multiple_of(5) { 0 } else { (1000 + number / RATE) as i64 },
        cgroup: 4711,
        flow: Flow {
            local: Ipv4Addr::new(10, 1, 0, 1).to_ipv6_mapped().octets(),
            remote: remote.to_ipv6_mapped().octets(),
            local_port: 32_768 + ((random >> 12) % 28_232) as u16,
            remote_port: 443,
            port_low: 32_768,
            port_high: 60_999,
        },
        armed: 15_000,
        rto: 51,
        uid: 33,
        family: 2,
        tcp_tw_reuse: 1,
        tcp_timestamps: 1,
        chosen: PortChoice::Connect as u8,
        ..Entered::default()
    }
}

fn end(entry: &Entered, mono_ns: u64) -> Ended {
    let reused = entry.ts_recent_stamp != 0;
    let reason = if reused { EndReason::Reused } else { EndReason::Expired };
    Ended {
        header: Header { kind: Kind::Ended as u8, flags: 0, ..entry.header },
        mono_ns,
        tw: entry.tw,
        entered_ns: entry.mono_ns,
        flow: entry.flow,
        first_armed: 15_000,
        last_armed: 15_000,
        rto: 51,
        reason: reason as u8,
        chosen: PortChoice::Connect as u8,
        ..Ended::default()
    }
}
