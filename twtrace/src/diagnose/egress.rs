//! The ports of an address that several network namespaces share behind NAT: how many of them the NAT
//! holds now, how many it will, and who takes them.
//!
//! It is an estimate of what somebody else keeps. The NAT is taken to hold one port for each connection to
//! a destination that is open, and for each that was closed here within the time it holds them; connections
//! that the other end closed first are seen while they are open, and leave no TIME_WAIT here. New ports are
//! taken by whatever is opened: what is closed again, and by as much as the open connections become more.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    str::FromStr,
    time::Duration,
};

use ipnet::IpNet;

use super::{Case, arithmetic::Exhaustion};
use crate::{
    event::{Role, ip},
    host::{
        facts::NamespaceFacts,
        nat::{FoundNat, NatKind},
    },
    path::Class,
    peer::{Group, Peer},
    units::{TCP_TIMEWAIT_LEN_MS, is_from},
};

/// Most destinations of one address that are told.
const MOST_DESTINATIONS: usize = 16;
/// The same of an address that nobody described: it may be no concern of anybody's.
const MOST_FOUND: usize = 4;
/// Seconds that a socket is in TIME_WAIT, and so seen.
const SEEN_S: f64 = TCP_TIMEWAIT_LEN_MS as f64 / 1000.0;

/// An address that connections leave through, as a user describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Egress {
    /// The local networks whose connections leave through it; all that are not loopback if there is none.
    pub from: Vec<IpNet>,
    /// The network namespaces whose connections leave through it, by name or inode number; all if there
    /// is none.
    pub netns: Vec<String>,
    /// Destinations that do not pass it.
    pub except: Vec<IpNet>,
    /// Ports it has.
    pub ports: u32,
    /// Whether those are for all destinations together, and not for each.
    pub in_all: bool,
    /// How long it holds a port after the end of a connection.
    pub hold: Duration,
}

impl FromStr for Egress {
    type Err = String;

    /// Reads `ports=64512 hold=120s from=10.0.0.0/8 except=10.0.0.0/8,192.168.0.0/16 netns=blue`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (mut ports, mut hold, mut in_all) = (None, None, false);
        let (mut from, mut netns, mut except) = (Vec::new(), Vec::new(), Vec::new());
        for word in text.split_whitespace() {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            match key {
                "ports" | "ports-in-all" => {
                    in_all = key == "ports-in-all";
                    ports = value.parse::<u32>().ok().filter(|ports| *ports > 0);
                }
                "hold" => {
                    let time = humantime::parse_duration(value).ok();
                    hold = time.filter(|time| *time <= Duration::from_secs(3600));
                }
                "from" => from = networks(value)?,
                "except" => except = networks(value)?,
                "netns" => netns = value.split(',').map(str::to_owned).collect(),
                _ => return Err(format!("does not know {key:?}: {WANTED}")),
            }
        }
        match (ports, hold) {
            (Some(ports), Some(hold)) => Ok(Self { from, netns, except, ports, in_all, hold }),
            _ => Err(format!("needs ports and hold: {WANTED}")),
        }
    }
}

const WANTED: &str = "ports=N or ports-in-all=N, hold=TIME up to 1h, and perhaps from=NETWORK,…, \
                      netns=NAME,… and except=NETWORK,…";

fn networks(text: &str) -> Result<Vec<IpNet>, String> {
    let one = |word: &str| {
        let address = || word.parse::<IpAddr>().ok().map(IpNet::from);
        word.parse::<IpNet>().ok().or_else(address).ok_or(format!("{word:?} is no network"))
    };
    text.split(',').map(one).collect()
}

impl fmt::Display for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = if self.in_all { "ports-in-all" } else { "ports" };
        write!(f, "{key}={} hold={}", self.ports, humantime::format_duration(self.hold))?;
        let words = |networks: &[IpNet]| networks.iter().map(ToString::to_string).collect();
        let lists = [
            ("from", words(&self.from)),
            ("except", words(&self.except)),
            ("netns", self.netns.clone()),
        ];
        for (key, words) in lists {
            if !words.is_empty() {
                write!(f, " {key}={}", words.join(","))?;
            }
        }
        Ok(())
    }
}

