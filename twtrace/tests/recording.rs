//! Recordings: what is written is read again, and what is damaged is read up to the damage.

use std::{
    collections::HashMap,
    io::Read,
    path::Path,
    time::{Duration, SystemTime},
};

use proptest::prelude::*;
use serde_json::Value;
use twtrace::{
    aggregate::Settings,
    attached::{Backend, Types},
    event::BatchBuilder,
    feed::Core,
    host::facts::HostFacts,
    origin::{Input, Moment, Origin},
    peer::{GroupBy, Past, Prefixes, Refused, history::Span, minutes::Memory},
    recording::{Encoder, ReadError, Reader, Recorder, Rotation},
    summary::RowChoice,
    totals::Totals,
    units::{Clock, Hz},
    view,
};
use twtrace_common::{
    ABI, CallResult, Counter, Decode, Ended, Entered, Failure, FailureKey, Flow, Header, Kind,
    PortChoice, RefusalKey, TCP_TIME_WAIT, entered_flags,
};

const SECOND: u64 = 1_000_000_000;

fn clock(seconds: u64) -> Clock {
    let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds);
    Clock { mono_ns: seconds * SECOND, wall }
}

fn origin() -> Origin {
    Origin {
        program: "0".into(),
        host: "web-1".into(),
        kernel: "6.12.0".into(),
        boot_id: "b".into(),
        netns_names: HashMap::from([(1, "blue".into())]),
        ..Origin::bare(Backend::Tracepoint, clock(100), Hz::new(250))
    }
}

fn flow(id: u64) -> Flow {
    let remote = std::net::Ipv4Addr::new(10, 0, 0, (id % 7) as u8).to_ipv6_mapped().octets();
    let local = std::net::Ipv4Addr::new(10, 0, 1, 1).to_ipv6_mapped().octets();
    Flow {
        local,
        remote,
        local_port: 32_768,
        remote_port: 443,
        port_low: 32_768,
        port_high: 60_999,
    }
}

fn entry(id: u64) -> Entered {
    Entered {
        header: Header {
            kind: Kind::Entered as u8,
            state: TCP_TIME_WAIT,
            flags: entered_flags::FOLLOWED | ((id % 2) as u16 * entered_flags::TSTAMP_OK),
            netns: 1,
        },
        mono_ns: 100 * SECOND + id * 1000,
        tw: 0xffff_8880_0000_0000 + id * 256,
        ts_recent_stamp: (id % 2) as i64,
        flow: flow(id),
        rto: 51,
        chosen: PortChoice::Connect as u8,
        ..Entered::default()
    }
}

fn end(id: u64) -> Ended {
    let entered = entry(id);
    Ended {
        header: Header { kind: Kind::Ended as u8, flags: 0, ..entered.header },
        mono_ns: entered.mono_ns + SECOND,
        tw: entered.tw,
        entered_ns: entered.mono_ns,
        flow: entered.flow,
        first_armed: 15_000,
        last_armed: 15_000,
        reason: (id % 7) as u8,
        chosen: PortChoice::Connect as u8,
        ..Ended::default()
    }
}

fn records(ids: impl IntoIterator<Item = u64>) -> Input {
    let mut builder = BatchBuilder::default();
    for id in ids {
        builder.push(entry(id).as_bytes());
        builder.push(end(id).as_bytes());
    }
    Input::Records(builder.take())
}

fn moment(seconds: u64, entered: u64) -> Input {
    let totals = Totals::default().with(Counter::Entered, entered);
    Input::Moment(Box::new(Moment { totals, ..Moment::bare(clock(seconds)) }))
}

