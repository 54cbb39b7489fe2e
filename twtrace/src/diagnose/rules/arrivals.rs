//! TW012: segments that meet a TIME_WAIT socket and are refused.

use crate::diagnose::{Finding, Scene, Severity};

/// Fewer than this are chance.
const SOME: u64 = 3;

/// TW012: a new SYN, or data, was taken for a segment of the old connection.
///
/// PAWS in TIME_WAIT has a counter of its own from 6.18 on (`PAWSTimewait`); before, it shares
/// `PAWSEstab` with open connections, and then says nothing of TIME_WAIT by itself.
pub fn refused(scene: &Scene<'_>) -> Vec<Finding> {
    scene
        .namespaces()
        .filter_map(|(netns, facts)| {
            let own = facts.counters.get("PAWSTimewait").is_some();
            let counter = if own { "PAWSTimewait" } else { "PAWSEstab" };
            let paws = facts.grown(counter);
            let skipped = facts.grown("TCPACKSkippedTimeWait");
            let time_wait = facts.time_wait.unwrap_or(0) > 0;
            if paws + skipped < SOME || (!own && !time_wait) {
                return None;
            }
            let where_counted = if own { "" } else { " (or in open connections: one counter)" };
            let mut finding = Finding::new(
                Severity::Warning,
                netns,
                format!(
                    "{} segments that met a TIME_WAIT socket were refused{where_counted}: among \
                     them are SYNs of clients that come back with the same port.",
                    paws + skipped
                ),
            )
            .with("paws_rejected", paws, "segments", super::NETSTAT)
            .with("acks_rate_limited", skipped, "segments", super::NETSTAT)
            .with("live_sockets", facts.time_wait, "sockets", super::SOCKSTAT);
            finding.consequence = "A refused SYN costs its client at least a second: it is sent \
                                   again, or answered with an ACK that the client resets."
                .into();
            finding.remedy = "Look for clients behind one NAT address whose timestamps do not \
                              grow together, or a load balancer that reuses its source ports \
                              faster than 60 s; let the clients close first, or give the \
                              balancer more source addresses."
                .into();
            finding.dont = "Do not turn tcp_timestamps off for it: without them a SYN is \
                            accepted on TIME_WAIT by its sequence number alone, and no port of \
                            this host can be taken over any more."
                .into();
            Some(finding)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use crate::{
        diagnose::{
            RULES,
            testing::{case, facts, found, only},
        },
        host::netstat::TcpExt,
    };

    fn findings(counter: &str, grown: u64, live: u64) -> usize {
        let mut facts = facts();
        only(&mut facts).counters_before = TcpExt::default().with(counter, 5);
        only(&mut facts).counters = TcpExt::default().with(counter, 5 + grown);
        only(&mut facts).time_wait = Some(live);
        found(RULES, "TW012", &case(&[], &facts)).len()
    }

    #[test]
    fn three_refused_segments_are_no_chance() {
        assert_eq!(findings("PAWSTimewait", 2, 1), 0);
        assert_eq!(findings("PAWSTimewait", 3, 1), 1);
        assert_eq!(findings("PAWSTimewait", 3, 0), 1, "the socket may be gone since");
    }

    #[test]
    fn the_shared_counter_of_older_kernels_needs_a_time_wait_socket() {
        assert_eq!(findings("PAWSEstab", 3, 0), 0);
        assert_eq!(findings("PAWSEstab", 3, 1), 1);
        assert_eq!(findings("PAWSActive", 9, 9), 0, "that one is about SYN-SENT");
    }
}
