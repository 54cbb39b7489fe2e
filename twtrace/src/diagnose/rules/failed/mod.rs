//! TW019: the failure itself, who is hit, why, and what helps.

pub(super) mod cause;
mod group;
mod named;

use cause::Explained;
use group::Group;
use named::Port;
use twtrace_common::PortChoice;

use crate::{
    diagnose::{
        Finding, Scene, Severity,
        arithmetic::Exhaustion,
        finding::{
            rounded,
            source::{BEGUN, CALLS, TCP},
        },
        pressure::{PortSpace, Pressure},
    },
    failures::{Cause, Place},
    host::facts::NamespaceFacts,
    owner::Owners,
    text::counted,
    units::PerSecond,
};

/// Most findings of the kind.
const MOST: usize = 16;
/// Seconds after which it is told when the last call failed.
const AGO_S: f64 = 5.0;
/// Nanoseconds for which it is told that calls failed, and when the last of them did.
const REMEMBERED_NS: u64 = 24 * 3600 * 1_000_000_000;

/// TW019: a `connect()` found no port, or a `bind()` was refused, within the last minute; or it was
/// before, and has ended.
pub fn calls(scene: &Scene<'_>) -> Vec<Finding> {
    let groups = group::groups(scene);
    let mut findings: Vec<Finding> =
        groups.iter().filter_map(|group| of_group(scene, group)).take(MOST).collect();
    // What could not be seen to fail is concluded from the ports.
    if !scene.case.sees_binds {
        let bound = scene.bound().filter(|ports| {
            ports.exhaustion == Exhaustion::Now && !(ports.is_of_nobody() && is_told(scene, ports))
        });
        findings.extend(bound.filter_map(|ports| concluded(scene, ports)).take(MOST));
        findings.extend(scene.ports().iter().filter_map(|ports| named_alone(scene, ports)));
        findings.extend(scene.ports().iter().filter_map(named_all).take(MOST));
        for (netns, facts) in scene.namespaces() {
            let deserted = named::deserted(&scene.case, netns, facts);
            findings.extend(deserted.into_iter().map(|(address, port, held)| {
                no_restart(netns, std::net::SocketAddr::new(address, port), &held)
            }));
        }
    }
    findings
}

/// Whether it is told of calls that failed for ports of the same address.
fn is_told(scene: &Scene<'_>, ports: &Pressure) -> bool {
    let here = (ports.space.netns, ports.space.local);
    scene
        .ports()
        .iter()
        .any(|other| other.is_told() && (other.space.netns, other.space.local) == here)
}

/// What is said of one group of calls, if there is anything to say.
fn of_group(scene: &Scene<'_>, group: &Group<'_>) -> Option<Finding> {
    let (case, place) = (&scene.case, group.first());
    let facts = case.facts.namespaces.get(&place.netns).filter(|_| !place.gone);
    let call = if group.is_bind() { "bind()" } else { "connect()" };
    let last_ns = group.last_ns();
    let to = match group.peers() {
        Some(peers) => format!("to {peers}"),
        None if place.local.port() == 0 => format!("of a port of {}", place.local.ip()),
        None => format!("to {}", place.local),
    };
    let owner = group.owner(case.owners);
    let of = owner.map_or_else(String::new, |owner| format!(" of {}", owner.name));
    let whose = format!("{call} calls of {}{of} {to}", group.programs());
    let lately = group.lately(case.now_ns);
    if !group.is_failing(case.failures, case.now_ns) {
        // A program that looks for a free port by bind(), and finds one, is well.
        let healthy = group.found_another(case.failures, case.now_ns);
        let old = case.now_ns.saturating_sub(last_ns) > REMEMBERED_NS;
        return (!healthy && !old && lately == 0).then(|| ended(scene, group, &whose, ""));
    }
    if let Some(why) = group.ports.and_then(|ports| why_over(group, ports, case.now_ns)) {
        return Some(ended(scene, group, &whose, &why));
    }
    let named = group.is_bind() && place.local.port() != 0;
    let port = named.then(|| Port::of(case, place.netns, place.local.ip(), place.local.port()));
    let explained = match (&port, group.ports.zip(facts)) {
        (Some(port), _) => port.explain(place.local.port()),
        (None, Some((ports, facts))) => {
            cause::of_space(ports, facts).unwrap_or_else(|| cause::of_place(place))
        }
        (None, None) if facts.is_none() => cause::of_the_past(place),
        (None, None) => cause::of_place(place),
    };
    // Of a port that was named another listener is the rightful owner.
    let rightful = port.is_some_and(|port| port.listener == Some(true));
    let severity = if rightful { Severity::Notice } else { Severity::Critical };
    let tried = group.tried(case.failures);
    let of = tried.map_or_else(String::new, |tried| format!(" of {tried}"));
    let since = case.now_ns.saturating_sub(group.since_ns) as f64 / 1e9;
    let ago = case.now_ns.saturating_sub(last_ns) as f64 / 1e9;
    let ago = if ago < AGO_S { String::new() } else { format!(", the last {ago:.0} s ago") };
    let summary = format!(
        "{}{of} {whose} failed in the last {since:.0} s{ago}: {}.",
        group.count(),
        explained.why
    );
    let mut finding = Finding::new(severity, place.netns, summary);
    finding.peer = place.remote.map(|peer| peer.to_string());
    let seen = if place.inferred { BEGUN } else { CALLS };
    finding = finding
        .with("failed", group.count(), "calls", seen)
        .with("failed_last_minute", lately, "calls", seen)
        .with("tried", tried, "calls", CALLS)
        .with("failing_since", case.time_of_day(group.since_ns), "", CALLS);
    finding = who(finding, group, case.owners);
    finding = match (group.ports, port) {
        (Some(ports), _) => figures(finding, ports),
        (None, Some(port)) => port_figures(finding, &port),
        (None, None) => finding,
    };
    finding.consequence = consequence(place) + &before(group);
    Some(advise(finding, explained))
}