impl Egress {
    /// Whether connections to that destination pass it, wherever they come from.
    fn leads_to(&self, remote: &IpAddr) -> bool {
        !remote.is_loopback() && !contains(&self.except, remote)
    }

    /// Whether connections of that local address leave through it.
    fn takes_from(&self, local: &IpAddr) -> bool {
        self.from.is_empty() || contains(&self.from, local)
    }

    /// Whether it is of that namespace's connections.
    fn is_of(&self, case: &Case<'_>, netns: u32) -> bool {
        let name = case.netns_names.and_then(|names| names.get(&netns));
        let is_meant = |meant: &String| Some(meant) == name || meant.parse() == Ok(netns);
        self.netns.is_empty() || self.netns.iter().any(is_meant)
    }

    /// Whether connections of a namespace between these addresses leave through it.
    fn passes(&self, case: &Case<'_>, netns: u32, local: &IpAddr, to: &SocketAddr) -> bool {
        self.leads_to(&to.ip()) && self.takes_from(local) && self.is_of(case, netns)
    }
}

/// A shared address, however it is known.
#[derive(Clone, Copy)]
enum Shared<'a> {
    /// The user described it; which, from 1.
    Told(usize, &'a Egress),
    /// The host's own rules make it.
    Found(&'a FoundNat),
}

impl Shared<'_> {
    fn hold(&self) -> Duration {
        match self {
            Self::Told(_, egress) => egress.hold,
            Self::Found(nat) => Duration::from_secs(nat.hold_s),
        }
    }

    fn ports(&self) -> u32 {
        match self {
            Self::Told(_, egress) => egress.ports,
            Self::Found(nat) => nat.ports,
        }
    }

    const fn in_all(&self) -> bool {
        matches!(self, Self::Told(_, Egress { in_all: true, .. }))
    }

    /// Whether connections of a namespace between these addresses leave through it. Of what the user
    /// described nothing is found.
    fn passes(&self, case: &Case<'_>, netns: u32, local: &IpAddr, to: &SocketAddr) -> bool {
        match self {
            Self::Told(_, egress) => egress.passes(case, netns, local, to),
            Self::Found(nat) => {
                let found = nat.carried.get(&netns).and_then(|by_local| by_local.get(local));
                found.is_some_and(|found| found.contains(to))
                    && !case.egress.iter().any(|egress| egress.passes(case, netns, local, to))
            }
        }
    }

    /// The namespace and the destination of a row whose connections leave through it.
    fn carries(&self, case: &Case<'_>, row: &Peer) -> Option<(u32, SocketAddr)> {
        let Group::Peer { netns, role: Role::Client, address, port } = row.group else {
            return None;
        };
        let (netns, to) = (netns.current()?, SocketAddr::new(ip(address), port));
        let locals = row.history.locals();
        let passes = |local: &IpAddr| self.passes(case, netns, local, &to);
        // Of a row without addresses nothing is known but where it leads.
        let unknown = IpAddr::from(Ipv4Addr::UNSPECIFIED);
        let ours = match self {
            Self::Told(_, egress) if egress.from.is_empty() => passes(&unknown),
            _ => locals.iter().any(|(local, _)| passes(&ip(*local))),
        };
        ours.then_some((netns, to))
    }
}

/// Whether a kernel gives the port of a connection that was closed to another one when ports are short.
///
/// # Source
/// `nf_nat_used_tuple_harder()`, net/netfilter/nf_nat_core.c, since 6.5: an entry in TIME_WAIT or CLOSE is
/// dropped if the new connection's sequence number is beyond its own.
fn gives_away(release: &str) -> bool {
    is_from(release, (6, 5))
}

fn contains(networks: &[IpNet], address: &IpAddr) -> bool {
    networks.iter().any(|network| network.contains(address))
}

