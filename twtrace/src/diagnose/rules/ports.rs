//! TW005, TW006, TW007: local ports, and who has to hold them.

use twtrace_common::{PortChoice, RefusalReason};

use super::failed::cause;
use crate::{
    diagnose::{
        Finding, Scene, Severity, Subject,
        arithmetic::Exhaustion,
        pressure::{Holder, Pressure},
    },
    event::Role,
    host::facts::NamespaceFacts,
    peer::{Group, history::Ports},
    units::PerSecond,
};

/// TW005: the space whose ports are all taken, or will be. While calls fail TW019 says it.
pub fn exhausted(scene: &Scene<'_>) -> Vec<Finding> {
    let client = |client: &Subject<'_>| {
        let pressure = client.pressure.as_ref()?;
        let mut finding = exhausted_space(pressure, client.facts)?;
        let refused = client.peer.counts().refused.total();
        if refused > 0 {
            finding = finding.with("takeovers_refused", refused, "looks", super::COUNTED);
        }
        finding.peer = Some(client.peer.group.to_string());
        Some(finding)
    };
    // Where refusals are not seen and nothing is left, it is TW019 that concludes they are there.
    let concluded = |ports: &&Pressure| ports.exhaustion != Exhaustion::Now || ports.seen;
    let bound = scene.bound().filter(concluded).filter_map(|ports| {
        exhausted_space(ports, scene.case.facts.namespaces.get(&ports.space.netns)?)
    });
    // Of open connections alone there is no row, and what a program names is not for connect().
    let other = |ports: &&Pressure| {
        let chosen = ports.space.chosen;
        chosen == PortChoice::Program || (chosen != PortChoice::Bind && ports.row.is_none())
    };
    let others = scene.ports().iter().filter(other).filter_map(|ports| {
        let facts = scene.case.facts.namespaces.get(&ports.space.netns)?;
        let finding = exhausted_space(ports, facts)?;
        Some(Finding { peer: Some(ports.peer.clone()), ..finding })
    });
    scene.clients().filter_map(client).chain(bound).chain(others).collect()
}

fn exhausted_space(ports: &Pressure, facts: &NamespaceFacts) -> Option<Finding> {
    let severity = ports.severity().filter(|_| !ports.is_told())?;
    let verdict = match ports.exhaustion {
        Exhaustion::Now => "are exhausted".to_owned(),
        Exhaustion::In(seconds) if severity == Severity::Critical => {
            format!("will be exhausted in {seconds:.0} s")
        }
        Exhaustion::In(seconds) => format!(
            "run short: they are exhausted in {seconds:.0} s if it goes on as in the last {:.0} s",
            ports.window
        ),
        Exhaustion::Never => {
            format!("run short: {:.0} % are taken or will be", ports.share() * 100.0)
        }
    };
    let mut summary = format!("The {} ports of {} {verdict}", ports.usable, ports.triple());
    // Why they do not come back is another finding's where timestamps or the sysctl are the reason.
    let others = matches!(ports.holder(), Some(Holder::NoTimestamps | Holder::Forbidden));
    let explained = cause::of_space(ports, facts).filter(|_| !others);
    if let Some(explained) = &explained {
        summary.push_str(&format!(": {}", explained.why));
    }
    let finding = Finding::new(severity, ports.space.netns, format!("{summary}."));
    let mut finding = ports.prove(finding, ports.live);
    finding.consequence = ports.consequence();
    (finding.remedy, finding.dont) = match explained {
        Some(explained) => (explained.remedy, explained.dont.to_owned()),
        None => (
            format!(
                "Open fewer connections: keep them alive and pool them; {:.1}/s fit. Otherwise \
                 make room: {}.",
                PerSecond(ports.highest_rate()),
                ports.room()
            ),
            "Do not raise the limit on open files for it: TIME_WAIT sockets hold no descriptor."
                .to_owned(),
        ),
    };
    Some(finding)
}