/// Who failed.
fn who(finding: Finding, group: &Group<'_>, owners: Option<&Owners>) -> Finding {
    let place = group.first();
    let finding = match group.owner(owners) {
        Some(owner) => finding.with("owner", owner.name.clone(), "", CALLS),
        None => finding,
    };
    let finding = finding
        .with("process", place.program.pid, "", CALLS)
        .with("uid", place.program.uid, "", CALLS)
        .with("local", place.local.to_string(), "", CALLS);
    let finding = match group.earlier {
        0 => finding,
        earlier => finding.with("failed_earlier", earlier, "calls", CALLS),
    };
    match group.places.len() {
        1 => finding,
        many => finding.with("places", many, "", CALLS),
    }
}

/// The figures of the ports.
fn figures(finding: Finding, ports: &Pressure) -> Finding {
    let finding =
        ports.hold(finding).with("rate", rounded(ports.rate), super::PER_S, super::COUNTED);
    match ports.free_in {
        Some((next, last)) => finding
            .with("next_port_free", rounded(next), "s", super::COMPUTED)
            .with("last_port_free", rounded(last), "s", super::COMPUTED),
        None => finding,
    }
}

fn port_figures(finding: Finding, port: &Port) -> Finding {
    let in_time_wait = port.with_reuseaddr + port.without_reuseaddr;
    let finding = finding
        .with("listener", port.listener, "", TCP)
        .with("in_time_wait", in_time_wait, "sockets", super::COUNTED)
        .with("without_reuseaddr", port.without_reuseaddr, "sockets", super::COUNTED);
    if port.without_reuseaddr == 0 {
        return finding;
    }
    finding.with("free_in", rounded(port.free_in), "s", super::COMPUTED)
}

/// Adds what helps.
fn advise(finding: Finding, explained: Explained) -> Finding {
    Finding { remedy: explained.remedy, dont: explained.dont.to_owned(), ..finding }
}

/// What the program was answered.
fn consequence(place: &Place) -> String {
    match place.cause {
        Cause::AddressInUse => "The program is answered EADDRINUSE (\"Address already in use\").",
        _ => "The program is answered EADDRNOTAVAIL (\"Cannot assign requested address\").",
    }
    .to_owned()
}

/// That it is not the first time, as a sentence to be added.
fn before(group: &Group<'_>) -> String {
    match group.earlier {
        0 => String::new(),
        earlier => format!(" It has been so before: then {} failed.", counted(earlier, "calls")),
    }
}

/// Why calls that failed a moment ago would not fail now, as the end of a sentence, where that is so:
/// what they had to choose from is not what there is now, or what held the ports is gone.
fn why_over(group: &Group<'_>, ports: &Pressure, now_ns: u64) -> Option<String> {
    let of_now = |place: &&Place| place.last_minute(now_ns) > 0 && ports.space.is_now(place);
    let before = group.places.iter().filter_map(|place| place.ports).next();
    if let Some((low, high)) = before.filter(|_| !group.places.iter().any(of_now)) {
        let (now_low, now_high) = ports.space.range;
        return Some(format!(
            ": no port of {low} to {high} was free for them, and since then the range is {now_low} to \
             {now_high}"
        ));
    }
    ports.came_back.then(|| {
        format!(
            ": no port was free for them, and what held them, or kept connect() from taking them over, \
             is so no more. Now {:.0} of the {} ports are held, and {:.1} connections/s come where \
             {:.0} fit",
            ports.used(),
            ports.usable,
            PerSecond(ports.rate),
            PerSecond(ports.highest_rate())
        )
    })
}

