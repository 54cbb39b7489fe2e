//! What the views really print fits the schemas in docs/schema/.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    time::Duration,
};

use serde_json::{Value, json};
use twtrace::{
    aggregate::{Aggregate, Settings},
    attached::{Backend, FailedWay, ObjectKind, Types},
    audit::{Audit, Audited, Basis, Compared},
    event::Event,
    failures::{FailedPlaces, Failures},
    summary::{Context, RowChoice, Summary},
    totals::Totals,
    units::{Clock, Hz},
    view::{self, Format, columns::Provenance, events::EventWriter, style::Palette},
    what_if::{Remedy, WhatIf},
};
use twtrace_common::{
    CallResult, Counter, Ended, Entered, Failed, Failure, FailureKey, Flow, Header, Kind,
    PortChoice, TCP_FIN_WAIT2, TCP_TIME_WAIT, entered_flags,
};

fn schema(name: &str) -> jsonschema::Validator {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/schema").join(name);
    let text = std::fs::read_to_string(&path).expect("the schema is there");
    let schema: Value = serde_json::from_str(&text).expect("the schema is JSON");
    jsonschema::validator_for(&schema).expect("the schema is a schema")
}

fn assert_valid(schema: &jsonschema::Validator, document: &Value) {
    let faults: Vec<String> = schema
        .iter_errors(document)
        .map(|fault| format!("{}: {fault}", fault.instance_path))
        .collect();
    assert!(faults.is_empty(), "{faults:#?}\nin {document:#}");
}

fn address(last: u8) -> [u8; 16] {
    std::net::Ipv4Addr::new(10, 2, 0, last).to_ipv6_mapped().octets()
}

/// A handful of events with every kind, state and reason among them.
fn events() -> Vec<Event> {
    let mut events = Vec::new();
    for (index, reason) in (0_u8..7).enumerate() {
        let id = index as u64 + 1;
        let state = if index % 2 == 0 { TCP_TIME_WAIT } else { TCP_FIN_WAIT2 };
        let flow = Flow {
            local: address(1),
            remote: address(2 + (index % 3) as u8),
            local_port: 40_000 + index as u16,
            remote_port: 8080,
            port_low: 32_768,
            port_high: 60_999,
        };
        let header = Header {
            kind: Kind::Entered as u8,
            state,
            flags: entered_flags::FOLLOWED | ((index % 2) as u16 * entered_flags::TSTAMP_OK),
            netns: 4_026_531_840,
        };
        events.push(Event::Entered(Entered {
            header,
            mono_ns: id * 1_000_000,
            tw: 0xffff_8880_0000_0000 + id * 256,
            ts_recent_stamp: (index % 2) as i64 * 77,
            flow,
            armed: 15_000,
            rto: 51,
            tcp_timestamps: 1,
            tcp_tw_reuse: 2,
            family: 2,
            chosen: PortChoice::Connect as u8,
            ..Entered::default()
        }));
        events.push(Event::Ended(Ended {
            header: Header { kind: Kind::Ended as u8, flags: 0, ..header },
            mono_ns: id * 1_000_000 + 61_000_000_000,
            tw: 0xffff_8880_0000_0000 + id * 256,
            entered_ns: id * 1_000_000,
            flow,
            first_armed: 15_000,
            last_armed: 15_000,
            rto: 51,
            reason,
            chosen: PortChoice::Connect as u8,
            ..Ended::default()
        }));
    }
    let present = Entered {
        header: Header { kind: Kind::Present as u8, state: TCP_TIME_WAIT, flags: 0, netns: 1 },
        chosen: PortChoice::Connect as u8,
        ..Entered::default()
    };
    events.push(Event::Present(present));
    let results = [CallResult::NoPort, CallResult::PortBusy, CallResult::AddressInUse];
    events.extend(results.map(|result| {
        let header = Header { kind: Kind::Failed as u8, flags: 0, state: 0, netns: 1 };
        Event::Failed(Failed { header, result: result as u8, stands_for: 1, ..Failed::default() })
    }));
    events
}

