//! TW008: the limit on TIME_WAIT sockets.

pub use crate::diagnose::buckets::FULL;
use crate::diagnose::{
    Finding, Scene, Severity, Subject,
    arithmetic::{self, Exhaustion},
    buckets::Buckets,
    pressure::Pressure,
};
use crate::text::counted;

/// Peers named as the cause of an overflow.
const NAMED: usize = 3;
/// Name of the limit.
const LIMIT: &str = "net.ipv4.tcp_max_tw_buckets";
/// What is to be left over: timers run late, and rates waver.
const SPARE: f64 = 1.1;

/// TW008: sockets that found no bucket, or soon will not.
///
/// At the limit `tcp_time_wait()` only counts and closes: no message, no refusal, no protection.
pub fn overflow(scene: &Scene<'_>) -> Vec<Finding> {
    scene
        .namespaces()
        .filter_map(|(netns, _)| {
            let buckets = scene.buckets(netns)?;
            let (severity, summary) = verdict(buckets)?;
            let mut finding = prove(Finding::new(severity, netns, summary), buckets);
            let named = overflow_by_peer(scene.in_namespace(netns));
            if !named.is_empty() {
                finding = finding.with("overflow_by_peer", named, "", super::COUNTED);
            }
            finding.consequence = format!(
                "{}A connection that closes without a bucket is not protected for 2MSL: a late \
                 segment may be taken for one of its successor's, and a peer whose FIN was not \
                 acknowledged gets a RST. Nothing is logged.",
                when(buckets)
            );
            finding.remedy = remedy(buckets);
            if let Some((ports, wanted)) = short_of_ports(scene, netns, buckets) {
                let (triple, usable) = (ports.triple(), ports.usable);
                finding = finding.with("ports_wanted", wanted.round() as u64, "ports", super::COMPUTED);
                finding.remedy += &format!(
                    " But what closes without a bucket gives its port back at once: with enough of \
                     them {wanted:.0} of the {usable} ports of {triple} would be wanted, and connect() \
                     would fail. So first keep connections open, let it take ports over \
                     (tcp_tw_reuse=1, with timestamps on both ends), or widen ip_local_port_range."
                );
            }
            finding.dont = "Do not lower tcp_max_tw_buckets to get rid of TIME_WAIT sockets: it \
                            trades harmless sockets for unsafe closes."
                .into();
            Some(finding)
        })
        .collect()
}

/// How bad it is, in a sentence; `None` while the buckets suffice.
fn verdict(buckets: &Buckets) -> Option<(Severity, String)> {
    let Buckets { live, max, overflow, overflow_lately, lately, steady, .. } = *buckets;
    if buckets.has_room_again() {
        let summary = format!(
            "{} closed without TIME_WAIT in the last {lately:.0} s, as tcp_max_tw_buckets was reached; \
             {live} of {max} are taken now.",
            counted(overflow_lately, "connections")
        );
        return Some((Severity::Warning, summary));
    }
    if overflow_lately > 0 {
        let summary = format!(
            "{} closed without TIME_WAIT in the last {lately:.0} s: tcp_max_tw_buckets={max} is \
             reached.",
            counted(overflow_lately, "connections")
        );
        return Some((Severity::Critical, summary));
    }
    let of = format!(
        "{live} of {max} TIME_WAIT sockets of this network namespace are taken (tcp_max_tw_buckets)"
    );
    if let Exhaustion::In(seconds) = buckets.exhaustion {
        let summary = format!("{of}: the last is in {seconds:.0} s at the present rate.");
        return Some((Severity::Warning, summary));
    }
    if buckets.used_share() >= FULL {
        let summary = format!("{of}; at the present rate it will be {steady:.0}.");
        return Some((Severity::Warning, summary));
    }
    (overflow > 0).then(|| {
        let summary = format!(
            "{} closed without TIME_WAIT since this was watched, as tcp_max_tw_buckets={max} was \
             reached; none in the last {lately:.0} s.",
            counted(overflow, "connections")
        );
        (Severity::Notice, summary)
    })
}