/// What is said once calls fail no more.
fn ended(scene: &Scene<'_>, group: &Group<'_>, whose: &str, why: &str) -> Finding {
    let case = &scene.case;
    let first = case.time_of_day(group.since_ns);
    let last = case.time_of_day(group.last_ns());
    let summary = format!("{} {whose} failed, none since {last}{why}.", group.count());
    let mut finding = Finding::new(Severity::Notice, group.first().netns, summary)
        .with("failed", group.count(), "calls", CALLS)
        .with("failed_last_minute", group.lately(case.now_ns), "calls", CALLS)
        .with("failing_since", first, "", CALLS)
        .with("last_failure", last, "", CALLS);
    finding.peer = group.first().remote.map(|peer| peer.to_string());
    finding = who(finding, group, case.owners);
    finding.consequence =
        "It is over, or the program has stopped trying.".to_owned() + &before(group);
    finding.remedy = "If it stopped trying, start it again; if it was not meant to end, see the \
                      other findings and the margins for how many connections fit."
        .to_owned();
    finding
}

/// What is concluded from a space of `bind()` whose ports are all held, where refusals are not seen.
fn concluded(scene: &Scene<'_>, ports: &Pressure) -> Option<Finding> {
    let netns = ports.space.netns;
    let facts: &NamespaceFacts = scene.case.facts.namespaces.get(&netns)?;
    debug_assert_eq!(ports.space.chosen, PortChoice::Bind);
    let explained = cause::of_space(ports, facts)?;
    // Whoever binds there fails; whether anybody does is not known where nobody was seen to.
    let severity = if ports.is_of_nobody() { Severity::Warning } else { Severity::Critical };
    let summary = format!(
        "bind() of {} with port 0 is refused, as far as can be concluded from the ports: {}.",
        ports.space.local, explained.why
    );
    let mut finding =
        Finding::new(severity, netns, summary).with("inferred", true, "", super::COMPUTED);
    finding = figures(finding, ports);
    finding.consequence = "The next bind() is answered EADDRINUSE (\"Address already in use\"); \
                           refused bind() calls are not seen through tracepoints."
        .to_owned();
    Some(advise(finding, explained))
}

/// What is concluded from the one port that a program names, held by a connection it closed without
/// `SO_REUSEADDR`: no `bind()` passes that.
fn named_alone(scene: &Scene<'_>, ports: &Pressure) -> Option<Finding> {
    let PortSpace { netns, local, range: (named, _), .. } = ports.space;
    // Who keeps away from others' ports below 1024 may take another one next time (NFS does).
    let always = ports.ever > 1 || named >= 1024;
    if !ports.is_fixed() || ports.is_told() || !always {
        return None;
    }
    let port = Port::of(&scene.case, netns, local, named);
    if port.without_reuseaddr == 0 || port.listener == Some(true) {
        return None;
    }
    let summary = format!(
        "The program that connects to {} names its port, {named}, and no bind() of it succeeds for \
         {:.0} s: its last connection, closed without SO_REUSEADDR, is in TIME_WAIT.",
        ports.peer, port.free_in
    );
    let finding = Finding::new(Severity::Warning, netns, summary)
        .with("inferred", true, "", super::COMPUTED)
        .with("local", std::net::SocketAddr::new(local, named).to_string(), "", super::COUNTED);
    Some(advise_named(port_figures(finding, &port), ports))
}

/// The same of several ports: all that the program is known to have are held, and it made connections for a
/// while and makes none.
fn named_all(ports: &Pressure) -> Option<Finding> {
    let (PortSpace { netns, range: (low, high), .. }, barred) = (&ports.space, ports.barred?);
    if ports.is_fixed() || ports.is_told() || ports.is_complete() || *high < 1024 {
        return None;
    }
    // Who draws ports by chance (a resolver) has others than those seen.
    if 2 * ports.usable < u64::from(high - low) + 1 {
        return None;
    }
    let (next, last) = ports.free_in?;
    let summary = format!(
        "The program that connects to {} names its ports, and no bind() of the {} that it is known to \
         have ({}) succeeds: their last connections, closed without SO_REUSEADDR, are in TIME_WAIT; the \
         next is free in {next:.0} s (the last in {last:.0} s). It made {:.1} connections/s, and none for \
         {:.0} s.",
        ports.peer,
        ports.usable,
        ports.space.list(),
        barred.rate,
        barred.ago
    );
    let finding = Finding::new(Severity::Warning, *netns, summary).with(
        "inferred",
        true,
        "",
        super::COMPUTED,
    );
    Some(advise_named(figures(finding, ports), ports))
}