fn summary(backend: Backend, follow_ends: bool, top: Option<usize>) -> Summary {
    let settings = Settings { max_peers: 16, max_live: 16, follow_ends, ..Settings::default() };
    let mut aggregate = Aggregate::new(settings);
    events().iter().filter(|event| !matches!(event, Event::Present(_))).for_each(|event| {
        if follow_ends || matches!(event, Event::Entered(_)) {
            aggregate.apply(event);
        }
    });
    let context = Context {
        refused_backends: vec![FailedWay {
            backend: Backend::Fentry,
            reason: "load refused".to_owned(),
        }],
        elapsed: Duration::from_millis(1234),
        totals: Totals::default().with(Counter::Entered, 7).with(Counter::EnteredFinWait2, 3),
        netns_names: HashMap::from([(4_026_531_840, "blue".to_owned())]),
        ..Context::bare(backend)
    };
    Summary::new(&aggregate, &RowChoice { top, ..RowChoice::default() }, context)
}

/// A namespace of which two sockets are missing.
fn audit() -> Audit {
    let figure = Some(Compared::of(5, 5));
    let audited = Audited {
        cookie: 77,
        entries: Compared::of(9, 7),
        reused: figure,
        overflow: None,
        live: figure,
    };
    Audit {
        basis: Basis::Creations,
        namespaces: BTreeMap::from([(4_026_531_840, audited)]),
        gone: Audited::default(),
        unaudited: 1,
    }
}

#[test]
fn what_the_kernel_counted_and_its_programs_did_not_is_said_first_and_by_namespace() {
    let mut summary = summary(Backend::Tracepoint, true, None);
    summary.audit = Some(audit());
    assert_valid(&schema("summary-2.schema.json"), &document(&summary));
    let audit = &document(&summary)["totals"]["audit"];
    assert_eq!((&audit["basis"], &audit["missing"]), (&json!("creations"), &json!(2)));
    let namespace = &audit["namespaces"][0];
    assert_eq!(
        (&namespace["netns_name"], &namespace["netns_cookie"]),
        (&json!("blue"), &json!(77))
    );
    assert_eq!(namespace["live"], json!({ "kernel": 5, "counted": 5, "missing": 0 }));
    let mut text = Vec::new();
    view::table::write(&mut text, &summary, Palette::default()).expect("writing to memory");
    let text = String::from_utf8_lossy(&text);
    let first = text.lines().next().unwrap_or_default();
    assert!(first.starts_with("2 of the 9 sockets that the kernel counted are MISSING"), "{text}");
}

fn document(summary: &Summary) -> Value {
    let mut text = Vec::new();
    view::json::write_line(&mut text, summary).expect("writing to memory");
    serde_json::from_slice(&text).expect("one JSON document")
}

#[test]
fn summaries_fit_their_schema_whatever_is_known() {
    let schema = schema("summary-2.schema.json");
    for backend in Backend::PREFERENCE {
        for follow_ends in [true, false] {
            for top in [None, Some(1), Some(0)] {
                assert_valid(&schema, &document(&summary(backend, follow_ends, top)));
            }
        }
    }
}

#[test]
fn calls_that_failed_fit_the_schema() {
    let mut failures = Failures::default();
    for result in [CallResult::NoPort, CallResult::PortBusy, CallResult::AddressInUse] {
        let key = FailureKey {
            local: address(1),
            remote: address(2),
            remote_port: 8080,
            netns: 4_026_531_840,
            pid: 42,
            result: result as u8,
            ..FailureKey::default()
        };
        failures.take(&key, &Failure { count: 7, first_ns: 5, last_ns: 9, ..Failure::default() });
    }
    let mut summary = summary(Backend::Fentry, true, None);
    summary.failed = Some(FailedPlaces::at(&failures, 10));
    summary.totals.counts.failed = failures.counts();
    let document = document(&summary);
    assert_valid(&schema("summary-2.schema.json"), &document);
    assert_eq!(document["totals"]["failed"]["no_port"], 7);
    assert_eq!(document["failures"].as_array().map(Vec::len), Some(2), "connect()");
    assert_eq!(document["binds"].as_array().map(Vec::len), Some(1), "bind()");
}