/// When it hurts, as a sentence.
fn when(buckets: &Buckets) -> String {
    match buckets.exhaustion {
        _ if buckets.overflow_lately > 0 && !buckets.has_room_again() => String::new(),
        Exhaustion::In(seconds) => {
            format!("From the moment the last is taken, in {seconds:.0} s: ")
        }
        Exhaustion::Now => "From now on: ".into(),
        Exhaustion::Never => "Not at the present rate, with which there are enough. ".into(),
    }
}

/// The limit that would do.
fn remedy(buckets: &Buckets) -> String {
    let Buckets { rate, live, max, steady, ever, .. } = *buckets;
    // Had the limit been lowered, more than that would be there.
    if live == max && buckets.overflow_lately == 0 && steady < live as f64 && ever > 0 {
        return format!(
            "Raise {LIMIT} in this namespace; how far is not known while no connections close. {max} were \
             not enough: {} closed without one since the namespace was made. Ask again while they come.",
            counted(ever, "connections")
        );
    }
    let wanted = steady.max(live as f64);
    let limit = round_up((wanted * SPARE).round()).max(max + 1);
    let why = if steady >= live as f64 {
        format!("{rate:.1} connections/s come, which settles at {steady:.0} sockets")
    } else {
        format!("{live} live now")
    };
    let leisure = match buckets.exhaustion {
        Exhaustion::Never if buckets.overflow_lately == 0 => {
            "Nothing has to be done as long as no more come. For room to spare: "
        }
        _ => "",
    };
    if buckets.has_room_again() && limit <= max.saturating_add(1) {
        return format!(
            "If it was raised since, nothing: {why}. If many come at once now and then, raise \
             {LIMIT} in this namespace by as many as closed without."
        );
    }
    format!(
        "{leisure}Raise net.ipv4.tcp_max_tw_buckets in this namespace to {limit} at least: {why}, and a \
         tenth is for timers that run late and rates that waver. Half a kilobyte a socket, that \
         is {} KiB.",
        limit.div_ceil(2)
    )
}

/// The space whose ports will not do once all that close find a bucket, and how many it will want then: of
/// what comes as much as of what is there. As long as none is found, it is not seen to be short.
fn short_of_ports<'a>(
    scene: &'a Scene<'_>,
    netns: u32,
    buckets: &Buckets,
) -> Option<(&'a Pressure, f64)> {
    if buckets.overflow_lately == 0 || buckets.has_room_again() {
        return None;
    }
    let chosen =
        |ports: &&Pressure| ports.space.netns == netns && ports.is_complete() && !ports.is_fixed();
    let wanted = |ports: &'a Pressure| {
        let stuck = arithmetic::share(ports.stuck, buckets.live as f64);
        (ports, ports.other_ports() + stuck * buckets.steady)
    };
    let mut spaces = scene.ports().iter().filter(chosen).map(wanted);
    spaces.find(|(ports, wanted)| *wanted > ports.usable as f64)
}

/// The next higher number of two digits and zeros.
fn round_up(number: f64) -> u64 {
    let unit = 10_f64.powf((number.max(10.0).log10().floor() - 1.0).max(0.0));
    ((number / unit).ceil() * unit) as u64
}

/// Adds the figures that prove it.
fn prove(finding: Finding, buckets: &Buckets) -> Finding {
    let finding = finding
        .with("live_sockets", buckets.live, "sockets", super::SOCKSTAT)
        .with("tcp_max_tw_buckets", buckets.max, "sockets", LIMIT)
        .with("overflow", buckets.overflow, "connections", super::NETSTAT)
        .with("overflow_rate", super::rounded(buckets.overflow_rate), super::PER_S, super::NETSTAT)
        .with("rate", super::rounded(buckets.rate), super::PER_S, super::COUNTED)
        .with("wanted", buckets.steady.round() as u64, "sockets", super::COMPUTED);
    match buckets.exhaustion.seconds() {
        Some(seconds) => {
            finding.with("seconds_to_full", super::rounded(seconds), "s", super::COMPUTED)
        }
        None => finding,
    }
}