/// What `explain` says of a peer in a recording made without the kernel's types.
#[test]
fn what_is_not_known_is_not_told_as_if_it_were_nothing() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("recording");
    let origin = Origin { types: Types::Unknown, ..origin() };
    let mut recorder = Recorder::create(&path, &origin, None).expect("the file can be made");
    let mut builder = BatchBuilder::default();
    for id in (7..70).filter(|id| id % 7 == 1) {
        let mut entry = entry(id);
        entry.ts_recent_stamp = 0;
        entry.header.flags = entered_flags::FOLLOWED | entered_flags::TIMESTAMPS_UNKNOWN;
        builder.push(entry.as_bytes());
    }
    recorder.write(&Input::Ready(100 * SECOND)).expect("it can be written");
    recorder.write(&Input::Records(builder.take())).expect("it can be written");
    let facts = HostFacts { namespaces: [(1, Default::default())].into(), ..HostFacts::default() };
    let moment = Moment {
        totals: Totals::default().with(Counter::Entered, 9),
        facts: Some(facts),
        ..Moment::bare(clock(110))
    };
    recorder.write(&Input::Moment(Box::new(moment))).expect("it can be written");
    recorder.finish().expect("it can be ended");
    let explain = |more: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_twtrace"));
        let output = command.args(["explain", "10.0.0.1:443", "--replay"]).arg(&path).args(more);
        let output = output.output().expect("it runs");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        text
    };
    let text = explain(&[]);
    assert!(text.contains("Whether the peer sends timestamps is not known"), "{text}");
    assert!(!text.contains("negotiated"), "{text}");
    let row = text.lines().rfind(|line| line.contains(" UTC ")).expect("a minute");
    let words: Vec<_> = row.split_whitespace().collect();
    assert_eq!(words[2..5], ["9", "-", "-"], "{text}");
    let document: Value = serde_json::from_str(&explain(&["-o", "json"])).expect("JSON");
    let minute = &document["histories"][0]["minutes"][0];
    assert_eq!(minute["entered"], 9, "{document:#}");
    for unknown in ["without_timestamps", "blocked", "overflow", "refused"] {
        assert!(minute[unknown].is_null(), "{unknown}: {minute:#}");
    }
}

fn past() -> Past {
    Past {
        netns: 1,
        role: twtrace::event::Role::Client,
        address: "10.0.0.3".parse().expect("a literal"),
        port: 443,
        with: Span { first_ns: 5, last_ns: 9 },
        without: Span::default(),
        changes: Vec::new(),
        changes_seen: 0,
        minutes: Vec::new(),
    }
}

fn failed() -> (FailureKey, Failure) {
    let result = CallResult::NoPort as u8;
    let key = FailureKey { netns: 1, pid: 42, result, ..FailureKey::default() };
    (key, Failure { count: 9, first_ns: 7, last_ns: 8, ..Failure::default() })
}

/// Inputs of every kind, the last block of which has `last` sockets.
fn inputs(last: u64) -> Vec<Input> {
    let key = RefusalKey { netns: 1, remote_port: 443, ..RefusalKey::default() };
    vec![
        Input::Past(vec![past()]),
        Input::Ready(100 * SECOND),
        moment(100, 0),
        records(0..50),
        Input::Refusals(vec![(key, Refused { by_reason: [1, 2, 3, 4, 5] })]),
        Input::Failures(vec![failed()]),
        Input::FailuresBefore(vec![failed()]),
        Input::Vanished(vec![(1, 2), (3, 4)]),
        Input::Unfollowed(vec![(5, 6)]),
        moment(101, 50),
        records(50..50 + last),
        moment(102, 50 + last),
    ]
}

/// The recording of inputs, and where each block ends.
fn encode(inputs: &[Input]) -> (Vec<u8>, Vec<usize>) {
    let (mut encoder, mut bytes) = Encoder::new(&origin()).expect("memory to compress");
    let mut ends = vec![bytes.len()];
    for input in inputs {
        if let Some(blocks) = encoder.push(input).expect("a block that fits") {
            bytes.extend(blocks);
            ends.push(bytes.len());
        }
    }
    bytes.extend(encoder.end().expect("a block that fits"));
    ends.push(bytes.len());
    (bytes, ends)
}

/// What was read, and why no more.
struct Outcome {
    inputs: Vec<Input>,
    error: Option<ReadError>,
}

