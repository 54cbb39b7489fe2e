//! What settings come to, of events made up.

use super::*;
use twtrace_common::{CallResult, EndReason, Flow, Header, Kind, PortChoice, TCP_TIME_WAIT};

const SECOND: u64 = 1_000_000_000;

fn flow(peer: u8) -> Flow {
    let (local, remote) = ([1; 16], [peer; 16]);
    Flow { local, remote, remote_port: 80, port_low: 2_000, port_high: 2_099, ..Flow::default() }
}

/// The hundredth of a second of an entry to a peer.
fn entered(hundredth: u64, peer: u8, stamp: i64, chosen: PortChoice) -> Event {
    Event::Entered(Entered {
        header: Header { kind: Kind::Entered as u8, state: TCP_TIME_WAIT, flags: 0, netns: 7 },
        mono_ns: 100 * SECOND + hundredth * SECOND / 100,
        tw: (hundredth + 1) * 256,
        ts_recent_stamp: stamp,
        tcp_timestamps: 1,
        armed: 15_000,
        flow: Flow { local_port: 2_050, ..flow(peer) },
        chosen: chosen as u8,
        ..Entered::default()
    })
}

fn failed(hundredth: u64, peer: u8, calls: u32) -> Event {
    Event::Failed(Failed {
        header: Header { kind: Kind::Failed as u8, netns: 7, ..Header::default() },
        mono_ns: 100 * SECOND + hundredth * SECOND / 100,
        flow: flow(peer),
        stands_for: calls,
        result: CallResult::NoPort as u8,
        ..Failed::default()
    })
}

/// What each remedy comes to: failed calls, and the most ports held of the fullest space.
fn told(remedies: &[&str], events: impl Iterator<Item = Event>) -> Vec<(u64, u64)> {
    let remedy = |text: &&str| {
        let mut remedy = Remedy::default();
        text.split_whitespace().for_each(|setting| remedy.set(setting).unwrap());
        remedy
    };
    let mut what_if = WhatIf::new(remedies.iter().map(remedy).collect(), Hz::new(250), false, true);
    events.for_each(|event| what_if.event(&event));
    what_if.moment(200 * SECOND, None, &Failures::default());
    let told = |it: Prediction| (it.failed, it.spaces.first().map_or(0, |space| space.peak));
    what_if.predictions().into_iter().map(told).collect()
}

#[test]
fn what_would_have_helped_is_told_from_what_would_not() {
    // A hundred ports, 200 connections in four seconds to a peer that sends no timestamps.
    let events = || {
        let enter = (0..100).map(|n| entered(2 * n, 2, 0, PortChoice::Connect));
        enter.chain((100..200).map(|n| failed(2 * n, 2, 1)))
    };
    let remedies = [
        "",
        "tcp_tw_reuse=1",
        "timestamps=1",
        "timestamps=1 tcp_tw_reuse=1",
        "ip_local_port_range=2000-2149",
        "source_addresses=2",
        "peer_closes_first=1",
        "keep=1s",
    ];
    let told = told(&remedies, events());
    assert_eq!(told[0], (100, 100), "as it was");
    assert_eq!(told[1], (100, 100), "without timestamps nothing is taken over");
    assert_eq!(told[2], (100, 100), "tcp_tw_reuse was 0");
    assert_eq!(told[3], (0, 51), "a second's worth, of calls whose number alone is known to one");
    assert_eq!(told[4], (50, 150));
    assert_eq!(told[5], (0, 100));
    assert_eq!(told[6], (0, 1));
    assert_eq!(told[7], (0, 4), "a connection a second");
}

#[test]
fn ports_bound_first_are_of_all_peers_unless_bind_leaves_the_port_to_connect() {
    let events = (0..100).map(|n| entered(n, 2 + (n % 4) as u8, 5, PortChoice::Bind));
    let remedies =
        ["", "tcp_tw_reuse=1", "bind_address_no_port=1", "bind_address_no_port=1 tcp_tw_reuse=1"];
    let told = told(&remedies, events);
    assert_eq!(told, [(0, 100), (0, 100), (0, 25), (0, 25)], "all within a second");
    let events = (0..200).map(|n| entered(n, 2, 5, PortChoice::Bind));
    let told = self::told(&["bind_address_no_port=1 tcp_tw_reuse=1"], events);
    assert_eq!(told, [(0, 100)], "two seconds");
}

#[test]
fn calls_told_together_are_tried_together_and_what_a_rst_ended_gives_its_port_back() {
    let killed = Event::Ended(Ended {
        header: Header { kind: Kind::Ended as u8, state: TCP_TIME_WAIT, flags: 0, netns: 7 },
        mono_ns: 101 * SECOND,
        tw: 256,
        entered_ns: 100 * SECOND,
        flow: flow(2),
        reason: EndReason::Killed as u8,
        ..Ended::default()
    });
    let enter = (0..90).map(|n| entered(n, 2, 0, PortChoice::Connect));
    let events = enter.chain([killed, failed(200, 2, 30)]);
    assert_eq!(told(&["", "ip_local_port_range=1024-65535"], events), [(19, 100), (0, 119)]);
}

#[test]
fn ports_that_a_program_names_are_in_no_prediction() {
    let events = (0..5).map(|n| entered(n, 2, 0, PortChoice::Program));
    let mut what_if = WhatIf::new(Remedy::usual(), Hz::new(250), false, true);
    events.for_each(|event| what_if.event(&event));
    what_if.moment(200 * SECOND, None, &Failures::default());
    assert_eq!((what_if.named(), what_if.connections()), (5, 0));
    assert!(what_if.predictions().iter().all(|it| it.spaces.is_empty()));
}