/// TW006: a program binds one and the same port, and its `connect()` is refused by its own past.
///
/// A socket bound beforehand may take its TIME_WAIT over whatever the sysctl and the age say, but
/// not without timestamps: `tcp_twsk_unique()` with no `twp`, net/ipv4/tcp_ipv4.c.
pub fn fixed_local_port(scene: &Scene<'_>) -> Vec<Finding> {
    let finding = |client: &Subject<'_>| {
        let refused = client.peer.counts().refused.of(RefusalReason::NoTimestamps);
        // A port outside the ephemeral range looks like a server's: its sockets are in that row.
        let at = if client.peer.history.ports == Ports::None {
            server_alike(scene, client)?
        } else {
            client
        };
        let (history, counts) = (&at.peer.history, &at.peer.counts());
        let Ports::Same(local_port, _) = history.ports else { return None };
        if history.autobound > 0 || refused == 0 || !at.lacks_timestamps() {
            return None;
        }
        let peer = client.peer.group.to_string();
        let mut finding = client
            .finding(
                Severity::Warning,
                format!(
                    "connect() from the fixed local port {local_port} to {peer} is refused by \
                     the TIME_WAIT socket of its own last connection."
                ),
            )
            .with("local_port", local_port, "", super::COUNTED)
            .with("refused", refused, "attempts", super::COUNTED)
            .with("live_sockets", counts.live(), "sockets", super::COUNTED)
            .with("autobound", history.autobound, "sockets", super::COUNTED);
        finding.consequence = "Each reconnect within 60 s fails with EADDRNOTAVAIL, though the \
                               port range is all but empty."
            .into();
        finding.remedy = "Let connect() choose the port (do not bind one), or let timestamps \
                          through to the peer: a bound socket with timestamps takes its own \
                          TIME_WAIT over at once."
            .into();
        finding.dont =
            "Do not count on SO_REUSEADDR, which concerns bind() and not connect(), nor \
                        on a wider port range."
                .into();
        Some(finding)
    };
    scene.clients().filter_map(finding).collect()
}

/// The row of a client's sockets that bind a port outside the ephemeral range.
fn server_alike<'s, 'a>(scene: &'s Scene<'a>, client: &Subject<'_>) -> Option<&'s Subject<'a>> {
    let Group::Peer { address: wanted, port, .. } = client.peer.group else { return None };
    scene.servers().find(|server| {
        let same = matches!(server.peer.group, Group::Peer { address, .. } if address == wanted);
        let to_port = matches!(server.peer.history.ports, Ports::Same(_, remote) if remote == port);
        server.netns == client.netns && same && to_port
    })
}

/// TW007: where it hurts that TIME_WAIT is on this end, say that closing second would move it.
pub fn closes_first(scene: &Scene<'_>) -> Vec<Finding> {
    let client = scene.clients().filter_map(|client| {
        let pressure = client.pressure.as_ref()?;
        pressure.severity()?;
        // Open connections nobody has closed, and of FIN_WAIT2 the peer does not close its end.
        if matches!(pressure.holder()?, Holder::Open | Holder::FinWait2 | Holder::Bound) {
            return None;
        }
        let summary = format!(
            "We close first towards {}: whoever does keeps the socket in TIME_WAIT, and its port \
             with it.",
            pressure.peer
        );
        let mut finding = closing(client, summary);
        finding.consequence =
            "If the peer closed first its server port would wait, which costs it no port.".into();
        finding.remedy = "Let the server end the connection (HTTP: \"Connection: close\" from its \
                          side, or an idle timeout longer on the client's side), or do not end \
                          it at all."
            .into();
        Some(finding)
    });
    // Only where the buckets fill, and only who fills them.
    let filling = scene.namespaces().filter_map(|(netns, _)| {
        let buckets = scene.buckets(netns)?;
        (buckets.used_share() >= super::buckets::FULL).then_some((netns, buckets.live))
    });
    let servers = filling.flat_map(|(netns, live)| {
        let rows = scene.in_namespace(netns).iter().filter(|row| row.role == Role::Server);
        rows.filter(move |row| row.peer.counts().live() as f64 >= live as f64 / 10.0)
    });
    let server = servers.map(|server| {
        let summary = format!(
            "This server closes first towards {}, so TIME_WAIT piles up here; it costs memory \
             and tcp_max_tw_buckets, and no port.",
            server.peer.group
        );
        let mut finding = closing(server, summary);
        finding.consequence = "At the limit connections are closed without TIME_WAIT.".into();
        finding.remedy = "Let the clients close first, or raise tcp_max_tw_buckets.".into();
        finding
    });
    client.chain(server).collect()
}

/// A finding of TW007 with its figures.
fn closing(subject: &Subject<'_>, summary: String) -> Finding {
    let counts = &subject.peer.counts();
    let mut finding = subject
        .finding(Severity::Notice, summary)
        .with("live_sockets", counts.live(), "sockets", super::COUNTED)
        .with("closed_first", counts.entered + counts.present, "connections", super::COUNTED)
        .with("rate", super::rounded(subject.rates.entered), super::PER_S, super::COUNTED);
    finding.dont = "Do not close with a RST (SO_LINGER of 0) to avoid TIME_WAIT: data the peer \
                    has not read yet is lost."
        .into();
    finding
}