/// The peers whose connections found no bucket, the worst first; none where the backend cannot
/// see it.
fn overflow_by_peer(rows: &[Subject<'_>]) -> Vec<String> {
    let overflowed = rows.iter().filter(|row| row.peer.counts().overflow > 0);
    let mut by_peer: Vec<_> =
        overflowed.map(|row| (row.peer.counts().overflow, row.peer.group.to_string())).collect();
    by_peer.sort_by(|one, two| two.cmp(one));
    let named = by_peer.into_iter().take(NAMED);
    named.map(|(overflow, peer)| format!("{peer}: {overflow}")).collect()
}

#[cfg(test)]
mod tests {
    use crate::{
        diagnose::{
            RULES, Severity,
            testing::{Client, NETNS, NOW_NS, case, facts, found, only},
        },
        host::{facts::Lately, netstat::TcpExt},
        peer::{entry::SpaceKey, spaces::Hold},
        track::{Due, Holding, LiveSockets, Tracked},
    };
    use serde_json::json;

    #[test]
    fn the_first_connection_without_a_bucket_is_critical() {
        let mut facts = facts();
        only(&mut facts).max_tw_buckets = Some(0);
        let severity = |facts: &_| {
            found(RULES, "TW008", &case(&[], facts)).first().map(|finding| finding.severity)
        };
        assert_eq!(severity(&facts), None);
        let grown = TcpExt::default().with("TCPTimeWaitOverflow", 1);
        only(&mut facts).counters = grown.clone();
        assert_eq!(severity(&facts), Some(Severity::Critical));
        only(&mut facts).max_tw_buckets = Some(1);
        assert_eq!(severity(&facts), Some(Severity::Warning), "there is room again");
        only(&mut facts).counters_before = grown;
        assert_eq!(severity(&facts), None, "it was before the session");
    }

    #[test]
    fn a_limit_that_was_raised_is_not_reached_and_not_to_be_raised_again() {
        let mut facts = facts();
        only(&mut facts).max_tw_buckets = Some(8000);
        only(&mut facts).time_wait = Some(827);
        only(&mut facts).counters = TcpExt::default().with("TCPTimeWaitOverflow", 154);
        let peers = [Client::at("10.2.0.2", 443).rate(60.0).live(827).peer()];
        let finding = found(RULES, "TW008", &case(&peers, &facts)).remove(0);
        assert_eq!(finding.severity, Severity::Warning);
        assert!(finding.summary.ends_with("827 of 8000 are taken now."), "{}", finding.summary);
        assert_eq!(finding.figure("wanted"), Some(&json!(3600)), "none is counted twice");
        assert!(finding.remedy.starts_with("If it was raised since, nothing"), "{finding:?}");
    }

    #[test]
    fn it_warns_from_ninety_per_cent_on() {
        let mut facts = facts();
        only(&mut facts).max_tw_buckets = Some(1000);
        let mut at = |live| {
            only(&mut facts).time_wait = Some(live);
            found(RULES, "TW008", &case(&[], &facts)).first().map(|finding| finding.severity)
        };
        assert_eq!(at(899), None);
        assert_eq!(at(900), Some(Severity::Warning));
    }

    #[test]
    fn the_moment_the_buckets_are_full_is_foretold() {
        let mut facts = facts();
        only(&mut facts).max_tw_buckets = Some(10_000);
        only(&mut facts).time_wait = Some(4000);
        let finding = |rate| {
            let peers = [Client::at("10.2.0.2", 443).rate(rate).peer()];
            found(RULES, "TW008", &case(&peers, &facts)).pop()
        };
        assert_eq!(finding(160.0), None, "9600 in the end, and 320 for late timers");
        let fills = finding(166.0).unwrap();
        assert_eq!(fills.severity, Severity::Warning, "9960, and 332 for late timers");
        let fills = finding(200.0).unwrap();
        assert_eq!(fills.severity, Severity::Warning, "nothing is lost yet");
        assert_eq!(fills.figure("seconds_to_full"), Some(&json!(30.0)), "6000 at 200 a second");
        assert_eq!(fills.figure("wanted"), Some(&json!(12_000)));
    }

    #[test]
    fn the_limit_that_would_do_is_named_where_all_that_comes_overflows() {
        let mut facts = facts();
        only(&mut facts).max_tw_buckets = Some(1000);
        only(&mut facts).time_wait = Some(1000);
        only(&mut facts).counters = TcpExt::default().with("TCPTimeWaitOverflow", 400);
        let lately = Lately { seconds: 4.0, overflow: 400, conntrack: None };
        only(&mut facts).lately = Some(lately);
        let peers = [Client::at("10.2.0.2", 443).live(1000).peer()];
        let finding = found(RULES, "TW008", &case(&peers, &facts)).pop().unwrap();
        assert_eq!(finding.figure("wanted"), Some(&json!(6000)), "100/s x 60 s");
        assert!(finding.remedy.contains("to 6600 at least"), "{}", finding.remedy);
    }

    #[test]
    fn it_is_said_where_ports_run_out_once_all_find_a_bucket() {
        let mut facts = facts();
        only(&mut facts).max_tw_buckets = Some(80);
        only(&mut facts).time_wait = Some(80);
        only(&mut facts).counters = TcpExt::default().with("TCPTimeWaitOverflow", 48);
        only(&mut facts).lately = Some(Lately { seconds: 4.0, overflow: 48, conntrack: None });
        let mut remedy = |ports: u16| {
            only(&mut facts).port_range = Some(40_000..=40_000 + ports - 1);
            let peers = [Client::at("10.2.0.2", 443).live(80).peer()];
            found(RULES, "TW008", &case(&peers, &facts)).remove(0).remedy
        };
        let short = remedy(100);
        assert!(short.contains("720 of the 100 ports of"), "12/s x 60 s: {short}");
        let enough = remedy(1000);
        assert!(enough.contains("to 800 at least") && !enough.contains("connect()"), "{enough}");
    }

    #[test]
    fn how_many_are_wanted_is_not_known_where_all_are_taken_and_nothing_closes() {
        let mut facts = facts();
        only(&mut facts).max_tw_buckets = Some(200);
        only(&mut facts).time_wait = Some(200);
        let mut remedy = |ever| {
            let counters = TcpExt::default().with("TCPTimeWaitOverflow", ever);
            only(&mut facts).counters_before = counters.clone();
            only(&mut facts).counters = counters;
            found(RULES, "TW008", &case(&[], &facts)).remove(0).remedy
        };
        assert!(remedy(761).contains("761 connections closed without one"));
        assert!(remedy(0).contains("to 220 at least"), "as many as there are");
    }

    #[test]
    fn what_overflowed_long_ago_is_worth_a_notice_and_no_more() {
        let mut facts = facts();
        only(&mut facts).counters = TcpExt::default().with("TCPTimeWaitOverflow", 400);
        only(&mut facts).lately = Some(Lately { seconds: 60.0, overflow: 0, conntrack: None });
        let findings = found(RULES, "TW008", &case(&[], &facts));
        assert_eq!(findings[0].severity, Severity::Notice);
    }

    #[test]
    fn a_server_whose_sockets_are_replaced_fills_nothing() {
        let mut facts = facts();
        only(&mut facts).max_tw_buckets = Some(10_000);
        only(&mut facts).time_wait = Some(499 + 1000);
        let mut replaced = Client::at("10.2.0.2", 0).of_server().rate(1700.0).live(499).peer();
        let space = replaced.history.space_of(&SpaceKey::default());
        for n in 0..9 * 1700 {
            let ended = NOW_NS - 9_000_000_000 + n * 1_000_000_000 / 1700;
            replaced.history.end(space, Hold::default(), Some((ended, true)));
        }
        let grows = Client::at("10.2.0.3", 443).rate(100.0).live(1000).peer();
        let findings = |peers: &[_], facts: &_| found(RULES, "TW008", &case(peers, facts));
        let peers = [replaced.clone(), grows];
        assert_eq!(findings(&peers, &facts), [], "6500 in the end");
        only(&mut facts).max_tw_buckets = Some(6000);
        let fills = findings(&peers, &facts).pop().unwrap();
        let wanted = fills.figure("wanted").and_then(|wanted| wanted.as_u64()).unwrap();
        assert!((6450..6550).contains(&wanted), "the other one goes on to grow: {wanted}");
    }

    #[test]
    fn sockets_that_were_there_bear_out_a_rate_that_was_seen_for_a_second() {
        let mut facts = facts();
        only(&mut facts).max_tw_buckets = Some(500);
        let since_ns = NOW_NS - 1_000_000_000;
        let mut found = |before: u64, each_ns: u64| {
            only(&mut facts).time_wait = Some(before + 25);
            let peers = [Client::at("10.2.0.2", 443).rate(25.0).over(1).live(before + 25).peer()];
            let mut sockets = LiveSockets::with_capacity(1024);
            for n in 0..before {
                let due = Due::at(since_ns - 1 - n * each_ns + 60_000_000_000);
                let holding = Holding { due, ..Holding::default() };
                sockets.enter(n + 1, Tracked { entered_ns: 0, row: 1, netns: NETNS, holding });
            }
            let case =
                crate::diagnose::Case { sockets: Some(&sockets), since_ns, ..case(&peers, &facts) };
            found(RULES, "TW008", &case).len()
        };
        assert_eq!(found(300, 40_000_000), 1, "25/s for twelve seconds: full in seven");
        assert_eq!(found(300, 150_000_000), 0, "7/s is what has lasted, and fits");
    }

    #[test]
    fn a_burst_does_not_fill_the_buckets() {
        let mut facts = facts();
        only(&mut facts).max_tw_buckets = Some(10_000);
        only(&mut facts).time_wait = Some(600);
        let peers = [Client::at("10.2.0.2", 443).rate(300.0).over(2).peer()];
        assert_eq!(found(RULES, "TW008", &case(&peers, &facts)), []);
    }

    #[test]
    fn the_rate_of_overflow_is_that_of_the_session() {
        let mut facts = facts();
        only(&mut facts).max_tw_buckets = Some(1000);
        only(&mut facts).time_wait = Some(1000);
        only(&mut facts).counters = TcpExt::default().with("TCPTimeWaitOverflow", 120);
        let finding = found(RULES, "TW008", &case(&[], &facts)).pop().unwrap();
        assert_eq!(finding.figure("overflow_rate"), Some(&json!(2.0)), "120 in a minute");
        assert_eq!(finding.figure("seconds_to_full"), Some(&json!(0.0)));
    }

    #[test]
    fn the_peers_behind_an_overflow_are_named() {
        let mut facts = facts();
        only(&mut facts).counters = TcpExt::default().with("TCPTimeWaitOverflow", 30);
        let mut peer = Client::at("10.2.0.2", 443).rate(100.0).peer();
        peer.tally.edit(|counts| counts.overflow = 30);
        let findings = found(RULES, "TW008", &case(&[peer], &facts));
        assert_eq!(findings[0].figure("overflow_by_peer"), Some(&json!(["10.2.0.2:443: 30"])));
        assert_eq!(findings[0].figure("wanted"), Some(&json!(6000)));
    }
}
