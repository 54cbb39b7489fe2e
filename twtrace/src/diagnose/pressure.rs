//! How short the ports towards one peer are.

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
};

use super::{
    arithmetic::{self, Exhaustion},
    finding::{Severity, source},
};
use crate::{
    event::{Role, ip},
    host::facts::NamespaceFacts,
    peer::{Group, Peer, rates::Rates},
    units::TCP_TIMEWAIT_LEN_MS,
};

/// Share of the ports from which on they run short.
pub const SHORT: f64 = 0.7;
/// Share of the ports that counts as none: who is that close has to look at nearly all of them for
/// each connection, and has no time left to act.
const REST: f64 = 0.02;
/// The widest port range that root's own ports leave.
const WIDEST_RANGE: RangeInclusive<u16> = 1024..=u16::MAX;

/// The ports of one triple: source address, peer address, peer port.
#[derive(Clone, Debug, PartialEq)]
pub struct Pressure {
    /// The peer, as rows are named.
    pub peer: String,
    /// The address of this end that is shortest of ports.
    pub source: IpAddr,
    /// Addresses of this end that take part; the ports are scarce for each by itself.
    pub sources: usize,
    /// Share of the peer's sockets that are this source's.
    pub source_share: f64,
    /// Ports usable for the triple.
    pub usable: u64,
    /// Whether `ip_local_reserved_ports` takes any away.
    reserved: bool,
    /// Sockets of the triple in TIME_WAIT whose port cannot be taken over.
    pub stuck: f64,
    /// Ports that the triple's open connections and listeners hold; `None` if not known.
    pub open: Option<Open>,
    /// Connections of the triple a second, all of them.
    pub rate: f64,
    /// Of them, those whose port cannot be taken over.
    pub blocked_rate: f64,
    /// The same in the last seconds: 0 says that no more come.
    recent_rate: f64,
    /// The same as far as it has lasted: a burst has not.
    pub held_rate: f64,
    /// Seconds that the rates are taken over.
    pub window: f64,
    /// Whether that is long enough to rely on them.
    lasted: bool,
    /// Seconds that such a socket keeps its port.
    pub seconds: f64,
    /// Where that is known from.
    pub(super) seconds_source: &'static str,
    /// When no port is left.
    pub exhaustion: Exhaustion,
    /// The most connections a second if something were different.
    pub what_if: WhatIf,
}

/// Ports that are held by something else than TIME_WAIT.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Open {
    /// How many.
    pub ports: u64,
    /// Seconds since they were counted.
    pub age: f64,
}

/// The most connections a second that fit if one thing were different and all else as it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WhatIf {
    /// If ports could be taken over: the peer's timestamps arrive and `tcp_tw_reuse` is 1.
    pub takeover: f64,
    /// With a second source address, or a second port of the peer.
    pub two_sources: f64,
    /// With the widest `ip_local_port_range`, 1024 to 65535.
    pub widest_range: f64,
}

impl Pressure {
    /// The pressure of a client's peer; `None` for a server's, and where the range is not known.
    ///
    /// With several source addresses it is that of the shortest, the live sockets being taken to be
    /// spread as the entries were.
    pub fn of(peer: &Peer, rates: &Rates, facts: &NamespaceFacts, now_ns: u64) -> Option<Self> {
        let Group::Peer { role: Role::Client, .. } = peer.group else { return None };
        let range = facts.port_range.as_ref()?;
        let usable = arithmetic::usable_ports(range, &facts.reserved_ports);
        let reserved = usable < arithmetic::usable_ports(range, &[]);
        let widest = arithmetic::usable_ports(&WIDEST_RANGE, &facts.reserved_ports);
        let locals = peer.history.locals();
        let all = locals.iter().map(|(_, count)| count).sum::<u64>() + peer.history.other_locals();
        let (time_wait_ms, seconds_source) = time_wait(peer, facts);
        let seconds = time_wait_ms as f64 / 1000.0;
        let of_source = |(local, count): &([u8; 16], u64)| {
            let source_share = arithmetic::share(*count as f64, all as f64);
            let stuck = peer.history.stuck as f64 * source_share;
            let blocked_rate = rates.blocked * source_share;
            let open = open(peer, *local, facts, now_ns);
            let taken = open.map_or(0.0, |open| open.ports as f64);
            let steady = arithmetic::steady_state(blocked_rate, seconds) + taken;
            let growth = (rates.blocked - rates.freed) * source_share;
            let places = usable as f64;
            let highest_rate = arithmetic::highest_rate(places - taken, seconds);
            Self {
                peer: peer.group.to_string(),
                source: ip(*local),
                sources: locals.len() + usize::from(peer.history.other_locals() > 0),
                source_share,
                usable,
                reserved,
                stuck,
                open,
                rate: rates.entered * source_share,
                blocked_rate,
                recent_rate: rates.recent.blocked * source_share,
                held_rate: rates.held.blocked * source_share,
                window: rates.seconds,
                lasted: rates.have_lasted(),
                seconds,
                seconds_source,
                exhaustion: arithmetic::exhaustion(places, REST, stuck + taken, growth, steady),
                what_if: WhatIf {
                    takeover: arithmetic::highest_rate(places - taken, reuse_delay(facts)),
                    two_sources: 2.0 * highest_rate,
                    widest_range: arithmetic::highest_rate(widest as f64 - taken, seconds),
                },
            }
        };
        locals.iter().map(of_source).max_by(|one, two| one.share().total_cmp(&two.share()))
    }

