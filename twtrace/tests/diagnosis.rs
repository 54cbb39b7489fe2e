//! What a diagnosis prints fits its schema and an 80-column terminal, with every finding that can
//! be made up on one host.

use std::{
    collections::{BTreeMap, HashMap},
    net::Ipv4Addr,
    path::Path,
    time::{Duration, SystemTime},
};

use serde_json::Value;
use twtrace::{
    aggregate::{Aggregate, Settings},
    attached::Backend,
    diagnose::{Case, Diagnosis, diagnose},
    event::{Event, Role},
    host::{
        configured::Setting,
        facts::{Conntrack, HostFacts, NamespaceFacts},
        netstat::TcpExt,
        open::OpenPorts,
    },
    path::Outcome,
    peer::{
        Group, Peer, Refused,
        entry::{Entry, SpaceKey},
        history::Ports,
        spaces::Hold,
    },
    summary::{Context, Examined, RowChoice, Summary},
    totals::Totals,
    trust::Trust,
    units::Clock,
    view::{self, style::Palette},
};
use twtrace_common::{
    Counter, Entered, Flow, Header, Kind, PortChoice, TCP_TIME_WAIT, entered_flags,
};

const NETNS: u32 = 4_026_532_281;
const NOW_NS: u64 = 2_000_000_000_000;

fn v4(a: u8, b: u8, c: u8, d: u8) -> [u8; 16] {
    Ipv4Addr::new(a, b, c, d).to_ipv6_mapped().octets()
}

/// A peer with `rate` connections a second over the last seconds.
fn peer(address: [u8; 16], port: u16, role: Role, rate: u64, entry: Entry) -> Peer {
    let mut peer = Peer::new(Group::peer(NETNS, role, address, port));
    for n in 0..rate * 9 {
        let mono_ns = NOW_NS - 9_000_000_000 + n * 1_000_000_000 / rate;
        let entry = Entry { mono_ns, local_port: n as u16, remote_port: port, ..entry };
        let space = peer.history.space_of(&entry.space);
        peer.history.enter(space, &entry);
        peer.history.live(space, Hold::default().with(Hold::BLOCKED, entry.blocked));
    }
    peer.tally.edit(|counts| counts.entered = rate * 9);
    peer
}

/// One host with everything wrong at once.
fn everything_wrong() -> (Vec<Peer>, HostFacts) {
    let from = |local| SpaceKey { local, chosen: PortChoice::Connect, ..SpaceKey::default() };
    let space = from(v4(10, 1, 0, 1));
    let bare =
        Entry { space, blocked: true, autobound: true, not_from_peer: true, ..Entry::default() };
    let with = Entry { with_timestamps: true, not_from_peer: false, ..bare };
    let mut stripped = peer(v4(10, 2, 0, 2), 8080, Role::Client, 600, bare);
    stripped.history.with.last_ns = NOW_NS - 30_000_000_000;
    let mut allowed = peer(v4(10, 2, 0, 3), 443, Role::Client, 600, with);
    allowed.tally.edit(|counts| counts.with_timestamps = counts.entered);
    allowed.tally.edit(|counts| counts.blocked[3] = counts.entered);
    let mut fixed = peer(v4(10, 2, 0, 4), 22, Role::Client, 1, Entry { autobound: false, ..bare });
    fixed.history.ports = Ports::Same(40_000, 22);
    fixed.tally.edit(|counts| counts.refused = Refused { by_reason: [3, 0, 0, 0, 0] });
    let mut odd = peer(v4(10, 3, 0, 9), 0, Role::Server, 5, with);
    odd.tally.edit(|counts| counts.ended[Outcome::FinWait2Timeout as usize] = 20);
    odd.history.rearmed = 20;
    odd.history.assassinated = 20;
    odd.rto_max_ms = 30_000;
    odd.tally.edit(|counts| counts.overflow = 4);
    let over_loopback = Entry { space: from(v4(127, 0, 0, 1)), blocked: false, ..with };
    let lo = peer(v4(127, 0, 0, 1), 6379, Role::Client, 700, over_loopback);
    let facts = NamespaceFacts {
        tw_reuse: Some(2),
        tw_recycle: None,
        timestamps: Some(1),
        port_range: Some(32_768..=60_999),
        reserved_ports: vec![40_000..=40_009],
        max_tw_buckets: Some(20_000),
        fin_timeout: Some(15),
        rfc1337: Some(0),
        time_wait: Some(19_000),
        counters: TcpExt::default().with("TCPTimeWaitOverflow", 4).with("PAWSTimewait", 9),
        conntrack: Some(Conntrack {
            time_wait_s: 120,
            count: 1000,
            max: 1000,
            ..Conntrack::default()
        }),
        open: Some(OpenPorts {
            read_ns: NOW_NS - 4_000_000_000,
            peers: [
                ("10.2.0.2:8080".parse().expect("an address"), BTreeMap::new()),
                ("10.2.0.3:443".parse().expect("an address"), BTreeMap::new()),
            ]
            .into(),
            listening: 2,
            ..OpenPorts::default()
        }),
        ..NamespaceFacts::default()
    };
    let old = Setting { file: "/etc/sysctl.d/9.conf".into(), line: 3, value: "1".into() };
    let facts = HostFacts {
        kernel: "6.12.107".into(),
        files: Some((1082, 2_466_193)),
        recycle_configured: vec![old],
        namespaces: [(NETNS, facts)].into(),
        unread: vec!["cannot read /proc/sys/net/ipv4/tcp_rfc1337: permission denied".into()],
        ..HostFacts::default()
    };
    (vec![stripped, allowed, fixed, odd, lo], facts)
}

