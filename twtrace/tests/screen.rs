//! The full screen, drawn into memory at three sizes and compared whole with tests/snapshots/.
//!
//! `INSTA_UPDATE=always cargo test --test screen` writes them anew; read the difference.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    time::{Duration, SystemTime},
};

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::{Terminal, backend::TestBackend};
use twtrace::{
    aggregate::{Aggregate, Settings},
    attached::Backend,
    diagnose::{Case, diagnose},
    event::Event,
    host::facts::{HostFacts, NamespaceFacts},
    peer::{GroupBy, Prefixes},
    summary::{Context, Examined, SortKey, Summary},
    totals::Totals,
    units::{Clock, Hz},
    view::{
        Format,
        events::EventWriter,
        tui::{self, Request, State},
    },
};
use twtrace_common::{
    Counter, EndReason, Ended, Entered, Flow, Header, Kind, PortChoice, TCP_FIN_WAIT2,
    TCP_TIME_WAIT, entered_flags,
};

const SECOND: u64 = 1_000_000_000;
const NETNS: u32 = 4_026_532_201;
const HZ: Hz = Hz::new(250);

/// A host whose sockets enter as told, and end by being taken over a second later where they can.
struct Host {
    aggregate: Aggregate,
    state: State,
    second: u64,
    entered: u64,
    lost: u64,
    taken_over: VecDeque<Entered>,
}

impl Host {
    fn new() -> Self {
        let writer = EventWriter::bare(Format::Table, HZ, false);
        let settings = Settings {
            selection: Default::default(),
            group_by: GroupBy::Peer,
            also_by_owner: false,
            prefixes: Prefixes::default(),
            max_peers: 64,
            max_live: 100_000,
            hz: HZ,
            recycle_exists: false,
            follow_ends: true,
            memory: Default::default(),
        };
        Self {
            aggregate: Aggregate::new(settings),
            state: State::new(GroupBy::Peer, SortKey::Entered, None, writer, true),
            second: 0,
            entered: 0,
            lost: 0,
            taken_over: VecDeque::new(),
        }
    }

    fn tell(&mut self, event: &Event) {
        if self.aggregate.apply(event) {
            self.state.take(event);
        }
    }

    fn enter(&mut self, remote: &str, ports: (u16, u16), timestamps: bool, state: u8, at: u64) {
        self.entered += 1;
        let octets = |text: &str| match text.parse().expect("addresses in tests are literals") {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        let local = if remote.contains(':') { "2001:db8::1" } else { "10.1.0.2" };
        let entered = Entered {
            header: Header {
                kind: Kind::Entered as u8,
                state,
                flags: entered_flags::FOLLOWED | (u16::from(timestamps) * entered_flags::TSTAMP_OK),
                netns: NETNS,
            },
            mono_ns: self.second * SECOND + at,
            tw: self.entered * 256,
            ts_recent_stamp: i64::from(timestamps) * 77,
            flow: Flow {
                local: octets(local),
                remote: octets(remote),
                local_port: ports.0,
                remote_port: ports.1,
                port_low: 32_768,
                port_high: 60_999,
            },
            armed: 15_000,
            rto: 51,
            uid: 33,
            tcp_timestamps: 1,
            tcp_tw_reuse: 1,
            family: 2,
            chosen: (if ports.0 > 20_000 { PortChoice::Connect } else { PortChoice::Unknown })
                as u8,
            ..Entered::default()
        };
        self.tell(&Event::Entered(entered));
        if timestamps && state == TCP_TIME_WAIT {
            self.taken_over.push_back(entered);
        }
    }

    /// One second of the story: two services, the second behind a router that strips timestamps; a
    /// client of ours that leaves us waiting for its FIN; and a little IPv6.
    fn live(&mut self) {
        let now = self.second;
        for n in 0..40 + now % 7 * 10 {
            let port = 33_000 + ((now * 100 + n) % 20_000) as u16;
            self.enter("10.2.0.2", (port, 8080), true, TCP_TIME_WAIT, n * 1000);
        }
        for n in 0..600 {
            let port = 33_000 + ((now * 600 + n) % 28_000) as u16;
            self.enter("10.2.0.3", (port, 8080), false, TCP_TIME_WAIT, 500_000 + n * 1000);
        }
        self.enter("10.9.1.7", (443, 51_000), true, TCP_FIN_WAIT2, 700_000);
        if now.is_multiple_of(4) {
            self.enter("2001:db8:85a3:8d3:1319:8a2e:370:7348", (50_000, 443), true, 6, 800_000);
        }
        while let Some(entered) = self.taken_over.front().copied()
            && entered.mono_ns + SECOND + SECOND / 4 < (now + 1) * SECOND
        {
            self.taken_over.pop_front();
            self.tell(&Event::Ended(Ended {
                header: Header { kind: Kind::Ended as u8, flags: 0, ..entered.header },
                mono_ns: entered.mono_ns + SECOND + SECOND / 4,
                tw: entered.tw,
                entered_ns: entered.mono_ns,
                flow: entered.flow,
                first_armed: 15_000,
                last_armed: 15_000,
                rto: 51,
                reason: EndReason::Reused as u8,
                chosen: PortChoice::Connect as u8,
                ..Ended::default()
            }));
        }
        self.second += 1;
        let summary = self.summary(&self.state.choice());
        let clock = self.clock();
        self.state.update(summary, clock);
    }

    fn clock(&self) -> Clock {
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_403_600 + self.second);
        Clock { mono_ns: self.second * SECOND, wall }
    }

