//! Verdicts on port spaces.

use super::*;
use crate::{
    diagnose::{
        Finding, Scene,
        testing::{Client, NOW_NS, case, facts, only},
    },
    host::{
        facts::HostFacts,
        open::{OpenGrowth, OpenPorts},
    },
    peer::{entry::SpaceKey, spaces::Hold},
    track::{Due, Holding, LiveSockets, Tracked},
};

fn v4(text: &str) -> [u8; 16] {
    text.parse::<std::net::Ipv4Addr>().unwrap().to_ipv6_mapped().octets()
}

/// So many connections of an address to the client's peer, and so many listeners.
fn open_ports(age_ns: u64, source: &str, ports: u64, listening: u64) -> Option<OpenPorts> {
    let by_source = [(source.parse().unwrap(), ports)].into();
    let peers = [("10.2.0.2:443".parse().unwrap(), by_source)].into();
    Some(OpenPorts { read_ns: NOW_NS - age_ns, listening, peers, ..OpenPorts::default() })
}

/// A thousand ports.
fn thousand() -> HostFacts {
    let mut facts = facts();
    only(&mut facts).port_range = Some(20_000..=20_999);
    facts
}

fn of(peer: &Peer, facts: &HostFacts) -> Pressure {
    let case = case(std::slice::from_ref(peer), facts);
    Scene::of(&case).subjects()[0].pressure.as_deref().cloned().unwrap()
}

fn client() -> Client {
    Client::at("10.2.0.2", 443)
}

#[test]
fn open_connections_and_listeners_take_ports_too() {
    let mut facts = thousand();
    let peer = client().rate(5.0).live(400).peer();
    let before = of(&peer, &facts);
    assert_eq!((before.open, before.severity()), (None, None), "not read, and 40 %");
    only(&mut facts).open = open_ports(2_000_000_000, "10.1.0.1", 300, 5);
    let pressure = of(&peer, &facts);
    assert_eq!(pressure.open, Some(Open { ports: 300, age: 2.0 }), "five have closed since");
    assert_eq!((pressure.used(), pressure.steady()), (700.0, 600.0));
    assert_eq!(pressure.severity(), Some(Severity::Warning));
    assert_eq!((pressure.highest_rate() * 60.0).round(), 700.0);
    let proof = pressure.prove(Finding::default(), 400);
    assert_eq!(proof.figure("ports_open"), Some(&300.into()));
    assert_eq!(proof.figure("ports_open_age"), Some(&2.0.into()));
}

#[test]
fn what_was_not_counted_is_not_known_and_not_0() {
    let mut facts = thousand();
    let peer = client().rate(5.0).peer();
    only(&mut facts).open = Some(OpenPorts { listening: 7, ..OpenPorts::default() });
    let pressure = of(&peer, &facts);
    assert_eq!(pressure.open, None, "other peers were counted");
    let proof = pressure.prove(Finding::default(), 0);
    assert_eq!(proof.figure("ports_open"), Some(&serde_json::Value::Null));
    only(&mut facts).open = open_ports(0, "10.1.0.9", 5, 0);
    let none = Open { ports: 0, age: 0.0 };
    assert_eq!(of(&peer, &facts).open, Some(none), "from another address");
}

#[test]
fn a_prediction_is_critical_once_its_rate_has_lasted() {
    let facts = thousand();
    let severity = |seconds, rate: f64| {
        let live = (rate * seconds as f64) as u64;
        of(&client().rate(rate).over(seconds).live(live).peer(), &facts).severity()
    };
    assert_eq!(severity(3, 25.0), None, "three seconds are a burst");
    assert_eq!(severity(4, 25.0), Some(Severity::Warning), "it may go on");
    assert_eq!(severity(7, 25.0), Some(Severity::Warning));
    assert_eq!(severity(8, 25.0), Some(Severity::Critical));
}

#[test]
fn what_lies_no_further_ahead_than_was_looked_back_is_critical_at_once() {
    let facts = thousand();
    let severity = |live| of(&client().rate(150.0).over(2).live(live).peer(), &facts).severity();
    assert_eq!(severity(699), None, "a burst counts by what it took");
    assert_eq!(severity(700), Some(Severity::Critical), "the rest is gone in two seconds");
    let slower = |live| of(&client().rate(50.0).over(2).live(live).peer(), &facts).severity();
    assert_eq!(slower(899), Some(Severity::Warning), "in 2.02 s");
    assert_eq!(slower(900), Some(Severity::Critical), "in 2 s");
}