    /// Ports held by open connections and listeners, as far as known.
    fn open_ports(&self) -> f64 {
        self.open.map_or(0.0, |open| open.ports as f64)
    }

    /// Ports taken now.
    pub fn used(&self) -> f64 {
        self.stuck + self.open_ports()
    }

    /// Share of the ports taken now.
    pub fn used_share(&self) -> f64 {
        arithmetic::share(self.used(), self.usable as f64)
    }

    /// Ports taken when as many come as go, at a rate.
    fn settled(&self, rate: f64) -> f64 {
        arithmetic::steady_state(rate, self.seconds) + self.open_ports()
    }

    /// Ports taken when as many come as go, at the present rate.
    pub fn steady(&self) -> f64 {
        self.settled(self.blocked_rate)
    }

    /// Share of the ports that are taken, or will be at the rate that has lasted.
    pub fn share(&self) -> f64 {
        arithmetic::share(self.used().max(self.settled(self.held_rate)), self.usable as f64)
    }

    /// The most connections a second that fit without taking ports over.
    pub fn highest_rate(&self) -> f64 {
        arithmetic::highest_rate(self.usable as f64 - self.open_ports(), self.seconds)
    }

    /// How bad it is; `None` while the ports suffice.
    ///
    /// Ports that are taken and come back do no harm while no more of the kind come. A burst counts
    /// by the ports it took; what it would take if it went on is worth a word only when it has.
    pub fn severity(&self) -> Option<Severity> {
        let short = self.recent_rate > 0.0 && self.share() >= SHORT;
        match self.exhaustion {
            Exhaustion::Now => Some(Severity::Critical),
            Exhaustion::In(seconds) if short && self.is_foreseeable(seconds) => {
                Some(Severity::Critical)
            }
            _ => short.then_some(Severity::Warning),
        }
    }

    /// Whether a moment so many seconds ahead can be foretold: the rate has lasted, and what lasted
    /// of it is enough; or one need not look further ahead than was looked back.
    fn is_foreseeable(&self, seconds: f64) -> bool {
        let lasts = self.lasted && self.settled(self.held_rate) > self.usable as f64;
        lasts || seconds <= self.window
    }

    /// Where the usable ports are known from.
    pub const fn range_source(&self) -> &'static str {
        if self.reserved { source::RANGE } else { "net.ipv4.ip_local_port_range" }
    }

    /// The triple as people write it.
    pub fn triple(&self) -> String {
        format!("{} -> {}", self.source, self.peer)
    }
}

/// What holds ports of a peer beside TIME_WAIT; `None` if that was not counted.
fn open(peer: &Peer, source: [u8; 16], facts: &NamespaceFacts, now_ns: u64) -> Option<Open> {
    let Group::Peer { address, port, .. } = peer.group else { return None };
    let counted = facts.open.as_ref()?;
    Some(Open {
        ports: counted.held(ip(source), SocketAddr::new(ip(address), port))?,
        age: now_ns.saturating_sub(counted.read_ns) as f64 / 1e9,
    })
}

/// Seconds after which a port may be taken over, where that is allowed; about a second on kernels
/// without `tcp_tw_reuse_delay`, and never less than the millisecond it is counted in.
pub fn reuse_delay(facts: &NamespaceFacts) -> f64 {
    facts.tw_reuse_delay_ms.unwrap_or(1000).max(1) as f64 / 1000.0
}

