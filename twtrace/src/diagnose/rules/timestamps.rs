//! TW001, TW002: sockets without timestamps, which nothing can take over.

use super::failed::cause::wait_or_find;
use crate::{
    diagnose::{
        Finding, Scene, Severity, Subject,
        pressure::{Holder, Pressure, Stamps},
    },
    host::facts::NamespaceFacts,
    units::PerSecond,
};

/// Peers short of ports whose sockets come without timestamps, with how bad it is.
fn short<'s, 'a>(
    scene: &'s Scene<'a>,
    offered: bool,
) -> impl Iterator<Item = (&'s Subject<'a>, Severity)> {
    scene.clients().filter_map(move |client| {
        let offers = client.facts.timestamps != Some(0);
        let pressure = client.pressure.as_ref()?;
        let severity = pressure.severity()?;
        let is_cause = pressure.holder() == Some(Holder::NoTimestamps);
        (offers == offered && is_cause && client.lacks_timestamps()).then_some((client, severity))
    })
}

/// TW001: `tcp_twsk_unique()` takes no port over whose connection had no timestamp of the peer.
pub fn none_from_peer(scene: &Scene<'_>) -> Vec<Finding> {
    let finding = |(client, severity): (&Subject<'_>, Severity)| {
        let pressure = client.pressure.as_ref()?;
        // Those that were made while none were offered run out, and new ones have them.
        if pressure.stamps == Stamps::NotOffered {
            return None;
        }
        let history = &client.peer.history;
        let before = match history.with.last_ns {
            0 => "",
            _ => " any more",
        };
        let (what, since) = match pressure.stamps {
            Stamps::NotFromPeer => (
                format!("{} sends no TCP timestamps{before} though we offer them", pressure.peer),
                "",
            ),
            // What was there before may be of a time when they were not offered.
            _ => (
                format!("The connections to {} had no TCP timestamps", pressure.peer),
                " We offer them now; none was closed since that would tell whether the peer sends any.",
            ),
        };
        let finding = client.finding(
            severity,
            format!(
                "{what}, so none of these ports can be taken over early: each stays in TIME_WAIT for \
                 {:.0} s.{since}",
                pressure.seconds
            ),
        );
        let counts = &client.peer.counts();
        let mut finding = pressure
            .prove(finding, counts.live())
            .with("without_timestamps", counts.without_timestamps, "sockets", super::COUNTED)
            .with("with_timestamps", counts.with_timestamps, "sockets", super::COUNTED)
            .with("tcp_timestamps", client.facts.timestamps, "", "net.ipv4.tcp_timestamps")
            .with("tcp_tw_reuse", client.facts.tw_reuse, "", "net.ipv4.tcp_tw_reuse");
        let ago = |moment: u64| scene.case.now_ns.saturating_sub(moment) as f64 / 1e9;
        finding = finding.with(
            "first_without",
            super::rounded(ago(history.without.first_ns)),
            "s ago",
            super::COUNTED,
        );
        if history.with.last_ns != 0 {
            let last = super::rounded(ago(history.with.last_ns));
            finding = finding.with("last_with", last, "s ago", super::COUNTED);
        }
        finding.consequence = pressure.consequence();
        let find = match pressure.stamps {
            Stamps::NotFromPeer => "Find".to_owned(),
            _ => wait_or_find(pressure),
        };
        finding.remedy = format!(
            "{find} what erases the option between here and {}: a load balancer, NAT, proxy, SYN \
             proxy or firewall (compare the SYN and SYN-ACK on both sides), or \
             net.ipv4.tcp_timestamps=0 on the peer.",
            pressure.peer
        );
        if !pressure.is_told() {
            finding.remedy.push_str(&format!(
                " Let it pass them, and {:.0} connections/s fit instead of {:.1}.{} Until then \
                 keep connections open and reuse them, or let the peer close first; or make room: \
                 {}.",
                PerSecond(pressure.what_if.takeover),
                PerSecond(pressure.highest_rate()),
                reuse_as_well(pressure, client.facts),
                pressure.room()
            ));
        }
        finding.dont = "Do not expect tcp_tw_reuse to help while the timestamps are missing, nor \
                        tcp_fin_timeout, which is not the length of TIME_WAIT; do not lower \
                        tcp_max_tw_buckets."
            .into();
        Some(finding)
    };
    short(scene, true).filter_map(finding).chain(super::inherited::stamps(scene, true)).collect()
}

/// What else has to be set for timestamps to help, as a sentence; empty if nothing.
fn reuse_as_well(pressure: &Pressure, facts: &NamespaceFacts) -> String {
    match facts.tw_reuse {
        Some(other) if !pressure.may_take_over(facts) => format!(
            " tcp_tw_reuse has to be {} as well; it is {other}, and without timestamps it changes \
             nothing.",
            pressure.reuse_wanted()
        ),
        _ => String::new(),
    }
}

