//! Recordings from strangers: whatever is in their names, files and figures, nothing of it reaches the
//! terminal but as text.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, SystemTime},
};

use twtrace::{
    aggregate::{Aggregate, Settings},
    attached::{Backend, FailedWay},
    event::BatchBuilder,
    filter::{Expr, Name, Selection, Term},
    host::{configured::Setting, facts::HostFacts, files::ProcessFiles},
    origin::{Input, Moment, Origin},
    recording::{Encoder, Recorder},
    summary::{Context, RowChoice, Summary},
    totals::Totals,
    units::{Clock, Hz},
};
use twtrace_common::{Counter, Decode, Entered, Flow, Header, Kind, TCP_TIME_WAIT, entered_flags};

/// Sets the window's title, clears the screen by C1, forges a line, and turns the direction around.
const HOSTILE: &str = "x\u{1b}]0;title\u{7}\u{9b}2J\nFORGED\r\u{202e}y\u{1b}[2J";
const NETNS: u32 = 4_026_531_841;
const CGROUP: u64 = 77;

fn clock(seconds: u64) -> Clock {
    let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds);
    Clock { mono_ns: seconds * 1_000_000_000, wall }
}

/// A recording with this text wherever somebody may put one.
fn hostile(directory: &Path) -> PathBuf {
    let path = directory.join("recording");
    let netns_names = HashMap::from([(NETNS, HOSTILE.to_owned())]);
    let cgroup_names = HashMap::from([(CGROUP, HOSTILE.to_owned())]);
    let whole: Expr = Term::Netns(Name::Number(NETNS.into())).into();
    let origin = Origin {
        host: HOSTILE.into(),
        kernel: HOSTILE.into(),
        boot_id: HOSTILE.into(),
        program: HOSTILE.into(),
        refused: vec![FailedWay { backend: Backend::Fentry, reason: HOSTILE.into() }],
        selection: Selection { whole, here: Expr::ANY },
        netns_names: netns_names.clone(),
        cgroup_names: cgroup_names.clone(),
        ..Origin::bare(Backend::Tracepoint, clock(100), Hz::new(250))
    };
    let mut recorder = Recorder::create(&path, &origin, None).expect("the file can be made");
    let mut builder = BatchBuilder::default();
    for port in 0..100 {
        let address = |last| std::net::Ipv4Addr::new(10, 2, 0, last).to_ipv6_mapped().octets();
        let entered = Entered {
            header: Header {
                kind: Kind::Entered as u8,
                state: TCP_TIME_WAIT,
                flags: entered_flags::FOLLOWED,
                netns: NETNS,
            },
            mono_ns: 101_000_000_000 + u64::from(port),
            tw: 4096 * (u64::from(port) + 1),
            cgroup: CGROUP,
            rto: 50,
            armed: 15_000,
            flow: Flow {
                local: address(1),
                remote: address(2),
                local_port: 40_000 + port,
                remote_port: 8080,
                port_low: 32_768,
                port_high: 60_999,
            },
            family: 2,
            ..Entered::default()
        };
        builder.push(entered.as_bytes());
    }
    let facts = HostFacts {
        kernel: HOSTILE.into(),
        recycle_configured: vec![Setting { file: HOSTILE.into(), line: 1, value: HOSTILE.into() }],
        namespaces: [(NETNS, Default::default())].into(),
        near_limit: vec![ProcessFiles {
            pid: 7,
            comm: HOSTILE.into(),
            netns: NETNS,
            open: 99,
            limit: 100,
            sockets: 90,
        }],
        unread: vec![HOSTILE.into()],
        ..HostFacts::default()
    };
    let moment = Moment {
        totals: Totals::default().with(Counter::Entered, 100),
        facts: Some(facts),
        netns_names,
        cgroup_names,
        ..Moment::bare(clock(110))
    };
    for input in [
        Input::Ready(100_000_000_000),
        Input::Records(builder.take()),
        Input::Moment(Box::new(moment)),
    ] {
        recorder.write(&input).expect("it can be written");
    }
    recorder.finish().expect("it can be ended");
    path
}

fn twtrace(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_twtrace"));
    command.args(arguments).env_remove("TWTRACE_LOG").output().expect("it runs")
}