/// Adds what follows, and what helps, where a program names its ports without `SO_REUSEADDR`.
fn advise_named(finding: Finding, ports: &Pressure) -> Finding {
    Finding {
        peer: Some(ports.peer.clone()),
        consequence: "If it connects again before, it is answered EADDRINUSE (\"Address already in \
                      use\"); refused bind() calls are not seen through tracepoints."
            .to_owned(),
        remedy: "Set SO_REUSEADDR on the socket before bind(): with timestamps it takes its own \
                 TIME_WAIT over at once then (both need it, the connection that waits and the next). \
                 Or let connect() choose the port (bind none, or port 0 with \
                 IP_BIND_ADDRESS_NO_PORT)."
            .to_owned(),
        dont: "Do not count on tcp_tw_reuse or a wider ip_local_port_range: neither concerns ports \
               that a program names."
            .to_owned(),
        ..finding
    }
}

/// What is concluded from the TIME_WAIT sockets of a port that nobody listens on any more.
fn no_restart(netns: u32, address: std::net::SocketAddr, port: &Port) -> Finding {
    let summary = format!(
        "Nobody listens on {address} any more, and no bind() of it succeeds for {:.0} s: {} \
         connections that it accepted without SO_REUSEADDR are in TIME_WAIT.",
        port.free_in, port.without_reuseaddr
    );
    let finding = Finding::new(Severity::Warning, netns, summary)
        .with("inferred", true, "", super::COMPUTED)
        .with("local", address.to_string(), "", super::COUNTED);
    let mut finding = port_figures(finding, port);
    finding.consequence = "A server that is started there now is answered EADDRINUSE (\"Address \
                           already in use\"); refused bind() calls are not seen through \
                           tracepoints."
        .to_owned();
    advise(finding, port.explain(address.port()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        diagnose::{
            Case, RULES, diagnose,
            testing::{Client, NETNS, NOW_NS, case, facts, found, only},
        },
        failures::Failures,
        host::{facts::HostFacts, open::OpenPorts},
        peer::spaces::Hold,
    };
    use twtrace_common::{CallResult, Failure, FailureKey};

    fn key(result: CallResult, pid: u32, local_port: u16) -> FailureKey {
        let v4 = |last| std::net::Ipv4Addr::new(10, 0, 0, last).to_ipv6_mapped().octets();
        let connects = matches!(result, CallResult::NoPort | CallResult::Tried);
        let local = std::net::Ipv4Addr::new(10, 1, 0, 1).to_ipv6_mapped().octets();
        let local = if result == CallResult::Tried { [0; 16] } else { local };
        FailureKey {
            local,
            remote: if connects { v4(2) } else { [0; 16] },
            netns: NETNS,
            pid,
            local_port,
            remote_port: if connects { 443 } else { 0 },
            result: result as u8,
            ..FailureKey::default()
        }
    }

    /// So many calls within the last seconds.
    fn calls(count: u64) -> Failure {
        let (first_ns, last_ns) = (NOW_NS - 5_000_000_000, NOW_NS - 2_000_000_000);
        let comm = *b"client\0\0\0\0\0\0\0\0\0\0";
        Failure { count, first_ns, last_ns, comm, ..Failure::default() }
    }

    fn failed(result: CallResult, seconds_ago: u64) -> Failures {
        let last_ns = NOW_NS - seconds_ago * 1_000_000_000;
        let first_ns = last_ns - 2_000_000_000;
        let mut failures = Failures::default();
        let failure = Failure { count: 7, first_ns, last_ns, ..Failure::default() };
        failures.take(&key(result, 42, 0), &failure);
        failures
    }

    #[test]
    fn a_failing_connect_is_critical_and_comes_first() {
        let (facts, failures) = (facts(), failed(CallResult::NoPort, 1));
        let case = Case { failures: &failures, ..case(&[], &facts) };
        let finding = &diagnose(&case).findings[0];
        assert_eq!((finding.id, finding.severity), ("TW019", Severity::Critical));
        assert_eq!(finding.figure("failed"), Some(&7.into()));
        assert_eq!(finding.peer.as_deref(), Some("10.0.0.2:443"));
    }

    #[test]
    fn what_failed_before_ends_visibly_and_is_forgotten_after_a_day() {
        let facts = facts();
        let findings = |seconds_ago| {
            let failures = failed(CallResult::NoPort, seconds_ago);
            found(RULES, "TW019", &Case { failures: &failures, ..case(&[], &facts) })
        };
        let [ended] = &findings(90)[..] else { panic!("one finding") };
        assert_eq!(ended.severity, Severity::Notice);
        assert!(ended.summary.ends_with("failed, none since 23:58:30 UTC."), "{}", ended.summary);
        assert_eq!(findings(50)[0].severity, Severity::Critical);
        let mut failures = Failures::default();
        failures.take(&key(CallResult::NoPort, 42, 0), &Failure { count: 1, ..Failure::default() });
        let now_ns = 25 * 3600 * 1_000_000_000;
        let case = Case { failures: &failures, now_ns, ..case(&[], &facts) };
        assert_eq!(found(RULES, "TW019", &case), []);
    }

    #[test]
    fn the_processes_that_want_the_ports_of_one_space_are_one_finding() {
        let mut facts = facts();
        only(&mut facts).port_range = Some(20_000..=20_099);
        let mut failures = Failures::default();
        for pid in 40..50 {
            failures.take(&key(CallResult::NoPort, pid, 0), &calls(pid.into()));
            failures.take(&key(CallResult::Tried, pid, 0), &calls(50));
        }
        let peer = Client::at("10.0.0.2", 443).without_timestamps().rate(11.0).live(100).peer();
        let peers = [peer];
        let case = Case { failures: &failures, ..case(&peers, &facts) };
        let findings = found(RULES, "TW019", &case);
        let [finding] = findings.as_slice() else { panic!("{findings:#?}") };
        assert_eq!(finding.figure("failed"), Some(&445.into()));
        assert_eq!(finding.figure("tried"), Some(&500.into()));
        let says = "445 of 500 connect() calls of client (pid 49) and 9 other processes to \
                    10.0.0.2:443 failed in the last 5 s: 100 of its 100 ports are in TIME_WAIT";
        assert!(finding.summary.starts_with(says), "{}", finding.summary);
    }

    #[test]
    fn of_two_shortages_the_last_one_is_told_and_the_other_remembered() {
        let facts = facts();
        let now_ns = 4000 * 1_000_000_000;
        let at = |seconds_ago: u64| now_ns - seconds_ago * 1_000_000_000;
        let calls = |count, first_s, last_s| Failure {
            count,
            first_ns: at(first_s),
            last_ns: at(last_s),
            ..Failure::default()
        };
        let mut failures = Failures::default();
        // One program that fails again, one that fails anew, and one that is long gone.
        for (pid, failure) in [
            (42, calls(300, 600, 590)),
            (42, calls(20, 600, 45)),
            (43, calls(40, 30, 5)),
            (44, calls(9, 3000, 2990)),
        ] {
            failures.take(&key(CallResult::NoPort, pid, 0), &failure);
            failures.take(&key(CallResult::Tried, pid, 0), &failure);
        }
        let case = Case { failures: &failures, now_ns, ..case(&[], &facts) };
        let [finding] = &found(RULES, "TW019", &case)[..] else { panic!("one finding") };
        assert_eq!(finding.figure("failed"), Some(&60.into()));
        assert_eq!(finding.figure("failed_earlier"), Some(&309.into()));
        assert_eq!(finding.figure("failing_since"), Some(&case.time_of_day(at(45)).into()));
        assert!(finding.summary.starts_with("60 connect() calls of "), "{}", finding.summary);
        let remembers = "It has been so before: then 309 calls failed.";
        assert!(finding.consequence.ends_with(remembers), "{}", finding.consequence);
    }

    #[test]
    fn a_bind_that_was_in_vain_is_critical_and_one_that_found_another_port_is_nothing() {
        let facts = facts();
        let findings = |after: CallResult| {
            let mut failures = Failures::default();
            failures.take(&key(CallResult::AddressInUse, 42, 5000), &calls(3));
            failures.take(&key(after, 42, 0), &calls(3));
            let case = Case { failures: &failures, sees_binds: true, ..case(&[], &facts) };
            found(RULES, "TW019", &case)
        };
        assert_eq!(findings(CallResult::Unanswered)[0].severity, Severity::Critical);
        assert_eq!(findings(CallResult::Answered), []);
    }

    #[test]
    fn a_port_of_a_live_listener_is_a_notice() {
        let mut facts = facts();
        let listeners = [5000].into();
        only(&mut facts).open = Some(OpenPorts { listeners, ..OpenPorts::default() });
        let mut failures = Failures::default();
        failures.take(&key(CallResult::AddressInUse, 42, 5000), &calls(3));
        failures.take(&key(CallResult::Unanswered, 42, 0), &calls(3));
        let case = Case { failures: &failures, sees_binds: true, ..case(&[], &facts) };
        let [finding] = &found(RULES, "TW019", &case)[..] else { panic!("one finding") };
        assert_eq!(finding.severity, Severity::Notice);
        assert!(finding.summary.contains("another socket listens on port 5000"));
    }
    /// What is said of a peer of 400 ports whose `connect()` calls fail, the last so long ago.
    fn failing(facts: &HostFacts, peer: Client, seconds_ago: u64) -> Vec<Finding> {
        let failures = failed(CallResult::NoPort, seconds_ago);
        let peers = [peer.peer()];
        diagnose(&Case { failures: &failures, ..case(&peers, facts) }).findings
    }

    #[test]
    fn ports_that_were_too_young_are_the_cause_when_all_of_them_are_older() {
        let mut facts = facts();
        only(&mut facts).port_range = Some(20_000..=20_399);
        only(&mut facts).tw_reuse = Some(1);
        let mut peer = Client::at("10.0.0.2", 443).allowed().rate(390.0).peer();
        for n in 0..3000 {
            peer.history.end(0, Hold::default(), Some((NOW_NS - 2_000_000 * n, true)));
        }
        let (peers, failures) = ([peer], failed(CallResult::NoPort, 3));
        let findings = diagnose(&Case { failures: &failures, ..case(&peers, &facts) }).findings;
        let wanted = "ports are taken over, but only 1.0 s after they were closed: with its 400 \
                      ports no more than 400 connections/s fit.";
        assert!(findings[0].summary.ends_with(wanted), "{}", findings[0].summary);
    }

    #[test]
    fn what_has_come_back_since_is_not_said_to_be_held_by_something_unseen() {
        let mut facts = facts();
        only(&mut facts).port_range = Some(20_000..=20_399);
        let short = || Client::at("10.0.0.2", 443).live(100);
        let later = failing(&facts, short(), 5);
        let says = "its 400 ports (100 of them by now) are in TIME_WAIT for 60 s";
        assert!(later[0].summary.contains(says), "{}", later[0].summary);
        assert!(!later[0].summary.contains("is not seen"), "{}", later[0].summary);
        let now = failing(&facts, short(), 1);
        let says = "100 of its 400 ports are in TIME_WAIT";
        assert!(now[0].summary.contains(says), "{}", now[0].summary);
        assert!(now[0].summary.contains("what holds the other 300 is not seen"));
        let mut peer = short().live(400).peer();
        let ended = Some((NOW_NS - 500_000_000, false));
        (0..300).for_each(|_| peer.history.end(0, Hold::BLOCKED, ended));
        let (peers, failures) = ([peer], failed(CallResult::NoPort, 1));
        let at_once = diagnose(&Case { failures: &failures, ..case(&peers, &facts) }).findings;
        assert!(at_once[0].summary.contains(says), "{}", at_once[0].summary);
        assert!(!at_once[0].summary.contains("is not seen"), "{}", at_once[0].summary);
    }

    #[test]
    fn while_calls_fail_nothing_else_repeats_the_remedy() {
        let mut facts = facts();
        only(&mut facts).port_range = Some(20_000..=20_099);
        let ids = |findings: Vec<Finding>| findings.iter().map(|one| one.id).collect::<Vec<_>>();
        let short = || Client::at("10.0.0.2", 443).rate(11.0).live(100);
        assert_eq!(ids(failing(&facts, short(), 1)), ["TW019", "TW007"]);
    }

    #[test]
    fn a_setting_that_cannot_be_read_is_not_called_off() {
        let mut facts = facts();
        only(&mut facts).port_range = Some(20_000..=20_099);
        only(&mut facts).tw_reuse = None;
        let short = Client::at("10.0.0.2", 443).rate(11.0).live(100);
        let summary = failing(&facts, short, 1).remove(0).summary;
        assert!(summary.contains("tcp_tw_reuse, which cannot be read here, did not"), "{summary}");
    }
    #[test]
    fn what_would_not_fail_now_is_over_and_why_is_said() {
        let mut facts = facts();
        only(&mut facts).port_range = Some(20_000..=20_399);
        only(&mut facts).tw_reuse = Some(1);
        let comes = || Client::at("10.0.0.2", 443).allowed().rate(60.0);
        let over = |facts: &HostFacts| failing(facts, comes(), 3).remove(0);
        let finding = over(&facts);
        assert_eq!(finding.severity, Severity::Notice, "{finding:?}");
        let says = "60.0 connections/s come where 400 fit.";
        assert!(finding.summary.ends_with(says), "{}", finding.summary);
        let now = failing(&facts, comes(), 1).remove(0);
        assert_eq!(now.severity, Severity::Critical, "they may be too young all the same");
        let none = failing(&facts, Client::at("10.0.0.2", 443).allowed(), 3).remove(0);
        assert_eq!(none.severity, Severity::Critical, "nobody was seen to succeed");
        let (peers, failures) = ([comes().peer()], failed(CallResult::NoPort, 3));
        let now_ns = NOW_NS + 9_000_000_000;
        let later = Case { failures: &failures, now_ns, ..case(&peers, &facts) };
        let stopped = found(RULES, "TW019", &later).remove(0);
        assert_eq!(stopped.severity, Severity::Notice, "the load is over as well: {stopped:?}");
        only(&mut facts).tw_reuse = Some(2);
        let short = Client::at("10.0.0.2", 443).rate(60.0).live(400);
        assert_eq!(failing(&facts, short, 3)[0].severity, Severity::Critical);
    }

    #[test]
    fn calls_that_had_another_range_say_nothing_of_the_one_there_is() {
        let mut facts = facts();
        only(&mut facts).port_range = Some(20_000..=60_000);
        let mut failures = Failures::default();
        let before = Failure { port_low: 20_000, port_high: 20_399, ..calls(7) };
        failures.take(&key(CallResult::NoPort, 42, 0), &before);
        let peers = [Client::at("10.0.0.2", 443).rate(60.0).live(661).peer()];
        let of = |failures: &Failures| {
            let case = Case { failures, ..case(&peers, &facts) };
            found(RULES, "TW019", &case).remove(0)
        };
        let finding = of(&failures);
        assert_eq!(finding.severity, Severity::Notice);
        let says = "no port of 20000 to 20399 was free for them, and since then the range is 20000 \
                    to 60000.";
        assert!(finding.summary.ends_with(says), "{}", finding.summary);
        let last_ns = NOW_NS - 1_000_000_000;
        let now = Failure { port_low: 20_000, port_high: 60_000, last_ns, ..calls(1) };
        failures.take(&key(CallResult::NoPort, 42, 0), &now);
        assert_eq!(of(&failures).severity, Severity::Critical);
    }

    #[test]
    fn what_holds_a_good_part_besides_is_told_with_what_helps_against_it() {
        let mut facts = facts();
        only(&mut facts).port_range = Some(20_000..=20_399);
        let with = |open: u64, live: u64| {
            let mut facts = facts.clone();
            let by_source = [("10.1.0.1".parse().unwrap(), open)].into();
            let peers = [("10.0.0.2:443".parse().unwrap(), by_source)].into();
            let open = OpenPorts { read_ns: NOW_NS, peers, ..OpenPorts::default() };
            only(&mut facts).open = Some(open);
            failing(&facts, Client::at("10.0.0.2", 443).live(live), 1).remove(0)
        };
        let both = with(220, 180);
        assert!(
            both.summary.contains("220 of its 400 ports are held by connections that are open")
        );
        assert!(both.summary.contains("; besides, 180 of its 400 ports are in TIME_WAIT"));
        assert!(both.remedy.contains("Against the second: Set net.ipv4.tcp_tw_reuse=1"));
        assert_eq!(both.dont, "", "what is of no use against the one helps against the other");
        assert!(!with(370, 30).summary.contains("besides"));
    }

    #[test]
    fn what_a_program_has_only_shut_down_is_told_from_what_it_uses() {
        let mut facts = facts();
        only(&mut facts).port_range = Some(20_000..=20_399);
        let with = |shut_down| {
            let of = |count| {
                let by_source = [("10.1.0.1".parse().unwrap(), count)].into();
                [("10.0.0.2:443".parse().unwrap(), by_source)].into()
            };
            let (peers, shut_down) = (of(400), of(shut_down));
            let mut facts = facts.clone();
            only(&mut facts).open =
                Some(OpenPorts { read_ns: NOW_NS, peers, shut_down, ..OpenPorts::default() });
            failing(&facts, Client::at("10.0.0.2", 443), 1).remove(0)
        };
        let most = with(390);
        let says = "400 of its 400 ports are held by connections that the program has shut down and \
                    not closed, and the peer does not close: 390 are in FIN_WAIT2";
        assert!(most.summary.contains(says), "{}", most.summary);
        assert!(most.remedy.contains("`ss -tnp state fin-wait-2 dst 10.0.0.2:443`"));
        assert!(with(10).summary.contains("held by connections that are open"));
    }

    #[test]
    fn ports_that_programs_listen_on_are_no_connections_and_those_in_no_list_are_bound() {
        let mut facts = facts();
        only(&mut facts).port_range = Some(20_000..=20_399);
        let with = |listeners: std::ops::Range<u16>| {
            let mut facts = facts.clone();
            let peers = [("10.0.0.2:443".parse().unwrap(), [].into())].into();
            let listening = listeners.len() as u64;
            let listeners = listeners.collect();
            let open = OpenPorts { read_ns: NOW_NS, peers, listening, listeners, ..<_>::default() };
            only(&mut facts).open = Some(open);
            failing(&facts, Client::at("10.0.0.2", 443), 1).remove(0).summary
        };
        let says = "390 of its 400 ports are not for connect() to choose: on 390 of them programs";
        assert!(with(20_000..20_390).contains(says));
        let says = "none of its 400 ports is held by a connection to that peer, by a listener";
        assert!(with(0..0).contains(says), "{}", with(0..0));
    }

    #[test]
    fn a_remedy_that_is_not_enough_alone_says_so() {
        let mut facts = facts();
        only(&mut facts).port_range = Some(20_000..=20_399);
        let peers = [Client::at("10.0.0.2", 443).rate(7.0).live(400).peer()];
        let remedy = |count| {
            let mut failures = Failures::default();
            failures.take(&key(CallResult::NoPort, 42, 0), &calls(count));
            let case = Case { failures: &failures, ..case(&peers, &facts) };
            found(RULES, "TW019", &case).remove(0).remedy
        };
        let many = remedy(3500);
        assert!(
            many.ends_with(
                "too few for the 707 calls/s that are made now, retries among them: \
                                more than one of these is needed."
            ),
            "{many}"
        );
        assert!(!remedy(350).contains("too few"));
    }

    #[test]
    fn ports_that_are_free_are_not_held_by_something_unseen() {
        let mut facts = facts();
        only(&mut facts).port_range = Some(20_000..=20_399);
        let by_source = [("10.1.0.1".parse().unwrap(), 290)].into();
        let peers = [("10.0.0.2:443".parse().unwrap(), by_source)].into();
        let open = OpenPorts { read_ns: NOW_NS, peers, ..OpenPorts::default() };
        only(&mut facts).open = Some(open);
        let growth = crate::host::open::OpenGrowth { rate: 10.0, lasting: Some(10.0) };
        let triple = ("10.0.0.2:443".parse().unwrap(), "10.1.0.1".parse().unwrap());
        only(&mut facts).open_growth = [(triple, growth)].into();
        let finding = diagnose(&case(&[], &facts)).findings.remove(0);
        assert_eq!(finding.id, "TW005");
        assert!(!finding.summary.contains("is not seen"), "{}", finding.summary);
        assert!(finding.consequence.contains("and 10.0 more open ones a second"), "{finding:?}");
    }

    #[test]
    fn of_what_was_there_before_it_is_not_said_whose_fault_it_is_to_have_no_timestamps() {
        let mut facts = facts();
        only(&mut facts).port_range = Some(20_000..=20_399);
        let failures = failed(CallResult::NoPort, 1);
        let findings = |(not_from_peer, not_offered)| {
            let client = Client::at("10.0.0.2", 443).without_timestamps();
            let mut peer = client.rate(1.0).live(400).peer();
            peer.history.not_from_peer = not_from_peer;
            peer.history.not_offered = not_offered;
            let peers = [peer];
            let found = diagnose(&Case { failures: &failures, ..case(&peers, &facts) }).findings;
            let text = |one: &Finding| (one.id, one.summary.clone(), one.remedy.clone());
            found.iter().map(text).take(2).collect::<Vec<_>>()
        };
        let unknown = findings((0, 0));
        assert!(unknown[0].2.starts_with("If tcp_timestamps was turned on here a moment ago"));
        assert!(unknown[1].1.starts_with("The connections to 10.0.0.2:443 had no TCP timestamps"));
        let erased = findings((9, 0));
        assert!(erased[0].1.contains("the peer sent no TCP timestamps"));
        assert!(erased[1].1.starts_with("10.0.0.2:443 sends no TCP timestamps"));
        let off = findings((0, 9));
        assert!(off[0].2.starts_with("Wait, they come back"), "{off:?}");
        assert_eq!(off[1].0, "TW007", "nothing erases them");
    }

    #[test]
    fn ports_in_use_by_connections_to_others_are_named_where_nothing_else_holds_any() {
        let mut facts = facts();
        only(&mut facts).port_range = Some(20_000..=20_399);
        let mut open = OpenPorts { read_ns: NOW_NS, ..OpenPorts::default() };
        open.peers.insert("10.0.0.2:443".parse().unwrap(), [].into());
        open.in_use = 400;
        only(&mut facts).open = Some(open);
        let summary = failing(&facts, Client::at("10.0.0.2", 443), 1).remove(0).summary;
        let says = "400 of its 400 ports are in use by open connections to others: those bar it only \
                    where bind() took their ports";
        assert!(summary.contains(says), "{summary}");
    }

    #[test]
    fn connections_that_were_open_when_calls_failed_are_the_cause_though_they_closed_since() {
        let mut facts = facts();
        only(&mut facts).port_range = Some(20_000..=20_399);
        let by_source = [("10.1.0.1".parse().unwrap(), 400)].into();
        let peers = [("10.0.0.2:443".parse().unwrap(), by_source)].into();
        let read_ns = NOW_NS - 4_000_000_000;
        only(&mut facts).open = Some(OpenPorts { read_ns, peers, ..OpenPorts::default() });
        let closed = Client::at("10.0.0.2", 443).allowed().rate(200.0).over(2);
        let findings = failing(&facts, closed, 1);
        let says = "400 of its 400 ports are held by connections that are open";
        assert!(findings[0].summary.contains(says), "{}", findings[0].summary);
    }

    #[test]
    fn of_a_namespace_that_is_gone_it_is_not_said_that_its_ports_are_not_seen() {
        let summary = |facts: &HostFacts, failures: &Failures| {
            let case = Case { failures, ..case(&[], facts) };
            found(RULES, "TW019", &case).remove(0).summary
        };
        let mut failures = failed(CallResult::NoPort, 8);
        let gone = summary(&HostFacts::default(), &failures);
        failures.retire(NETNS);
        assert_eq!(summary(&facts(), &failures), gone, "another one has its number");
        let says = "failed in the last 10 s, the last 8 s ago: no port was free for it; its network \
                    namespace is gone, or cannot be read.";
        assert!(gone.ends_with(says), "{gone}");
    }
}