#[cfg(test)]
mod tests {
    use crate::{
        diagnose::{
            RULES, Severity,
            testing::{Client, NOW_NS, case, facts, found, only},
        },
        peer::{
            Refused,
            entry::{Entry, SpaceKey},
            history::Ports,
            spaces::Hold,
        },
    };
    use serde_json::json;
    use twtrace_common::PortChoice;

    #[test]
    fn exhaustion_names_its_triple() {
        let facts = facts();
        let peers = [Client::at("10.2.0.2", 443).rate(600.0).live(10_000).peer()];
        let findings = found(RULES, "TW005", &case(&peers, &facts));
        let [finding] = findings.as_slice() else { panic!("{findings:?}") };
        assert_eq!(finding.figure("triple"), Some(&json!("10.1.0.1 -> 10.2.0.2:443")));
        assert_eq!(finding.figure("highest_rate"), Some(&json!(471.0)));
        assert_eq!(finding.figure("highest_rate_two_sources"), Some(&json!(941.0)));
    }

    #[test]
    fn a_full_range_is_exhausted_even_when_nothing_comes_any_more() {
        let facts = facts();
        let severity = |live| {
            let peers = [Client::at("10.2.0.2", 443).live(live).peer()];
            found(RULES, "TW005", &case(&peers, &facts)).first().map(|finding| finding.severity)
        };
        assert_eq!(severity(28_232), Some(Severity::Critical), "the next one fails");
        assert_eq!(severity(28_200), None, "they come back, and no more come");
    }

    #[test]
    fn ports_that_can_be_taken_over_are_not_short() {
        let facts = facts();
        let peers = [Client::at("10.2.0.2", 443).allowed().rate(3000.0).live(28_000).peer()];
        assert_eq!(found(RULES, "TW005", &case(&peers, &facts)), []);
    }

    #[test]
    fn a_fixed_port_is_found_by_its_refusals() {
        let facts = facts();
        let fixed = |refused, autobound| {
            let mut peer = Client::at("10.2.0.2", 443).without_timestamps().live(1).peer();
            peer.history.ports = Ports::Same(40_000, 443);
            peer.history.autobound = autobound;
            peer.tally.edit(|counts| counts.refused = Refused { by_reason: [refused, 0, 0, 0, 0] });
            found(RULES, "TW006", &case(&[peer], &facts)).len()
        };
        assert_eq!(fixed(1, 0), 1);
        assert_eq!(fixed(0, 0), 0, "nobody was refused");
        assert_eq!(fixed(1, 1), 0, "connect() chose the port");
    }

    #[test]
    fn who_closes_first_is_told_only_where_it_hurts() {
        let mut facts = facts();
        let quiet = [Client::at("10.2.0.2", 443).rate(50.0).peer()];
        assert_eq!(found(RULES, "TW007", &case(&quiet, &facts)), []);
        let short = [Client::at("10.2.0.2", 443).rate(500.0).peer()];
        assert_eq!(found(RULES, "TW007", &case(&short, &facts)).len(), 1);
        let server = [Client::at("10.2.0.2", 0).of_server().live(90_000).peer()];
        only(&mut facts).time_wait = Some(117_000);
        assert_eq!(found(RULES, "TW007", &case(&server, &facts)), [], "89 % of the buckets");
        only(&mut facts).time_wait = Some(118_000);
        assert_eq!(found(RULES, "TW007", &case(&server, &facts)).len(), 1, "90 %");
    }
    #[test]
    fn ports_that_a_program_names_are_foretold_once_it_has_begun_anew() {
        let facts = facts();
        let mut peer = Client::at("10.2.0.2", 443).peer();
        let local = std::net::Ipv4Addr::new(10, 1, 0, 1).to_ipv6_mapped().octets();
        let space = SpaceKey { local, chosen: PortChoice::Program, range: (0, 0) };
        let enter = |peer: &mut crate::peer::Peer, number: u64| {
            let mono_ns = NOW_NS - 9_000_000_000 + number % 450 * 20_000_000;
            let local_port = 2000 + (number % 900) as u16;
            let entry = Entry { mono_ns, space, local_port, blocked: true, ..Entry::default() };
            let space = peer.history.take_in(&entry);
            peer.history.live(space, Hold::BLOCKED);
        };
        (0..700).for_each(|number| enter(&mut peer, number));
        assert_eq!(found(RULES, "TW005", &case(&[peer.clone()], &facts)), [], "there may be more");
        (700..1100).for_each(|number| enter(&mut peer, number));
        let finding = found(RULES, "TW005", &case(&[peer], &facts)).remove(0);
        assert_eq!(finding.figure("usable_ports"), Some(&json!(900)));
        assert!(finding.summary.contains("among 900 ports (2000-2899)"), "{}", finding.summary);
    }
}
