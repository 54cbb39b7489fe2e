//! TW013, TW014, TW015: settings that do not do what they are set for.

use crate::{
    diagnose::{
        Finding, Scene, Severity,
        pressure::{Holder, Pressure},
    },
    host::open::Stage,
};

/// `tcp_fin_timeout` when nobody changes it, seconds.
const FIN_TIMEOUT: u64 = 60;

/// TW013: 3.5 x RTO is longer than 60 s, so that recycling is slower than none.
pub fn slow_recycling(scene: &Scene<'_>) -> Vec<Finding> {
    let rows = scene.subjects().iter();
    rows.filter(|row| row.facts.tw_recycle == Some(1))
        .filter_map(|row| {
            let recycle_ms = crate::units::recycle_timeout(u64::from(row.peer.rto_max_ms));
            if recycle_ms <= crate::units::TCP_TIMEWAIT_LEN_MS {
                return None;
            }
            let mut finding = row
                .finding(
                    Severity::Warning,
                    format!(
                        "Recycling makes TIME_WAIT towards {} longer, not shorter: 3.5 x its RTO \
                         is {:.0} s, 2MSL is 60 s.",
                        row.peer.group,
                        recycle_ms as f64 / 1000.0
                    ),
                )
                .with("rto_max", row.peer.rto_max_ms, "ms", super::COUNTED)
                .with("recycle_timeout", recycle_ms, "ms", super::COMPUTED)
                .with("tcp_tw_recycle", 1, "", "net.ipv4.tcp_tw_recycle");
            finding.consequence = "Ports are held longer than without recycling.".into();
            finding.remedy = "Set net.ipv4.tcp_tw_recycle=0 and tcp_tw_reuse=1, and see why the \
                              retransmission timeout is so long: packets are being lost."
                .into();
            Some(finding)
        })
        .collect()
}

/// TW014: the setting is on with clients behind NAT, or is configured where it does not exist.
pub fn recycle_configured(scene: &Scene<'_>) -> Vec<Finding> {
    let mut findings: Vec<Finding> = scene
        .namespaces()
        .filter(|(_, facts)| facts.tw_recycle == Some(1))
        .filter_map(|(netns, facts)| {
            let dropped = facts.grown("PAWSPassive");
            let served = scene.servers().any(|server| server.netns == netns);
            if dropped == 0 && !served {
                return None;
            }
            let severity = if dropped > 0 { Severity::Critical } else { Severity::Warning };
            let summary = format!(
                "tcp_tw_recycle is on, and this host serves: {dropped} SYNs were dropped for \
                 timestamps older than their address's last."
            );
            let mut finding = Finding::new(severity, netns, summary)
                .with("syns_dropped", dropped, "SYNs", super::NETSTAT)
                .with("tcp_tw_recycle", 1, "", "net.ipv4.tcp_tw_recycle");
            finding.consequence = "Clients behind one NAT address cannot connect, some of them, \
                                   some of the time, and nothing is logged."
                .into();
            finding.remedy = "Set net.ipv4.tcp_tw_recycle=0; tcp_tw_reuse=1 is the safe way for \
                              outgoing connections."
                .into();
            finding.dont = "Do not leave it on because the tests pass: one client per address \
                            does not show it."
                .into();
            Some(finding)
        })
        .collect();
    let exists = scene.namespaces().any(|(_, facts)| facts.tw_recycle.is_some());
    let known = scene.namespaces().next().is_some();
    let wanted = scene.case.facts.recycle_configured.iter().filter(|setting| setting.value != "0");
    for setting in wanted.filter(|_| known && !exists) {
        let at = format!("{}:{}", setting.file.display(), setting.line);
        let mut finding = Finding {
            severity: Severity::Notice,
            summary: format!(
                "{at} sets tcp_tw_recycle, which this kernel does not have: it was removed in \
                 Linux 4.12."
            ),
            ..Finding::default()
        }
        .with("file", at, "", "sysctl.d")
        .with("value", setting.value.clone(), "", "sysctl.d");
        finding.consequence = "The line does nothing here, and on an older kernel it breaks \
                               clients behind NAT."
            .into();
        finding.remedy = "Remove the line. For outgoing connections tcp_tw_reuse=1 is what it \
                          was hoped to be."
            .into();
        findings.push(finding);
    }
    findings
}

