//! How short the ports towards one peer are.

use std::net::IpAddr;

use super::{
    arithmetic::{self, Exhaustion},
    finding::{Finding, Severity, rounded, source},
};
use crate::{
    event::{Role, ip},
    host::facts::NamespaceFacts,
    peer::{Group, Peer, history::Rates},
    units::TCP_TIMEWAIT_LEN_MS,
};

/// Share of the ports from which on they run short.
pub const SHORT: f64 = 0.7;

/// The ports of one triple: source address, peer address, peer port.
#[derive(Clone, Debug, PartialEq)]
pub struct Pressure {
    /// The peer, as rows are named.
    pub peer: String,
    /// The busiest address of this end.
    pub source: IpAddr,
    /// Addresses of this end that take part; the ports are scarce for each by itself.
    pub sources: usize,
    /// Share of the peer's sockets that are the busiest source's.
    pub source_share: f64,
    /// Ports usable for the triple.
    pub usable: u64,
    /// Sockets of the triple in TIME_WAIT whose port cannot be taken over.
    pub used: f64,
    /// Connections of the triple a second, all of them.
    pub rate: f64,
    /// Of them, those whose port cannot be taken over.
    pub blocked_rate: f64,
    /// Seconds that such a socket keeps its port.
    pub seconds: f64,
    /// Ports taken when as many come as go, at the present rate.
    pub steady: f64,
    /// When no port is left.
    pub exhaustion: Exhaustion,
}

impl Pressure {
    /// The pressure of a client's peer; `None` for a server's, and where the range is not known.
    ///
    /// Ports of connections that are open count too, and are not seen here. With several source
    /// addresses the live sockets are taken to be spread as the entries were.
    pub fn of(peer: &Peer, rates: &Rates, facts: &NamespaceFacts) -> Option<Self> {
        let Group::Peer { role: Role::Client, .. } = peer.group else { return None };
        let usable = arithmetic::usable_ports(facts.port_range.as_ref()?, &facts.reserved_ports);
        let locals = peer.history.locals();
        let (source, busiest) = locals.first()?;
        let all = locals.iter().map(|(_, count)| count).sum::<u64>() + peer.history.other_locals();
        let source_share = arithmetic::share(*busiest as f64, all as f64);
        let seconds = time_wait_ms(peer, facts) as f64 / 1000.0;
        let used = peer.history.stuck as f64 * source_share;
        let blocked_rate = rates.blocked * source_share;
        let steady = arithmetic::steady_state(blocked_rate, seconds);
        let growth = (rates.blocked - rates.freed) * source_share;
        Some(Self {
            peer: peer.group.to_string(),
            source: ip(*source),
            sources: locals.len() + usize::from(peer.history.other_locals() > 0),
            source_share,
            usable,
            used,
            rate: rates.entered * source_share,
            blocked_rate,
            seconds,
            steady,
            exhaustion: arithmetic::exhaustion(usable as f64, used, growth, steady),
        })
    }

    /// Share of the ports taken now.
    pub fn used_share(&self) -> f64 {
        arithmetic::share(self.used, self.usable as f64)
    }

    /// Share of the ports that will be taken at the present rate, or are already.
    pub fn share(&self) -> f64 {
        self.used_share().max(arithmetic::share(self.steady, self.usable as f64))
    }

    /// The most connections a second that fit without taking ports over.
    pub fn highest_rate(&self) -> f64 {
        arithmetic::highest_rate(self.usable as f64, self.seconds)
    }

    /// How bad it is; `None` while the ports suffice.
    ///
    /// Ports that are taken and come back do no harm while no more of the kind come.
    pub fn severity(&self) -> Option<Severity> {
        let goes_on = self.blocked_rate > 0.0;
        match self.exhaustion {
            Exhaustion::Now | Exhaustion::In(_) => Some(Severity::Critical),
            Exhaustion::Never => (goes_on && self.share() >= SHORT).then_some(Severity::Warning),
        }
    }

    /// The triple as people write it.
    pub fn triple(&self) -> String {
        format!("{} -> {}", self.source, self.peer)
    }

    /// Adds the figures that prove the shortage.
    pub fn prove(&self, finding: Finding, live: u64) -> Finding {
        let seconds = match self.exhaustion {
            Exhaustion::Now => Some(0.0),
            Exhaustion::In(seconds) => Some(seconds),
            Exhaustion::Never => None,
        };
        let finding = finding
            .with("live_sockets", live, "sockets", source::COUNTED)
            .with("triple", self.triple(), "", source::COUNTED)
            .with("usable_ports", self.usable, "ports", "net.ipv4.ip_local_port_range")
            .with("ports_stuck", self.used.round() as u64, "ports", source::COUNTED)
            .with("blocked_rate", rounded(self.blocked_rate), "connections/s", source::COUNTED)
            .with("time_wait", rounded(self.seconds), "s", source::COUNTED)
            .with("steady_state", self.steady.round() as u64, "ports", source::COMPUTED)
            .with("highest_rate", rounded(self.highest_rate()), "connections/s", source::COMPUTED);
        let finding = match seconds {
            Some(seconds) => {
                finding.with("seconds_to_exhaustion", rounded(seconds), "s", source::COMPUTED)
            }
            None => finding,
        };
        if self.sources > 1 {
            // Live sockets are not counted by source, so say what was assumed.
            finding.with(
                "source_share",
                rounded(self.source_share * 100.0),
                "% of sockets, live ones assumed spread alike",
                source::COUNTED,
            )
        } else {
            finding
        }
    }

    /// What the shortage leads to, and when.
    pub fn consequence(&self) -> String {
        let fails = "connect() fails with EADDRNOTAVAIL (\"Cannot assign requested address\")";
        match self.exhaustion {
            Exhaustion::Now => format!(
                "{:.0} of {} ports of {} are in TIME_WAIT now: {fails} until some run out.",
                self.used,
                self.usable,
                self.triple()
            ),
            Exhaustion::In(seconds) => format!(
                "At {:.1} such connections/s the {} ports of {} are all taken in {seconds:.0} s; \
                 from then on {fails}.",
                self.blocked_rate,
                self.usable,
                self.triple()
            ),
            Exhaustion::Never => format!(
                "At {:.1} such connections/s {:.0} of the {} ports of {} will be in TIME_WAIT, \
                 {:.0} %; above {:.1}/s {fails}.",
                self.blocked_rate,
                self.steady.max(self.used),
                self.usable,
                self.triple(),
                self.share() * 100.0,
                self.highest_rate()
            ),
        }
    }
}

/// How long a socket stays in TIME_WAIT that nothing takes over, milliseconds: as its timer was
/// armed, as the vendor's sysctl says, or 2MSL.
pub fn time_wait_ms(peer: &Peer, facts: &NamespaceFacts) -> u64 {
    match (peer.scheduled_ms, facts.tw_timeout) {
        (0, Some(seconds)) => seconds * 1000,
        (0, None) => TCP_TIMEWAIT_LEN_MS,
        (armed, _) => armed,
    }
}
