//! A word means the same wherever it is used.

use std::{collections::HashMap, time::Duration};

use serde_json::Value;
use twtrace::{
    aggregate::{Aggregate, Settings},
    attached::Backend,
    event::Event,
    path::{Class, Outcome},
    summary::{Context, RowChoice, Summary},
    units::Hz,
    view::{self, Format, events::EventWriter, style::Palette},
};
use twtrace_common::{
    EndReason, Ended, Entered, Flow, Header, Kind, PortChoice, TCP_FIN_WAIT2, TCP_TIME_WAIT,
    ended_flags, entered_flags,
};

fn writer() -> EventWriter {
    EventWriter::bare(Format::Ndjson, Hz::new(250), false)
}

/// Ends of one peer's sockets, and how often each reason comes.
const ENDS: [(EndReason, u8, u64); 8] = [
    (EndReason::Reused, TCP_TIME_WAIT, 1),
    (EndReason::Replaced, TCP_TIME_WAIT, 2),
    (EndReason::Expired, TCP_TIME_WAIT, 3),
    (EndReason::Killed, TCP_TIME_WAIT, 4),
    (EndReason::Aborted, TCP_TIME_WAIT, 5),
    (EndReason::Purged, TCP_TIME_WAIT, 6),
    (EndReason::Expired, TCP_FIN_WAIT2, 7),
    (EndReason::Unknown, TCP_TIME_WAIT, 8),
];
/// Entries that made no socket.
const OVERFLOWED: u64 = 50;

fn entered(id: u64, state: u8, flags: u16) -> Entered {
    Entered {
        header: Header { kind: Kind::Entered as u8, state, flags, netns: 7 },
        mono_ns: id * 1_000_000,
        tw: id * 256,
        flow: Flow { local_port: 40_000, remote_port: 443, ..Flow::default() },
        tcp_timestamps: 1,
        tcp_tw_reuse: 1,
        chosen: PortChoice::Connect as u8,
        ..Entered::default()
    }
}

fn events() -> Vec<Event> {
    let ended =
        ENDS.iter().flat_map(|(reason, state, times)| (0..*times).map(move |_| (*reason, *state)));
    let mut events = Vec::new();
    for (id, (reason, state)) in (1..).zip(ended) {
        let entry = entered(id, state, entered_flags::FOLLOWED);
        events.push(Event::Entered(entry));
        events.push(Event::Ended(Ended {
            header: Header { kind: Kind::Ended as u8, flags: 0, ..entry.header },
            mono_ns: entry.mono_ns + 1_000,
            tw: entry.tw,
            entered_ns: entry.mono_ns,
            flow: entry.flow,
            reason: reason as u8,
            chosen: entry.chosen,
            ..Ended::default()
        }));
    }
    let overflowed =
        |id| Event::Entered(entered(1_000 + id, TCP_TIME_WAIT, entered_flags::OVERFLOW));
    events.extend((0..OVERFLOWED).map(overflowed));
    events
}

fn summary() -> Summary {
    let settings =
        Settings { max_peers: 4, max_live: 200, follow_ends: true, ..Settings::default() };
    let mut aggregate = Aggregate::new(settings);
    events().iter().for_each(|event| {
        aggregate.apply(event);
    });
    let context = Context { elapsed: Duration::from_secs(1), ..Context::bare(Backend::Kprobe) };
    Summary::new(&aggregate, &RowChoice { with_past: true, ..RowChoice::default() }, context)
}

/// How many ends are of each class, by their reasons.
const FAST: u64 = 1 + 2;
const TWO_MSL: u64 = 3;
const OTHER: u64 = 4 + 5 + 6 + 7 + 8;

#[test]
fn every_view_puts_an_end_into_the_same_class_and_an_overflow_into_none() {
    let summary = summary();
    let counts = &summary.totals.counts;
    assert_eq!(Class::ALL.map(|class| counts.class(class)), [FAST, TWO_MSL, OTHER]);
    assert_eq!(counts.overflow, OVERFLOWED);

    let mut table = Vec::new();
    view::table::write(&mut table, &summary, Palette::PLAIN).expect("memory");
    let table = String::from_utf8(table).expect("UTF-8");
    let cells = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let mut lines = table.lines().skip_while(|line| !line.starts_with("PEER")).map(cells);
    let (heading, row) = (lines.next().expect("a heading"), lines.next().expect("a row"));
    // The name of the row has two words, its heading one.
    let cell = |name: &str| &row[1 + heading.iter().position(|cell| cell == name).expect(name)];
    assert_eq!(cell("FAST"), &FAST.to_string(), "{table}");
    assert_eq!(cell("2MSL"), &TWO_MSL.to_string(), "{table}");
    assert_eq!(cell("OTHER"), &OTHER.to_string(), "{table}");

    let row = &summary.rows[0];
    let minutes = row.minutes.iter().fold([0; 3], |[fast, two_msl, other], minute| {
        [fast + minute.fast, two_msl + minute.two_msl, other + minute.other]
    });
    assert_eq!(minutes.map(u64::from), [FAST, TWO_MSL, OTHER], "minute by minute");
}