/// What one network namespace takes of a shared address.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Taken {
    /// Open connections; only where they were looked at.
    pub open: f64,
    /// Ports held after the end.
    pub held: f64,
    /// Ports a second that are newly taken: by connections that were closed again, and by those that stay
    /// open.
    pub rate: f64,
    /// As much of that as has lasted: a burst, or a pool that has filled, does not go on.
    pub lasting: f64,
    /// Of the rate, by connections that stay open.
    pub opening: f64,
    /// As much of that as has lasted.
    pub opening_lasts: f64,
    /// How many those have become since the open ones were counted, at that rate.
    pub opened_since: f64,
}

impl Taken {
    /// Ports it takes now.
    pub fn now(&self) -> f64 {
        self.open + self.held
    }

    /// Whether there is anything of it.
    fn counts(&self) -> bool {
        self.now() > 0.0 || self.rate > 0.0
    }

    fn add(&mut self, other: Self) {
        self.open += other.open;
        self.held += other.held;
        self.rate += other.rate;
        self.lasting += other.lasting;
        self.opening += other.opening;
        self.opening_lasts += other.opening_lasts;
        self.opened_since += other.opened_since;
    }
}

/// What is open to a destination from some local addresses, and by how many a second it becomes more.
fn open_to(
    facts: &NamespaceFacts,
    now_ns: u64,
    to: SocketAddr,
    ours: impl Fn(&IpAddr) -> bool,
) -> Taken {
    let mut taken = Taken::default();
    let open = facts.open.as_ref().and_then(|open| open.peers.get(&to));
    for (local, count) in open.into_iter().flatten().filter(|(local, _)| ours(local)) {
        taken.open += *count as f64;
        if let Some(growth) = facts.open_growth.get(&(to, *local)) {
            taken.opening += growth.rate;
            taken.opening_lasts += growth.lasting.map_or(0.0, |lasting| lasting.min(growth.rate));
        }
    }
    let read_ns = facts.open.as_ref().map_or(now_ns, |open| open.read_ns);
    let age_s = now_ns.saturating_sub(read_ns) as f64 / 1e9;
    let (rate, lasting) = (taken.opening, taken.opening_lasts);
    Taken { rate, lasting, opened_since: lasting * age_s, ..taken }
}

/// A rule that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The network namespace that has it.
    pub netns: u32,
    /// Its table, such as `ip nat`.
    pub table: String,
    /// What it does.
    pub kind: NatKind,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { netns, table, kind } = self;
        write!(f, "found: {} in table {table} of network namespace {netns}", kind.word())
    }
}

/// How short the ports of a shared address are towards one destination.
#[derive(Clone, Debug, PartialEq)]
pub struct EgressMargin {
    /// Which of the addresses described, from 1: several may pass to the same destination; `None` if
    /// nobody described it.
    pub egress: Option<usize>,
    /// Where it was found, if nobody described it.
    pub found: Option<Found>,
    /// Whether ports held after the end are given away when they are short.
    pub gives_away: bool,
    /// The destination; `None` where all share the ports.
    pub to: Option<SocketAddr>,
    /// Ports there are.
    pub ports: u32,
    /// How long one is held after the end, seconds.
    pub hold_s: f64,
    /// All together.
    pub all: Taken,
    /// Who takes how much, by inode number of the network namespace, whoever takes most first.
    pub by_netns: Vec<(u32, Taken)>,
    /// When nothing is left.
    pub exhaustion: Exhaustion,
}

impl EgressMargin {
    /// Ports that will be taken if things go on.
    pub fn to_come(&self) -> f64 {
        self.all.open + (self.all.rate * self.hold_s)
    }

    /// Ports that nobody else may have now.
    fn firm(&self) -> f64 {
        if self.gives_away { self.all.open } else { self.all.now() }
    }

    /// Ports that nobody else may have, newly taken each second; as far as it has lasted.
    fn firm_rates(&self) -> (f64, f64) {
        let Taken { rate, lasting, opening, opening_lasts, .. } = self.all;
        if self.gives_away { (opening, opening_lasts) } else { (rate, lasting) }
    }

    /// Share that is taken now.
    pub fn used_share(&self) -> f64 {
        self.firm() / f64::from(self.ports)
    }

