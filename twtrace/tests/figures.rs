//! What is told of a row is told of it everywhere, or left out on purpose.

use std::time::{Duration, SystemTime};

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::{Terminal, backend::TestBackend};
use serde_json::Value;
use twtrace::{
    agent::{Agent, Clients, Status},
    aggregate::{Aggregate, Settings},
    attached::Backend,
    failures::{FailedCalls, FailedPlaces},
    host::process::Process,
    needs::Needs,
    peer::{Counts, Group, Refused},
    summary::{Context, Row, RowChoice, Summary},
    units::Clock,
    view::{
        self,
        field::Field,
        figures::{Figure, ROW, RowKey, Unit},
        metrics::{Dialect, Shown},
        style::Palette,
        tui::{self, State},
    },
};
use twtrace_common::{Entered, Flow, Header, Kind, PortChoice, TCP_TIME_WAIT, entered_flags};

/// What the table has no room for.
const NOT_IN_TABLE: [&str; 5] =
    // All but the last are in the page of one peer.
    ["bound", "eligible", "allowed", "rearmed", "promoted"];
/// What the full screen leaves out.
const NOT_ON_SCREEN: [&str; 4] =
    // The reasons tell what is not allowed; a mini-socket's promotion is in its re-armings.
    ["bound", "eligible", "allowed", "promoted"];
/// What the page of one peer leaves out.
const NOT_IN_PEER: [&str; 2] =
    // The classes are those of the list of ends; a mini-socket's promotion is in its re-armings.
    ["fast.total", "promoted"];
/// What metrics leave out: they have a series for each peer, and this many are what a host affords.
const NOT_IN_METRICS: [&str; 10] = [
    "fin_wait2",
    "bound",
    "timestamps.with",
    "timestamps.without",
    "eligible",
    "allowed",
    "fast.total",
    "rearmed",
    "promoted",
    // A bind() has no peer; its series are by namespace.
    "failed.address_in_use",
];

/// A count of each kind, no two alike.
fn counts() -> Counts {
    // The full screen rounds what has more than eight digits.
    let mut next = 70_000_u64;
    let mut one = || {
        next += 1_007;
        next
    };
    Counts {
        entered: one() * 100,
        fin_wait2: one(),
        bound: one(),
        present: one(),
        entry_lost: 0,
        with_timestamps: one(),
        without_timestamps: one(),
        eligible: one(),
        allowed: one(),
        overflow: one(),
        rearms: one(),
        promoted: one(),
        blocked: [(); 5].map(|()| one()),
        ended: [(); 9].map(|()| one()),
        refused: Refused { by_reason: [(); 5].map(|()| one()) },
        failed: FailedCalls { by_cause: [(); 3].map(|()| one()) },
    }
}

/// A summary of one peer with these counts.
fn summary() -> Summary {
    let mut aggregate =
        Aggregate::new(Settings { max_peers: 4, max_live: 4, ..Settings::default() });
    aggregate.apply(&twtrace::event::Event::Entered(Entered {
        header: Header {
            kind: Kind::Entered as u8,
            state: TCP_TIME_WAIT,
            flags: entered_flags::FOLLOWED,
            netns: 7,
        },
        mono_ns: 1_000_000,
        tw: 256,
        flow: Flow { local_port: 40_000, remote_port: 443, ..Flow::default() },
        rto: 51,
        armed: 15_000,
        tcp_timestamps: 1,
        chosen: PortChoice::Connect as u8,
        ..Entered::default()
    }));
    let context = Context { elapsed: Duration::from_secs(1), ..Context::bare(Backend::Kprobe) };
    let mut summary = Summary::new(&aggregate, &RowChoice::default(), context);
    summary.failed = Some(FailedPlaces::default());
    for row in summary.rows.iter_mut().chain([&mut summary.totals]) {
        row.counts = counts();
        row.live = row.counts.live();
        row.lifetimes.count = 77_077_077;
        (row.lifetimes.p50, row.lifetimes.p99) = (Some(1), Some(2));
        (row.lifetimes.p90, row.lifetimes.max) = (Some(1), Some(3));
        row.lifetime_buckets[0] = 77_077_077;
    }
    summary
}

