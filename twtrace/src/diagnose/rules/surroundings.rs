//! TW016, TW017, TW018: what is around the sockets.

use crate::diagnose::{Finding, Scene, Severity, arithmetic, pressure::SHORT};

/// TW016: a program that talks to its own host in short connections.
///
/// `tcp_tw_reuse` allows loopback by default, so this rarely fails; it costs, and fills tables.
pub fn loopback(scene: &Scene<'_>) -> Vec<Finding> {
    scene
        .clients()
        .filter_map(|client| {
            let pressure = client.pressure.as_ref()?;
            let all = arithmetic::steady_state(pressure.rate, pressure.seconds);
            if !pressure.source.is_loopback()
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
            finding.consequence = "As long as ports are taken over after a second it works; each \
                                   connect() searches a table full of TIME_WAIT, and whoever \
                                   turns tcp_tw_reuse or tcp_timestamps off stops it."
                .into();
            finding.remedy = "Keep the connection open (keep-alive between proxy and backend, a \
                              pool for the database), or use a Unix socket."
                .into();
            Some(finding)
        })
        .collect()
}

/// TW017: conntrack keeps an entry in its own TIME_WAIT, usually for twice as long.
pub fn conntrack(scene: &Scene<'_>) -> Vec<Finding> {
    scene
        .namespaces()
        .filter_map(|(netns, facts)| {
            let conntrack = facts.conntrack.filter(|conntrack| conntrack.count > 0)?;
            let here = scene.in_namespace(netns);
            let rate: f64 = here.iter().map(|row| row.rates.entered).sum();
            let held: f64 = here.iter().map(|row| row.rates.held.entered).sum();
            let steady = arithmetic::steady_state(rate, conntrack.time_wait_s as f64);
            let max = conntrack.max as f64;
            let now = arithmetic::share(conntrack.count as f64, max);
            let lasting = arithmetic::steady_state(held, conntrack.time_wait_s as f64);
            let share = now.max(arithmetic::share(lasting, max));
            if share < SHORT || rate == 0.0 {
                return None;
            }
            let lasted = here.iter().any(|row| row.rates.have_lasted());
            let severity =
                if share >= 1.0 && lasted { Severity::Critical } else { Severity::Warning };
            let mut finding = Finding::new(
                severity,
                netns,
                format!(
                    "Connection tracking keeps each closed connection for {} s in a TIME_WAIT of \
                     its own: {:.0} % of nf_conntrack_max at the present rate.",
                    conntrack.time_wait_s,
                    share * 100.0
                ),
            )
            .with("conntrack_entries", conntrack.count, "entries", "nf_conntrack_count")
            .with("conntrack_max", conntrack.max, "entries", "nf_conntrack_max")
            .with(
                "conntrack_time_wait",
                conntrack.time_wait_s,
                "s",
                "nf_conntrack_tcp_timeout_time_wait",
            )
            .with("rate", super::rounded(rate), "connections/s", super::COUNTED)
            .with("steady_state", steady.round() as u64, "entries", super::COMPUTED);
            finding.consequence = "With the table full new connections of any kind are dropped \
                                   (\"nf_conntrack: table full, dropping packet\")."
                .into();
            finding.remedy = "Raise nf_conntrack_max, lower nf_conntrack_tcp_timeout_time_wait \
                              (60 s is the socket's own time), or exempt this traffic (NOTRACK)."
                .into();
            finding.dont = "Do not count `conntrack -L` entries in TIME_WAIT as sockets: their \
                            timer is another one, and no port of this host is held by them."
                .into();
            Some(finding)
        })
        .collect()
}

/// TW018: not all that happened was seen.
pub fn lost(scene: &Scene<'_>) -> Vec<Finding> {
    let loss = scene.case.loss;
    let all = loss.events + loss.skipped + loss.unseen_ends + loss.unfollowed;
    if all == 0 {
        return Vec::new();
    }
    let mut finding = Finding {
        severity: Severity::Warning,
        summary: format!(
            "{all} events or sockets were not followed: the figures by peer are lower bounds, and \
             predictions may be too late."
        ),
        ..Finding::default()
    }
    .with("events_lost", loss.events, "events", super::COUNTED)
    .with("runs_skipped", loss.skipped, "runs", "the kernel's miss counters")
    .with("ends_unseen", loss.unseen_ends, "sockets", super::COUNTED)
    .with("unfollowed", loss.unfollowed, "sockets", super::COUNTED);
    finding.consequence = "Totals stay exact; a finding may be missing, or come late.".into();
    finding.remedy = "Give a larger --buffer or --max-live, narrow with --netns, or let fewer \
                      programs trace the same functions; -v says more."
        .into();
    vec![finding]
}

#[cfg(test)]
mod tests {
    use crate::{
        diagnose::{
            Loss, RULES, Severity,
            testing::{Client, case, facts, found, only},
        },
        host::facts::Conntrack,
        peer::{Peer, history::Entry},
    };

    fn over_loopback(rate: u64) -> Peer {
        let mut peer = Client::at("127.0.0.1", 6379).peer();
        peer.history = crate::peer::History::default();
        let local = std::net::Ipv4Addr::LOCALHOST.to_ipv6_mapped().octets();
        let start = crate::diagnose::testing::NOW_NS - 9_000_000_000;
        for n in 0..rate * 9 {
            let mono_ns = start + n * 1_000_000_000 / rate;
            let entry = Entry { mono_ns, with_timestamps: true, local, ..Entry::default() };
            peer.history.enter(&entry);
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
    }

    #[test]
    fn conntrack_is_mentioned_when_its_table_fills() {
        let mut facts = facts();
        let peers = [Client::at("10.2.0.2", 80).rate(100.0).peer()];
        let mut severity = |count, max| {
            only(&mut facts).conntrack = Some(Conntrack { time_wait_s: 120, count, max });
            found(RULES, "TW017", &case(&peers, &facts)).first().map(|finding| finding.severity)
        };
        assert_eq!(severity(10, 17_200), None, "12000 of 17200");
        assert_eq!(severity(10, 17_100), Some(Severity::Warning));
        assert_eq!(severity(10, 12_001), Some(Severity::Warning));
        assert_eq!(severity(10, 12_000), Some(Severity::Critical));
        assert_eq!(severity(0, 10), None, "it tracks nothing here");
        assert_eq!(severity(70, 100), Some(Severity::Critical), "at this rate");
    }

    #[test]
    fn a_burst_does_not_fill_the_table() {
        let mut facts = facts();
        only(&mut facts).conntrack = Some(Conntrack { time_wait_s: 120, count: 10, max: 1000 });
        let severity = |seconds| {
            let peers = [Client::at("10.2.0.2", 80).rate(100.0).over(seconds).peer()];
            found(RULES, "TW017", &case(&peers, &facts)).first().map(|finding| finding.severity)
        };
        assert_eq!(severity(3), None);
        assert_eq!(severity(7), Some(Severity::Warning));
        assert_eq!(severity(8), Some(Severity::Critical));
    }

    #[test]
    fn any_loss_makes_the_figures_lower_bounds() {
        let facts = facts();
        let peers = [];
        let mut case = case(&peers, &facts);
        assert_eq!(found(RULES, "TW018", &case), []);
        case.loss = Loss { events: 1, ..Loss::default() };
        assert_eq!(found(RULES, "TW018", &case).len(), 1);
        case.loss = Loss { skipped: 1, ..Loss::default() };
        assert_eq!(found(RULES, "TW018", &case).len(), 1);
        case.loss = Loss { unfollowed: 1, ..Loss::default() };
        assert_eq!(found(RULES, "TW018", &case).len(), 1);
    }
}