    /// Share that is taken, or will be if that is more.
    pub fn share(&self) -> f64 {
        let firm_to_come = self.all.open + self.firm_rates().0 * self.hold_s;
        self.used_share().max(firm_to_come / f64::from(self.ports))
    }

    /// When nothing is left.
    fn exhausts(&self) -> Exhaustion {
        let (ports, (rate, lasting)) = (f64::from(self.ports), self.firm_rates());
        if self.firm() >= ports {
            Exhaustion::Now
        } else if self.all.open + rate.min(lasting) * self.hold_s > ports {
            Exhaustion::In(((ports - self.firm() - self.all.opened_since) / rate).max(0.0))
        } else {
            Exhaustion::Never
        }
    }

    /// What tells it from others in a label.
    pub fn label(&self) -> String {
        match (self.egress, &self.found) {
            (Some(number), _) => number.to_string(),
            (None, Some(found)) => format!("{}/{}", found.netns, found.table),
            (None, None) => String::new(),
        }
    }

    /// The destination in words.
    pub fn target(&self) -> String {
        self.to.map_or_else(|| "all destinations".to_owned(), |to| to.to_string())
    }
}

/// The margins of all shared addresses, the shortest of each first.
pub fn of_all(case: &Case<'_>) -> Vec<EgressMargin> {
    let told = (1..).zip(case.egress).map(|(number, egress)| Shared::Told(number, egress));
    let found = case.facts.nats.iter().map(Shared::Found);
    told.chain(found).flat_map(|shared| of(case, shared)).collect()
}

