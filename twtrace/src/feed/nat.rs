//! Which of the connections seen leave through NAT of this host, found out now and then.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    path::Path,
    time::{Duration, Instant},
};

use crate::{
    event::{Role, ip},
    host::nat::{self, Flow, FoundNat, Links, NatError, NatKind, Ruleset, Verdict},
    kernel::{Namespaces, Visitor},
    peer::{Group, Peer},
};

/// Time after which rules and ways are asked for again.
const EVERY: Duration = Duration::from_secs(30);
/// Most namespaces whose rules are asked for.
const MOST_NAMESPACES: usize = 256;
/// Most connections whose way is known, each to one destination from one address.
const MOST_WAYS: usize = 4096;
/// Most of them that are asked for at once.
const AT_ONCE: usize = 64;
/// Rows whose connections are asked for.
const MOST_ROWS: usize = 1024;
/// Addresses of a row that are looked at.
const MOST_LOCALS: usize = 4;

/// Connections of one namespace from one address to one destination.
type Way = (u32, IpAddr, SocketAddr);
/// The namespace that gives them another address: its number, the table, how, and ports.
type Given = (u32, String, NatKind, u32);

/// A namespace that has rules.
struct Router {
    rules: Ruleset,
    links: Links,
    hold_s: u64,
}

impl Router {
    /// That of this thread's namespace; `None` if it has no rules that give another address.
    fn read(has_nftables: bool) -> Result<Option<Self>, NatError> {
        let proc = Path::new("/proc");
        let rules = nat::read(proc, has_nftables)?;
        if !rules.is_nat() {
            return Ok(None);
        }
        let (links, hold_s) = (Links::read()?, nat::hold_s(proc)?);
        Ok(hold_s.map(|hold_s| Self { rules, links, hold_s }))
    }
}

/// The namespace whose rules are not understood.
#[derive(Clone, Copy)]
struct Obscure(u32);

/// What was found out of connections.
struct Known {
    given: Option<Given>,
    /// Since when rules and ways may be others.
    asked: u64,
}

/// What is known of NAT on this host.
#[derive(Default)]
pub struct Nats {
    /// Namespaces whose rules were asked for.
    asked: BTreeSet<u32>,
    /// When they were, and for which time.
    when: Option<Instant>,
    times: u64,
    has_nftables: bool,
    routers: BTreeMap<u32, Router>,
    ways: HashMap<Way, Known>,
    /// Whether it was said that some cannot be asked, and that some are not understood.
    told: bool,
    told_obscure: bool,
}

impl Nats {
    /// Namespaces that give connections another address.
    pub fn namespaces(&self) -> impl Iterator<Item = u32> {
        self.routers.keys().copied()
    }

    /// Asks again if it is time, and for namespaces that were not there before; this thread's own
    /// comes first.
    pub fn refresh(&mut self, all: &Namespaces, now: Instant) {
        if !Path::new("/proc/sys/net/netfilter").exists() {
            return;
        }
        if self.when.is_none_or(|when| now.saturating_duration_since(when) >= EVERY) {
            self.asked.clear();
            self.when = Some(now);
            self.times += 1;
            self.has_nftables = nat::has_nftables(Path::new("/proc"), Path::new("/"));
        }
        self.asked.retain(|inum| all.get(*inum).is_some());
        self.routers.retain(|inum, _| all.get(*inum).is_some());
        let room = MOST_NAMESPACES.saturating_sub(self.asked.len());
        let unasked = all.iter().filter(|namespace| !self.asked.contains(&namespace.inum));
        let unasked: Vec<_> = unasked.take(room).collect();
        if unasked.is_empty() {
            return;
        }
        let has_nftables = self.has_nftables;
        let found = Visitor::travel(|visitor| {
            let mut read = |namespace| {
                visitor.enter(namespace)?;
                Router::read(has_nftables)
            };
            unasked.iter().map(|namespace| (namespace.inum, read(namespace))).collect::<Vec<_>>()
        });
        for (inum, router) in found.unwrap_or_default() {
            self.asked.insert(inum);
            match router {
                Ok(Some(router)) => _ = self.routers.insert(inum, router),
                Ok(None) => _ = self.routers.remove(&inum),
                // A daemon that may not ask any more knows what it was shown at its start. One that
                // may not be entered is told of where its facts are read.
                Err(NatError::Denied) if self.routers.contains_key(&inum) => {}
                Err(NatError::Netlink(_)) => {}
                Err(reason) if !self.told => {
                    self.told = true;
                    tracing::info!(
                        "whether network namespace {inum} is a NAT is not known: {reason}"
                    );
                }
                Err(_) => {}
            }
        }
    }

