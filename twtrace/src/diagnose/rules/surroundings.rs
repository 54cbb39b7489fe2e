//! TW016, TW017, TW018, TW021: what is around the sockets.

use crate::{
    diagnose::{
        Finding, Scene, Severity,
        arithmetic::{self, Exhaustion},
        pressure::SHORT,
        tracking::{SOON_S, Tracking},
    },
    host::{
        facts::{Conntrack, NamespaceFacts},
        files::ProcessFiles,
    },
    text::{are, counted, visible},
    trust::Section,
};

/// TW016: a program that talks to its own host in short connections.
///
/// `tcp_tw_reuse` allows loopback by default, so this rarely fails; it costs, and fills tables.
pub fn loopback(scene: &Scene<'_>) -> Vec<Finding> {
    scene
        .clients()
        .filter_map(|client| {
            let pressure = client.pressure.as_ref()?;
            let all = arithmetic::steady_state(pressure.rate, pressure.seconds);
            if !pressure.space.local.is_loopback()
                || arithmetic::share(all, pressure.usable as f64) < SHORT
            {
                return None;
            }
            let mut finding = client
                .finding(
                    Severity::Notice,
                    format!(
                        "{:.0} short connections/s go over loopback to {}: TIME_WAIT here is \
                         this host's own doing on both ends.",
                        pressure.rate, pressure.peer
                    ),
                )
                .with("rate", super::rounded(pressure.rate), "connections/s", super::COUNTED)
                .with("live_sockets", client.peer.counts().live(), "sockets", super::COUNTED)
                .with("without_takeover", all.round() as u64, "ports", super::COMPUTED)
                .with("usable_ports", pressure.usable, "ports", pressure.range_source())
                .with("tcp_tw_reuse", client.facts.tw_reuse, "", "net.ipv4.tcp_tw_reuse");
            finding.consequence = match client.facts.tw_reuse {
                Some(0) => {
                    "tcp_tw_reuse=0 holds each port for 60 s on loopback as well, and each connect() \
                     searches a table full of TIME_WAIT."
                }
                _ => {
                    "As long as ports are taken over after a second it works; each connect() searches \
                     a table full of TIME_WAIT, and whoever turns tcp_tw_reuse or tcp_timestamps off \
                     stops it."
                }
            }
            .into();
            finding.remedy = "Keep the connection open (keep-alive between proxy and backend, a \
                              pool for the database), or use a Unix socket."
                .into();
            Some(finding)
        })
        .collect()
}

/// Share of the table from which on few entries are left.
const FULL: f64 = 0.9;
/// Seconds of growth that can be relied on.
const LASTING_S: f64 = 8.0;
/// A socket's own TIME_WAIT, seconds: more is of no use to anybody.
const OWN_TIME_WAIT_S: u64 = 60;

/// TW017: conntrack keeps an entry in its own TIME_WAIT, usually for twice as long.
pub fn conntrack(scene: &Scene<'_>) -> Vec<Finding> {
    let found = |(netns, facts): (u32, &NamespaceFacts)| {
        let tracking = Tracking::of(facts)?;
        let (severity, what) = verdict(&tracking)?;
        let Conntrack { count, max, time_wait_s, .. } = tracking.now;
        let summary = format!(
            "Connection tracking has {count} of {max} entries{what}. It keeps each closed \
             connection, those that are forwarded too, for {time_wait_s} s in a TIME_WAIT of its \
             own."
        );
        let rows = scene.in_namespace(netns).iter();
        let own = rows.fold(0.0, |own, row| own + row.rates.entered);
        let mut finding = Finding::new(severity, netns, summary)
            .with("conntrack_entries", count, "entries", "nf_conntrack_count")
            .with("conntrack_max", max, "entries", "nf_conntrack_max")
            .with("conntrack_time_wait", time_wait_s, "s", "nf_conntrack_tcp_timeout_time_wait")
            .with("growth", tracking.growth.map(super::rounded), "entries/s", "nf_conntrack_count")
            .with("steady_state", tracking.most.round() as u64, "entries", super::COMPUTED)
            .with("dropped", tracking.dropped, "packets", "net/stat/nf_conntrack, growth")
            .with("closed_here", super::rounded(own), super::PER_S, super::COUNTED);
        if let Some(seconds) = tracking.exhaustion.seconds() {
            finding =
                finding.with("seconds_to_full", super::rounded(seconds), "s", super::COMPUTED);
        }
        finding.consequence = "With the table full new connections of any kind are dropped \
                               (\"nf_conntrack: table full, dropping packet\")."
            .into();
        let shorter = match tracking.growth {
            Some(growth) if time_wait_s > OWN_TIME_WAIT_S && growth > 0.0 => format!(
                "Lower nf_conntrack_tcp_timeout_time_wait to {OWN_TIME_WAIT_S}, the socket's own \
                 time: {growth:.0} connections/s then keep {:.0} entries. Or raise",
                growth * OWN_TIME_WAIT_S as f64
            ),
            _ => "Raise".into(),
        };
        finding.remedy = format!(
            "{shorter} nf_conntrack_max (in the initial network namespace) to {:.0} or more, or \
             exempt this traffic (NOTRACK).",
            tracking.most * 1.1
        );
        finding.dont = "Do not count `conntrack -L` entries in TIME_WAIT as sockets: their timer \
                        is another one, and no port of this host is held by them."
            .into();
        Some(finding)
    };
    scene.namespaces().filter_map(found).collect()
}