#[test]
fn a_burst_that_is_over_is_quiet_while_its_ports_come_back() {
    let facts = thousand();
    let mut peer = client().live(900).peer();
    // A hundred a second, until four seconds ago.
    let start = NOW_NS - 9_000_000_000;
    for n in 0..500 {
        let mono_ns = start + n * 10_000_000;
        let local = v4("10.1.0.1");
        let entry = crate::peer::entry::Entry {
            mono_ns,
            blocked: true,
            space: SpaceKey { local, chosen: PortChoice::Connect, range: (0, 0) },
            ..crate::peer::entry::Entry::default()
        };
        peer.history.take_in(&entry);
    }
    let pressure = of(&peer, &facts);
    assert!(pressure.blocked_rate > 50.0, "the window still holds it");
    assert_eq!(pressure.severity(), None);
    peer.history.set_live(1000, 1000);
    assert_eq!(of(&peer, &facts).severity(), Some(Severity::Critical), "none is left now");
}

#[test]
fn what_fits_once_others_bind_no_more_is_told_without_their_ports() {
    let facts = thousand();
    let mut pressure = of(&client().rate(30.0).live(700).peer(), &facts);
    pressure.holders.add(Holder::Bound, 990.0);
    let without = pressure.without_bound(Holder::Forbidden);
    assert_eq!((without.highest_rate() * 60.0).round(), 1000.0);
    assert_eq!((without.what_if.takeover, without.what_if.two_sources.round()), (1000.0, 33.0));
}

#[test]
fn a_pile_that_a_trickle_does_not_keep_up_is_none_to_warn_of() {
    let facts = thousand();
    let severity = |rate, live| of(&client().rate(rate).live(live).peer(), &facts).severity();
    assert_eq!(severity(1.0, 800), None, "it settles at 60");
    assert_eq!(severity(1.0, 900), Some(Severity::Warning));
    assert_eq!(severity(6.0, 700), Some(Severity::Warning), "it settles at 360");
}

#[test]
fn what_is_open_beside_a_range_of_the_sockets_own_is_not_in_its_way() {
    let mut facts = facts();
    let mut peer = client().peer();
    let local = v4("10.1.0.1");
    let own = SpaceKey { local, chosen: PortChoice::Connect, range: (40_000, 40_999) };
    let second = |n: u64| crate::peer::entry::Entry {
        mono_ns: NOW_NS - n * 200_000_000,
        blocked: true,
        space: own,
        local_port: 40_000 + n as u16,
        ..crate::peer::entry::Entry::default()
    };
    (0..40).for_each(|n| {
        peer.history.take_in(&second(n));
    });
    let source: std::net::IpAddr = "10.1.0.1".parse().unwrap();
    let remote = "10.2.0.2:443".parse().unwrap();
    let mut open = open_ports(0, "10.1.0.1", 850, 0).unwrap();
    open.lists.insert((remote, source), (39_200..40_050).collect());
    open.count_within(&[(remote, source, (40_000, 40_999))]);
    open.listeners = [22, 40_999].into();
    only(&mut facts).open = Some(open);
    let pressure = of(&peer, &facts);
    assert_eq!((pressure.usable, pressure.space.own_range), (1000, true));
    assert_eq!(pressure.open.map(|open| open.ports), Some(50 + 1));
    assert_eq!(pressure.severity(), None);
}

#[test]
fn what_was_accepted_before_the_session_is_nobodys_bind() {
    let mut facts = thousand();
    let seen = |facts: &HostFacts, ports: &[u16]| {
        let mut peer = client().peer();
        let space = SpaceKey { local: v4("10.1.0.1"), chosen: PortChoice::Bind, range: (0, 0) };
        let mut sockets = LiveSockets::with_capacity(16);
        for (n, port) in ports.iter().enumerate() {
            let entry =
                crate::peer::entry::Entry { space, local_port: *port, ..Default::default() };
            let space = peer.history.space_of(&entry.space);
            peer.history.present(space, &entry);
            peer.history.live(space, Hold::default());
            let due = Due::at(NOW_NS + 50_000_000_000);
            let holding = Holding { space, hold: Hold::default(), port: *port, due };
            let netns = crate::diagnose::testing::NETNS;
            sockets.enter(n as u64 + 1, Tracked { entered_ns: 0, row: 1, netns, holding });
        }
        let peers = [peer];
        let case = crate::diagnose::Case { sockets: Some(&sockets), ..case(&peers, facts) };
        let all = of_all(&case);
        let bound = all.iter().find(|ports| ports.space.chosen == PortChoice::Bind).unwrap();
        (bound.ever, bound.stuck)
    };
    assert_eq!(seen(&facts, &[20_001, 20_002]), (2, 2.0), "each has its own");
    assert_eq!(seen(&facts, &[20_001, 20_001, 20_002]), (1, 1.0), "a server's, and one");
    let listeners = [20_001].into();
    only(&mut facts).open = Some(OpenPorts { listeners, ..OpenPorts::default() });
    assert_eq!(seen(&facts, &[20_001]), (0, 0.0), "somebody listens there");
}

