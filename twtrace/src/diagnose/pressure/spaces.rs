//! Which port spaces there are: those that sockets were seen in, and those in which calls failed.

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
};

use rustc_hash::FxHashMap;
use twtrace_common::PortChoice;

use super::{SHORT, stock::Stock};
use crate::{
    diagnose::{Case, arithmetic},
    event::{Role, ip},
    failures::{Cause, Place},
    host::facts::NamespaceFacts,
    peer::{
        Group, Peer,
        rates::{Earlier, Window},
        spaces::Space,
    },
};

/// Most port spaces looked at; those with the most sockets are.
const MOST_SPACES: usize = 256;

/// What tells a port space from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSpace {
    /// Inode number of the network namespace.
    pub netns: u32,
    /// Who chooses the ports: `connect()` for one peer, `bind()` for all, or the program.
    pub chosen: PortChoice,
    /// The address of this end.
    pub local: IpAddr,
    /// The peer; of `bind()` the first of all.
    pub remote: SocketAddr,
    /// First and last port.
    pub range: (u16, u16),
    /// Whether that range is the socket's own (`IP_LOCAL_PORT_RANGE`).
    pub own_range: bool,
    /// The ports that a program names, in order, where they are few.
    pub few: Vec<u16>,
}

impl PortSpace {
    /// Whether a call wanted a port of this space.
    pub fn is_of(&self, place: &Place) -> bool {
        let here = self.netns == place.netns && !place.gone && self.local == place.local.ip();
        let peer = place.remote == Some(self.remote);
        here && match (self.chosen, place.cause) {
            (PortChoice::Connect, Cause::NoPort) => {
                peer && self.own_range == place.own_range
                    && (!place.own_range || place.ports == Some(self.range))
            }
            (PortChoice::Program, Cause::PortBusy) => peer && self.has(place.local.port()),
            (PortChoice::Bind, Cause::AddressInUse) => place.local.port() == 0,
            _ => false,
        }
    }

    /// Whether a call that wanted a port of this space had its ports to choose from, as they are now:
    /// the namespace's range may have been changed since.
    pub fn is_now(&self, place: &Place) -> bool {
        self.chosen != PortChoice::Connect || place.ports.is_none_or(|ports| ports == self.range)
    }

    /// Its ports.
    pub const fn ports(&self) -> RangeInclusive<u16> {
        self.range.0..=self.range.1
    }

    /// Whether a port is one of it.
    pub fn has(&self, port: u16) -> bool {
        if self.few.is_empty() { self.ports().contains(&port) } else { self.few.contains(&port) }
    }

    /// Its ports as people write them.
    pub fn list(&self) -> String {
        let (low, high) = self.range;
        match self.few[..] {
            _ if low == high => low.to_string(),
            _ if usize::from(high - low) < self.few.len() => format!("{low}-{high}"),
            [one, other] => format!("{one},{other}"),
            [one, other, third] => format!("{one},{other},{third}"),
            _ => format!("{low}-{high}"),
        }
    }

    /// Takes in a port that a program names.
    fn add(&mut self, port: u16) {
        self.range = (self.range.0.min(port), self.range.1.max(port));
        if let Err(place) = self.few.binary_search(&port)
            && !self.few.is_empty()
        {
            self.few.insert(place, port);
        }
    }

    /// Takes the range that the kernel had for a call that failed, where it is the socket's own.
    fn adopt_range(&mut self, place: &Place) {
        if let Some(range) = place.ports.filter(|_| place.own_range) {
            (self.range, self.own_range) = (range, true);
        }
    }
}

/// A port space before it is weighed.
pub struct Draft<'a> {
    pub space: PortSpace,
    /// Index of the (first) row among the case's, and that row; none of a space of open connections.
    pub row: Option<usize>,
    pub peer: Option<&'a Peer>,
    pub facts: &'a NamespaceFacts,
    /// Sockets ever seen in it.
    pub seen: u32,
    /// What happened of late, in all rows that it spans.
    pub window: Window,
    pub since_ns: u64,
    /// Sockets that live, and those of them whose fast path is closed.
    pub live: u64,
    pub blocked: u64,
    pub stock: Stock,
}

impl<'a> Draft<'a> {
    /// The space of sockets seen; `None` where the namespace's range is not known.
    fn of(case: &Case<'a>, row: usize, space: &Space) -> Option<Self> {
        let mut draft = Self::empty(case, row, ip(space.key.local))?;
        let name = &mut draft.space;
        name.chosen = chosen(space, draft.facts);
        name.own_range = space.key.range != (0, 0) && name.chosen != PortChoice::Program;
        name.range = match name.chosen {
            PortChoice::Program => space.ports.range,
            _ if name.own_range => space.key.range,
            _ => name.range,
        };
        name.few.clone_from(&space.ports.few);
        draft.seen = space.seen;
        draft.window = space.window().clone();
        (draft.live, draft.blocked) = (space.live.into(), space.blocked.into());
        Some(draft)
    }

