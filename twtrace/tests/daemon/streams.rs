//! Answers that go on.

use std::os::unix::fs::MetadataExt;

use twtrace::{event::Event, host::cgroup};
use twtrace_common::{EndReason, Entered};

use crate::{
    harness::Harness,
    made_up::{end, entry},
};

#[test]
fn events_come_as_they_happen_and_only_those_asked_for() {
    let harness = Harness::start(|_| {});
    let mut all = harness.stream("/v1/events");
    let mut one = harness.stream("/v1/events?filter=dst+10.1.0.2:8080");
    let first = entry(1, "10.1.0.1", true);
    let second = entry(2, "10.1.0.2", false);
    harness.happen(vec![first, second]);
    harness.happen(vec![end(&second, EndReason::Killed)]);
    let told: Vec<_> = (0..3).map(|_| all.line()).collect();
    assert!(told.iter().all(|event| event["schema"] == "twtrace.event/2"));
    assert_eq!(told[0]["remote"], "10.1.0.1:8080");
    assert_eq!(told[2]["event"], "ended");
    let told: Vec<_> = (0..2).map(|_| one.line()).collect();
    assert_eq!((&told[0]["event"], &told[1]["event"]), (&"entered".into(), &"ended".into()));
    assert!(told.iter().all(|event| event["remote"] == "10.1.0.2:8080"));
}

#[test]
fn events_are_chosen_by_the_path_of_a_control_group() {
    let harness = Harness::start(|_| {});
    let fault = harness.get("/v1/events?filter=cgroup+/no/such.slice");
    assert_eq!(fault.status, 400);
    let sentence = fault.json()["error"].to_string();
    assert!(sentence.contains("cgroup /no/such.slice: "), "{sentence}");
    // A machine without control groups has said so, and has no path to choose by.
    let Some(root) = cgroup::root() else { return };
    let in_root = |id| {
        let Event::Entered(entered) = entry(id, "10.1.0.1", true) else { unreachable!() };
        let cgroup = std::fs::metadata(root).expect("it is mounted").ino();
        Event::Entered(Entered { cgroup, ..entered })
    };
    let mut events = harness.stream("/v1/events?filter=cgroup+/");
    harness.happen(vec![entry(1, "10.1.0.2", true), in_root(2)]);
    assert_eq!(events.line()["remote"], "10.1.0.1:8080");
}

#[test]
fn summaries_come_one_an_interval_the_first_at_once() {
    let harness = Harness::start(|_| {});
    let mut summaries = harness.stream("/v1/summaries?interval=250ms&top=1");
    assert_eq!(summaries.line()["totals"]["entered"], 0);
    harness.happen(vec![entry(1, "10.1.0.1", true)]);
    while summaries.line()["totals"]["entered"] != 1 {}
}

#[test]
fn the_feed_is_handed_on_byte_by_byte_from_its_header_on() {
    let harness = Harness::start(|_| {});
    let mut feed = harness.stream("/v1/feed");
    let mut expected = b"header".to_vec();
    let piece: Vec<u8> = (0..100_000_u32).map(|n| n as u8).collect();
    harness.feed(piece.clone());
    expected.extend(piece);
    let mut got = Vec::new();
    while got.len() < expected.len() {
        got.extend(feed.chunk().expect("it goes on").expect("it goes on"));
    }
    assert!(got == expected);
}

#[test]
fn streams_end_as_they_should_when_the_daemon_stops() {
    let harness = Harness::start(|_| {});
    let mut streams =
        ["/v1/events", "/v1/summaries", "/v1/feed"].map(|target| harness.stream(target));
    harness.stop.cancel();
    for stream in &mut streams {
        while stream.chunk().expect("a transfer that is ended, not broken off").is_some() {}
        assert!(stream.ended);
    }
}

#[test]
fn a_client_that_leaves_gives_its_place_back() {
    let harness = Harness::start(|_| {});
    let streams: Vec<_> = (0..10).map(|_| harness.stream("/v1/events")).collect();
    harness.await_status("/clients/connected", |connected| connected == 11);
    drop(streams);
    harness.await_status("/clients/connected", |connected| connected == 1);
    assert_eq!(harness.document("/v1/status")["clients"]["dropped"], 0);
}
