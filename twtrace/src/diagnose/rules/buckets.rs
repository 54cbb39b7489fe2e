//! TW008: the limit on TIME_WAIT sockets.

use crate::diagnose::{Case, Finding, Severity, margins::Buckets, pressure::time_wait_ms};

/// Share of the buckets from which on they are full soon.
pub const FULL: f64 = 0.7;
/// Peers named as the cause of an overflow.
const NAMED: usize = 3;

/// TW008: sockets that found no bucket, or soon will not.
///
/// At the limit `tcp_time_wait()` only counts and closes: no message, no refusal, no protection.
pub fn overflow(case: &Case<'_>) -> Vec<Finding> {
    case.namespaces()
        .filter_map(|(netns, facts)| {
            let buckets = Buckets::of(facts)?;
            let full = buckets.share() >= FULL;
            if buckets.overflow == 0 && !full {
                return None;
            }
            let here = || case.clients().chain(case.servers()).filter(|s| s.netns == netns);
            let wanted: f64 = here()
                .map(|s| s.rates.entered * time_wait_ms(s.peer, s.facts) as f64 / 1000.0)
                .sum();
            let (severity, summary) = if buckets.overflow > 0 {
                let summary = format!(
                    "{} connections closed without TIME_WAIT: tcp_max_tw_buckets={} is reached.",
                    buckets.overflow, buckets.max
                );
                (Severity::Critical, summary)
            } else {
                let summary = format!(
                    "{} of {} TIME_WAIT sockets of this network namespace are taken \
                     (tcp_max_tw_buckets), {:.0} %.",
                    buckets.live,
                    buckets.max,
                    buckets.share() * 100.0
                );
                (Severity::Warning, summary)
            };
            let mut by_peer: Vec<_> = here()
                .map(|s| (s.peer.counts.overflow, s.peer.group.to_string()))
                .filter(|(overflow, _)| *overflow > 0)
                .collect();
            by_peer.sort_by(|one, two| two.cmp(one));
            let mut finding = Finding::new(severity, netns, summary)
                .with("live_sockets", buckets.live, "sockets", super::SOCKSTAT)
                .with("tcp_max_tw_buckets", buckets.max, "sockets", "net.ipv4.tcp_max_tw_buckets")
                .with("overflow", buckets.overflow, "connections", super::NETSTAT)
                .with("wanted", wanted.round() as u64, "sockets", super::COMPUTED);
            if !by_peer.is_empty() {
                let named: Vec<_> = by_peer
                    .into_iter()
                    .take(NAMED)
                    .map(|(overflow, peer)| format!("{peer}: {overflow}"))
                    .collect();
                finding = finding.with("overflow_by_peer", named, "", super::COUNTED);
            }
            finding.consequence = "Such a connection is not protected for 2MSL: a late segment \
                                   may be taken for one of its successor's, and a peer whose FIN \
                                   was not acknowledged gets a RST. Nothing is logged."
                .into();
            finding.remedy = format!(
                "Raise net.ipv4.tcp_max_tw_buckets in this namespace above {:.0} (present rate x \
                 time in TIME_WAIT); a socket takes about half a kilobyte.",
                wanted.max(buckets.live as f64)
            );
            finding.dont = "Do not lower tcp_max_tw_buckets to get rid of TIME_WAIT sockets: it \
                            trades harmless sockets for unsafe closes."
                .into();
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
        host::netstat::TcpExt,
    };
    use serde_json::json;

    #[test]
    fn the_first_connection_without_a_bucket_is_critical() {
        let mut facts = facts();
        let severity = |facts: &_| {
            found(RULES, "TW008", &case(&[], facts)).first().map(|finding| finding.severity)
        };
        assert_eq!(severity(&facts), None);
        let grown = TcpExt::default().with("TCPTimeWaitOverflow", 1);
        only(&mut facts).counters = grown.clone();
        assert_eq!(severity(&facts), Some(Severity::Critical));
        only(&mut facts).counters_before = grown;
        assert_eq!(severity(&facts), None, "it was before the session");
    }

    #[test]
    fn it_warns_from_seventy_per_cent_on() {
        let mut facts = facts();
        only(&mut facts).max_tw_buckets = Some(1000);
        let mut at = |live| {
            only(&mut facts).time_wait = Some(live);
            found(RULES, "TW008", &case(&[], &facts)).first().map(|finding| finding.severity)
        };
        assert_eq!(at(699), None);
        assert_eq!(at(700), Some(Severity::Warning));
    }

    #[test]
    fn the_peers_behind_an_overflow_are_named() {
        let mut facts = facts();
        only(&mut facts).counters = TcpExt::default().with("TCPTimeWaitOverflow", 30);
        let mut peer = Client::at("10.2.0.2", 443).rate(100.0).peer();
        peer.counts.overflow = 30;
        let findings = found(RULES, "TW008", &case(&[peer], &facts));
        assert_eq!(findings[0].figure("overflow_by_peer"), Some(&json!(["10.2.0.2:443: 30"])));
        assert_eq!(findings[0].figure("wanted"), Some(&json!(6000)));
    }
}
