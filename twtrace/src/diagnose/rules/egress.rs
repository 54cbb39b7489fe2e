//! TW020: the address that connections leave through has no ports left, or soon.

use super::{COMPUTED, COUNTED, PER_S, rounded};
use crate::diagnose::{
    Finding, Scene, Severity, arithmetic::Exhaustion, egress::EgressMargin, finding::source::TCP,
};

/// Share from which on it is worth a warning.
const HIGH: f64 = 0.8;
/// Those who take most that are named.
const MOST_NAMED: usize = 3;

/// TW020: of a shared address that the user described.
pub fn exhausted(scene: &Scene<'_>) -> Vec<Finding> {
    scene.egress().iter().filter_map(|margin| of(scene, margin)).collect()
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
    let summary = format!(
        "The shared address has {} ports towards {to} and holds about {now:.0} of them, as far as can be \
         estimated from here: {when}. Most take {}.",
        margin.ports,
        takers.join(", ")
    );
    let finding = Finding {
        severity,
        peer: margin.to.map(|to| to.to_string()),
        summary,
        ..Finding::default()
    }
    .with("inferred", true, "", COMPUTED)
    .with("ports", margin.ports, "ports", "setting egress")
    .with("hold", hold, "s", "setting egress")
    .with("open", margin.all.open.round(), "connections", TCP)
    .with("held", margin.all.held.round(), "ports", COUNTED)
    .with("rate", rounded(margin.all.rate), PER_S, COUNTED)
    .with("to_come", margin.to_come().round(), "ports", COMPUTED)
    .with("takers", takers, "", COMPUTED);
    Some(Finding {
        consequence: "The NAT drops or refuses new connections to that destination, of whoever opens \
                      them: connect() times out, and nothing here says why."
            .to_owned(),
        remedy: "Keep connections open instead of making new ones, in those named first; give the NAT \
                 more addresses or ports; shorten the time it holds a port after the end if it may be."
            .to_owned(),
        dont: "Do not widen ip_local_port_range: the ports that run out are the NAT's.".to_owned(),
        ..finding
    })
}