#[test]
fn an_event_tells_its_reason_in_the_words_of_counts_and_its_path_in_those_of_classes() {
    let mut text = Vec::new();
    view::json::write_line(&mut text, &summary()).expect("memory");
    let document: Value = serde_json::from_slice(&text).expect("JSON");
    let totals = &document["totals"];
    let mut seen: HashMap<(String, String), u64> = HashMap::new();
    for event in events().iter().filter(|event| matches!(event, Event::Ended(_))) {
        let mut line = Vec::new();
        writer().write(&mut line, event).expect("memory");
        let event: Value = serde_json::from_slice(&line).expect("JSON");
        let word = |key: &str| event[key].as_str().expect(key).to_owned();
        *seen.entry((word("reason"), word("path"))).or_default() += 1;
    }
    for outcome in Outcome::ALL.into_iter().filter(|outcome| *outcome != Outcome::Recycled) {
        let (reason, path) = (outcome.key(), outcome.class().key());
        let events = seen.remove(&(reason.to_owned(), path.to_owned()));
        let counted =
            [&totals[reason], &totals["fast"][reason]].into_iter().find_map(Value::as_u64);
        assert_eq!(events, counted, "{reason}");
    }
    assert!(seen.is_empty(), "words that no count has: {seen:?}");
}

#[test]
fn whether_the_peer_sends_timestamps_and_whether_a_socket_is_eligible_are_two_facts() {
    // A takeover inherits a timestamp of the connection before, whatever the peer sends.
    let inherited = Event::Entered(Entered {
        ts_recent_stamp: 77,
        ..entered(1, TCP_TIME_WAIT, entered_flags::FOLLOWED)
    });
    let mut line = Vec::new();
    writer().write(&mut line, &inherited).expect("memory");
    let event: Value = serde_json::from_slice(&line).expect("JSON");
    assert_eq!((&event["tstamp_ok"], &event["eligible"]), (&false.into(), &true.into()));
    let text = writer().detail(&inherited);
    assert!(text.starts_with("without timestamps, eligible"), "{text}");

    let socket = twtrace::filter::Socket::from(&inherited);
    let matches = |text: &str| text.parse::<twtrace::filter::Expr>().expect(text).matches(&socket);
    for text in ["not timestamps", "eligible", "eligible and not timestamps", "not blocked"] {
        assert_eq!(matches(text), twtrace::filter::Verdict::Yes, "{text}");
    }

    let mut aggregate =
        Aggregate::new(Settings { max_peers: 4, max_live: 4, ..Settings::default() });
    aggregate.apply(&inherited);
    let counts = aggregate.table().rows()[0].counts();
    assert_eq!((counts.without_timestamps, counts.with_timestamps, counts.eligible), (1, 0, 1));
}

#[test]
fn a_mini_socket_that_became_time_wait_is_told_when_it_has_ended() {
    let mut aggregate =
        Aggregate::new(Settings { max_peers: 4, max_live: 4, ..Settings::default() });
    let entry = entered(1, TCP_FIN_WAIT2, entered_flags::FOLLOWED);
    aggregate.apply(&Event::Entered(entry));
    aggregate.apply(&Event::Ended(Ended {
        header: Header {
            kind: Kind::Ended as u8,
            state: TCP_TIME_WAIT,
            flags: ended_flags::PROMOTED,
            netns: 7,
        },
        mono_ns: entry.mono_ns + 1_000,
        tw: entry.tw,
        entered_ns: entry.mono_ns,
        flow: entry.flow,
        reason: EndReason::Expired as u8,
        chosen: entry.chosen,
        ..Ended::default()
    }));
    let counts = aggregate.table().rows()[0].counts();
    assert_eq!((counts.fin_wait2, counts.promoted), (1, 1));
}