/// How bad it is, and what to say of the count; `None` while the table suffices.
fn verdict(tracking: &Tracking) -> Option<(Severity, String)> {
    if let Some(dropped) = tracking.dropped.filter(|dropped| *dropped > 0) {
        return Some((
            Severity::Critical,
            format!(", and dropped {} for want of one", counted(dropped, "packets")),
        ));
    }
    match tracking.exhaustion {
        Exhaustion::Now => Some((Severity::Critical, ", and none is left".into())),
        Exhaustion::In(seconds) => {
            let sure = tracking.seconds >= LASTING_S && seconds <= SOON_S;
            let severity = if sure { Severity::Critical } else { Severity::Warning };
            let growth = tracking.growth.unwrap_or(0.0);
            Some((severity, format!(", {growth:.1} more a second: full in {seconds:.0} s")))
        }
        Exhaustion::Never => {
            let few = tracking.used_share() >= FULL;
            few.then(|| (Severity::Warning, ", and does not grow so that it would be full".into()))
        }
    }
}

/// Share of the files a program may open from which on it is told of.
const NEARLY_ALL: f64 = 0.9;

/// TW021: a program has most of the files open that it may, most of them sockets.
pub fn descriptors(scene: &Scene<'_>) -> Vec<Finding> {
    let near = scene.case.facts.near_limit.iter().filter(|process| process.share() >= NEARLY_ALL);
    let found = |process: &ProcessFiles| {
        let ProcessFiles { pid, comm, netns, open, limit, sockets } = process;
        let name = visible(comm);
        let (severity, what) = match open >= limit {
            true => (Severity::Critical, "all"),
            false => (Severity::Warning, "nearly all"),
        };
        let summary = format!(
            "{name} (pid {pid}) has {what} the files open that it may: {open} of {limit}, of which \
             {sockets} are sockets."
        );
        let mut finding = Finding::new(severity, *netns, summary)
            .with("process", *pid, "", "/proc")
            .with("open", *open, "files", "/proc/PID/fd")
            .with("most", *limit, "files", "/proc/PID/limits")
            .with("sockets", *sockets, "sockets", "/proc/PID/fd");
        finding.consequence =
            "With none left its socket() and accept() are answered EMFILE (\"Too \
                               many open files\"): it connects nowhere, and who connects to it \
                               waits."
                .into();
        finding.remedy = format!(
            "See what they are (`ss -tnp | grep pid={pid},`): connections that the program does not \
             close (CLOSE_WAIT) are its own to close. If it needs as many: `prlimit --pid {pid} \
             --nofile=N:` gives it more at once, up to its hard limit; LimitNOFILE= of its unit, or \
             `ulimit -n`, from its next start on."
        );
        finding.dont =
            "Do not look for them in TIME_WAIT: sockets there hold no descriptor.".into();
        finding
    };
    near.map(found).collect()
}

