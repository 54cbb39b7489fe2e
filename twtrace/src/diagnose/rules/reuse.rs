//! TW003, TW004: takeover of ports, which the sysctl does not allow.

use crate::{
    diagnose::{
        Finding, Scene, Severity, Subject,
        pressure::{Holder, reuse_delay},
    },
    path::Block,
    units::PerSecond,
};

/// Share of eligible sockets from which on allowing takeovers is worth the word.
const WORTH: f64 = 0.5;

/// TW003: ports run short, the peer sends timestamps, and `tcp_tw_reuse` forbids. While calls fail
/// TW019 says it.
pub fn off_or_loopback_only(scene: &Scene<'_>) -> Vec<Finding> {
    let finding = |client: &Subject<'_>| {
        let pressure = client.pressure.as_ref()?;
        let severity = pressure.severity().filter(|_| !pressure.is_told())?;
        let setting = client.facts.tw_reuse.filter(|setting| *setting != 1)?;
        // What holds the ports has to be what the setting forbids.
        if pressure.holder() != Some(Holder::Forbidden) {
            return None;
        }
        let why = match setting {
            0 => "tcp_tw_reuse is 0, off",
            _ => "tcp_tw_reuse is 2, the default, which means loopback only",
        };
        let finding = client.finding(
            severity,
            format!(
                "Ports towards {} run short although their connections had timestamps: {why}.",
                pressure.peer
            ),
        );
        let mut finding = pressure
            .prove(finding, client.peer.counts().live())
            .with("tcp_tw_reuse", setting, "", "net.ipv4.tcp_tw_reuse")
            .with("eligible", client.peer.counts().eligible, "sockets", super::COUNTED);
        finding.consequence = pressure.consequence();
        let wanted = pressure.reuse_wanted();
        finding.remedy = format!(
            "Set net.ipv4.tcp_tw_reuse={wanted}: connect() then takes over ports that have been in \
             TIME_WAIT for {:.1} s, and {:.0} connections/s fit instead of {:.1}. Or keep \
             connections open and reuse them; without either, {}.",
            reuse_delay(client.facts),
            PerSecond(pressure.what_if.takeover),
            PerSecond(pressure.highest_rate()),
            pressure.room()
        );
        finding.dont = "Do not lower tcp_fin_timeout, which is not the length of TIME_WAIT, and \
                        do not lower tcp_max_tw_buckets."
            .into();
        Some(finding)
    };
    scene.clients().filter_map(finding).collect()
}

/// TW004: for a namespace short of ports, the share of its sockets that could be taken over.
pub fn would_help(scene: &Scene<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (netns, facts) in scene.namespaces() {
        if facts.tw_reuse == Some(1) {
            continue;
        }
        let clients = scene.clients().filter(|client| client.netns == netns);
        let (mut all, mut forbidden, mut short) = (0, 0, Vec::new());
        for client in clients {
            let counts = &client.peer.counts();
            all += counts.with_timestamps + counts.without_timestamps;
            forbidden += counts.blocked(Block::ReuseOff) + counts.blocked(Block::ReuseLoopbackOnly);
            let short_of = client
                .pressure
                .as_ref()
                .filter(|pressure| pressure.severity().is_some() && !pressure.is_told())
                .filter(|pressure| pressure.holder() == Some(Holder::Forbidden))
                .filter(|pressure| !pressure.space.local.is_loopback());
            short.extend(short_of.map(|pressure| {
                let [now, then] =
                    [pressure.highest_rate(), pressure.what_if.takeover].map(PerSecond);
                format!("{}: {now}/s becomes {then}/s", pressure.peer)
            }));
        }
        let share = forbidden as f64 / f64::max(all as f64, 1.0);
        if short.is_empty() || share < WORTH {
            continue;
        }
        let summary = match all.saturating_sub(forbidden) {
            0 => format!(
                "tcp_tw_reuse=1 would free all client sockets for takeover, as {all} of {all} that were \
                 seen to enter show."
            ),
            others => format!(
                "tcp_tw_reuse=1 would free {:.0} % of the client sockets that were seen to enter for \
                 takeover; the other {others} have no timestamps, or may be taken over already.",
                share * 100.0
            ),
        };
        let mut finding = Finding::new(Severity::Notice, netns, summary)
            .with("client_sockets", all, "sockets", super::COUNTED)
            .with("freed_by_reuse", forbidden, "sockets", super::COUNTED)
            .with("highest_rates", short, "", super::COMPUTED)
            .with("tcp_tw_reuse", facts.tw_reuse, "", "net.ipv4.tcp_tw_reuse");
        finding.consequence = "Without it each port waits out the whole of TIME_WAIT.".into();
        finding.remedy = "Set net.ipv4.tcp_tw_reuse=1 in this namespace; it concerns outgoing \
                          connections only."
            .into();
        findings.push(finding);
    }
    findings
}