#[test]
fn the_fixed_keys_are_where_scripts_expect_them() {
    let document = document(&summary(Backend::Kprobe, true, Some(1)));
    assert_eq!(document["schema"], "twtrace.summary/2");
    assert_eq!(document["backend"], "kprobe");
    assert_eq!(document["elapsed_s"], 1.234);
    assert_eq!(document["totals"]["entered"], 7);
    assert_eq!(document["totals"]["fin_wait2"], 3);
    assert_eq!(document["totals"]["lost"], 0);
    let peer = &document["peers"][0];
    assert_eq!(peer["peer"], "10.2.0.2:8080");
    assert_eq!(peer["role"], "client");
    assert_eq!(peer["netns"], 4_026_531_840_u32);
    assert_eq!(peer["timestamps"]["without"], 2);
    assert_eq!(peer["blocked"]["no_peer_timestamps"], 2);
    assert_eq!(peer["fast"]["total"], 1);
    assert_eq!(peer["fast"]["replaced"], 1);
    assert_eq!(peer["lifetime_ms"]["max"], 61_000);
    assert_eq!(document["other"]["peers"], 2);
    let rows: u64 = [&document["peers"][0], &document["other"]]
        .iter()
        .filter_map(|row| row["entered"].as_u64())
        .sum();
    assert_eq!(rows, 7, "what is in no row is in the line below");
}

#[test]
fn what_is_not_known_is_null_and_never_zero() {
    let entries_only = document(&summary(Backend::Fentry, false, None));
    for key in ["live", "fast", "two_msl", "lifetime_ms", "refused", "overflow"] {
        assert_eq!(entries_only["totals"][key], Value::Null, "{key} without ends");
    }
    let tracepoint = document(&summary(Backend::Tracepoint, true, None));
    for key in ["refused", "overflow"] {
        assert_eq!(tracepoint["totals"][key], Value::Null, "{key} through tracepoints");
    }
    assert_eq!(tracepoint["totals"]["fin_wait2_timeout"], 1);
}

#[test]
fn without_types_only_what_needs_none_is_told() {
    let mut summary = summary(Backend::Kprobe, true, None);
    (summary.object, summary.types) = (ObjectKind::Perf, Types::Unknown);
    let document = document(&summary);
    assert_valid(&schema("summary-2.schema.json"), &document);
    assert_eq!((&document["object"], &document["types"]), (&json!("perf"), &json!("unknown")));
    for key in ["timestamps", "eligible", "allowed", "blocked", "refused", "recycle_over_2msl"] {
        assert_eq!(document["totals"][key], Value::Null, "{key}");
    }
    assert_eq!(document["totals"]["entered"], 7);
    assert!(!document["totals"]["overflow"].is_null(), "a hooked function tells it");

    let mut text = Vec::new();
    view::table::write(&mut text, &summary, Palette::PLAIN).expect("writing to memory");
    let text = String::from_utf8(text).expect("UTF-8");
    assert!(text.starts_with("twtrace: entries and ends through kprobe with the object for old"));
    assert!(text.contains(
        "not seen this way: timestamps of sockets present at the start, refused takeovers\n"
    ));
    assert!(text.contains("--btf FILE"), "{text}");
    assert!(text.contains("timestamps unknown"), "{text}");
}

