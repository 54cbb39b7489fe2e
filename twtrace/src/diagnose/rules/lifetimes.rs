//! TW009, TW010, TW011: sockets that do not live as TIME_WAIT sockets do.

use super::arrivals;
use crate::{
    diagnose::{Finding, Scene, Severity, Subject},
    event::Role,
    path::Outcome,
    units::TCP_TIMEWAIT_LEN_MS,
};

/// Fewer of a kind than this prove nothing.
const SOME: u64 = 3;
/// Share of a row's ends from which on a kind is no accident.
const SHARE: f64 = 0.1;
/// What a lifetime of 2MSL may be longer by: the timer's wheel has steps.
const LATE_MS: u64 = 5000;

/// Whether `count` of `all` is more than chance.
fn notable(count: u64, all: u64) -> bool {
    count >= SOME && count as f64 >= all as f64 * SHARE
}

/// TW009: mini-sockets that ran out of time in FIN_WAIT2.
pub fn no_fin(scene: &Scene<'_>) -> Vec<Finding> {
    let finding = |row: &Subject<'_>| {
        let counts = &row.peer.counts();
        let timed_out = counts.outcome(Outcome::FinWait2Timeout);
        if !notable(timed_out, counts.ended_total()) {
            return None;
        }
        let seconds = row.facts.fin_timeout.unwrap_or(60);
        let mut finding = row
            .finding(
                Severity::Warning,
                format!(
                    "{} does not close its side: {timed_out} sockets waited for its FIN in vain \
                     and never reached TIME_WAIT.",
                    row.peer.group
                ),
            )
            .with("fin_wait2_timeout", timed_out, "sockets", super::COUNTED)
            .with("ended", counts.ended_total(), "sockets", super::COUNTED)
            .with("entered_fin_wait2", counts.fin_wait2, "sockets", super::COUNTED)
            .with("tcp_fin_timeout", seconds, "s", "net.ipv4.tcp_fin_timeout");
        finding.consequence = format!(
            "Each holds its port for {seconds} s in FIN_WAIT2, where nothing can take it over, \
             and the peer keeps a socket in CLOSE_WAIT, which has no timer and holds a descriptor."
        );
        finding.remedy = "Look at the peer: sockets in CLOSE_WAIT there (ss state close-wait) \
                          mean that its program does not close what the other side has closed. \
                          Otherwise something between drops its FINs."
            .into();
        finding.dont = "Do not just lower tcp_fin_timeout: this is what it is about, but it hides \
                        the peer's leak and does not end it."
            .into();
        Some(finding)
    };
    scene.subjects().iter().filter_map(finding).collect()
}

/// TW010: timers of TIME_WAIT that began anew, so that sockets live longer than 2MSL.
///
/// SYNs that are refused do so too, and are no lost ACKs: TW012 tells of them.
pub fn rearmed(scene: &Scene<'_>) -> Vec<Finding> {
    let finding = |row: &Subject<'_>| {
        let rearmed = row.peer.history.rearmed;
        let counts = &row.peer.counts();
        if !notable(rearmed, counts.ended_total()) || arrivals::explain(row) {
            return None;
        }
        let longest = row.peer.lifetimes.summary().max;
        let mut finding = row
            .finding(
                Severity::Warning,
                format!(
                    "Segments of {} keep arriving in TIME_WAIT and start its 60 s again, on \
                     {rearmed} of {} sockets that ended.",
                    row.peer.group,
                    counts.ended_total()
                ),
            )
            .with("rearmed", rearmed, "sockets", super::COUNTED)
            .with("ended", counts.ended_total(), "sockets", super::COUNTED)
            .with("longest_lifetime", longest, "ms", super::COUNTED);
        let what = if row.role == Role::Client { "its port" } else { "its bucket" };
        let fewer = match longest {
            Some(longest) if longest > TCP_TIMEWAIT_LEN_MS + LATE_MS => format!(
                "; the longest lasted {:.0} s, and fewer connections fit than the usual sums say",
                longest as f64 / 1000.0
            ),
            _ => String::new(),
        };
        finding.consequence = format!(
            "A socket keeps {what} for 60 s after the last such segment, unless something ends it \
             before{fewer}."
        );
        finding.remedy = "See why the last ACK does not reach the peer: a retransmitted FIN says \
                          that it was lost (packet loss, a firewall that drops it, or a state \
                          table that forgot the connection). A flood of ACKs from old sockets of \
                          the peer does the same."
            .into();
        finding.dont = "Do not blame tcp_tw_reuse or a timer setting: nothing here shortens it \
                        while the segments keep coming."
            .into();
        Some(finding)
    };
    scene.subjects().iter().filter_map(finding).collect()
}