/// Each count of the list with its path and its value.
fn figures(row: &Row, known: Needs) -> Vec<(String, u64)> {
    let mut all = Vec::new();
    let mut add = |path: String, figure: &Figure| {
        if let (Unit::Count, Field::Number(value)) = (figure.unit, figure.value(row, known)) {
            let value = u64::try_from(value).expect("a count");
            assert_ne!(value, 0, "{path} is not among the counts of this test");
            all.push((path, value));
        }
    };
    for key in ROW.iter() {
        match key {
            RowKey::One(figure) => add(figure.key.to_owned(), figure),
            RowKey::Group(group) => {
                let each = group.figures.iter();
                each.for_each(|figure| add(format!("{}.{}", group.key, figure.key), figure));
            }
        }
    }
    all
}

/// Asserts that a text has every figure but those left out, and none of them.
fn assert_told(what: &str, text: &str, left_out: &[&str]) {
    let summary = summary();
    let known = summary.known().and(Needs::NO_PEERS);
    let words: Vec<&str> = text.split(|char: char| !char.is_ascii_digit()).collect();
    for (path, value) in figures(&summary.totals, known) {
        let told = words.contains(&value.to_string().as_str());
        let wanted = !left_out.contains(&path.as_str());
        assert_eq!(told, wanted, "{path} ({value}) in {what}:\n{text}");
    }
}

fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    write(&mut out);
    String::from_utf8(out).expect("UTF-8")
}

#[test]
fn json_has_every_figure_there_is() {
    let summary = summary();
    let json = text(|out| view::json::write_line(out, &summary).expect("memory"));
    let totals = &serde_json::from_str::<Value>(&json).expect("JSON")["totals"];
    assert_told("JSON", &totals.to_string(), &[]);
}

#[test]
fn the_table_has_every_figure_but_few() {
    let table = text(|out| view::table::write(out, &summary(), Palette::PLAIN).expect("memory"));
    assert_told("the table", &table, &NOT_IN_TABLE);
}

#[test]
fn the_page_of_a_peer_has_every_figure_but_few() {
    let page = text(|out| view::peer::write(out, &summary(), Palette::PLAIN).expect("memory"));
    assert_told("the page of a peer", &page, &NOT_IN_PEER);
}

#[test]
fn the_full_screen_has_every_figure_but_few() {
    let mut state = State::default();
    state.update(summary(), Clock { mono_ns: 0, wall: SystemTime::UNIX_EPOCH });
    let mut terminal = Terminal::new(TestBackend::new(200, 80)).expect("memory");
    let screen = |key| {
        let effect = tui::effect(&state, KeyEvent::new(key, KeyModifiers::NONE));
        state.apply(effect.expect("a key that does something"));
        terminal.draw(|frame| tui::draw(frame, &state)).expect("memory");
        terminal.backend().to_string()
    };
    // All peers, and all about one.
    let screens = [KeyCode::Char('1'), KeyCode::Enter].map(screen).concat();
    assert_told("the full screen", &screens, &NOT_ON_SCREEN);
}

#[test]
fn metrics_have_every_figure_but_few() {
    let clock = Clock { mono_ns: 0, wall: SystemTime::UNIX_EPOCH };
    let agent = Agent {
        status: Status::bare(Backend::Kprobe, clock),
        process: Process::default(),
        clients: Clients::default(),
    };
    let summary = summary();
    let lines = Shown::default().take(&summary, &agent.status, 1);
    assert!(matches!(lines[0].group, Some(Group::Peer { .. })));
    let page = view::metrics::text(&summary, &lines, &agent, Dialect::Prometheus);
    assert_told("metrics", &String::from_utf8(page).expect("UTF-8"), &NOT_IN_METRICS);
}