/// What people read has none of the text as it was, and all that it says is in its own line.
fn assert_harmless(what: &str, bytes: &[u8]) {
    let text = std::str::from_utf8(bytes).unwrap_or_else(|error| panic!("{what}: {error}"));
    let shown = text.escape_debug();
    let unseen = |char: char| char.is_control() && char != '\n' || char == '\u{202e}';
    assert!(!text.contains(unseen), "{what}: {shown}");
    assert!(!text.lines().any(|line| line.trim_start().starts_with("FORGED")), "{what}: {shown}");
}

#[test]
fn what_strangers_wrote_is_shown_and_does_nothing() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = hostile(directory.path());
    let file = path.to_str().expect("a path that is text");
    let names = directory.path().join("names");
    std::fs::write(&names, "10.2.0.2 na\u{1b}[2Jme\u{202e}\u{9b}2J\n").expect("it can be written");
    let names = names.to_str().expect("a path that is text");
    let mut seen = String::new();
    for arguments in [
        &["replay", file][..],
        &["replay", file, "--by", "netns"],
        &["replay", file, "--by", "cgroup"],
        &["replay", file, "--events"],
        &["replay", file, "--events", "-vv"],
        &["diagnose", "--replay", file],
        &["explain", "10.2.0.2:8080", "--replay", file],
        &["peer", "10.2.0.2:8080", "--replay", file],
        &["replay", file, "--names", names],
        &["diagnose", "--replay", file, "--names", names],
        &["peer", "10.2.0.2:8080", "--replay", file, "--names", names],
        &["check", "--replay", file],
        &["watch", "--replay", "/no/such/file\u{1b}[2J"],
        &["diagnose", "--replay", file, "--netns", HOSTILE],
    ] {
        let what = arguments.join(" ");
        let output = twtrace(arguments);
        assert_harmless(&what, &output.stdout);
        assert_harmless(&what, &output.stderr);
        seen.push_str(&String::from_utf8_lossy(&output.stdout));
        seen.push_str(&String::from_utf8_lossy(&output.stderr));
    }
    let times = seen.matches(r"x\u{1b}]0;title\u{7}\u{9b}2J\nFORGED\r\u{202e}y").count();
    assert!(times > 12, "it is shown only {times} times, so little was asked:\n{seen}");
    let named = seen.matches(r"(na\u{1b}[2Jme\u{202e}\u{9b}2J").count();
    assert!(named >= 2, "names are shown {named} times:\n{seen}");
}

#[test]
fn a_configuration_is_faulted_without_being_obeyed() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("twtrace.toml");
    std::fs::write(&path, "\"x\\u001b[2J\\nFORGED\" = 1\nlog = \"\\u001b[2J\\nFORGED\"\n")
        .expect("it can be written");
    let file = path.to_str().expect("a path that is text");
    let output = twtrace(&["daemon", "--check-config", "--config", file]);
    assert_eq!(output.status.code(), Some(2));
    assert_harmless("--check-config", &output.stderr);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains(r"unknown key x\u{1b}[2J\nFORGED"), "{text}");
}

/// A recording made by hand: a header, and blocks of one frame each.
fn by_hand(path: &Path, frames: impl IntoIterator<Item = (u8, Vec<u8>)>) {
    let origin = Origin::bare(Backend::Tracepoint, clock(100), Hz::new(250));
    let (_, mut bytes) = Encoder::new(&origin).expect("a header");
    for (kind, payload) in frames {
        let mut frame = vec![kind];
        frame.extend((payload.len() as u32).to_le_bytes());
        frame.extend(payload);
        let packed = zstd::bulk::compress(&frame, 1).expect("it can be compressed");
        for number in [frame.len() as u32, packed.len() as u32, crc32fast::hash(&packed)] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(packed);
    }
    std::fs::write(path, bytes).expect("it can be written");
}