    /// The space of a call that failed, in which no socket was seen.
    fn of_failure(case: &Case<'a>, row: usize, place: &Place) -> Option<Self> {
        let mut draft = Self::empty(case, row, place.local.ip())?;
        draft.space.chosen = match place.cause {
            Cause::NoPort => PortChoice::Connect,
            Cause::PortBusy => PortChoice::Program,
            Cause::AddressInUse => PortChoice::Bind,
        };
        match place.cause {
            Cause::PortBusy => {
                let port = place.local.port();
                (draft.space.range, draft.space.few) = ((port, port), vec![port]);
            }
            _ => draft.space.adopt_range(place),
        }
        Some(draft)
    }

    /// A space of `connect()` in the namespace's range.
    fn empty(case: &Case<'a>, row: usize, local: IpAddr) -> Option<Self> {
        let peer = case.peers.get(row)?;
        let Group::Peer { netns, role: Role::Client, address, port } = peer.group else {
            return None;
        };
        let netns = netns.current()?;
        let since_ns = case.since_ns.max(peer.history.first_ns());
        let to = Self::towards(case, netns, local, SocketAddr::new(ip(address), port))?;
        Some(Self { row: Some(row), peer: Some(peer), since_ns, ..to })
    }

    /// The same of a peer of which there is no row.
    fn towards(case: &Case<'a>, netns: u32, local: IpAddr, remote: SocketAddr) -> Option<Self> {
        let facts = case.facts.namespaces.get(&netns)?;
        let range = facts.port_range.as_ref()?;
        let space = PortSpace {
            netns,
            chosen: PortChoice::Connect,
            local,
            remote,
            range: (*range.start(), *range.end()),
            own_range: false,
            few: Vec::new(),
        };
        Some(Self {
            space,
            row: None,
            peer: None,
            facts,
            seen: 0,
            window: Window::default(),
            since_ns: case.since_ns,
            live: 0,
            blocked: 0,
            stock: Stock::default(),
        })
    }

    /// The time before it was watched that says whether its rates have lasted.
    pub fn earlier(&self, now_ns: u64) -> Earlier {
        Earlier::of(now_ns, self.since_ns)
    }

    /// Takes another row's part of a space of `bind()` in.
    fn absorb(&mut self, other: &Self) {
        self.window.absorb(&other.window);
        self.since_ns = self.since_ns.min(other.since_ns);
        self.live += other.live;
        self.blocked += other.blocked;
        self.seen = self.seen.saturating_add(other.seen);
    }

    /// Whether a port is one that may be had here, as the settings are now.
    pub fn has(&self, port: u16) -> bool {
        self.space.has(port) && !self.reserved().iter().any(|reserved| reserved.contains(&port))
    }

    /// Those that a program may not be given.
    pub fn reserved(&self) -> &'a [RangeInclusive<u16>] {
        if self.space.chosen == PortChoice::Program { &[] } else { &self.facts.reserved_ports }
    }
}

/// Fewest ports in a row that are taken for a program's own.
const A_ROW: u64 = 8;

/// Who chooses: sockets of whom that is not known are taken for `connect()`'s.
pub fn chosen(space: &Space, facts: &NamespaceFacts) -> PortChoice {
    match space.key.chosen {
        PortChoice::Bind if is_a_row(space, facts) => PortChoice::Program,
        PortChoice::Bind => PortChoice::Bind,
        PortChoice::Program => PortChoice::Program,
        _ => PortChoice::Connect,
    }
}

/// Whether the ports of sockets that were all there before, of which no more is known than that `bind()`
/// took them, lie in a row: it draws them by chance from all the range
/// (`inet_csk_find_open_port()`, net/ipv4/inet_connection_sock.c), and a program counts.
fn is_a_row(space: &Space, facts: &NamespaceFacts) -> bool {
    let (low, high) = space.ports.range;
    let width = u64::from(high - low) + 1;
    let Some(range) = facts.port_range.as_ref().filter(|_| width >= A_ROW) else { return false };
    let narrow = 4 * width <= arithmetic::usable_ports(range, &facts.reserved_ports);
    narrow && u64::from(space.seen) >= width && space.window().entered_since(0) == 0
}