/// TW002: the same, by this end's own setting. While calls fail TW019 says it.
pub fn off_here(scene: &Scene<'_>) -> Vec<Finding> {
    let finding = |(client, severity): (&Subject<'_>, Severity)| {
        let pressure = client.pressure.as_ref()?;
        let finding = client.finding(
            severity,
            format!(
                "TCP timestamps are off on this end (tcp_timestamps=0), so no port towards {} can \
                 be taken over early, whatever tcp_tw_reuse says.",
                pressure.peer
            ),
        );
        let mut finding = pressure
            .prove(finding, client.peer.counts().live())
            .with("tcp_timestamps", client.facts.timestamps, "", "net.ipv4.tcp_timestamps")
            .with("tcp_tw_reuse", client.facts.tw_reuse, "", "net.ipv4.tcp_tw_reuse");
        finding.consequence = pressure.consequence();
        let as_well = if pressure.may_take_over(client.facts) {
            String::new()
        } else {
            format!(" and net.ipv4.tcp_tw_reuse={}", pressure.reuse_wanted())
        };
        finding.remedy = format!(
            "Set net.ipv4.tcp_timestamps=1 (the default; its offset is random per connection, so \
             it tells nobody the uptime){as_well}, and {:.0} connections/s fit instead of {:.1}: new ones \
             profit, those in TIME_WAIT run out. Or make room: {}.",
            PerSecond(pressure.what_if.takeover),
            PerSecond(pressure.highest_rate()),
            pressure.room()
        );
        finding.dont = "Do not leave timestamps off for hardening: PAWS and the early reuse of \
                        ports both rest on them."
            .into();
        Some(finding)
    };
    let told = |client: &Subject<'_>| client.pressure.as_deref().is_some_and(Pressure::is_told);
    short(scene, false)
        .filter(|(client, _)| !told(client))
        .filter_map(finding)
        .chain(super::inherited::stamps(scene, false))
        .collect()
}

#[cfg(test)]
mod tests {
    use crate::diagnose::{
        RULES, Severity,
        testing::{Client, case, facts, found, only},
    };
    use serde_json::json;

    fn peer() -> Client {
        Client::at("10.2.0.2", 8080).without_timestamps()
    }

    #[test]
    fn a_peer_without_timestamps_is_found_when_it_will_exhaust_the_ports() {
        let mut facts = facts();
        only(&mut facts).port_range = Some(20_000..=20_999);
        let peers = [peer().rate(50.0).live(400).peer()];
        let findings = found(RULES, "TW001", &case(&peers, &facts));
        let [finding] = findings.as_slice() else { panic!("{findings:?}") };
        assert_eq!(finding.severity, Severity::Critical);
        assert_eq!(finding.figure("live_sockets"), Some(&json!(400)));
        assert_eq!(finding.figure("usable_ports"), Some(&json!(1000)));
        let seconds = finding.figure("seconds_to_exhaustion").and_then(|s| s.as_f64()).unwrap();
        assert!((11.0..13.0).contains(&seconds), "{seconds}");
        assert!(finding.remedy.contains("tcp_tw_reuse has to be 1 as well; it is 2"));
    }

    #[test]
    fn it_is_quiet_below_seventy_per_cent_and_warns_from_there_on() {
        let mut facts = facts();
        only(&mut facts).port_range = Some(20_000..=20_999);
        let severity = |rate| {
            let peers = [peer().rate(rate).peer()];
            found(RULES, "TW001", &case(&peers, &facts)).first().map(|finding| finding.severity)
        };
        assert_eq!(severity(11.0), None, "660 of 1000");
        assert_eq!(severity(12.0), Some(Severity::Warning), "720");
        assert_eq!(severity(16.0), Some(Severity::Warning), "960");
        assert_eq!(severity(17.0), Some(Severity::Critical), "1020");
    }

    #[test]
    fn it_goes_when_timestamps_are_back() {
        let mut facts = facts();
        only(&mut facts).port_range = Some(20_000..=20_999);
        let mut back = Client::at("10.2.0.2", 8080).allowed().rate(50.0).peer();
        back.history.without.last_ns = 1;
        back.history.set_live(800, 800);
        assert_eq!(found(RULES, "TW001", &case(&[back], &facts)), []);
    }

    #[test]
    fn a_server_needs_no_ports() {
        let mut facts = facts();
        only(&mut facts).port_range = Some(20_000..=20_999);
        let peers = [peer().of_server().rate(500.0).live(30_000).peer()];
        assert_eq!(found(RULES, "TW001", &case(&peers, &facts)), []);
    }

    #[test]
    fn timestamps_off_here_are_not_blamed_on_the_peer() {
        let mut facts = facts();
        only(&mut facts).timestamps = Some(0);
        let peers = [peer().rate(500.0).live(9000).peer()];
        assert_eq!(found(RULES, "TW001", &case(&peers, &facts)), []);
        assert_eq!(found(RULES, "TW002", &case(&peers, &facts)).len(), 1);
        only(&mut facts).timestamps = Some(1);
        assert_eq!(found(RULES, "TW002", &case(&peers, &facts)), []);
        let quiet = [peer().rate(5.0).peer()];
        only(&mut facts).timestamps = Some(0);
        assert_eq!(found(RULES, "TW002", &case(&quiet, &facts)), [], "harmless");
    }
    #[test]
    fn on_loopback_the_default_of_reuse_is_enough() {
        let mut facts = facts();
        only(&mut facts).port_range = Some(20_000..=20_999);
        let mut remedy = |reuse, timestamps| {
            only(&mut facts).tw_reuse = Some(reuse);
            only(&mut facts).timestamps = Some(timestamps);
            let id = if timestamps == 0 { "TW002" } else { "TW001" };
            let local = std::net::Ipv4Addr::LOCALHOST;
            let peers = [peer().from(local).rate(50.0).live(400).peer()];
            found(RULES, id, &case(&peers, &facts)).remove(0).remedy
        };
        assert!(!remedy(2, 1).contains("tcp_tw_reuse"), "it is 2");
        assert!(remedy(0, 1).contains("tcp_tw_reuse has to be 2 as well; it is 0"));
        assert!(!remedy(2, 0).contains("tcp_tw_reuse"));
        assert!(remedy(0, 0).contains(" and net.ipv4.tcp_tw_reuse=2, and"));
    }
}