fn of(case: &Case<'_>, shared: Shared<'_>) -> Vec<EgressMargin> {
    let hold_s = shared.hold().as_secs_f64();
    let mut young: BTreeMap<u32, u64> = BTreeMap::new();
    let since_ns =
        case.now_ns.saturating_sub(u64::try_from(shared.hold().as_nanos()).unwrap_or(u64::MAX));
    for (_, socket) in case.sockets.iter().flat_map(|sockets| sockets.iter()) {
        // Of one that was there before it is not known when it entered: it is held by most.
        if socket.entered_ns == 0 || socket.entered_ns >= since_ns {
            *young.entry(socket.row).or_default() += 1;
        }
    }
    type ByNetns = BTreeMap<u32, Taken>;
    let mut destinations: BTreeMap<Option<SocketAddr>, ByNetns> = BTreeMap::new();
    let mut take = |netns: u32, to: SocketAddr, taken: Taken| {
        let key = (!shared.in_all()).then_some(to);
        destinations.entry(key).or_default().entry(netns).or_default().add(taken);
    };
    for (index, row) in case.peers.iter().enumerate() {
        let Some((netns, to)) = shared.carries(case, row) else { continue };
        let row_number = u32::try_from(index).unwrap_or(u32::MAX).wrapping_add(1);
        let rates = row.history.rates(case.now_ns, case.since_ns);
        let live = young.get(&row_number).copied().unwrap_or(0) as f64;
        // What sat its TIME_WAIT out is held on where the NAT's time is longer.
        let beyond = (hold_s - SEEN_S).max(0.0);
        let sat_out = row.counts().class(Class::TwoMsl) as f64;
        let late = (rates.ended - rates.early).max(0.0) * beyond;
        let closed = Taken {
            open: 0.0,
            held: live + late.min(sat_out),
            rate: (rates.entered - rates.early).max(0.0),
            lasting: (rates.held.entered - rates.early).max(0.0),
            ..Taken::default()
        };
        take(netns, to, closed);
    }
    // Where nothing was closed here yet, there is no row.
    for (netns, facts) in &case.facts.namespaces {
        for to in facts.open.iter().flat_map(|open| open.peers.keys()) {
            let taken =
                open_to(facts, case.now_ns, *to, |local| shared.passes(case, *netns, local, to));
            if taken.open > 0.0 {
                take(*netns, *to, taken);
            }
        }
    }
    let margin = |(to, by): (Option<SocketAddr>, ByNetns)| {
        let mut all = Taken::default();
        by.values().for_each(|taken| all.add(*taken));
        let mut by_netns: Vec<_> = by.into_iter().filter(|(_, taken)| taken.counts()).collect();
        by_netns.sort_by(|one, two| two.1.now().total_cmp(&one.1.now()));
        let (egress, found, gives_away) = match shared {
            Shared::Told(number, _) => (Some(number), None, false),
            Shared::Found(nat) => {
                let FoundNat { netns, kind, .. } = *nat;
                let found = Found { netns, table: nat.table.clone(), kind };
                (None, Some(found), gives_away(&case.facts.kernel))
            }
        };
        let exhaustion = Exhaustion::Never;
        let ports = shared.ports();
        let margin = EgressMargin {
            egress,
            found,
            gives_away,
            to,
            ports,
            hold_s,
            all,
            by_netns,
            exhaustion,
        };
        EgressMargin { exhaustion: margin.exhausts(), ..margin }
    };
    let mut margins: Vec<_> = destinations.into_iter().map(margin).collect();
    margins.sort_by(|one, two| two.share().total_cmp(&one.share()));
    margins.truncate(if matches!(shared, Shared::Told(..)) {
        MOST_DESTINATIONS
    } else {
        MOST_FOUND
    });
    margins
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        diagnose::testing::{Client, NETNS, NOW_NS, case, facts, only},
        host::open::{OpenGrowth, OpenPorts},
        track::{Due, Holding, LiveSockets, Tracked},
    };

    #[test]
    fn what_is_written_is_read_back() {
        for text in [
            "ports=300 hold=2m",
            "ports-in-all=64512 hold=4m from=10.0.0.0/8 except=10.0.0.0/8,192.0.2.1/32 netns=blue,7",
        ] {
            assert_eq!(text.parse::<Egress>().unwrap().to_string(), text);
        }
        for bad in
            ["", "ports=300", "hold=1s", "ports=0 hold=1s", "ports=1 hold=2h", "x=1", "from=x"]
        {
            assert!(bad.parse::<Egress>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_open_and_what_is_held_are_summed_up_and_told_when_they_reach_the_end() {
        let mut facts = facts();
        let to = "10.2.0.2:443".parse().unwrap();
        let local = "10.1.0.1".parse().unwrap();
        let peers_open = [(to, [(local, 20)].into())].into();
        only(&mut facts).open = Some(OpenPorts { peers: peers_open, ..OpenPorts::default() });
        let peers = [Client::at("10.2.0.2", 443).rate(10.0).peer()];
        let mut live = LiveSockets::with_capacity(1024);
        for n in 0..100_u64 {
            let due = Due::at(NOW_NS);
            let holding = Holding { due, ..Holding::default() };
            // Half of them entered longer ago than ports are held.
            let age_s = if n < 50 { 10 } else { 40 };
            let entered_ns = NOW_NS - age_s * 1_000_000_000;
            live.enter(n + 1, Tracked { entered_ns, row: 1, netns: NETNS, holding });
        }
        let egress = ["ports=300 hold=30s".parse().unwrap()];
        let case = Case { egress: &egress, sockets: Some(&live), ..case(&peers, &facts) };
        let [margin] = &of_all(&case)[..] else { panic!("one destination") };
        assert_eq!((margin.all.open, margin.all.held), (20.0, 50.0));
        assert_eq!(margin.by_netns.len(), 1);
        assert!((margin.to_come() - 320.0).abs() < 40.0, "{}", margin.to_come());
        let other = ["ports=300 hold=30s except=10.0.0.0/8".parse().unwrap()];
        assert_eq!(of_all(&Case { egress: &other, ..case }), []);
        let names = [(NETNS, "blue".to_owned())].into();
        let case = Case { netns_names: Some(&names), ..case };
        for (netns, count) in [("blue", 1), ("red,4711", 0), (&format!("red,{NETNS}"), 1)] {
            let egress = [format!("ports=300 hold=30s netns={netns}").parse().unwrap()];
            assert_eq!(of_all(&Case { egress: &egress, ..case }).len(), count, "{netns}");
        }
        let full = ["ports=70 hold=30s".parse().unwrap()];
        assert_eq!(of_all(&Case { egress: &full, ..case })[0].exhaustion, Exhaustion::Now);
    }

    #[test]
    fn what_stays_open_takes_ports_before_anything_was_closed_if_it_goes_on() {
        let to: SocketAddr = "10.2.0.2:443".parse().unwrap();
        let local: IpAddr = "10.1.0.1".parse().unwrap();
        let margin = |text: &str, lasting| {
            let mut facts = facts();
            let peers = [(to, [(local, 100)].into())].into();
            // Two seconds ago.
            let read_ns = NOW_NS - 2_000_000_000;
            only(&mut facts).open = Some(OpenPorts { peers, read_ns, ..OpenPorts::default() });
            let growth = OpenGrowth { rate: 10.0, lasting };
            only(&mut facts).open_growth = [((to, local), growth)].into();
            let egress = [text.parse().unwrap()];
            of_all(&Case { egress: &egress, ..case(&[], &facts) }).pop()
        };
        let told = margin("ports=300 hold=30s", Some(10.0)).unwrap();
        assert_eq!((told.all.now(), told.to_come()), (100.0, 400.0));
        assert_eq!(told.exhaustion, Exhaustion::In(18.0));
        assert_eq!(told.by_netns, [(NETNS, told.all)]);
        for lasting in [None, Some(0.0)] {
            let told = margin("ports=300 hold=30s", lasting).unwrap();
            assert_eq!(told.exhaustion, Exhaustion::Never, "a pool that fills");
        }
        assert_eq!(margin("ports=300 hold=30s from=10.3.0.0/16", None), None);
        assert_eq!(margin("ports=300 hold=30s except=10.2.0.0/16", None), None);
    }

    #[test]
    fn what_is_found_counts_as_the_kernel_has_it_unless_somebody_described_it() {
        let to: SocketAddr = "10.2.0.2:443".parse().unwrap();
        let local: IpAddr = "10.1.0.1".parse().unwrap();
        let peers = [Client::at("10.2.0.2", 443).rate(10.0).live(90).peer()];
        let mut live = LiveSockets::with_capacity(128);
        for n in 0..90_u64 {
            let holding = Holding { due: Due::at(NOW_NS), ..Holding::default() };
            let entered_ns = NOW_NS - n * 100_000_000;
            live.enter(n + 1, Tracked { entered_ns, row: 1, netns: NETNS, holding });
        }
        let of_kernel = |release: &str, egress: &[Egress]| {
            let mut facts = facts();
            facts.kernel = release.to_owned();
            facts.nats = vec![FoundNat {
                netns: 9,
                table: "ip nat".to_owned(),
                kind: NatKind::Masquerade,
                ports: 90,
                hold_s: 120,
                carried: [(NETNS, [(local, [to].into())].into())].into(),
            }];
            let case = Case { egress, sockets: Some(&live), ..case(&peers, &facts) };
            let findings = crate::diagnose::diagnose(&case).findings;
            let finding = findings.into_iter().find(|finding| finding.id == "TW020");
            (of_all(&case), finding)
        };
        let (margins, finding) = of_kernel("6.1.0-41-amd64", &[]);
        assert_eq!((margins.len(), margins[0].all.held), (1, 90.0));
        assert_eq!(
            (margins[0].exhaustion, margins[0].label()),
            (Exhaustion::Now, "9/ip nat".into())
        );
        let finding = finding.unwrap();
        assert_eq!(finding.netns, Some(9));
        let found = "(found: masquerade in table ip nat of network namespace 9) has 90 ports";
        assert!(finding.summary.contains(found), "{}", finding.summary);
        // Nothing is open: whoever comes gets the port of one that was closed.
        let (margins, finding) = of_kernel("6.18.44", &[]);
        assert!(margins[0].gives_away && finding.is_none());
        assert_eq!((margins[0].all.held, margins[0].exhaustion), (90.0, Exhaustion::Never));
        let (margins, _) = of_kernel("6.1.0", &["ports=300 hold=30s".parse().unwrap()]);
        assert_eq!(margins.iter().map(EgressMargin::label).collect::<Vec<_>>(), ["1"]);
    }
}
