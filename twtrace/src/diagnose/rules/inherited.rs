//! TW001 and TW002 while they do not hurt yet: ports are taken over by timestamps that were there before.

use crate::diagnose::{Finding, Scene, Severity, Subject, arithmetic};

/// Peers whose connections have no timestamps, as these are `offered` and do not come or are not, and
/// whose ports are taken over nevertheless, as often as would not do without.
///
/// A `connect()` that takes a port over inherits the stamp of the socket it takes it from
/// (`tcp_twsk_unique()`, net/ipv4/tcp_ipv4.c), and keeps it if the answer has none.
pub fn stamps(scene: &Scene<'_>, offered: bool) -> Vec<Finding> {
    let of = |client: &&Subject<'_>| (client.facts.timestamps != Some(0)) == offered;
    scene.clients().filter(of).filter_map(|client| finding(scene, client, offered)).collect()
}

fn finding(scene: &Scene<'_>, client: &Subject<'_>, offered: bool) -> Option<Finding> {
    let pressure = client.pressure.as_ref()?;
    let rates = &client.rates;
    let taken_over = rates.blocked < rates.entered / 2.0;
    let wanted = arithmetic::steady_state(rates.entered, pressure.seconds);
    if !client.lacks_timestamps() || !taken_over || wanted < pressure.usable as f64 {
        return None;
    }
    let counts = &client.peer.counts();
    let history = &client.peer.history;
    let ago = |moment: u64| scene.case.now_ns.saturating_sub(moment) as f64 / 1e9;
    let why = if offered {
        format!(
            "{} sends no TCP timestamps any more though we offer them; its ports",
            pressure.peer
        )
    } else {
        format!(
            "TCP timestamps are off on this end (tcp_timestamps=0), and were not before; ports towards \
             {}",
            pressure.peer
        )
    };
    let mut finding = client
        .finding(
            Severity::Warning,
            format!(
                "{why} are still taken over only because a takeover inherits an old timestamp."
            ),
        )
        .with("without_timestamps", counts.without_timestamps, "sockets", super::COUNTED)
        .with("with_timestamps", counts.with_timestamps, "sockets", super::COUNTED)
        .with("eligible", counts.eligible, "sockets", super::COUNTED)
        .with(
            "first_without",
            super::rounded(ago(history.without.first_ns)),
            "s ago",
            super::COUNTED,
        )
        .with("usable_ports", pressure.usable, "ports", pressure.range_source())
        .with("rate", super::rounded(rates.entered), super::PER_S, super::COUNTED)
        .with("without_takeover", wanted.round() as u64, "ports", super::COMPUTED);
    if history.with.last_ns != 0 {
        let last = super::rounded(ago(history.with.last_ns));
        finding = finding.with("last_with", last, "s ago", super::COUNTED);
    }
    finding.consequence = format!(
        "A port whose TIME_WAIT runs out is taken anew, without a timestamp, and then held for \
         {:.0} s. After a minute's pause that is so of all of them, and {:.1} of these {:.0} \
         connections/s fit; the others fail with EADDRNOTAVAIL.",
        pressure.seconds,
        pressure.usable as f64 / pressure.seconds,
        rates.entered
    );
    finding.remedy = if offered {
        format!(
            "Find what erases the option between here and {}, before that happens: a load balancer, \
             NAT, proxy, SYN proxy or firewall (compare the SYN and SYN-ACK on both sides), or \
             net.ipv4.tcp_timestamps=0 on the peer. Or keep connections open and reuse them.",
            pressure.peer
        )
    } else {
        "Set net.ipv4.tcp_timestamps=1, the default, before that happens. Or keep connections open and \
         reuse them."
            .to_owned()
    };
    finding.dont = "Do not restart or drain the client to see whether it helps: that is the pause \
                    after which connections fail."
        .into();
    Some(finding)
}

#[cfg(test)]
mod tests {
    use crate::{
        diagnose::{
            RULES, Severity,
            testing::{Client, case, facts, found, only},
        },
        peer::Peer,
    };

    fn severity(peer: &Peer) -> Option<Severity> {
        let mut facts = facts();
        only(&mut facts).port_range = Some(20_000..=20_999);
        let case = case(std::slice::from_ref(peer), &facts);
        found(RULES, "TW001", &case).first().map(|finding| finding.severity)
    }

    #[test]
    fn timestamps_that_went_away_are_told_of_while_takeovers_inherit_them() {
        let at = |rate| Client::at("10.2.0.2", 443).rate(rate).live(400).without_timestamps();
        assert_eq!(severity(&at(50.0).allowed().peer()), Some(Severity::Warning));
        assert_eq!(severity(&at(16.0).allowed().peer()), None, "960 ports do without takeovers");
        let with = Client::at("10.2.0.2", 443).rate(50.0).live(400).allowed();
        assert_eq!(severity(&with.peer()), None);
    }

    #[test]
    fn timestamps_that_were_turned_off_here_are_told_of_likewise() {
        let mut facts = facts();
        only(&mut facts).port_range = Some(20_000..=20_999);
        only(&mut facts).timestamps = Some(0);
        let at = Client::at("10.2.0.2", 443).rate(50.0).live(400).without_timestamps();
        let peers = [at.allowed().peer()];
        let case = case(&peers, &facts);
        assert_eq!(found(RULES, "TW001", &case), []);
        let finding = found(RULES, "TW002", &case).remove(0);
        assert_eq!(finding.severity, Severity::Warning);
        assert!(finding.remedy.starts_with("Set net.ipv4.tcp_timestamps=1"), "{}", finding.remedy);
    }
}