#[test]
fn the_shortest_of_several_sources_counts() {
    let mut facts = thousand();
    let mut peer = client().rate(6.0).live(600).peer();
    let second = crate::peer::entry::Entry {
        space: SpaceKey { local: v4("10.1.0.9"), ..SpaceKey::default() },
        mono_ns: NOW_NS - 1,
        ..crate::peer::entry::Entry::default()
    };
    let number = peer.history.take_in(&second);
    (0..200).for_each(|_| peer.history.live(number, Hold::BLOCKED));
    let pressure = of(&peer, &facts);
    assert_eq!((pressure.sources, pressure.stuck), (2, 600.0));
    only(&mut facts).open = open_ports(0, "10.1.0.9", 500, 0);
    let pressure = of(&peer, &facts);
    assert_eq!(pressure.triple(), "10.1.0.9 -> 10.2.0.2:443");
    assert_eq!(pressure.used(), 700.0);
}

#[test]
fn a_source_that_traffic_has_left_for_another_is_no_shortage() {
    let facts = thousand();
    let severity = |busy: bool, seen: bool| {
        let mut peer = client().live(1000).peer();
        if busy {
            let second = crate::peer::entry::Entry {
                space: SpaceKey { local: v4("10.1.0.9"), ..SpaceKey::default() },
                mono_ns: NOW_NS - 1_500_000_000,
                ..crate::peer::entry::Entry::default()
            };
            peer.history.take_in(&second);
        }
        let peers = [peer];
        let all = of_all(&Case { sees_connects: seen, ..case(&peers, &facts) });
        all.iter().find(|ports| ports.stuck == 1000.0).and_then(Pressure::severity)
    };
    assert_eq!(severity(false, true), Some(Severity::Critical), "nobody knows who wants them");
    assert_eq!(severity(true, true), None);
    assert_eq!(severity(true, false), Some(Severity::Critical), "it might fail unseen");
}

#[test]
fn the_vendors_length_of_time_wait_holds_until_a_timer_was_seen() {
    let mut facts = thousand();
    only(&mut facts).tw_timeout = Some(15);
    let mut peer = client().rate(40.0).peer();
    peer.scheduled_ms = 0;
    let pressure = of(&peer, &facts);
    assert_eq!((pressure.seconds, pressure.steady()), (15.0, 600.0));
    let proof = pressure.prove(Finding::default(), 0);
    let time_wait = proof.evidence.iter().find(|figure| figure.key == "time_wait");
    assert_eq!(time_wait.map(|figure| figure.source), Some("net.ipv4.tcp_tw_timeout"));
    peer.scheduled_ms = 20_000;
    assert_eq!(of(&peer, &facts).seconds, 20.0, "what was armed is what holds");
    peer.scheduled_ms = 0;
    only(&mut facts).tw_timeout = None;
    assert_eq!(of(&peer, &facts).seconds, 60.0);
}

#[test]
fn what_would_change_is_told_by_the_rates_that_would_fit() {
    let mut facts = thousand();
    only(&mut facts).tw_reuse_delay_ms = Some(500);
    only(&mut facts).reserved_ports = vec![20_000..=20_099, 2000..=2000];
    let WhatIf { takeover, two_sources, widest_range } =
        of(&client().rate(5.0).peer(), &facts).what_if;
    assert_eq!((takeover, two_sources), (1800.0, 30.0), "900 ports, 500 ms and 60 s");
    assert_eq!(widest_range, (64_512.0 - 101.0) / 60.0);
    only(&mut facts).tw_reuse_delay_ms = None;
    assert_eq!(of(&client().rate(5.0).peer(), &facts).what_if.takeover, 900.0);
    only(&mut facts).long_stamps = true;
    assert_eq!(of(&client().rate(5.0).peer(), &facts).what_if.takeover, 450.0, "up to 4.18");
    only(&mut facts).long_stamps = false;
    only(&mut facts).tw_reuse_delay_ms = Some(0);
    assert!(of(&client().rate(5.0).peer(), &facts).what_if.takeover.is_finite());
}