fn read(source: impl Read) -> Result<Outcome, ReadError> {
    let (mut reader, _) = Reader::open(source)?;
    let mut outcome = Outcome { inputs: Vec::new(), error: None };
    loop {
        match reader.next_input() {
            Ok(Some(input)) => outcome.inputs.push(input),
            Ok(None) => return Ok(outcome),
            Err(error) => {
                outcome.error = Some(error);
                assert!(
                    reader.next_input().expect("nothing after an error").is_none(),
                    "an error is the end"
                );
                return Ok(outcome);
            }
        }
    }
}

fn settings(origin: &Origin) -> Settings {
    Settings {
        selection: origin.selection.clone(),
        group_by: GroupBy::Peer,
        also_by_owner: false,
        prefixes: Prefixes::default(),
        max_peers: 64,
        max_live: 4096,
        memory: Memory::default(),
        hz: origin.hz,
        recycle_exists: origin.recycle_exists,
        follow_ends: origin.follow_ends,
    }
}

/// The summary at the end of inputs; `None` if no moment is among them.
fn summary(origin: Origin, inputs: impl IntoIterator<Item = Input>) -> Option<Value> {
    let settings = settings(&origin);
    let mut core = Core::new(origin, settings);
    inputs.into_iter().for_each(|input| core.take(input, &mut |_| {}));
    assert!(core.aggregate().conservation().holds(), "{:?}", core.aggregate().conservation());
    let summary = core.summary(&RowChoice::default()).ok()?;
    let mut text = Vec::new();
    view::json::write_line(&mut text, &summary).expect("writing to memory");
    Some(serde_json::from_slice(&text).expect("one JSON document"))
}

/// Inputs as text, to be compared.
fn shown(inputs: &[Input]) -> Vec<String> {
    inputs.iter().map(|input| format!("{input:?}")).collect()
}

#[test]
fn what_is_written_is_read_again() {
    let wanted = inputs(20);
    let (bytes, _) = encode(&wanted);
    let outcome = read(&bytes[..]).unwrap();
    assert!(outcome.error.is_none(), "{:?}", outcome.error);
    assert_eq!(shown(&outcome.inputs), shown(&wanted));
    assert_eq!(summary(origin(), outcome.inputs), summary(origin(), wanted));
}

#[test]
fn a_recording_cut_anywhere_is_read_up_to_the_cut_and_says_so() {
    let wanted = inputs(4);
    let (bytes, ends) = encode(&wanted);
    let header = ends[0];
    for cut in 0..bytes.len() {
        let outcome = match read(&bytes[..cut]) {
            Ok(outcome) => outcome,
            Err(error) if cut < 1 => {
                assert!(matches!(error, ReadError::NotARecording), "{cut}: {error}");
                continue;
            }
            Err(error) => {
                assert!(cut < header, "{cut}: {error}");
                assert!(matches!(error, ReadError::Cut { .. }), "{cut}: {error}");
                continue;
            }
        };
        let whole = *ends.iter().rfind(|end| **end <= cut).unwrap() as u64;
        match outcome.error {
            Some(ReadError::Cut { offset }) => assert_eq!(offset, whole, "cut at {cut}"),
            other => panic!("cut at {cut}: {other:?}"),
        }
        // Blocks end with moments: 3, 7 and 2 inputs.
        let count = [0, 3, 10, 12][ends.iter().filter(|end| **end <= cut).count() - 1];
        assert_eq!(shown(&outcome.inputs), shown(&wanted[..count]), "cut at {cut}");
    }
}

#[test]
fn no_list_makes_a_block_that_a_reader_refuses() {
    let sockets: Vec<(u64, u64)> = (0..5_000_000).map(|id| (id, id)).collect();
    let (mut encoder, mut bytes) = Encoder::new(&origin()).unwrap();
    bytes.extend(encoder.push(&Input::Vanished(sockets.clone())).unwrap().unwrap());
    bytes.extend(encoder.end().unwrap());
    let outcome = read(&bytes[..]).unwrap();
    assert!(outcome.error.is_none(), "{:?}", outcome.error);
    let lists = outcome.inputs.into_iter().map(|input| match input {
        Input::Vanished(some) => some,
        other => panic!("{other:?}"),
    });
    assert_eq!(lists.flatten().collect::<Vec<_>>(), sockets);
}