    fn summary(&self, choice: &twtrace::summary::RowChoice) -> Summary {
        let context = Context {
            elapsed: Duration::from_secs(self.second),
            totals: Totals::default()
                .with(Counter::Entered, self.entered)
                .with(Counter::LostEntered, self.lost),
            netns_names: HashMap::from([(NETNS, "client".to_owned())]),
            ..Context::bare(Backend::Tracepoint)
        };
        let mut summary = Summary::new(&self.aggregate, choice, context);
        let facts = HostFacts {
            kernel: "6.12.107".into(),
            files: Some((1082, 2_466_193)),
            namespaces: [(
                NETNS,
                NamespaceFacts {
                    tw_reuse: Some(1),
                    timestamps: Some(1),
                    port_range: Some(32_768..=60_999),
                    max_tw_buckets: Some(65_536),
                    fin_timeout: Some(60),
                    rfc1337: Some(0),
                    time_wait: Some(summary.totals.live),
                    ..NamespaceFacts::default()
                },
            )]
            .into(),
            ..HostFacts::default()
        };
        let case = Case {
            egress: &[],
            netns_names: None,
            owners: None,
            peers: self.aggregate.table().rows(),
            failures: self.aggregate.failures(),
            sockets: None,
            fin_wait2_taken: false,
            sees_connects: true,
            sees_binds: false,
            facts: &facts,
            trust: summary.trust,
            now_ns: self.second * SECOND,
            wall: std::time::SystemTime::UNIX_EPOCH,
            since_ns: 0,
        };
        let diagnosis = diagnose(&case);
        summary.examined = Some(Examined { diagnosis, facts, clock: self.clock() });
        summary
    }

    /// Presses keys as the session would: what they ask for is done.
    fn press(&mut self, keys: &str) {
        let special = [("<enter>", KeyCode::Enter), ("<esc>", KeyCode::Esc)];
        let mut rest = keys;
        while let Some(char) = rest.chars().next() {
            let found = special.iter().find(|(name, _)| rest.starts_with(name));
            let (code, length) = found
                .map_or((KeyCode::Char(char), char.len_utf8()), |(name, code)| (*code, name.len()));
            rest = &rest[length..];
            let key = KeyEvent::new(code, KeyModifiers::NONE);
            let request = tui::effect(&self.state, key).and_then(|effect| self.state.apply(effect));
            match request {
                Some(Request::Choose(choice)) => {
                    let summary = self.summary(&choice);
                    self.state.update(summary, self.clock());
                }
                Some(Request::Reset(choice)) => self.state.begin_anew(&self.summary(&choice)),
                Some(Request::Quit) | None => {}
            }
        }
    }