/// A moment's JSON with this among its facts or names.
fn moment(second: u64, facts: &str, names: &str) -> Vec<u8> {
    let clock = serde_json::to_string(&clock(second)).expect("plain data");
    let facts = format!(
        "{{\"kernel\":\"\",\"recycle_configured\":[],\"namespaces\":{{{facts}}},\"unread\":[]}}"
    );
    let text = format!(
        "{{\"clock\":{clock},\"totals\":[],\"skipped\":0,\"facts\":{facts},\
         \"netns_names\":{{{names}}},\"cgroup_names\":{{}}}}"
    );
    text.into_bytes()
}

/// So many things, separated by commas.
fn many(count: u32, thing: impl Fn(u32) -> String) -> String {
    (0..count).map(thing).collect::<Vec<_>>().join(",")
}

/// Replays a file with 768 MiB of address space; gives its exit status and what it said.
fn replayed_in_little(path: &Path, more: &str) -> (Option<i32>, String) {
    let command = format!("ulimit -v 786432; exec \"$0\" replay \"$1\" {more}");
    let output = Command::new("sh")
        .args(["-c", &command, env!("CARGO_BIN_EXE_twtrace")])
        .arg(path)
        .output()
        .expect("there is a shell");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_small_file_cannot_take_much_memory() {
    const MOMENT: u8 = 6;
    const PAST: u8 = 4;
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("recording");
    let facts = |count| many(count, |n| format!("\"{n}\":{{\"counters\":{{}}}}"));
    by_hand(&path, [(MOMENT, moment(110, &facts(2000), ""))]);
    let (status, said) = replayed_in_little(&path, "");
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("at most 1024 network namespaces"), "{said}");

    by_hand(&path, [(MOMENT, moment(110, "", &many(800_000, |n| format!("\"{n}\":\"\""))))]);
    let (status, said) = replayed_in_little(&path, "");
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("more than 4194304"), "{said}");

    // Each as large as may be, one after the other, and each of other namespaces.
    let counters = |at: u32| {
        let counters = many(60, |n| format!("\"c{n}\":1"));
        let facts = |n| format!("\"{}\":{{\"counters\":{{{counters}}}}}", at * 1000 + n);
        moment(110 + u64::from(at), &many(1000, facts), &many(100_000, |n| format!("\"{n}\":\"\"")))
    };
    by_hand(&path, (0..12).map(|at| (MOMENT, counters(at))));
    let (status, said) = replayed_in_little(&path, "");
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("cut off"), "there is no end: {said}");

    let minutes = many(1000, |_| {
        "{\"minute\":1,\"entered\":1,\"without_timestamps\":0,\"blocked\":0,\"fast\":0,\
         \"two_msl\":0,\"other\":0,\"overflow\":0,\"refused\":0}"
            .to_owned()
    });
    let past = format!(
        "[{{\"netns\":1,\"role\":\"client\",\"address\":\"10.0.0.1\",\"port\":1,\"with\":\
         {{\"first_ns\":0,\"last_ns\":0}},\"without\":{{\"first_ns\":0,\"last_ns\":0}},\
         \"changes\":[],\"changes_seen\":0,\"minutes\":[{minutes}]}}]"
    );
    by_hand(&path, [(PAST, past.into_bytes())]);
    let (_, said) = replayed_in_little(&path, "");
    assert!(said.contains("minutes are out of order"), "{said}");
}

#[test]
fn the_slowest_replay_and_the_quickest_end_like_any_other() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("recording");
    by_hand(&path, [(6, moment(110, "", ""))]);
    for speed in ["1e-300", "1e300"] {
        let (status, said) = replayed_in_little(&path, &format!("--speed {speed}"));
        assert_eq!(status, Some(1), "{speed}: {said}");
        assert!(said.contains("cut off"), "{speed}: {said}");
    }
}

#[test]
fn totals_that_no_kernel_comes_to_are_added_up_without_overflow() {
    let most = [Counter::Entered, Counter::Present, Counter::Overflow];
    let totals = most.into_iter().fold(Totals::default(), |all, it| all.with(it, u64::MAX));
    let aggregate = Aggregate::new(Settings { max_peers: 4, max_live: 4, ..Settings::default() });
    let context = Context { totals, ..Context::bare(Backend::Fentry) };
    let summary = Summary::new(&aggregate, &RowChoice::default(), context);
    assert_eq!(summary.totals.counts.came(), u64::MAX);
}