#[test]
fn what_no_reader_would_take_is_not_written() {
    let cgroup_names = (0..40).map(|id| (id, "x".repeat(2 << 20))).collect();
    let bare = Moment::bare(clock(1));
    let moment = Input::Moment(Box::new(Moment { cgroup_names, ..bare }));
    let (mut encoder, _) = Encoder::new(&origin()).unwrap();
    let error = encoder.push(&moment).unwrap_err();
    assert!(error.to_string().contains("more than"), "{error}");
    let netns_names = (0..20).map(|id| (id, "x".repeat(1 << 20))).collect();
    assert!(Encoder::new(&Origin { netns_names, ..origin() }).is_err());
}

#[test]
fn another_file_and_another_version_are_told_from_damage() {
    let text = |bytes: &[u8]| Reader::open(bytes).err().map(|error| error.to_string());
    assert_eq!(
        text(b"\x7fELF and more than that").unwrap(),
        "this is no recording of twtrace: it does not begin with \"TWTRACE\""
    );
    let (mut bytes, _) = encode(&inputs(1));
    bytes[8] = 9;
    let newer = text(&bytes).unwrap();
    assert!(newer.starts_with("this recording has format 9"), "{newer}");
    let (_, other_records) = Encoder::new(&Origin { abi: ABI + 1, ..origin() }).unwrap();
    let other = text(&other_records).unwrap();
    assert!(other.starts_with("this recording has records of version"), "{other}");
}

/// What happens to a file on its way.
#[derive(Clone, Debug)]
enum Damage {
    Flip(prop::sample::Index, u8),
    Insert(prop::sample::Index, Vec<u8>),
    Delete(prop::sample::Index, usize),
}

impl Damage {
    fn apply(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        match self {
            Self::Flip(at, mask) => {
                let at = at.index(bytes.len());
                bytes[at] ^= mask;
            }
            Self::Insert(at, more) => {
                let at = at.index(bytes.len());
                bytes.splice(at..at, more.iter().copied());
            }
            Self::Delete(at, length) => {
                let at = at.index(bytes.len());
                let end = (at + length).min(bytes.len());
                bytes.drain(at..end);
            }
        }
    }
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        (any::<prop::sample::Index>(), 1_u8..).prop_map(|(at, mask)| Damage::Flip(at, mask)),
        (any::<prop::sample::Index>(), prop::collection::vec(any::<u8>(), 1..40))
            .prop_map(|(at, more)| Damage::Insert(at, more)),
        (any::<prop::sample::Index>(), 1_usize..200).prop_map(|(at, len)| Damage::Delete(at, len)),
    ]
}