/// A peer and the sockets followed of it: of each port who chose it and what holds it.
fn with_sockets(sockets: &[(u16, PortChoice, Hold)]) -> (Peer, LiveSockets) {
    let mut peer = client().peer();
    let mut live = LiveSockets::with_capacity(64);
    for (n, (port, chosen, hold)) in sockets.iter().enumerate() {
        let key = SpaceKey { local: v4("10.1.0.1"), chosen: *chosen, range: (0, 0) };
        let entered_ns = NOW_NS - 20_000_000_000;
        let entry = crate::peer::entry::Entry {
            mono_ns: entered_ns,
            space: key,
            local_port: *port,
            blocked: hold.is(Hold::BLOCKED),
            fin_wait2: hold.is(Hold::FIN_WAIT2),
            ..crate::peer::entry::Entry::default()
        };
        let space = peer.history.take_in(&entry);
        peer.history.live(space, *hold);
        let due = Due::at(entered_ns + 60_000_000_000);
        let holding = Holding { space, hold: *hold, port: *port, due };
        let netns = crate::diagnose::testing::NETNS;
        live.enter(n as u64 + 1, Tracked { entered_ns, row: 1, netns, holding });
    }
    (peer, live)
}

/// The spaces that such sockets make, by who chooses.
fn spaces(facts: &HostFacts, sockets: &[(u16, PortChoice, Hold)]) -> Vec<Pressure> {
    let (peer, live) = with_sockets(sockets);
    let peers = [peer];
    let case = Case { sockets: Some(&live), ..case(&peers, facts) };
    of_all(&case)
}

fn chosen_by(all: &[Pressure], chosen: PortChoice) -> &Pressure {
    all.iter().find(|ports| ports.space.chosen == chosen).unwrap()
}

/// With a timestamp, and the sysctl allowed it when it entered.
fn allowed() -> Hold {
    Hold::ELIGIBLE.with(Hold::ALLOWED, true)
}

#[test]
fn what_was_bound_first_is_held_for_all_whatever_its_timestamps() {
    let mut facts = thousand();
    only(&mut facts).tw_reuse = Some(1);
    let sockets = [
        (20_000, PortChoice::Bind, allowed()),
        (20_001, PortChoice::Bind, allowed()),
        (20_002, PortChoice::Connect, allowed()),
    ];
    let all = spaces(&facts, &sockets);
    let (connect, bind) = (chosen_by(&all, PortChoice::Connect), chosen_by(&all, PortChoice::Bind));
    assert_eq!((connect.stuck, connect.takeable), (0.0, 1.0));
    assert_eq!((connect.holders.of(Holder::Bound), connect.used()), (2.0, 2.0));
    assert_eq!((bind.stuck, bind.holder()), (3.0, Some(Holder::TimeWait)), "it conflicts with all");
}

#[test]
fn the_sysctl_counts_as_it_is_now_and_not_as_it_was() {
    let mut facts = thousand();
    let forbidden = Hold::ELIGIBLE.with(Hold::BLOCKED, true);
    let sockets = [(20_000, PortChoice::Connect, forbidden)];
    let stuck = |facts: &HostFacts| {
        let all = spaces(facts, &sockets);
        let ports = chosen_by(&all, PortChoice::Connect);
        (ports.holders.of(Holder::Forbidden), ports.takeable)
    };
    assert_eq!(stuck(&facts), (1.0, 0.0));
    only(&mut facts).tw_reuse = Some(1);
    assert_eq!(stuck(&facts), (0.0, 1.0), "it works at once");
}