/// TW018: not all that happened was seen.
pub fn lost(scene: &Scene<'_>) -> Vec<Finding> {
    let trust = &scene.case.trust;
    // One socket may be in several of them, so they are not added up.
    let seen: Vec<_> = trust.lower_bounds().collect();
    if seen.is_empty() {
        return unaudited(trust.unaudited).into_iter().collect();
    }
    let words: Vec<_> = seen.iter().map(|(n, doubt)| format!("{n} {}", doubt.words)).collect();
    let mut finding = Finding {
        severity: Severity::Warning,
        summary: format!(
            "Not all that happened was seen or followed ({}): the figures by peer are lower \
             bounds, and predictions may be too late.",
            words.join(", ")
        ),
        ..Finding::default()
    };
    for (count, doubt) in seen {
        let source = match doubt.place {
            Section::Audit => "the kernel's own counters",
            Section::Trust | Section::Totals => super::COUNTED,
        };
        finding = finding.with(doubt.key, count, "", source);
    }
    finding = finding.with("unaudited", trust.unaudited, "namespaces", super::COUNTED).with(
        "skipped",
        trust.skipped,
        "runs",
        "the kernel's miss counters",
    );
    finding.consequence = match trust.missing {
        0 => {
            "What was lost is in the totals and in no row; a finding may be missing, or come late."
                .into()
        }
        missing => format!(
            "{} that the kernel counted {} in no figure at all, not in the totals either; a finding \
             may be missing, or come late.",
            counted(missing, "sockets"),
            are(missing)
        ),
    };
    finding.remedy = "Give a larger --buffer or --max-live, narrow with --netns, or let fewer \
                      programs trace the same functions; -v says more."
        .into();
    vec![finding]
}

/// What nobody can vouch for, though nothing is known to be missing.
fn unaudited(namespaces: u64) -> Option<Finding> {
    (namespaces > 0).then(|| {
        let mut finding = Finding {
            severity: Severity::Notice,
            summary: format!(
                "What was counted of {} could not all be held against the kernel's own counters.",
                counted(namespaces, "network namespaces")
            ),
            ..Finding::default()
        }
        .with("unaudited", namespaces, "namespaces", super::COUNTED);
        finding.consequence =
            "Their figures are most likely right, but nobody can vouch for them.".into();
        finding.remedy = "Nothing, if containers come and go here: a namespace takes its counters \
                          with it. For one that is kept by a descriptor alone, give it a name \
                          (`ip netns attach`)."
            .into();
        finding
    })
}

#[cfg(test)]
mod tests {
    use crate::{
        diagnose::{
            RULES, Severity,
            testing::{Client, NETNS, case, facts, found, only},
        },
        host::{
            facts::{Conntrack, Growth, HostFacts, Lately},
            files::ProcessFiles,
        },
        peer::{
            Peer,
            entry::{Entry, SpaceKey},
        },
        totals::Totals,
        trust::Trust,
    };
    use twtrace_common::Counter;

    fn over_loopback(rate: u64) -> Peer {
        let mut peer = Client::at("127.0.0.1", 6379).peer();
        peer.history = crate::peer::History::default();
        let local = std::net::Ipv4Addr::LOCALHOST.to_ipv6_mapped().octets();
        let start = crate::diagnose::testing::NOW_NS - 9_000_000_000;
        for n in 0..rate * 9 {
            let mono_ns = start + n * 1_000_000_000 / rate;
            let space = SpaceKey { local, ..SpaceKey::default() };
            let entry = Entry { mono_ns, with_timestamps: true, space, ..Entry::default() };
            peer.history.take_in(&entry);
        }
        peer
    }

    #[test]
    fn loopback_churn_is_mentioned_when_it_would_need_most_ports() {
        let facts = facts();
        let findings =
            |peer: Peer| found(RULES, "TW016", &case(std::slice::from_ref(&peer), &facts)).len();
        assert_eq!(findings(over_loopback(329)), 0, "19740 of 28232");
        assert_eq!(findings(over_loopback(330)), 1, "19800");
        assert_eq!(findings(Client::at("10.2.0.2", 80).rate(500.0).peer()), 0, "another host");
        let consequence = |facts: &HostFacts| {
            let peers = [over_loopback(330)];
            found(RULES, "TW016", &case(&peers, facts)).remove(0).consequence
        };
        assert!(consequence(&facts).starts_with("As long as ports are taken over"));
        let mut off = facts.clone();
        only(&mut off).tw_reuse = Some(0);
        assert!(consequence(&off).starts_with("tcp_tw_reuse=0 holds each port"));
    }

    /// A table of so many entries that grows so fast, as it was over so many seconds.
    fn tracking(facts: &mut HostFacts, (count, max): (u64, u64), growth: f64, seconds: f64) {
        let conntrack = Conntrack { time_wait_s: 120, count, max, ..Conntrack::default() };
        let growth = Growth { rate: growth, lasting: growth, ..Growth::default() };
        let lately = Lately { seconds, overflow: 0, conntrack: Some(growth) };
        only(facts).conntrack = Some(conntrack);
        only(facts).lately = Some(lately);
    }