/// TW011: TIME_WAIT assassination (RFC 1337).
pub fn assassinated(scene: &Scene<'_>) -> Vec<Finding> {
    let finding = |row: &Subject<'_>| {
        let killed = row.peer.history.assassinated;
        let counts = &row.peer.counts();
        // With the sysctl on, RSTs are dropped and what ends a socket early is an administrator.
        let dropped = row.facts.rfc1337 == Some(1);
        if dropped || !notable(killed, counts.ended_total()) || arrivals::explain(row) {
            return None;
        }
        let mut finding = row
            .finding(
                Severity::Notice,
                format!(
                    "RSTs of {}, or ss -K, ended {killed} of {} TIME_WAIT sockets before their time.",
                    row.peer.group,
                    counts.ended_total()
                ),
            )
            .with("killed", killed, "sockets", super::COUNTED)
            .with("ended", counts.ended_total(), "sockets", super::COUNTED)
            .with("tcp_rfc1337", row.facts.rfc1337, "", "net.ipv4.tcp_rfc1337");
        finding.consequence = "They are gone, and not protected from late segments: those may end \
                               up in the next connection with the same ports (RFC 1337)."
            .into();
        if row.role == Role::Client {
            finding.remedy =
                "If that matters more than the ports, set net.ipv4.tcp_rfc1337=1; and \
                              see why the peer resets: it often answers an ACK for a connection \
                              it has forgotten, as load balancers do."
                    .into();
            finding.dont = "Do not count on such ends to keep ports free: they depend on stray \
                            segments."
                .into();
        } else {
            finding.remedy = "See whether clients come again with a port that is still in \
                              TIME_WAIT here, from behind NAT or a balancer: such a SYN may be \
                              answered with an ACK, and the client's RST to that frees the port. \
                              Then more ports or addresses for them help, or letting them close \
                              first."
                .into();
            finding.dont = "Do not set tcp_rfc1337=1: clients that get their port free by a RST \
                            would get no connection at all."
                .into();
        }
        Some(finding)
    };
    scene.subjects().iter().filter_map(finding).collect()
}

#[cfg(test)]
mod tests {
    use crate::{
        diagnose::{
            RULES,
            testing::{Client, case, facts, found, only},
        },
        path::Outcome,
        peer::Peer,
    };

    fn peer(ended: u64, mark: impl FnOnce(&mut Peer)) -> [Peer; 1] {
        let mut peer = Client::at("10.2.0.2", 443).peer();
        peer.tally.edit(|counts| {
            counts.entered = ended;
            counts.ended[Outcome::TwoMsl as usize] = ended;
        });
        mark(&mut peer);
        [peer]
    }

    #[test]
    fn three_and_a_tenth_without_fin_are_no_accident() {
        let facts = facts();
        let findings = |timed_out: u64, others: u64| {
            let peers = peer(others, |peer| {
                peer.tally
                    .edit(|counts| counts.ended[Outcome::FinWait2Timeout as usize] = timed_out);
            });
            found(RULES, "TW009", &case(&peers, &facts)).len()
        };
        assert_eq!(findings(2, 0), 0);
        assert_eq!(findings(3, 0), 1);
        assert_eq!(findings(10, 90), 1, "a tenth");
        assert_eq!(findings(10, 91), 0, "less than a tenth");
    }

    #[test]
    fn rearming_is_found_from_a_tenth_on() {
        let facts = facts();
        let findings = |rearmed, ended| {
            let peers = peer(ended, |peer| peer.history.rearmed = rearmed);
            found(RULES, "TW010", &case(&peers, &facts)).len()
        };
        assert_eq!(findings(2, 2), 0);
        assert_eq!(findings(3, 30), 1);
        assert_eq!(findings(3, 31), 0);
    }

    #[test]
    fn assassination_is_found_unless_rfc1337_forbids_it() {
        let mut facts = facts();
        let peers = peer(10, |peer| peer.history.assassinated = 3);
        assert_eq!(found(RULES, "TW011", &case(&peers, &facts)).len(), 1);
        let few = peer(10, |peer| peer.history.assassinated = 2);
        assert_eq!(found(RULES, "TW011", &case(&few, &facts)), []);
        only(&mut facts).rfc1337 = Some(1);
        assert_eq!(found(RULES, "TW011", &case(&peers, &facts)), []);
    }
}