/// How long a socket stays in TIME_WAIT that nothing takes over, milliseconds, and how that is
/// known: as its timer was armed, as the vendor's sysctl says, or 2MSL.
pub fn time_wait(peer: &Peer, facts: &NamespaceFacts) -> (u64, &'static str) {
    match (peer.scheduled_ms, facts.tw_timeout) {
        (0, Some(seconds)) => (seconds * 1000, "net.ipv4.tcp_tw_timeout"),
        (0, None) => (TCP_TIMEWAIT_LEN_MS, "TCP_TIMEWAIT_LEN"),
        (armed, _) => (u64::from(armed), "the timer, as it was armed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        diagnose::{
            Finding, Scene,
            testing::{Client, NOW_NS, case, facts, only},
        },
        host::{facts::HostFacts, open::OpenPorts},
    };

    fn v4(text: &str) -> [u8; 16] {
        text.parse::<std::net::Ipv4Addr>().unwrap().to_ipv6_mapped().octets()
    }

    /// So many connections of an address to the client's peer, and so many listeners.
    fn open_ports(age_ns: u64, source: &str, ports: u64, listening: u64) -> Option<OpenPorts> {
        let by_source = [(source.parse().unwrap(), ports)].into();
        let peers = [("10.2.0.2:443".parse().unwrap(), by_source)].into();
        Some(OpenPorts { read_ns: NOW_NS - age_ns, listening, peers })
    }

    /// A thousand ports.
    fn thousand() -> HostFacts {
        let mut facts = facts();
        only(&mut facts).port_range = Some(20_000..=20_999);
        facts
    }

    fn of(peer: &Peer, facts: &HostFacts) -> Pressure {
        let case = case(std::slice::from_ref(peer), facts);
        Scene::of(&case).subjects()[0].pressure.clone().unwrap()
    }

    fn client() -> Client {
        Client::at("10.2.0.2", 443)
    }

    #[test]
    fn open_connections_and_listeners_take_ports_too() {
        let mut facts = thousand();
        let peer = client().rate(5.0).live(400).peer();
        let before = of(&peer, &facts);
        assert_eq!((before.open, before.severity()), (None, None), "not read, and 40 %");
        only(&mut facts).open = open_ports(2_000_000_000, "10.1.0.1", 295, 5);
        let pressure = of(&peer, &facts);
        assert_eq!(pressure.open, Some(Open { ports: 300, age: 2.0 }));
        assert_eq!((pressure.used(), pressure.steady()), (700.0, 600.0));
        assert_eq!(pressure.severity(), Some(Severity::Warning));
        assert_eq!((pressure.highest_rate() * 60.0).round(), 700.0);
        let proof = pressure.prove(Finding::default(), 400);
        assert_eq!(proof.figure("ports_open"), Some(&300.into()));
        assert_eq!(proof.figure("ports_open_age"), Some(&2.0.into()));
    }

    #[test]
    fn what_was_not_counted_is_not_known_and_not_0() {
        let mut facts = thousand();
        let peer = client().rate(5.0).peer();
        only(&mut facts).open = Some(OpenPorts { listening: 7, ..OpenPorts::default() });
        let pressure = of(&peer, &facts);
        assert_eq!(pressure.open, None, "other peers were counted");
        let proof = pressure.prove(Finding::default(), 0);
        assert_eq!(proof.figure("ports_open"), Some(&serde_json::Value::Null));
        only(&mut facts).open = open_ports(0, "10.1.0.9", 5, 0);
        let none = Open { ports: 0, age: 0.0 };
        assert_eq!(of(&peer, &facts).open, Some(none), "from another address");
    }

    #[test]
    fn a_prediction_is_critical_once_its_rate_has_lasted() {
        let facts = thousand();
        let severity = |seconds, rate: f64| {
            let live = (rate * seconds as f64) as u64;
            of(&client().rate(rate).over(seconds).live(live).peer(), &facts).severity()
        };
        assert_eq!(severity(3, 25.0), None, "three seconds are a burst");
        assert_eq!(severity(4, 25.0), Some(Severity::Warning), "it may go on");
        assert_eq!(severity(7, 25.0), Some(Severity::Warning));
        assert_eq!(severity(8, 25.0), Some(Severity::Critical));
    }

    #[test]
    fn what_lies_no_further_ahead_than_was_looked_back_is_critical_at_once() {
        let facts = thousand();
        let severity =
            |live| of(&client().rate(150.0).over(2).live(live).peer(), &facts).severity();
        assert_eq!(severity(699), None, "a burst counts by what it took");
        assert_eq!(severity(700), Some(Severity::Critical), "the rest is gone in two seconds");
        let slower = |live| of(&client().rate(50.0).over(2).live(live).peer(), &facts).severity();
        assert_eq!(slower(899), Some(Severity::Warning), "in 2.02 s");
        assert_eq!(slower(900), Some(Severity::Critical), "in 2 s");
    }

    #[test]
    fn a_burst_that_is_over_is_quiet_while_its_ports_come_back() {
        let facts = thousand();
        let mut peer = client().live(900).peer();
        // A hundred a second, until four seconds ago.
        let start = NOW_NS - 9_000_000_000;
        for n in 0..500 {
            let mono_ns = start + n * 10_000_000;
            let local = v4("10.1.0.1");
            let entry = crate::peer::history::Entry {
                mono_ns,
                blocked: true,
                local,
                ..crate::peer::history::Entry::default()
            };
            peer.history.enter(&entry);
        }
        let pressure = of(&peer, &facts);
        assert!(pressure.blocked_rate > 50.0, "the window still holds it");
        assert_eq!(pressure.severity(), None);
        peer.history.stuck = 980;
        assert_eq!(of(&peer, &facts).severity(), Some(Severity::Critical), "none is left now");
    }

    #[test]
    fn the_shortest_of_several_sources_counts() {
        let mut facts = thousand();
        let mut peer = client().rate(6.0).live(600).peer();
        let second = crate::peer::history::Entry {
            local: v4("10.1.0.9"),
            mono_ns: NOW_NS - 1,
            ..crate::peer::history::Entry::default()
        };
        (0..54).for_each(|_| peer.history.present(&second));
        let pressure = of(&peer, &facts);
        assert_eq!((pressure.sources, pressure.source_share, pressure.stuck), (2, 0.5, 300.0));
        only(&mut facts).open = open_ports(0, "10.1.0.9", 500, 0);
        let pressure = of(&peer, &facts);
        assert_eq!(pressure.triple(), "10.1.0.9 -> 10.2.0.2:443");
        assert_eq!(pressure.used(), 800.0);
    }

    #[test]
    fn the_vendors_length_of_time_wait_holds_until_a_timer_was_seen() {
        let mut facts = thousand();
        only(&mut facts).tw_timeout = Some(15);
        let mut peer = client().rate(40.0).peer();
        peer.scheduled_ms = 0;
        let pressure = of(&peer, &facts);
        assert_eq!((pressure.seconds, pressure.steady()), (15.0, 600.0));
        let proof = pressure.prove(Finding::default(), 0);
        let time_wait = proof.evidence.iter().find(|figure| figure.key == "time_wait");
        assert_eq!(time_wait.map(|figure| figure.source), Some("net.ipv4.tcp_tw_timeout"));
        peer.scheduled_ms = 20_000;
        assert_eq!(of(&peer, &facts).seconds, 20.0, "what was armed is what holds");
        peer.scheduled_ms = 0;
        only(&mut facts).tw_timeout = None;
        assert_eq!(of(&peer, &facts).seconds, 60.0);
    }

    #[test]
    fn what_would_change_is_told_by_the_rates_that_would_fit() {
        let mut facts = thousand();
        only(&mut facts).tw_reuse_delay_ms = Some(500);
        only(&mut facts).reserved_ports = vec![20_000..=20_099, 2000..=2000];
        let WhatIf { takeover, two_sources, widest_range } =
            of(&client().rate(5.0).peer(), &facts).what_if;
        assert_eq!((takeover, two_sources), (1800.0, 30.0), "900 ports, 500 ms and 60 s");
        assert_eq!(widest_range, (64_512.0 - 101.0) / 60.0);
        only(&mut facts).tw_reuse_delay_ms = None;
        assert_eq!(of(&client().rate(5.0).peer(), &facts).what_if.takeover, 900.0);
        only(&mut facts).tw_reuse_delay_ms = Some(0);
        assert!(of(&client().rate(5.0).peer(), &facts).what_if.takeover.is_finite());
    }
}