#[test]
fn ports_that_are_no_longer_to_be_had_are_held_from_nobody() {
    let mut facts = thousand();
    let forbidden = Hold::ELIGIBLE.with(Hold::BLOCKED, true);
    let sockets = [
        (20_000, PortChoice::Connect, forbidden),
        (20_001, PortChoice::Connect, forbidden),
        (20_900, PortChoice::Connect, forbidden),
    ];
    let stuck = |facts: &HostFacts| {
        let all = spaces(facts, &sockets);
        chosen_by(&all, PortChoice::Connect).stuck
    };
    assert_eq!(stuck(&facts), 3.0);
    only(&mut facts).reserved_ports = vec![20_000..=20_000];
    assert_eq!(stuck(&facts), 2.0, "one is reserved by now");
    only(&mut facts).port_range = Some(20_500..=20_999);
    assert_eq!(stuck(&facts), 1.0, "and one lies outside");
}

#[test]
fn mini_sockets_hold_their_ports_until_one_is_seen_taken_over() {
    let mut facts = thousand();
    only(&mut facts).tw_reuse = Some(1);
    let mini = allowed().with(Hold::FIN_WAIT2, true);
    let (peer, live) = with_sockets(&[(20_000, PortChoice::Connect, mini)]);
    let peers = [peer];
    let held = |fin_wait2_taken| {
        let case = Case { sockets: Some(&live), fin_wait2_taken, ..case(&peers, &facts) };
        of_all(&case)[0].holders.of(Holder::FinWait2)
    };
    assert_eq!((held(false), held(true)), (1.0, 0.0));
}

#[test]
fn a_port_that_a_program_names_is_held_without_timestamps_and_else_taken_over_at_once() {
    let mut facts = thousand();
    only(&mut facts).tw_reuse = Some(0);
    let with = Hold::ELIGIBLE.with(Hold::REUSEADDR, true).with(Hold::BLOCKED, true);
    let sockets = [(700, PortChoice::Program, with), (701, PortChoice::Program, Hold::REUSEADDR)];
    let all = spaces(&facts, &sockets);
    let ports = chosen_by(&all, PortChoice::Program);
    assert_eq!((ports.usable, ports.stuck, ports.takeable), (2, 1.0, 1.0));
    assert_eq!(ports.triple(), "10.1.0.1:700-701 -> 10.2.0.2:443");
}

#[test]
fn ports_that_a_program_names_have_no_end_before_one_comes_again() {
    let facts = thousand();
    let sockets =
        [(700, PortChoice::Program, Hold::BLOCKED), (701, PortChoice::Program, Hold::BLOCKED)];
    let all = spaces(&facts, &sockets);
    let ports = chosen_by(&all, PortChoice::Program);
    assert_eq!((ports.is_complete(), ports.stuck), (false, 2.0), "nobody knows of a third");
    assert_eq!((ports.exhaustion, ports.severity()), (Exhaustion::Never, None));
    let again = [sockets[0], sockets[1], (700, PortChoice::Program, Hold::BLOCKED)];
    let all = spaces(&facts, &again);
    let ports = chosen_by(&all, PortChoice::Program);
    assert_eq!((ports.is_complete(), ports.exhaustion), (true, Exhaustion::Now));
}

/// A thousand ports, of which so many are open, and more every second, lasting or not.
fn growing(open: u64, rate: f64, lasting: Option<f64>) -> Pressure {
    let mut facts = thousand();
    only(&mut facts).open = open_ports(0, "10.1.0.1", open, 0);
    let triple = ("10.2.0.2:443".parse().unwrap(), "10.1.0.1".parse().unwrap());
    only(&mut facts).open_growth = [(triple, OpenGrowth { rate, lasting })].into();
    of_all(&case(&[], &facts)).remove(0)
}

#[test]
fn open_connections_that_become_more_are_foretold_from_two_fifths_of_the_ports_on() {
    let verdict = |open, lasting| {
        let ports = growing(open, 20.0, lasting);
        (ports.exhaustion, ports.severity())
    };
    let half = (Exhaustion::In(25.0), Some(Severity::Warning));
    assert_eq!(verdict(500, Some(20.0)), half);
    assert_eq!(verdict(500, Some(15.0)), half, "both halves have it, if not all of it");
    assert_eq!(verdict(390, Some(20.0)), (Exhaustion::In(30.5), None), "a pool that fills");
    assert_eq!(verdict(500, None), (Exhaustion::In(25.0), None), "it may have come to an end");
    assert_eq!(verdict(500, Some(0.0)), (Exhaustion::Never, None), "it has");
    assert_eq!(verdict(999, Some(0.0)).0, Exhaustion::Never, "one more than is needed");
    assert_eq!(verdict(900, Some(20.0)).1, Some(Severity::Critical), "in five seconds");
    assert_eq!(growing(500, 5.0, Some(5.0)).severity(), None, "not within what is looked ahead");
}

