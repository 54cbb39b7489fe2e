//! Failed calls, put together by the ports they wanted.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use crate::{
    diagnose::{Scene, pressure::Pressure},
    failures::{Cause, Failures, Place, Program, is_apart},
    owner::{Owner, Owners},
};

/// The calls that failed for the ports of one space, or for one port that they named, in the last
/// shortage of it.
pub struct Group<'s> {
    /// The places, those with the most failures first.
    pub places: Vec<&'s Place>,
    /// When the first failed, `CLOCK_MONOTONIC` nanoseconds.
    pub since_ns: u64,
    /// Calls that failed in earlier shortages.
    pub earlier: u64,
    /// The space, if it is known.
    pub ports: Option<&'s Pressure>,
}

/// What calls belong together by.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Wanted {
    /// A port of the space at an index.
    Space(usize),
    /// Anything else.
    Other(u32, bool, Cause, SocketAddr, Option<SocketAddr>),
}

/// All groups of a scene, those with the most failures first.
pub fn groups<'s>(scene: &'s Scene<'_>) -> Vec<Group<'s>> {
    let mut groups: BTreeMap<Wanted, Vec<&'s Place>> = BTreeMap::new();
    for place in scene.case.failures.places() {
        let space = scene.ports().iter().position(|ports| ports.space.is_of(place));
        let wanted = space.map_or(
            Wanted::Other(place.netns, place.gone, place.cause, place.local, place.remote),
            Wanted::Space,
        );
        groups.entry(wanted).or_default().push(place);
    }
    let of = |(wanted, mut places): (Wanted, Vec<&'s Place>)| {
        let all: u64 = places.iter().map(|place| place.count).sum();
        let since_ns = last_shortage(&mut places);
        places.sort_by_key(|place| (Reverse(place.shortage.count), place.program.pid, place.local));
        let ports = match wanted {
            Wanted::Space(index) => scene.ports().get(index),
            Wanted::Other(..) => None,
        };
        let mut group = Group { places, ports, since_ns, earlier: 0 };
        group.earlier = all.saturating_sub(group.count());
        group
    };
    let mut groups: Vec<_> = groups.into_iter().map(of).collect();
    groups.sort_by_key(|group| Reverse(group.count()));
    groups
}

/// Leaves the places of the last shortage, and says when that began: each of them failed within a
/// minute of another.
fn last_shortage(places: &mut Vec<&Place>) -> u64 {
    places.sort_by_key(|place| Reverse(place.last_ns));
    let mut since_ns = u64::MAX;
    let apart = places.iter().position(|place| {
        let apart = since_ns != u64::MAX && is_apart(place.last_ns, since_ns);
        since_ns = if apart { since_ns } else { since_ns.min(place.shortage.since_ns) };
        apart
    });
    places.truncate(apart.unwrap_or(places.len()));
    since_ns
}

impl<'s> Group<'s> {
    /// The place with the most failures.
    pub fn first(&self) -> &'s Place {
        self.places[0]
    }

    /// Calls that failed.
    pub fn count(&self) -> u64 {
        self.places.iter().map(|place| place.shortage.count).sum()
    }

    /// Calls that failed in the last minute.
    pub fn lately(&self, now_ns: u64) -> u64 {
        self.places.iter().map(|place| place.last_minute(now_ns)).sum()
    }

    /// When the last failed, `CLOCK_MONOTONIC` nanoseconds.
    pub fn last_ns(&self) -> u64 {
        self.places.iter().map(|place| place.last_ns).max().unwrap_or(0)
    }

    /// Calls of the same programs to the same peers, failed or not, since the first that failed;
    /// `None` of `bind()`, and of a program that failed in an earlier shortage: its calls are counted
    /// since then.
    pub fn tried(&self, failures: &Failures) -> Option<u64> {
        let mut programs: BTreeMap<(u32, Option<SocketAddr>), u64> = BTreeMap::new();
        if self.places.iter().any(|place| place.shortage.count < place.count) {
            return None;
        }
        for place in &self.places {
            programs.insert((place.program.pid, place.remote), failures.tried(place)?);
        }
        Some(programs.values().sum::<u64>().max(self.count()))
    }

    /// Whether they are `bind()` calls.
    pub fn is_bind(&self) -> bool {
        self.first().cause == Cause::AddressInUse
    }

    /// Whether a program was left without a port in the last minute: of `bind()` calls, that it did
    /// not soon find another.
    pub fn is_failing(&self, failures: &Failures, now_ns: u64) -> bool {
        let in_vain = |place: &Place| {
            place.last_minute(now_ns) > 0
                && (place.remote.is_some() || failures.binds(place).in_vain(now_ns))
        };
        self.places.iter().any(|place| in_vain(place))
    }

    /// Whether all were `bind()` calls of programs that found another port soon.
    pub fn found_another(&self, failures: &Failures, now_ns: u64) -> bool {
        let searching = |place: &Place| {
            place.remote.is_none() && failures.binds(place).unanswered_at(now_ns) == 0
        };
        self.places.iter().all(|place| searching(place))
    }

    /// The programs, by name and process, those with the most failures first; two by name.
    pub fn programs(&self) -> String {
        let mut seen = BTreeSet::new();
        let programs: Vec<&Program> = self
            .places
            .iter()
            .map(|place| &place.program)
            .filter(|program| seen.insert(program.pid))
            .collect();
        let text = |program: &&Program| program.to_string();
        match programs.as_slice() {
            [first] => first.to_string(),
            [first, second] => format!("{first} and {second}"),
            [first, rest @ ..] => format!("{} and {} other processes", text(first), rest.len()),
            [] => String::new(),
        }
    }

    /// Whose the calls are, if all are one's.
    pub fn owner<'a>(&self, owners: Option<&'a Owners>) -> Option<&'a Owner> {
        let mut all = self.places.iter().map(|place| place.owner(owners?));
        let first = all.next()??;
        all.all(|owner| owner.is_some_and(|owner| owner.name == first.name)).then_some(first)
    }

    /// The peers, the first of them by name.
    pub fn peers(&self) -> Option<String> {
        let peers: BTreeSet<SocketAddr> =
            self.places.iter().filter_map(|place| place.remote).collect();
        let first = self.first().remote?;
        Some(match peers.len() {
            1 => first.to_string(),
            many => format!("{first} and {} other peers", many - 1),
        })
    }
}