#[cfg(test)]
mod tests {
    use crate::{
        diagnose::{
            RULES, Severity,
            testing::{Client, case, facts, found, only},
        },
        path::Block,
    };
    use serde_json::json;

    #[test]
    fn reuse_off_is_found_when_ports_run_short_and_only_then() {
        let mut facts = facts();
        let severity = |facts: &_, rate| {
            let peers = [Client::at("10.2.0.2", 443).rate(rate).peer()];
            found(RULES, "TW003", &case(&peers, facts)).first().map(|finding| finding.severity)
        };
        assert_eq!(severity(&facts, 320.0), None, "19200 of 28232");
        assert_eq!(severity(&facts, 340.0), Some(Severity::Warning), "20400");
        assert_eq!(severity(&facts, 475.0), Some(Severity::Critical), "28500");
        only(&mut facts).tw_reuse = Some(0);
        assert_eq!(severity(&facts, 475.0), Some(Severity::Critical));
        only(&mut facts).tw_reuse = Some(1);
        assert_eq!(severity(&facts, 475.0), None);
    }

    #[test]
    fn missing_timestamps_are_another_finding() {
        let facts = facts();
        let peers = [Client::at("10.2.0.2", 443).without_timestamps().rate(475.0).peer()];
        assert_eq!(found(RULES, "TW003", &case(&peers, &facts)), []);
    }

    #[test]
    fn the_rate_with_reuse_follows_the_delay() {
        let mut facts = facts();
        only(&mut facts).tw_reuse_delay_ms = Some(500);
        let peers = [Client::at("10.2.0.2", 443).rate(475.0).peer()];
        let findings = found(RULES, "TW003", &case(&peers, &facts));
        assert_eq!(findings[0].figure("highest_rate_with_takeover"), Some(&json!(56_464.0)));
    }

    #[test]
    fn reuse_would_help_from_half_of_the_sockets_on() {
        let facts = facts();
        let shares = |blocked| {
            let mut peer = Client::at("10.2.0.2", 443).rate(475.0).peer();
            peer.tally.edit(|counts| {
                counts.with_timestamps = 1000;
                counts.blocked[Block::ReuseLoopbackOnly as usize] = blocked;
            });
            found(RULES, "TW004", &case(&[peer], &facts)).len()
        };
        assert_eq!(shares(499), 0);
        assert_eq!(shares(500), 1);
    }

    #[test]
    fn reuse_is_not_advised_for_a_peer_without_timestamps() {
        let facts = facts();
        let mut stripped = Client::at("10.2.0.2", 443).without_timestamps().rate(475.0).peer();
        stripped.tally.edit(|counts| counts.blocked[Block::ReuseLoopbackOnly as usize] = 10_000);
        assert_eq!(found(RULES, "TW004", &case(&[stripped], &facts)), []);
    }

    #[test]
    fn reuse_is_not_advised_where_ports_suffice() {
        let facts = facts();
        let mut peer = Client::at("10.2.0.2", 443).rate(100.0).peer();
        peer.tally.edit(|counts| counts.blocked[Block::ReuseLoopbackOnly as usize] = 1000);
        assert_eq!(found(RULES, "TW004", &case(&[peer], &facts)), []);
    }
}