#[test]
fn two_ports_far_apart_that_programs_name_are_two_ports() {
    let facts = thousand();
    let sockets =
        [(2000, PortChoice::Program, Hold::BLOCKED), (60_000, PortChoice::Program, Hold::BLOCKED)];
    let all = spaces(&facts, &sockets);
    let ports = chosen_by(&all, PortChoice::Program);
    assert_eq!((ports.usable, ports.stuck), (2, 2.0));
    assert_eq!(ports.triple(), "10.1.0.1:2000,60000 -> 10.2.0.2:443");
    assert!(ports.space.has(2000) && !ports.space.has(2001));
}

#[test]
fn where_all_ports_are_reserved_all_are_taken() {
    let mut facts = thousand();
    only(&mut facts).reserved_ports = vec![1..=60_000];
    let ports = of(&client().rate(1.0).peer(), &facts);
    assert_eq!((ports.usable, ports.used_share()), (0, 1.0));
}

#[test]
fn open_connections_that_hold_all_ports_are_seen_where_nothing_else_was() {
    let mut facts = thousand();
    let full = |facts: &mut HostFacts, ports| {
        let mut open = open_ports(0, "10.1.0.1", ports, 0).unwrap();
        open.sources = [("10.1.0.1".parse().unwrap(), ports)].into();
        only(facts).open = Some(open);
        of_all(&case(&[], facts))
            .iter()
            .map(|ports| (ports.space.chosen, ports.exhaustion, ports.severity()))
            .collect::<Vec<_>>()
    };
    let connect = (PortChoice::Connect, Exhaustion::Now, Some(Severity::Critical));
    let bind = (PortChoice::Bind, Exhaustion::Now, None);
    assert_eq!(full(&mut facts, 1000), [connect, bind], "whether anybody binds is not known");
    let most = (PortChoice::Connect, Exhaustion::Never, None);
    assert_eq!(full(&mut facts, 999), [most], "one is left, and nobody wants it");
    assert_eq!(full(&mut facts, 100), []);
}

/// A client of 40 connections a second of which the session saw the last one, and those of before it:
/// so many a second for so many seconds.
fn just_begun(facts: &HostFacts, rate: u64, seconds: u64, known: bool) -> Option<Severity> {
    let since_ns = NOW_NS - 1_000_000_000;
    let mut peer = client().rate(40.0).over(1).live(40 + rate * seconds).peer();
    let mut live = LiveSockets::with_capacity(4096);
    let key = SpaceKey { local: v4("10.1.0.1"), chosen: PortChoice::Connect, range: (0, 0) };
    let space = peer.history.space_of(&key);
    let hold = Hold::ELIGIBLE.with(Hold::BLOCKED, true);
    let before = (0..rate * seconds).map(|n| since_ns - 1 - n * 1_000_000_000 / rate);
    let lately = (0..40).map(|n| NOW_NS - 1 - n * 25_000_000);
    for (n, at_ns) in before.chain(lately).enumerate() {
        let due = Due::at(at_ns + 60_000_000_000);
        let holding = Holding { space, hold, port: 20_000 + n as u16, due };
        let entered_ns = if known || at_ns >= since_ns { at_ns } else { 0 };
        let netns = crate::diagnose::testing::NETNS;
        live.enter(n as u64 + 1, Tracked { entered_ns, row: 1, netns, holding });
    }
    let peers = [peer];
    let case = Case { sockets: Some(&live), since_ns, ..case(&peers, facts) };
    Scene::of(&case).subjects()[0].pressure.as_deref()?.severity()
}

#[test]
fn sockets_that_were_there_bear_out_a_rate_that_was_seen_for_a_second() {
    let facts = thousand();
    for known in [false, true] {
        let severity = |rate, seconds| just_begun(&facts, rate, seconds, known);
        assert_eq!(severity(40, 12), Some(Severity::Critical), "40/s of 16, and 480 are left");
        assert_eq!(severity(10, 50), None, "what lasted is 10/s, which fits");
        assert_eq!(severity(100, 3), None, "a burst of four seconds");
    }
}