    /// What leaves through NAT, of the connections of these rows and those that are open.
    pub fn found(
        &mut self,
        all: &Namespaces,
        rows: &[Peer],
        open: impl Iterator<Item = Way>,
    ) -> Vec<FoundNat> {
        if self.routers.is_empty() {
            return Vec::new();
        }
        let seen: BTreeSet<Way> = ways_of(rows).into_iter().chain(open).collect();
        self.ways.retain(|way, _| seen.contains(way));
        let room = MOST_WAYS.saturating_sub(self.ways.len());
        let new = seen.iter().filter(|way| !self.ways.contains_key(*way)).take(room);
        let old = self.ways.iter().filter(|(_, known)| known.asked < self.times);
        let mut by_netns: BTreeMap<u32, Vec<Way>> = BTreeMap::new();
        for way in new.chain(old.map(|(way, _)| way)).take(AT_ONCE) {
            by_netns.entry(way.0).or_default().push(*way);
        }
        for (inum, ways) in by_netns {
            for (way, given) in ways.iter().zip(self.given(all, inum, &ways)) {
                if let Err(Obscure(router)) = given
                    && !std::mem::replace(&mut self.told_obscure, true)
                {
                    let (_, from, to) = way;
                    tracing::warn!(
                        "whether network namespace {router} gives connections from {from} to {to} \
                         another address cannot be told from its rules; --egress describes it if so"
                    );
                }
                let known = Known { given: given.unwrap_or_default(), asked: self.times };
                self.ways.insert(*way, known);
            }
        }
        let mut found: BTreeMap<&Given, FoundNat> = BTreeMap::new();
        for ((inum, from, to), known) in &self.ways {
            let Some(given) = &known.given else { continue };
            let Some(router) = self.routers.get(&given.0) else { continue };
            let nat = found.entry(given).or_insert_with(|| FoundNat {
                netns: given.0,
                table: given.1.clone(),
                kind: given.2,
                ports: given.3,
                hold_s: router.hold_s,
                carried: BTreeMap::new(),
            });
            nat.carried.entry(*inum).or_default().entry(*from).or_default().insert(*to);
        }
        found.into_values().collect()
    }

    /// What becomes of connections of one namespace. Whom they are given to is known by the hardware
    /// address, which on one host no other namespace has; what no neighbour of theirs does is not seen.
    fn given(
        &self,
        all: &Namespaces,
        inum: u32,
        ways: &[Way],
    ) -> Vec<Result<Option<Given>, Obscure>> {
        let Some(namespace) = all.get(inum) else { return vec![Ok(None); ways.len()] };
        let hops = namespace.run(|| {
            ways.iter()
                .map(|(_, from, to)| nat::next_hop(*from, to.ip()).ok().flatten())
                .collect::<Vec<_>>()
        });
        let hops = hops.unwrap_or_else(|_| vec![None; ways.len()]);
        let mut given = Vec::new();
        for ((_, from, to), hop) in ways.iter().zip(hops) {
            let of_hop = |hop| self.of_hop(all, inum, (*from, *to), &hop);
            given.push(hop.map_or(Ok(None), of_hop));
        }
        given
    }

    fn of_hop(
        &self,
        all: &Namespaces,
        inum: u32,
        (from, to): (IpAddr, SocketAddr),
        hop: &nat::Hop,
    ) -> Result<Option<Given>, Obscure> {
        let verdict = |netns: u32, router: &Router, oif: u32, iif: Option<u32>| {
            let name = |index| router.links.name(index).unwrap_or_default().to_owned();
            let iif_name = iif.map(name).unwrap_or_default();
            let flow = Flow { from, to, oif, oif_name: name(oif), iif_name };
            match router.rules.verdict(&flow) {
                Verdict::Given { table, kind, ports } => Ok(Some((netns, table, kind, ports))),
                Verdict::Kept => Ok(None),
                Verdict::Obscure => Err(Obscure(netns)),
            }
        };
        // Its own rules come first: whoever is next sees the other address.
        if let Some(router) = self.routers.get(&inum)
            && let Some(given) = verdict(inum, router, hop.oif, None)?
        {
            return Ok(Some(given));
        }
        let met = hop.hardware.as_deref().and_then(|hardware| {
            let mut others = self.routers.iter().filter(|(netns, _)| **netns != inum);
            others.find_map(|(netns, router)| Some((*netns, router, router.links.with(hardware)?)))
        });
        let Some((netns, router, iif)) = met else { return Ok(None) };
        let way_out = all.get(netns).map(|next| next.run(|| nat::way_out(from, to.ip(), iif)));
        match way_out {
            Some(Ok(Ok(Some(oif)))) => verdict(netns, router, oif, Some(iif)),
            // It keeps it, or is gone.
            _ => Ok(None),
        }
    }
}

/// The connections that this end opened, of the rows that hold most.
fn ways_of(rows: &[Peer]) -> Vec<Way> {
    let client = |row: &&Peer| matches!(row.group, Group::Peer { role: Role::Client, .. });
    let lively = rows.iter().filter(client).map(|row| (row.tally.live(), row));
    let mut lively: Vec<_> = lively.filter(|(live, _)| *live > 0).collect();
    if lively.len() > MOST_ROWS {
        lively.select_nth_unstable_by_key(MOST_ROWS, |(live, _)| Reverse(*live));
        lively.truncate(MOST_ROWS);
    }
    let mut ways = Vec::new();
    for (_, row) in lively {
        let Group::Peer { netns, address, port, .. } = row.group else { continue };
        let Some(netns) = netns.current().filter(|_| !ip(address).is_loopback()) else { continue };
        let to = SocketAddr::new(ip(address), port);
        let locals = row.history.locals();
        ways.extend(locals.iter().take(MOST_LOCALS).map(|(local, _)| (netns, ip(*local), to)));
    }
    ways
}