    /// The screen as text, blanks at the ends of lines left out.
    fn screen(&mut self, columns: u16, lines: u16) -> String {
        self.state.resize(columns, lines);
        let mut terminal = Terminal::new(TestBackend::new(columns, lines)).unwrap();
        terminal.draw(|frame| tui::draw(frame, &self.state)).unwrap();
        let buffer = terminal.backend().buffer();
        let rows = buffer.content().chunks(usize::from(columns));
        let rows = rows.map(|row| {
            let text: String = row.iter().map(|cell| cell.symbol()).collect();
            format!("|{}\n", text.trim_end())
        });
        rows.collect()
    }

    /// At three sizes, one below the other.
    fn screens(&mut self) -> String {
        [(80, 24), (132, 40), (60, 12)]
            .map(|(columns, lines)| format!("{columns}x{lines}\n{}", self.screen(columns, lines)))
            .join("\n")
    }
}

fn after(seconds: usize) -> Host {
    let mut host = Host::new();
    (0..seconds).for_each(|_| host.live());
    host
}

#[test]
fn peers() {
    insta::assert_snapshot!(after(12).screens());
}

#[test]
fn one_peer() {
    let mut host = after(12);
    host.press("j<enter>");
    insta::assert_snapshot!(host.screens());
}

#[test]
fn events() {
    let mut host = after(3);
    host.press("2");
    insta::assert_snapshot!(host.screens());
}

#[test]
fn findings() {
    let mut host = after(12);
    host.press("3");
    insta::assert_snapshot!(host.screens());
}

#[test]
fn limits() {
    let mut host = after(12);
    host.press("4");
    insta::assert_snapshot!(host.screens());
}

#[test]
fn help() {
    let mut host = after(1);
    host.press("?");
    insta::assert_snapshot!(host.screens());
}

#[test]
fn nothing_yet() {
    insta::assert_snapshot!(Host::new().screen(80, 4));
}

#[test]
fn a_filter_holds_while_it_is_typed_and_its_faults_are_shown() {
    let mut host = after(3);
    host.press("/not timestamps or dport = 44x");
    insta::assert_snapshot!(host.screen(80, 12));
    host.press("<esc>/role server<enter>");
    insta::assert_snapshot!(host.screen(80, 10));
}

#[test]
fn what_a_row_cannot_tell_of_its_sockets_is_said() {
    let mut host = after(3);
    host.press("/sport > :40000 or role server<enter>");
    insta::assert_snapshot!(host.screen(80, 12));
}

#[test]
fn rows_can_be_summed_up_and_counted_anew() {
    let mut host = after(5);
    host.press("aar");
    (0..3).for_each(|_| host.live());
    insta::assert_snapshot!(host.screen(80, 10));
}

#[test]
fn what_is_lost_stands_in_the_first_line() {
    let mut host = after(2);
    host.lost = 17;
    host.live();
    let first = host.screen(80, 24).lines().next().unwrap().to_owned();
    assert!(first.ends_with("17 EVENTS LOST"), "{first}");
}

#[test]
fn a_held_picture_stays_while_the_counting_goes_on() {
    let mut host = after(3);
    host.press("p");
    let held = host.screen(80, 24);
    (0..5).for_each(|_| host.live());
    assert_eq!(host.screen(80, 24), held);
    host.press("p");
    assert_ne!(host.screen(80, 24), held);
}

#[test]
fn the_end_has_to_be_asked_for_twice() {
    let mut state = State::default();
    assert!(state.apply(tui::Effect::Quit).is_none());
    assert!(state.apply(tui::Effect::Move(1)).is_none());
    assert!(state.apply(tui::Effect::Quit).is_none(), "another key came between");
    assert!(matches!(state.apply(tui::Effect::Quit), Some(Request::Quit)));
}

#[test]
fn no_size_is_too_small_and_no_view_too_large() {
    let mut host = after(4);
    for keys in ["1", "<enter>", "2", "3", "4", "?", "/x", "<esc>GG"] {
        host.press(keys);
        for (columns, lines) in [(1, 1), (3, 2), (20, 5), (79, 6), (300, 90)] {
            host.screen(columns, lines);
        }
    }
}