/// The spaces of a case: of `connect()` and of programs one for each peer, of `bind(address, 0)` one
/// for all.
pub fn drafts<'a>(case: &Case<'a>) -> Vec<Draft<'a>> {
    let mut drafts: Vec<Draft<'a>> = Vec::new();
    // They grow with every row that spans them.
    let mut bound: Vec<Draft<'a>> = Vec::new();
    let mut by_address: FxHashMap<(u32, IpAddr), usize> = FxHashMap::default();
    for (row, peer) in case.peers.iter().enumerate() {
        for space in peer.history.spaces().iter() {
            let Some(draft) = Draft::of(case, row, space) else { continue };
            if draft.space.chosen == PortChoice::Bind {
                match by_address.entry((draft.space.netns, draft.space.local)) {
                    std::collections::hash_map::Entry::Occupied(known) => {
                        bound[*known.get()].absorb(&draft);
                    }
                    std::collections::hash_map::Entry::Vacant(free) => {
                        free.insert(bound.len());
                        bound.push(draft);
                    }
                }
                continue;
            }
            drafts.push(draft);
            // Of a hundred thousand no more is kept at a time than matters.
            if drafts.len() == 2 * MOST_SPACES {
                keep_heaviest(case, &mut drafts);
            }
        }
    }
    drafts.append(&mut bound);
    keep_heaviest(case, &mut drafts);
    add_failed(case, &mut drafts);
    add_open(case, &mut drafts);
    drafts
}

/// Leaves out the spaces beyond [`MOST_SPACES`] with the fewest sockets.
fn keep_heaviest(case: &Case<'_>, drafts: &mut Vec<Draft<'_>>) {
    if drafts.len() <= MOST_SPACES {
        return;
    }
    let weight = |draft: &Draft<'_>| {
        let rates = draft.window.rates(case.now_ns, draft.since_ns);
        (draft.live as f64).max(rates.entered * 60.0) as u64
    };
    drafts.sort_by_cached_key(|draft| std::cmp::Reverse(weight(draft)));
    drafts.truncate(MOST_SPACES);
}

/// Adds the spaces in which nothing but open connections was seen: where they become more, or hold most
/// ports; and where they hold all of an address, whose ports `bind(address, 0)` then cannot have.
fn add_open<'a>(case: &Case<'a>, drafts: &mut Vec<Draft<'a>>) {
    for (netns, facts) in &case.facts.namespaces {
        let Some((open, range)) = facts.open.as_ref().zip(facts.port_range.as_ref()) else {
            continue;
        };
        let usable = arithmetic::usable_ports(range, &facts.reserved_ports);
        let many = |ports: u64| ports as f64 >= SHORT * usable as f64;
        let full = open.peers.iter().flat_map(|(remote, by_source)| {
            by_source.iter().filter(|(_, ports)| many(**ports)).map(|(local, _)| (*remote, *local))
        });
        let connects = facts
            .open_growth
            .keys()
            .copied()
            .chain(full)
            .map(|(remote, local)| (PortChoice::Connect, remote, local));
        let held = open.sources.iter().filter(|(_, ports)| **ports >= usable.max(1));
        let anybody = SocketAddr::from(([0, 0, 0, 0], 0));
        let binds = held.map(|(local, _)| (PortChoice::Bind, anybody, *local));
        for (chosen, remote, local) in connects.chain(binds) {
            let known = drafts.iter().any(|draft| {
                let space = &draft.space;
                (space.netns, space.local, space.chosen) == (*netns, local, chosen)
                    && (chosen == PortChoice::Bind || space.remote == remote)
            });
            let draft = if known { None } else { Draft::towards(case, *netns, local, remote) };
            drafts.extend(draft.map(|mut draft| {
                draft.space.chosen = chosen;
                draft
            }));
        }
    }
}

/// Adds the spaces in which calls failed and no socket was seen, and what failures tell of the others.
fn add_failed<'a>(case: &Case<'a>, drafts: &mut Vec<Draft<'a>>) {
    let mut places: Vec<&Place> = case.failures.places().collect();
    places.sort_by_key(|place| (std::cmp::Reverse(place.last_ns), place.local));
    for place in places.into_iter().take(MOST_SPACES) {
        let named = place.cause == Cause::AddressInUse && place.local.port() != 0;
        if place.gone || named || drafts.iter().any(|draft| draft.space.is_of(place)) {
            continue;
        }
        let near = drafts.iter_mut().map(|draft| &mut draft.space).find(|space| {
            let peer = place.remote == Some(space.remote) || space.chosen == PortChoice::Bind;
            let here = space.netns == place.netns && space.local == place.local.ip() && peer;
            here && match place.cause {
                Cause::PortBusy => space.chosen == PortChoice::Program,
                // The sockets seen were there before, when it was not noted whose range it is.
                _ => place.own_range && !space.own_range && space.chosen != PortChoice::Program,
            }
        });
        match near {
            Some(space) if place.cause == Cause::PortBusy => space.add(place.local.port()),
            Some(space) => space.adopt_range(place),
            None => {
                let row = row_of(case, place);
                drafts.extend(row.and_then(|row| Draft::of_failure(case, row, place)));
            }
        }
    }
}

/// The row of the peer of a call, or any of its namespace's where it has none.
fn row_of(case: &Case<'_>, place: &Place) -> Option<usize> {
    case.peers.iter().position(|peer| {
        let Group::Peer { netns, role: Role::Client, address, port } = peer.group else {
            return false;
        };
        let remote = SocketAddr::new(ip(address), port);
        netns.current() == Some(place.netns) && place.remote.is_none_or(|wanted| wanted == remote)
    })
}
