//! The page of a recording: nobody's text is markup on it, it stays small, and it says what it leaves
//! out. What a browser makes of it a scenario asks one.

use std::{
    collections::HashMap,
    fs,
    path::Path,
    process::{Command, Output},
    time::{Duration, SystemTime},
};

use twtrace::{
    attached::Backend,
    event::BatchBuilder,
    host::facts::{HostFacts, NamespaceFacts},
    origin::{Input, Moment, Origin},
    recording::Recorder,
    totals::Totals,
    units::{Clock, Hz},
};
use twtrace_common::{
    Counter, Decode, Entered, Flow, Header, Kind, PortChoice, TCP_TIME_WAIT, entered_flags,
};

const NETNS: u32 = 4_026_531_841;
const SECOND: u64 = 1_000_000_000;
const MARKUP: &str = "\"><script>alert(1)</script><img src=x onerror=alert(2)>&lt;\u{202e}";

fn clock(seconds: u64) -> Clock {
    let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds);
    Clock { mono_ns: seconds * SECOND, wall }
}

/// A recording of some seconds, with so many entries in each, each to the next of so many peers.
fn record(path: &Path, origin: &Origin, (seconds, rate, peers): (u64, u64, u64)) {
    let mut recorder = Recorder::create(path, origin, None).expect("the file can be made");
    recorder.write(&Input::Ready(100 * SECOND)).expect("it can be written");
    let mut number = 0;
    for second in 100..=100 + seconds {
        let mut builder = BatchBuilder::default();
        for _ in 0..if second == 100 { 0 } else { rate } {
            number += 1;
            let peer = (number % peers) as u32;
            let remote = std::net::Ipv4Addr::from(0x0a00_0000 + peer).to_ipv6_mapped().octets();
            let entered = Entered {
                header: Header {
                    kind: Kind::Entered as u8,
                    state: TCP_TIME_WAIT,
                    flags: entered_flags::FOLLOWED,
                    netns: NETNS,
                },
                mono_ns: second * SECOND - SECOND / 2,
                tw: number * 256,
                flow: Flow {
                    local: [1; 16],
                    remote,
                    local_port: 32_768 + (number % 28_000) as u16,
                    remote_port: 443,
                    port_low: 32_768,
                    port_high: 60_999,
                },
                rto: 51,
                armed: 15_000,
                tcp_timestamps: 1,
                tcp_tw_reuse: 1,
                chosen: PortChoice::Connect as u8,
                ..Entered::default()
            };
            builder.push(entered.as_bytes());
        }
        recorder.write(&Input::Records(builder.take())).expect("it can be written");
        let facts = NamespaceFacts {
            tw_reuse: Some(1),
            timestamps: Some(1),
            port_range: Some(32_768..=60_999),
            max_tw_buckets: Some(262_144),
            ..NamespaceFacts::default()
        };
        let moment = Moment {
            totals: Totals::default().with(Counter::Entered, number),
            facts: Some(HostFacts {
                kernel: origin.kernel.clone(),
                namespaces: [(NETNS, facts)].into(),
                unread: vec![origin.host.clone()],
                ..HostFacts::default()
            }),
            netns_names: origin.netns_names.clone(),
            ..Moment::bare(clock(second))
        };
        recorder.write(&Input::Moment(Box::new(moment))).expect("it can be written");
    }
    recorder.finish().expect("it can be ended");
}

fn origin(name: &str) -> Origin {
    Origin {
        host: name.into(),
        kernel: name.into(),
        boot_id: name.into(),
        program: name.into(),
        netns_names: HashMap::from([(NETNS, name.to_owned())]),
        ..Origin::bare(Backend::Tracepoint, clock(100), Hz::new(250))
    }
}

/// The page of a recording.
fn page(directory: &Path, recording: &Path) -> (String, Output) {
    let out = directory.join("a.html");
    let mut command = Command::new(env!("CARGO_BIN_EXE_twtrace"));
    command.arg("report").arg(&out).arg("--replay").arg(recording).env_remove("TWTRACE_LOG");
    let output = command.output().expect("it runs");
    (fs::read_to_string(&out).expect("there is a page"), output)
}

#[test]
fn nobodys_text_is_markup_on_the_page() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("r.twt");
    record(&file, &origin(MARKUP), (3, 10, 2));
    let (page, output) = page(directory.path(), &file);
    assert!(output.status.success(), "{output:?}");
    assert!(!page.contains("<script") && !page.contains("<img"), "{page}");
    assert!(!page.contains('\u{202e}'), "it turns the reading direction");
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"), "it is there as text");
    assert!(page.contains("&amp;lt;"), "what looks escaped is escaped");
    assert!(page.contains("default-src 'none'"));
    let own = page.replace("img src=x onerror=alert(2)", "");
    for word in ["http:", "https:", "src=", "onerror=", "style=", "url("] {
        assert!(!own.contains(word), "{word}: {own}");
    }
}

#[test]
fn an_hour_is_a_small_page() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("r.twt");
    record(&file, &origin("host"), (3_600, 2, 20));
    let (page, output) = page(directory.path(), &file);
    assert!(output.status.success(), "{output:?}");
    assert!(page.len() < 300_000, "{} bytes", page.len());
}

#[test]
fn of_many_peers_a_small_page_says_what_it_leaves_out() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("r.twt");
    record(&file, &origin("host"), (60, 1_100, 65_536));
    let (page, output) = page(directory.path(), &file);
    assert!(output.status.success(), "{output:?}");
    assert!(page.len() < 300_000, "{} bytes", page.len());
    assert!(page.contains("65536 peers"), "{}", &page[..4000]);
    assert!(page.contains("The 100 with the most entries are shown"));
    assert!(page.contains("65436 more peers"));
}

#[test]
fn a_recording_that_is_cut_off_has_a_page_that_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("r.twt");
    record(&file, &origin("host"), (20, 50, 3));
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() - 40]).unwrap();
    let (page, output) = page(directory.path(), &file);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(page.contains("Not whole: ") && page.contains("This page is of what comes before"));
    assert!(page.contains("3 peers"));
}
