//! TW020: the address that connections leave through has no ports left, or soon.

use super::{COMPUTED, COUNTED, PER_S, rounded};
use crate::{
    diagnose::{
        Finding, Scene, Severity, arithmetic::Exhaustion, egress::EgressMargin,
        finding::source::TCP,
    },
    host::facts::NamespaceFacts,
};

/// Share from which on it is worth a warning.
const HIGH: f64 = 0.8;
/// Those who take most that are named.
const MOST_NAMED: usize = 3;

/// Fewer clashes than this are chance: two packets of one connection that came at once.
const SOME: u64 = 3;

/// What it leads to.
const DROPPED: &str = "The NAT drops or refuses new connections to that destination, of whoever opens them: \
                       connect() times out, and nothing here says why.";
const DONT: &str = "Do not widen ip_local_port_range: the ports that run out are the NAT's.";

/// Where a found address is known from.
const NAT_RULES: &str = "nftables, nf_conntrack_tcp_timeout_time_wait";

/// TW020: of a shared address that the user described, or that this host is itself; and of any other NAT of
/// this host that dropped packets for want of a port, by the kernel's own count.
pub fn exhausted(scene: &Scene<'_>) -> Vec<Finding> {
    let mut findings: Vec<_> =
        scene.egress().iter().filter_map(|margin| of(scene, margin)).collect();
    for (netns, facts) in scene.namespaces() {
        let told = |finding: &Finding| {
            finding.netns == Some(netns) && finding.severity == Severity::Critical
        };
        if !findings.iter().any(told) {
            findings.extend(clashed(netns, facts));
        }
    }
    findings
}

/// What tells of a NAT whose rules are not understood, or not read: its destination is not known.
fn clashed(netns: u32, facts: &NamespaceFacts) -> Option<Finding> {
    let lately = facts.lately?;
    let clashed = lately.conntrack?.clashed.filter(|clashed| *clashed >= SOME)?;
    let finding = Finding::new(
        Severity::Critical,
        netns,
        format!(
            "NAT of this network namespace dropped {clashed} packets of new connections in the last \
             {:.0} s: with each port it could give them they would have been taken for another \
             connection to the same destination.",
            lately.seconds
        ),
    )
    .with("dropped", clashed, "packets", "net/stat/nf_conntrack, growth");
    Some(Finding {
        consequence: DROPPED.to_owned(),
        remedy: "See which rule gives so few ports (`nft list ruleset`, `iptables -t nat -S`: a range of \
                 ports, one address for many clients) and give it more. Keep connections open instead \
                 of making new ones, and close those that nobody needs."
            .to_owned(),
        dont: DONT.to_owned(),
        ..finding
    })
}

fn of(scene: &Scene<'_>, margin: &EgressMargin) -> Option<Finding> {
    let hold = margin.hold_s;
    let (severity, when) = match margin.exhaustion {
        Exhaustion::Now => (Severity::Critical, "none is left".to_owned()),
        Exhaustion::In(seconds) => {
            let severity = if seconds <= hold { Severity::Critical } else { Severity::Warning };
            (severity, format!("none is left in {seconds:.0} s"))
        }
        Exhaustion::Never if margin.share() >= HIGH => {
            (Severity::Warning, format!("{:.0} % will be taken", margin.share() * 100.0))
        }
        Exhaustion::Never => return None,
    };
    let name = |netns: u32| {
        let owner = scene.case.owners.and_then(|owners| owners.of_netns(netns, 0));
        owner.map_or_else(|| format!("network namespace {netns}"), |known| known.owner.name.clone())
    };
    let takers = margin.by_netns.iter().take(MOST_NAMED);
    let takers: Vec<String> =
        takers.map(|(netns, taken)| format!("{} {:.0}", name(*netns), taken.now())).collect();
    let (now, to) = (margin.all.now(), margin.target());
    let found = margin.found.as_ref().map(|found| format!(" ({found})")).unwrap_or_default();
    let given = if margin.gives_away {
        format!(", {:.0} of which it gives away when ports are short", margin.all.held)
    } else {
        String::new()
    };
    let summary = format!(
        "The shared address{found} has {} ports towards {to} and holds about {now:.0} of them{given}, as \
         far as can be estimated from here: {when}. Most take {}.",
        margin.ports,
        takers.join(", ")
    );
    let netns = margin.found.as_ref().map(|found| found.netns);
    let known_of = if netns.is_some() { NAT_RULES } else { "setting egress" };
    let finding = Finding {
        severity,
        peer: margin.to.map(|to| to.to_string()),
        netns,
        summary,
        ..Finding::default()
    }
    .with("inferred", true, "", COMPUTED)
    .with("ports", margin.ports, "ports", known_of)
    .with("hold", hold, "s", known_of)
    .with("open", margin.all.open.round(), "connections", TCP)
    .with("held", margin.all.held.round(), "ports", COUNTED)
    .with("rate", rounded(margin.all.rate), PER_S, COUNTED)
    .with("to_come", margin.to_come().round(), "ports", COMPUTED)
    .with("takers", takers, "", COMPUTED);
    let more = if netns.is_some() {
        "give the rule more ports (its range, or an address for each of some networks). \
         nf_conntrack_tcp_timeout_time_wait is how long one is kept after the end."
    } else {
        "give the NAT more addresses or ports; shorten the time it holds a port after the end if it \
         may be."
    };
    Some(Finding {
        consequence: DROPPED.to_owned(),
        remedy: format!(
            "Keep connections open instead of making new ones, in those named first; {more}"
        ),
        dont: DONT.to_owned(),
        ..finding
    })
}

#[cfg(test)]
mod tests {
    use crate::{
        diagnose::{
            RULES, Severity,
            testing::{case, facts, found, only},
        },
        host::facts::{Growth, Lately},
    };

    #[test]
    fn packets_that_nat_had_no_port_for_are_told_where_its_rules_are_not_known() {
        let mut facts = facts();
        let mut findings = |clashed| {
            let conntrack = Some(Growth { clashed: Some(clashed), ..Growth::default() });
            only(&mut facts).lately = Some(Lately { seconds: 5.0, overflow: 0, conntrack });
            found(RULES, "TW020", &case(&[], &facts))
        };
        assert_eq!(findings(2), [], "chance");
        let finding = &findings(30)[0];
        assert_eq!(finding.severity, Severity::Critical);
        assert_eq!(finding.figure("dropped"), Some(&30.into()));
    }
}
