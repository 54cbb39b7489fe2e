//! TW008: the limit on TIME_WAIT sockets.

use crate::diagnose::{
    Finding, Scene, Severity, Subject, arithmetic::Exhaustion, margins::Buckets,
};

/// Share of the buckets from which on they are full soon.
pub const FULL: f64 = 0.7;
/// Peers named as the cause of an overflow.
const NAMED: usize = 3;
/// Name of the limit.
const LIMIT: &str = "net.ipv4.tcp_max_tw_buckets";

/// TW008: sockets that found no bucket, or soon will not.
///
/// At the limit `tcp_time_wait()` only counts and closes: no message, no refusal, no protection.
pub fn overflow(scene: &Scene<'_>) -> Vec<Finding> {
    scene
        .namespaces()
        .filter_map(|(netns, facts)| {
            let buckets = Buckets::of(scene, netns, facts)?;
            let (severity, summary) = verdict(&buckets)?;
            let mut finding = prove(Finding::new(severity, netns, summary), &buckets);
            let named = overflow_by_peer(scene.in_namespace(netns));
            if !named.is_empty() {
                finding = finding.with("overflow_by_peer", named, "", super::COUNTED);
            }
            finding.consequence = format!(
                "{}A connection that closes then is not protected for 2MSL: a late segment may be \
                 taken for one of its successor's, and a peer whose FIN was not acknowledged gets \
                 a RST. Nothing is logged.",
                match buckets.exhaustion {
                    Exhaustion::In(seconds) => {
                        format!("At the present rate the last is taken in {seconds:.0} s. ")
                    }
                    Exhaustion::Now | Exhaustion::Never => String::new(),
                }
            );
            finding.remedy = format!(
                "Raise net.ipv4.tcp_max_tw_buckets in this namespace above {:.0} (present rate x \
                 time in TIME_WAIT); a socket takes about half a kilobyte.",
                buckets.steady.max(buckets.live as f64)
            );
            finding.dont = "Do not lower tcp_max_tw_buckets to get rid of TIME_WAIT sockets: it \
                            trades harmless sockets for unsafe closes."
                .into();
            Some(finding)
        })
        .collect()
}

/// How bad it is, in a sentence; `None` while the buckets suffice.
fn verdict(buckets: &Buckets) -> Option<(Severity, String)> {
    let Buckets { live, max, overflow, steady, .. } = *buckets;
    if overflow > 0 {
        let summary = format!(
            "{overflow} connections closed without TIME_WAIT: tcp_max_tw_buckets={max} was reached."
        );
        return Some((Severity::Critical, summary));
    }
    let summary = if buckets.used_share() >= FULL {
        format!(
            "{live} of {max} TIME_WAIT sockets of this network namespace are taken \
             (tcp_max_tw_buckets), {:.0} %.",
            buckets.used_share() * 100.0
        )
    } else if buckets.share() >= FULL {
        format!(
            "{live} of {max} TIME_WAIT sockets of this network namespace are taken \
             (tcp_max_tw_buckets), and at the present rate {steady:.0} will be."
        )
    } else {
        return None;
    };
    Some((Severity::Warning, summary))
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
    fn the_moment_the_buckets_are_full_is_foretold() {
        let mut facts = facts();
        only(&mut facts).max_tw_buckets = Some(10_000);
        only(&mut facts).time_wait = Some(4000);
        let finding = |rate| {
            let peers = [Client::at("10.2.0.2", 443).rate(rate).peer()];
            found(RULES, "TW008", &case(&peers, &facts)).pop()
        };
        assert_eq!(finding(116.0), None, "6960 in the end");
        let settles = finding(118.0).unwrap();
        assert_eq!(settles.severity, Severity::Warning, "7080");
        assert_eq!(settles.figure("seconds_to_full"), None, "it settles below");
        let fills = finding(200.0).unwrap();
        assert_eq!(fills.severity, Severity::Warning, "nothing is lost yet");
        assert_eq!(fills.figure("seconds_to_full"), Some(&json!(30.0)), "6000 at 200 a second");
        assert_eq!(fills.figure("wanted"), Some(&json!(12_000)));
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