#[test]
fn an_event_says_null_of_what_it_does_not_know() {
    let writer = EventWriter::bare(Format::Ndjson, Hz::new(250), true);
    let flags = entered_flags::TIMESTAMPS_UNKNOWN
        | entered_flags::SETTINGS_UNKNOWN
        | entered_flags::OWNER_UNKNOWN;
    let header = Header { kind: Kind::Entered as u8, state: 6, flags, netns: 7 };
    let entered = Entered { header, family: 2, armed: 15_000, ..Entered::default() };
    let mut text = Vec::new();
    writer.write(&mut text, &Event::Entered(entered)).expect("writing to memory");
    let event: Value = serde_json::from_slice(&text).expect("one JSON document");
    assert_valid(&schema("event-2.schema.json"), &event);
    for key in [
        "ts_recent_stamp",
        "tstamp_ok",
        "eligible",
        "blocked",
        "uid",
        "tw_reuse",
        "rto_ms",
        "autobound",
    ] {
        assert_eq!(event[key], Value::Null, "{key}");
    }
    assert_eq!(event["scheduled_ms"], 60_000);
}

#[test]
fn events_fit_their_schema() {
    let schema = schema("event-2.schema.json");
    let writer = EventWriter::bare(Format::Ndjson, Hz::new(250), false);
    for event in events() {
        let mut text = Vec::new();
        writer.write(&mut text, &event).expect("writing to memory");
        assert_valid(&schema, &serde_json::from_slice(&text).expect("one JSON document"));
        let from = Provenance {
            host: "web \"1\", old".to_owned(),
            kernel: "6.12".to_owned(),
            boot_id: "b".to_owned(),
            clock: Clock { mono_ns: 1, wall: std::time::SystemTime::UNIX_EPOCH },
        };
        let mut exported = Vec::new();
        writer.write_from(&mut exported, &event, Some(&from)).expect("writing to memory");
        let document: Value = serde_json::from_slice(&exported).expect("one JSON document");
        assert_valid(&schema, &document);
        assert_eq!(document["host"], "web \"1\", old");
        let only_provenance = document.as_object().expect("an object").len()
            - serde_json::from_slice::<HashMap<String, Value>>(&text).expect("an object").len();
        assert_eq!(only_provenance, 4, "the rest is what a live session says");
    }
}

#[test]
fn csv_rows_have_as_many_fields_as_the_header() {
    let mut text = Vec::new();
    view::csv::write(&mut text, &summary(Backend::Tracepoint, true, Some(1))).expect("memory");
    let text = String::from_utf8(text).expect("UTF-8");
    let widths: Vec<usize> = text.lines().map(|line| line.split(',').count()).collect();
    assert_eq!(widths.len(), 3, "header, one row, other");
    assert!(widths.iter().all(|width| *width == widths[0]), "{widths:?}\n{text}");
}

#[test]
fn the_table_begins_with_the_backend_and_why_no_better_one_runs() {
    let mut text = Vec::new();
    view::table::write(&mut text, &summary(Backend::Tracepoint, true, None), Palette::PLAIN)
        .expect("writing to memory");
    let text = String::from_utf8(text).expect("UTF-8");
    let expected = "\
twtrace: entries and ends through tracepoint, 1.2 s
  fentry did not work: load refused
  not seen this way: refused takeovers, bucket overflow, re-arms that land in the same timer bucket
";
    assert!(text.starts_with(expected), "{text}");
    assert!(!text.contains('\u{1b}'), "no escape sequence without colour");
}

#[test]
fn predictions_fit_their_schema() {
    let schema = schema("what-if-1.schema.json");
    let mut what_if = WhatIf::new(Remedy::usual(), Hz::new(250), false, true);
    assert_valid(&schema, &view::what_if::document(&what_if));
    events().iter().for_each(|event| what_if.event(event));
    what_if.moment(1_000_000_000, None, &Failures::default());
    let document = view::what_if::document(&what_if);
    assert_valid(&schema, &document);
    let told = document["predictions"].as_array().expect("a list");
    assert_eq!(told.len(), Remedy::usual().len());
    assert!(told[0]["settings"].as_object().is_some_and(serde_json::Map::is_empty), "{told:#?}");
}