    #[test]
    fn a_table_that_fills_is_told_when_whoever_fills_it() {
        let mut facts = facts();
        let mut severity = |count, max, growth, seconds| {
            tracking(&mut facts, (count, max), growth, seconds);
            found(RULES, "TW017", &case(&[], &facts)).first().map(|finding| finding.severity)
        };
        assert_eq!(severity(1000, 13_000, 100.0, 60.0), None, "12000 more fit");
        assert_eq!(severity(1001, 13_000, 100.0, 60.0), Some(Severity::Critical), "in 2 min");
        assert_eq!(severity(1001, 13_000, 100.0, 4.0), Some(Severity::Warning), "not yet sure");
        assert_eq!(severity(100, 112_000, 1000.0, 60.0), Some(Severity::Critical), "in 112 s");
        assert_eq!(severity(1000, 13_000, -100.0, 60.0), None, "it shrinks");
        assert_eq!(severity(90, 100, 0.0, 60.0), Some(Severity::Warning), "no more come");
        assert_eq!(severity(89, 100, 0.0, 60.0), None);
        assert_eq!(severity(100, 100, 0.0, 60.0), Some(Severity::Critical));
        assert_eq!(severity(0, 10, 0.0, 60.0), None, "it tracks nothing here");
    }

    #[test]
    fn sockets_of_this_host_fill_no_table_that_does_not_grow() {
        let mut facts = facts();
        let peers = [Client::at("10.2.0.2", 80).rate(100.0).peer()];
        tracking(&mut facts, (400, 1000), 0.0, 60.0);
        assert_eq!(found(RULES, "TW017", &case(&peers, &facts)), [], "ports taken over");
    }

    #[test]
    fn packets_dropped_for_want_of_an_entry_are_critical() {
        let mut facts = facts();
        tracking(&mut facts, (95, 100), 0.0, 60.0);
        let growth = Growth { dropped: Some(7), ..Growth::default() };
        let lately = Lately { conntrack: Some(growth), ..only(&mut facts).lately.unwrap() };
        only(&mut facts).lately = Some(lately);
        let findings = found(RULES, "TW017", &case(&[], &facts));
        assert_eq!(findings[0].severity, Severity::Critical);
        assert_eq!(findings[0].figure("dropped"), Some(&7.into()));
    }

    #[test]
    fn a_program_at_its_limit_of_open_files_fails() {
        let mut facts = facts();
        let mut severity = |open, limit| {
            let process =
                ProcessFiles { pid: 7, open, limit, netns: NETNS, ..ProcessFiles::default() };
            facts.near_limit = vec![process];
            found(RULES, "TW021", &case(&[], &facts)).first().map(|finding| finding.severity)
        };
        assert_eq!(severity(899, 1000), None, "a margin");
        assert_eq!(severity(900, 1000), Some(Severity::Warning));
        assert_eq!(severity(1000, 1000), Some(Severity::Critical));
        assert_eq!(severity(1001, 1000), Some(Severity::Critical), "it was lowered since");
    }

    #[test]
    fn any_loss_makes_the_figures_lower_bounds() {
        let facts = facts();
        let peers = [];
        let mut case = case(&peers, &facts);
        assert_eq!(found(RULES, "TW018", &case), []);
        case.trust = Trust { unaudited: 2, ..Trust::default() };
        let severities: Vec<_> =
            found(RULES, "TW018", &case).iter().map(|finding| finding.severity).collect();
        assert_eq!(severities, [Severity::Notice], "nothing is known to be missing");
        let kernel = Totals::default().with(Counter::LostEnded, 1);
        for trust in [
            Trust { kernel, ..Trust::default() },
            Trust { missing: 1, ..Trust::default() },
            Trust { unfollowed: 1, ..Trust::default() },
        ] {
            case.trust = trust;
            assert_eq!(found(RULES, "TW018", &case).len(), 1, "{trust:?}");
        }
        case.trust = Trust { skipped: 9, ..Trust::default() };
        assert_eq!(found(RULES, "TW018", &case), [], "that explains, and is no loss by itself");
    }

    #[test]
    fn an_end_that_was_lost_and_found_missing_later_is_not_told_as_two() {
        let facts = facts();
        let mut case = case(&[], &facts);
        let kernel = Totals::default().with(Counter::LostEnded, 1);
        case.trust = Trust { kernel, healed: 1, ..Trust::default() };
        let finding = found(RULES, "TW018", &case).remove(0);
        assert!(finding.summary.contains("(1 events lost, 1 ends not seen)"), "{finding:?}");
        assert!(!finding.summary.contains('2'), "{finding:?}");
    }
}