/// TW015: `tcp_fin_timeout` is about FIN_WAIT2; TIME_WAIT stays as long as it is.
pub fn fin_timeout(scene: &Scene<'_>) -> Vec<Finding> {
    scene
        .namespaces()
        .filter_map(|(netns, facts)| {
            let seconds = facts.fin_timeout.filter(|seconds| *seconds != FIN_TIMEOUT)?;
            let here = scene.in_namespace(netns);
            let mut pressures = here.iter().filter_map(|row| row.pressure.as_deref());
            // Of FIN_WAIT2 it is the right setting.
            let half_closed = |pressure: &Pressure| {
                let space = &pressure.space;
                let open = facts.open.as_ref();
                let stage = open.map(|open| open.most_are(space.local, space.remote).0);
                pressure.holder() == Some(Holder::Open) && stage == Some(Stage::HalfClosed)
            };
            let ports = pressures.any(|pressure| {
                let is_of_fin_wait2 =
                    pressure.holder() == Some(Holder::FinWait2) || half_closed(pressure);
                pressure.severity().is_some() && !is_of_fin_wait2
            });
            let buckets = scene.buckets(netns);
            let full = buckets.is_some_and(|buckets| buckets.used_share() >= super::buckets::FULL);
            // Nobody is bothered by TIME_WAIT here, so nobody is mistaken about it.
            if !ports && !full {
                return None;
            }
            let armed = here.iter().map(|row| row.peer.scheduled_ms).max().filter(|ms| *ms > 0);
            let mut finding = Finding::new(
                Severity::Notice,
                netns,
                format!(
                    "tcp_fin_timeout is {seconds}, but that is not the length of TIME_WAIT: it \
                     stays {:.0} s.",
                    armed.map_or(crate::units::TCP_TIMEWAIT_LEN_MS, u64::from) as f64 / 1000.0
                ),
            )
            .with("tcp_fin_timeout", seconds, "s", "net.ipv4.tcp_fin_timeout")
            .with("time_wait_armed", armed, "ms", super::COUNTED);
            finding.consequence = "It limits FIN_WAIT2 of closed sockets, and nothing else; the \
                                   shortage is not touched by it."
                .into();
            finding.remedy = "Set it back to 60 unless peers that never send a FIN are the \
                              problem, and heed the other findings."
                .into();
            finding.dont = "Do not lower it further.".into();
            Some(finding)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use crate::{
        diagnose::{
            RULES, Severity,
            testing::{Client, case, facts, found, only},
        },
        host::{configured::Setting, netstat::TcpExt},
    };

    #[test]
    fn recycling_is_slow_above_an_rto_of_seventeen_seconds() {
        let mut facts = facts();
        let mut peer = Client::at("10.2.0.2", 443).rate(1.0).peer();
        let mut findings = |facts: &_, rto| {
            peer.rto_max_ms = rto;
            found(RULES, "TW013", &case(std::slice::from_ref(&peer), facts)).len()
        };
        only(&mut facts).tw_recycle = Some(1);
        assert_eq!(findings(&facts, 17_142), 0);
        assert_eq!(findings(&facts, 17_144), 1);
        only(&mut facts).tw_recycle = Some(0);
        assert_eq!(findings(&facts, 17_144), 0);
        only(&mut facts).tw_recycle = None;
        assert_eq!(findings(&facts, 17_144), 0, "this kernel does not recycle");
    }

    fn setting(value: &str) -> Setting {
        Setting { file: "/etc/sysctl.d/9.conf".into(), line: 3, value: value.into() }
    }

    #[test]
    fn a_setting_that_does_not_exist_is_named_with_its_line() {
        let mut facts = facts();
        facts.recycle_configured = vec![setting("1"), setting("0")];
        let findings = found(RULES, "TW014", &case(&[], &facts));
        assert_eq!(findings.len(), 1, "0 is what the kernel does anyway");
        assert!(findings[0].summary.starts_with("/etc/sysctl.d/9.conf:3 sets"));
        only(&mut facts).tw_recycle = Some(0);
        assert_eq!(found(RULES, "TW014", &case(&[], &facts)), [], "it exists, and is off");
    }

    #[test]
    fn recycling_is_dangerous_where_clients_connect() {
        let mut facts = facts();
        only(&mut facts).tw_recycle = Some(1);
        let client = [Client::at("10.2.0.2", 443).rate(1.0).peer()];
        assert_eq!(found(RULES, "TW014", &case(&client, &facts)), [], "nobody connects to us");
        let server = [Client::at("10.2.0.2", 0).of_server().rate(1.0).peer()];
        let severity = |facts: &_| found(RULES, "TW014", &case(&server, facts))[0].severity;
        assert_eq!(severity(&facts), Severity::Warning);
        only(&mut facts).counters = TcpExt::default().with("PAWSPassive", 1);
        assert_eq!(severity(&facts), Severity::Critical);
    }

    #[test]
    fn fin_timeout_is_mentioned_only_where_time_wait_hurts() {
        let mut facts = facts();
        only(&mut facts).fin_timeout = Some(30);
        let quiet = [Client::at("10.2.0.2", 443).rate(10.0).peer()];
        assert_eq!(found(RULES, "TW015", &case(&quiet, &facts)), []);
        let short = [Client::at("10.2.0.2", 443).rate(475.0).peer()];
        assert_eq!(found(RULES, "TW015", &case(&short, &facts)).len(), 1);
        only(&mut facts).fin_timeout = Some(60);
        assert_eq!(found(RULES, "TW015", &case(&short, &facts)), []);
    }
}