fn examined(peers: &[Peer], facts: HostFacts) -> Examined {
    let case = Case {
        egress: &[],
        netns_names: None,
        owners: None,
        peers,
        failures: &twtrace::failures::NONE,
        sockets: None,
        fin_wait2_taken: false,
        sees_connects: true,
        sees_binds: false,
        facts: &facts,
        trust: Trust {
            kernel: Totals::default().with(Counter::LostEntered, 7),
            ..Trust::default()
        },
        now_ns: NOW_NS,
        wall: std::time::SystemTime::UNIX_EPOCH,
        since_ns: NOW_NS - 15_000_000_000,
    };
    let diagnosis: Diagnosis = diagnose(&case);
    let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_403_637);
    Examined { diagnosis, facts, clock: Clock { mono_ns: NOW_NS, wall } }
}

/// A summary of a few sockets that lost their timestamps, with what was examined beside it.
fn summary(examined: Examined) -> Summary {
    let mut aggregate = Aggregate::new(Settings::default());
    for n in 0..20_u64 {
        let flow = Flow {
            local: v4(10, 1, 0, 1),
            remote: v4(10, 2, 0, 2),
            local_port: 40_000 + n as u16,
            remote_port: 8080,
            port_low: 32_768,
            port_high: 60_999,
        };
        let header = Header {
            kind: Kind::Entered as u8,
            state: TCP_TIME_WAIT,
            flags: entered_flags::FOLLOWED | (u16::from(n < 10) * entered_flags::TSTAMP_OK),
            netns: NETNS,
        };
        aggregate.apply(&Event::Entered(Entered {
            header,
            mono_ns: NOW_NS - (20 - n) * 1_000_000_000,
            tw: 0x1000 + n * 256,
            ts_recent_stamp: i64::from(n < 10) * 77,
            flow,
            armed: 15_000,
            rto: 51,
            tcp_timestamps: 1,
            tcp_tw_reuse: 1,
            chosen: PortChoice::Connect as u8,
            ..Entered::default()
        }));
    }
    let context = Context {
        elapsed: Duration::from_secs(15),
        totals: Totals::default().with(Counter::Entered, 20),
        netns_names: HashMap::from([(NETNS, "blue".to_owned())]),
        ..Context::bare(Backend::Tracepoint)
    };
    let mut summary = Summary::new(&aggregate, &RowChoice::default(), context);
    summary.examined = Some(examined);
    summary
}

fn validator(name: &str) -> jsonschema::Validator {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/schema").join(name);
    let text = std::fs::read_to_string(&path).expect("the schema is there");
    let schema: Value = serde_json::from_str(&text).expect("the schema is JSON");
    jsonschema::validator_for(&schema).expect("the schema is a schema")
}

fn document(summary: &Summary) -> Value {
    let mut text = Vec::new();
    view::diagnosis::write_json(&mut text, summary).expect("writing to memory");
    serde_json::from_slice(&text).expect("one JSON document")
}

fn text(summary: &Summary) -> String {
    let mut text = Vec::new();
    view::diagnosis::write(&mut text, summary, Palette::PLAIN).expect("writing to memory");
    String::from_utf8(text).expect("text")
}

#[test]
fn a_diagnosis_fits_its_schema_with_every_finding_and_with_none() {
    let schema = validator("diagnosis-2.schema.json");
    let (peers, facts) = everything_wrong();
    let quiet = HostFacts {
        namespaces: [(NETNS, NamespaceFacts::default())].into(),
        ..HostFacts::default()
    };
    for (examined, some) in [(examined(&peers, facts), true), (examined(&[], quiet), false)] {
        let document = document(&summary(examined));
        let faults: Vec<String> = schema
            .iter_errors(&document)
            .map(|fault| format!("{}: {fault}", fault.instance_path))
            .collect();
        assert!(faults.is_empty(), "{faults:#?}\nin {document:#}");
        let findings = document["findings"].as_array().expect("an array");
        // The quiet one has lost data, by which alone it is no finding of sockets.
        assert_eq!(findings.len() > 1, some, "{document:#}");
    }
}