/// A record of any kind with any content.
fn record() -> impl Strategy<Value = Vec<u8>> {
    (0_u8..5, prop::collection::vec(any::<u8>(), 0..130)).prop_map(|(kind, mut bytes)| {
        if let Some(first) = bytes.first_mut() {
            *first = kind;
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn damage_is_noticed_and_what_comes_before_it_is_right(
        damages in prop::collection::vec(damage(), 1..4),
    ) {
        let wanted = inputs(20);
        let (whole, _) = encode(&wanted);
        let mut bytes = whole.clone();
        damages.iter().for_each(|damage| damage.apply(&mut bytes));
        let Ok(outcome) = read(&bytes[..]) else { return Ok(()) };
        prop_assert!(outcome.error.is_some() || bytes.starts_with(&whole), "not noticed");
        let count = outcome.inputs.len();
        prop_assert_eq!(shown(&outcome.inputs), shown(&wanted[..count]));
        summary(origin(), outcome.inputs);
    }

    #[test]
    fn records_of_any_content_are_taken_in_or_counted(
        records in prop::collection::vec(record(), 0..60),
        vanished in prop::collection::vec(any::<(u64, u64)>(), 0..4),
    ) {
        let mut builder = BatchBuilder::default();
        records.iter().for_each(|record| builder.push(record));
        let inputs = [
            Input::Ready(100 * SECOND),
            Input::Records(builder.take()),
            Input::Vanished(vanished),
            moment(101, 7),
        ];
        let (bytes, _) = encode(&inputs);
        let outcome = read(&bytes[..]).unwrap();
        prop_assert!(outcome.error.is_none());
        prop_assert!(summary(origin(), outcome.inputs).is_some());
    }
}

/// A source that says how much was asked of it.
struct Endless {
    begin: Vec<u8>,
    given: u64,
}

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let from_begin = (self.given as usize).min(self.begin.len());
        let rest = &self.begin[from_begin..];
        let length = if rest.is_empty() { buffer.len() } else { rest.len().min(buffer.len()) };
        if rest.is_empty() {
            buffer.fill(0xff);
        } else {
            buffer[..length].copy_from_slice(&rest[..length]);
        }
        self.given += length as u64;
        Ok(length)
    }
}

#[test]
fn nonsense_without_end_is_not_read_without_end() {
    let (_, head) = Encoder::new(&origin()).unwrap();
    let mut endless = Endless { begin: head, given: 0 };
    let outcome = read(&mut endless).unwrap();
    assert!(matches!(outcome.error, Some(ReadError::Damaged { .. })), "{:?}", outcome.error);
    assert!(endless.given < 1 << 20, "{} bytes were read", endless.given);
}

#[test]
fn full_files_make_room_for_new_ones_that_begin_by_themselves() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("r");
    let rotation = Rotation { bytes: 4096, keep: 3 };
    let mut recorder = Recorder::create(&path, &origin(), Some(rotation)).unwrap();
    for round in 0..40 {
        recorder.write(&records(round * 40..round * 40 + 40)).unwrap();
        recorder.write(&moment(100 + round, round * 40 + 40)).unwrap();
        if recorder.is_full() {
            recorder.rotate(&origin()).unwrap();
        }
    }
    recorder.finish().unwrap();
    let mut names: Vec<String> = std::fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["r", "r.1", "r.2"]);
    let mut on_disk = 0;
    for name in names {
        let bytes = std::fs::read(directory.path().join(&name)).unwrap();
        on_disk += bytes.len() as u64;
        assert!(read(&bytes[..]).unwrap().error.is_none(), "{name} is whole");
    }
    assert!(
        recorder.bytes() > on_disk,
        "what was left behind is counted, {on_disk} bytes are there"
    );
    assert!(on_disk < 3 * 2 * 4096, "{on_disk} bytes are on disk");
}

/// Every recording in the directory was written by the version in its name, those with more behind
/// it when the header had got more keys, and has beside it the summary that was given then.
#[test]
fn recordings_of_every_version_are_read_as_when_they_were_written() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/recordings");
    let of_versions = (1..=twtrace::recording::VERSION).map(|version| format!("v{version}"));
    for name in of_versions.chain(["v1-cgroups".to_owned()]) {
        let name = directory.join(name).with_extension("twtrace");
        let (mut reader, origin) =
            Reader::open(std::fs::File::open(&name).expect("a recording of each version")).unwrap();
        let inputs = std::iter::from_fn(|| reader.next_input().unwrap()).collect::<Vec<_>>();
        let text = std::fs::read_to_string(name.with_extension("json")).unwrap();
        let wanted: Value = serde_json::from_str(&text).unwrap();
        let got = summary(origin, inputs).unwrap();
        assert_holds(&got, &wanted, &name.display().to_string());
    }
}

/// A document has all that another has; later versions may say more.
fn assert_holds(got: &Value, wanted: &Value, at: &str) {
    match (got, wanted) {
        (Value::Object(got), Value::Object(wanted)) => wanted.iter().for_each(|(key, wanted)| {
            assert_holds(got.get(key).unwrap_or(&Value::Null), wanted, &format!("{at} {key}"));
        }),
        (Value::Array(got), Value::Array(wanted)) => {
            assert_eq!(got.len(), wanted.len(), "{at}");
            let pairs = got.iter().zip(wanted);
            pairs.for_each(|(got, wanted)| assert_holds(got, wanted, at));
        }
        _ => assert_eq!(got, wanted, "{at}"),
    }
}