#[test]
fn findings_come_worst_first_and_causes_before_effects() {
    let (peers, facts) = everything_wrong();
    let ids: Vec<&str> =
        examined(&peers, facts).diagnosis.findings.iter().map(|finding| finding.id).collect();
    assert_eq!(
        ids,
        [
            "TW001", "TW003", "TW005", "TW005", "TW008", "TW017", "TW006", "TW009", "TW010",
            "TW012", "TW018", "TW004", "TW007", "TW007", "TW011", "TW014", "TW015", "TW016"
        ]
    );
}

#[test]
fn every_line_fits_eighty_columns() {
    let (peers, facts) = everything_wrong();
    let summary = summary(examined(&peers, facts));
    let mut explained = Vec::new();
    view::explain::write(&mut explained, &summary, Palette::PLAIN).expect("writing to memory");
    let explained = String::from_utf8(explained).expect("text");
    for line in text(&summary).lines().chain(explained.lines()) {
        assert!(line.chars().count() <= 80, "{} columns: {line}", line.chars().count());
    }
}

#[test]
fn the_moment_timestamps_went_away_is_told_without_being_asked_for() {
    let (peers, facts) = everything_wrong();
    let summary = summary(examined(&peers, facts));
    let document = document(&summary);
    let history = &document["histories"][0];
    assert_eq!(history["changes"].as_array().map(Vec::len), Some(1));
    assert_eq!(
        history["story"],
        "Timestamps were negotiated until 03:13:46 UTC and not since: 03:13:46 UTC is the last \
         socket with, 03:13:47 UTC the first without (10.0 s ago)."
    );
}

#[test]
fn summaries_carry_the_findings_and_the_table_the_worst_of_them() {
    let (peers, facts) = everything_wrong();
    let summary = summary(examined(&peers, facts));
    let mut line = Vec::new();
    view::json::write_line(&mut line, &summary).expect("writing to memory");
    let document: Value = serde_json::from_slice(&line).expect("JSON");
    assert_eq!(document["findings"][0]["id"], "TW001");
    assert!(validator("summary-2.schema.json").is_valid(&document));
    let mut table = Vec::new();
    view::table::write(&mut table, &summary, Palette::PLAIN).expect("writing to memory");
    let table = String::from_utf8(table).expect("text");
    let last = table.lines().last().unwrap_or_default();
    assert!(last.starts_with("TW001 critical: 10.2.0.2:8080 sends no TCP timestamps"), "{last}");
}

#[test]
fn a_check_says_it_in_one_line() {
    let (peers, facts) = everything_wrong();
    let summary = summary(examined(&peers, facts));
    let (status, line) = view::check::line(&summary, 70, 90);
    assert_eq!(status, view::check::Status::Critical);
    assert!(!line.contains('\n') && line.matches('|').count() == 1, "{line}");
}

#[test]
fn a_check_alerts_above_its_thresholds_and_knows_what_it_does_not_know() {
    let at = |live, warn, crit| {
        let namespace = NamespaceFacts {
            time_wait: live,
            max_tw_buckets: Some(1000),
            ..NamespaceFacts::default()
        };
        let facts = HostFacts { namespaces: [(NETNS, namespace)].into(), ..HostFacts::default() };
        view::check::line(&summary(examined(&[], facts)), warn, crit)
    };
    use view::check::Status;
    assert_eq!(at(Some(700), 70, 90).0, Status::Ok, "70 is not above 70");
    assert_eq!(at(Some(701), 70, 90).0, Status::Warning);
    assert_eq!(at(Some(900), 70, 90).0, Status::Warning);
    assert_eq!(at(Some(901), 70, 90).0, Status::Critical);
    let (status, line) = at(None, 70, 90);
    assert_eq!(status, Status::Unknown);
    assert_eq!(line, "TWTRACE UNKNOWN - no limit could be read");
    let (_, line) = at(Some(300), 70, 90);
    let (text, performance) = line.split_once(" | ").expect("performance data");
    let name = format!("30% of tcp_max_tw_buckets of network namespace {NETNS}");
    assert_eq!(text, format!("TWTRACE OK - {name}"));
    assert_eq!(
        performance,
        "worst=30.0%;70;90;0 buckets=30.0%;70;90;0 time_wait=300;;;0 entered_rate=1.3;;;0 \
         overflow=0;;;0 lost=0;;;0",
        "ports are not known, and not 0"
    );
}
