//! What failed: `connect()` calls that got no port and `bind()` calls that were refused, by place,
//! cause and program.
//!
//! The kernel programs count them ([`Input::Failures`](crate::origin::Input::Failures) has what came
//! since the last look), so that a retry loop costs no event each.

mod binds;
mod place;
mod program;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashSet, hash_map::Entry},
};

use rustc_hash::{FxBuildHasher, FxHashMap};
use twtrace_common::{CallResult, Failure, FailureKey};

pub use binds::Binds;
pub use place::{Place, Shortage, is_apart};
pub use program::{Program, comm_text};

use crate::event::octets;

/// Nanoseconds within which a failure is one of now.
const MINUTE_NS: u64 = 60_000_000_000;

/// Nanoseconds of a second.
const SECOND_NS: u64 = 1_000_000_000;

/// Why a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// A `connect()` had to choose a port and found none (`EADDRNOTAVAIL`).
    NoPort,
    /// The port that a `connect()` came with is held by another connection to the same peer
    /// (`EADDRNOTAVAIL`).
    PortBusy,
    /// A `bind()` was refused (`EADDRINUSE`).
    AddressInUse,
}

impl Cause {
    /// All of them, in the order of [`FailedCalls`].
    pub const ALL: [Self; 3] = [Self::NoPort, Self::PortBusy, Self::AddressInUse];

    /// Name in machine output.
    pub const fn key(self) -> &'static str {
        match self {
            Self::NoPort => "no_port",
            Self::PortBusy => "port_busy",
            Self::AddressInUse => "address_in_use",
        }
    }

    /// What happened, for people.
    pub const fn words(self) -> &'static str {
        match self {
            Self::NoPort => "connect() found no port",
            Self::PortBusy => "the port of connect() was busy",
            Self::AddressInUse => "bind() was refused",
        }
    }

    /// What the kernel counted it as, if that is a failure.
    pub const fn of(result: u8) -> Option<Self> {
        match CallResult::from_u8(result) {
            Some(CallResult::NoPort) => Some(Self::NoPort),
            Some(CallResult::PortBusy) => Some(Self::PortBusy),
            Some(CallResult::AddressInUse) => Some(Self::AddressInUse),
            _ => None,
        }
    }
}

/// Adds a count. One of a recording may be anything.
const fn add(sum: &mut u64, count: u64) {
    *sum = sum.saturating_add(count);
}

/// Failed calls, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FailedCalls<N = u64> {
    /// In the order of [`Cause::ALL`].
    pub by_cause: [N; 3],
}

impl FailedCalls {
    /// The count of one cause.
    pub const fn of(&self, cause: Cause) -> u64 {
        self.by_cause[cause as usize]
    }

    /// `connect()` calls.
    pub const fn connects(&self) -> u64 {
        self.of(Cause::NoPort).saturating_add(self.of(Cause::PortBusy))
    }

    /// All of them.
    pub const fn total(&self) -> u64 {
        self.connects().saturating_add(self.of(Cause::AddressInUse))
    }
}

/// What a view shows of all that failed.
#[derive(Clone, Debug, Default)]
pub struct FailedPlaces {
    /// `connect()` calls, those that failed last first, and how many of them there were in all.
    pub connects: Vec<(Place, Option<u64>)>,
    /// `bind()` calls, likewise, and how their programs fared.
    pub binds: Vec<(Place, Binds)>,
    /// Refused `bind()` calls by network namespace.
    pub refused: BTreeMap<u32, u64>,
    /// The moment, `CLOCK_MONOTONIC` nanoseconds.
    pub now_ns: u64,
}

impl FailedPlaces {
    /// Most places of either kind that are shown one by one.
    pub const MOST: usize = 64;

    /// What is there to show at a moment.
    pub fn at(failures: &Failures, now_ns: u64) -> Self {
        let connects = failures.newest(|place| place.remote.is_some());
        let binds = failures.newest(|place| place.remote.is_none());
        let tried = |place: &Place| (place.clone(), failures.tried(place));
        let fared = |place: &Place| (place.clone(), failures.binds(place));
        Self {
            connects: connects.into_iter().take(Self::MOST).map(tried).collect(),
            binds: binds.into_iter().take(Self::MOST).map(fared).collect(),
            refused: failures.refused.clone(),
            now_ns,
        }
    }
}

/// Everything that failed.
#[derive(Debug, Default)]
pub struct Failures {
    places: FxHashMap<FailureKey, Place>,
    /// `connect()` calls of programs that failed to connect, by key of [`CallResult::Tried`].
    tried: FxHashMap<FailureKey, u64>,
    /// By namespace and process.
    binds: FxHashMap<(u32, u32), Binds>,
    /// What failed at places no longer told apart.
    other: FailedCalls,
    /// Refused `bind()` calls by network namespace, at places told apart or not.
    refused: BTreeMap<u32, u64>,
    /// What of all that failed before this session.
    before: FailedCalls,
    last_ns: u64,
}

/// Nothing failed.
pub static NONE: Failures = Failures {
    places: FxHashMap::with_hasher(FxBuildHasher),
    tried: FxHashMap::with_hasher(FxBuildHasher),
    binds: FxHashMap::with_hasher(FxBuildHasher),
    other: FailedCalls { by_cause: [0; 3] },
    refused: BTreeMap::new(),
    before: FailedCalls { by_cause: [0; 3] },
    last_ns: 0,
};

impl Failures {
    /// Most places told apart; those quiet for longest are the first to be counted as other.
    pub const CAPACITY: usize = 4096;

    /// A namespace is gone, and another one has its number.
    pub fn retire(&mut self, inum: u32) {
        self.places
            .values_mut()
            .filter(|place| place.netns == inum)
            .for_each(|place| place.gone = true);
    }

    /// Takes in what was counted for a key since the last time; first and last time are of all.
    pub fn take(&mut self, key: &FailureKey, failure: &Failure) {
        if self.add(key, failure, Place::take) == Some(Cause::AddressInUse) {
            add(self.refused.entry(key.netns).or_default(), failure.count);
        }
    }

    /// Takes in what another session [told](Self::retold) of the time before this one.
    pub fn recall(&mut self, key: &FailureKey, failure: &Failure) {
        let told = |place: &mut Place, failure: &Failure| place.add(failure, failure.first_ns);
        if let Some(cause) = self.add(key, failure, told) {
            add(&mut self.before.by_cause[cause as usize], failure.count);
        }
    }

    /// All of it as counts to [recall](Self::recall), in this order; but what is of a namespace that is
    /// gone, or at places no longer told apart.
    pub fn retold(&self) -> Vec<(FailureKey, Failure)> {
        let here = self.places.iter().filter(|(_, place)| !place.gone);
        let places =
            here.flat_map(|(key, place)| place.retold().map(move |failure| (*key, failure)));
        let tried = self
            .tried
            .iter()
            .map(|(key, count)| (*key, Failure { count: *count, ..Failure::default() }));
        let binds = self.binds.iter().flat_map(|(&(netns, pid), binds)| {
            [
                (CallResult::Bound, binds.bound, binds.bound_ns),
                (CallResult::Answered, binds.answered, 0),
                (CallResult::Unanswered, binds.unanswered, binds.unanswered_ns),
            ]
            .map(|(result, count, last_ns)| {
                let result = result as u8;
                let key = FailureKey { netns, pid, result, ..FailureKey::default() };
                (key, Failure { count, last_ns, ..Failure::default() })
            })
        });
        places.chain(tried).chain(binds.filter(|(_, failure)| failure.count > 0)).collect()
    }

    /// Adds to the count of a key, and says why the calls failed if they did.
    fn add(
        &mut self,
        key: &FailureKey,
        failure: &Failure,
        to_place: impl FnOnce(&mut Place, &Failure),
    ) -> Option<Cause> {
        let result = CallResult::from_u8(key.result)?;
        match result {
            CallResult::Tried => add(self.tried.entry(*key).or_default(), failure.count),
            CallResult::NoPort | CallResult::PortBusy => {}
            CallResult::AddressInUse
            | CallResult::Bound
            | CallResult::Answered
            | CallResult::Unanswered => {
                self.binds.entry((key.netns, key.pid)).or_default().add(result, failure);
            }
        }
        let cause = Cause::of(key.result)?;
        self.last_ns = self.last_ns.max(failure.last_ns);
        if self.places.len() >= Self::CAPACITY && !self.places.contains_key(key) {
            self.make_room();
        }
        let place = match self.places.entry(*key) {
            Entry::Occupied(place) => place.into_mut(),
            Entry::Vacant(free) => free.insert(Place::of(key, cause, failure)),
        };
        to_place(place, failure);
        Some(cause)
    }

    /// Lets go of the quarter of the places that was quiet for longest.
    fn make_room(&mut self) {
        let mut times: Vec<u64> = self.places.values().map(|place| place.last_ns).collect();
        let (_, limit, _) = times.select_nth_unstable(Self::CAPACITY / 4);
        let limit = *limit;
        let other = &mut self.other;
        self.places.retain(|_, place| {
            let stays = place.last_ns > limit;
            if !stays {
                add(&mut other.by_cause[place.cause as usize], place.count);
            }
            stays
        });
        let programs: HashSet<(u32, u32)> =
            self.places.keys().map(|key| (key.netns, key.pid)).collect();
        self.tried.retain(|key, _| programs.contains(&(key.netns, key.pid)));
        self.binds.retain(|program, _| programs.contains(program));
    }

    /// The places, in no order.
    pub fn places(&self) -> impl Iterator<Item = &Place> {
        self.places.values()
    }

    /// The places of `bind()` calls, those that failed last first.
    pub fn refused_binds(&self) -> Vec<&Place> {
        self.newest(|place| place.cause == Cause::AddressInUse)
    }

    /// Places of a kind, those that failed last first.
    fn newest(&self, kind: impl Fn(&Place) -> bool) -> Vec<&Place> {
        let mut places: Vec<_> = self.places().filter(|place| kind(place)).collect();
        places.sort_by_key(|place| {
            (Reverse(place.last_ns), place.netns, place.remote, place.local, place.program.pid)
        });
        places
    }

    /// `connect()` calls of a place's program to its peer, failed or not, since the first failure
    /// there; `None` of a `bind()`.
    pub fn tried(&self, place: &Place) -> Option<u64> {
        let remote = place.remote?;
        let key = FailureKey {
            remote: octets(remote.ip()),
            netns: place.netns,
            pid: place.program.pid,
            remote_port: remote.port(),
            result: CallResult::Tried as u8,
            ..FailureKey::default()
        };
        self.tried.get(&key).copied()
    }

    /// What became of the `bind()` calls of a place's program.
    pub fn binds(&self, place: &Place) -> Binds {
        self.binds.get(&(place.netns, place.program.pid)).copied().unwrap_or_default()
    }

    /// What failed at places that are not told apart.
    pub const fn other(&self) -> FailedCalls {
        self.other
    }

    /// All that failed in this session.
    pub fn counts(&self) -> FailedCalls {
        let mut counts = self.other;
        for place in self.places() {
            add(&mut counts.by_cause[place.cause as usize], place.count);
        }
        for (count, before) in counts.by_cause.iter_mut().zip(self.before.by_cause) {
            *count = count.saturating_sub(before);
        }
        counts
    }

    /// `CLOCK_MONOTONIC` of the last failure, nanoseconds; 0 if nothing failed.
    pub const fn last_ns(&self) -> u64 {
        self.last_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn key(result: CallResult, pid: u32, port: u16) -> FailureKey {
        let connect = !matches!(
            result,
            CallResult::AddressInUse
                | CallResult::Bound
                | CallResult::Answered
                | CallResult::Unanswered
        );
        let v4 = |last| std::net::Ipv4Addr::new(10, 0, 0, last).to_ipv6_mapped().octets();
        FailureKey {
            local: if matches!(result, CallResult::Tried) { [0; 16] } else { v4(1) },
            remote: if connect { v4(2) } else { [0; 16] },
            netns: 7,
            pid,
            local_port: if connect { 0 } else { port },
            remote_port: if connect { port } else { 0 },
            result: result as u8,
            reserved: [0; 3],
        }
    }

    fn calls(count: u64, first_s: u64, last_s: u64) -> Failure {
        let (first_ns, last_ns) = (first_s * SECOND, last_s * SECOND);
        let comm = *b"client\0\0\0\0\0\0\0\0\0\0";
        Failure { count, first_ns, last_ns, comm, uid: 1000, ..Failure::default() }
    }

    #[test]
    fn a_place_says_how_many_of_how_many_and_since_when() {
        let mut failures = Failures::default();
        failures.take(&key(CallResult::NoPort, 42, 443), &calls(3, 100, 101));
        failures.take(&key(CallResult::Tried, 42, 443), &calls(10, 100, 101));
        failures.take(&key(CallResult::NoPort, 42, 443), &calls(2, 100, 130));
        failures.take(&key(CallResult::Tried, 42, 443), &calls(7, 100, 130));
        let [place] = failures.places().collect::<Vec<_>>()[..] else { panic!("one place") };
        assert_eq!((place.count, place.first_ns, place.last_ns), (5, 100 * SECOND, 130 * SECOND));
        assert_eq!(place.remote.unwrap().to_string(), "10.0.0.2:443");
        assert_eq!(place.local.to_string(), "10.0.0.1:0");
        assert_eq!((&*place.program.name(), place.program.uid), ("client", Some(1000)));
        assert_eq!(failures.tried(place), Some(17));
        assert_eq!(failures.counts().of(Cause::NoPort), 5);
        assert_eq!(failures.last_ns(), 130 * SECOND);
    }

    #[test]
    fn what_failed_leaves_the_last_minute() {
        let mut failures = Failures::default();
        let at = |failures: &Failures, now_s: u64| {
            failures.places().next().unwrap().last_minute(now_s * SECOND)
        };
        failures.take(&key(CallResult::NoPort, 42, 443), &calls(3, 100, 100));
        failures.take(&key(CallResult::NoPort, 42, 443), &calls(5, 100, 130));
        assert_eq!((at(&failures, 130), at(&failures, 154)), (8, 8));
        assert_eq!((at(&failures, 160), at(&failures, 184), at(&failures, 190)), (5, 5, 0));
        failures.take(&key(CallResult::NoPort, 42, 443), &calls(1, 100, 300));
        assert_eq!((at(&failures, 300), at(&failures, 1000)), (1, 0));
    }

    #[test]
    fn a_minute_without_a_failure_parts_two_shortages() {
        let mut failures = Failures::default();
        let shortage = |of: &Failures| {
            let place = of.places().next().unwrap();
            (place.count, place.shortage.count, place.shortage.since_ns / SECOND)
        };
        for (count, last_s, expected) in [
            (300, 110, (300, 300, 100)),
            (50, 170, (350, 350, 100)),
            (7, 231, (357, 7, 231)),
            (1, 290, (358, 8, 231)),
            (2, 351, (360, 2, 351)),
        ] {
            failures.take(&key(CallResult::NoPort, 42, 443), &calls(count, 100, last_s));
            assert_eq!(shortage(&failures), expected, "{last_s}");
            let mut told = Failures::default();
            failures.retold().iter().for_each(|(key, failure)| told.recall(key, failure));
            assert_eq!(shortage(&told), expected, "told at {last_s}");
        }
    }

    #[test]
    fn a_program_that_finds_a_port_within_a_second_was_looking_for_one() {
        let mut failures = Failures::default();
        failures.take(&key(CallResult::AddressInUse, 42, 5000), &calls(1, 100, 100));
        failures.take(&key(CallResult::AddressInUse, 42, 5001), &calls(1, 100, 100));
        let binds = |failures: &Failures| failures.binds(failures.refused_binds()[0]);
        let open = binds(&failures);
        assert_eq!((open.unanswered_at(100 * SECOND), open.unanswered_at(102 * SECOND)), (0, 2));
        failures.take(&key(CallResult::Answered, 42, 0), &calls(2, 100, 100));
        failures.take(&key(CallResult::Bound, 42, 0), &calls(1, 100, 100));
        let healthy = binds(&failures);
        assert_eq!((healthy.bound, healthy.unanswered_at(200 * SECOND)), (1, 0));
        failures.take(&key(CallResult::AddressInUse, 42, 5000), &calls(3, 100, 300));
        failures.take(&key(CallResult::Unanswered, 42, 0), &calls(2, 300, 300));
        assert_eq!(binds(&failures).unanswered_at(300 * SECOND), 2, "of one it is not known yet");
        assert_eq!(binds(&failures).unanswered_at(302 * SECOND), 3);
        let places: Vec<_> =
            failures.refused_binds().iter().map(|place| place.local.port()).collect();
        assert_eq!(places, [5000, 5001]);
    }

    #[test]
    fn what_is_retold_leaves_the_same_picture_and_no_counts() {
        let mut failures = Failures::default();
        for (count, last_s) in [(3, 100), (4, 130), (5, 170), (6, 172), (1, 191)] {
            failures.take(&key(CallResult::NoPort, 42, 443), &calls(count, 100, last_s));
            failures.take(&key(CallResult::Tried, 42, 443), &calls(50, 100, last_s));
        }
        failures.take(&key(CallResult::AddressInUse, 43, 5000), &calls(7, 150, 190));
        failures.take(&key(CallResult::Answered, 43, 0), &calls(4, 150, 190));
        failures.take(&key(CallResult::Unanswered, 43, 0), &calls(2, 150, 190));
        failures.take(&key(CallResult::Bound, 43, 0), &calls(1, 150, 189));
        failures.take(&key(CallResult::NoPort, 44, 443), &calls(9, 3, 3));

        let mut told = Failures::default();
        failures.retold().iter().for_each(|(key, failure)| told.recall(key, failure));
        assert_eq!((told.counts().total(), failures.counts().total()), (0, 35));
        for now_s in 191..260 {
            let picture = |of: &Failures| {
                let FailedPlaces { connects, binds, .. } = FailedPlaces::at(of, now_s * SECOND);
                format!("{connects:?} {binds:?}")
            };
            assert_eq!(picture(&told), picture(&failures), "{now_s}");
        }
        told.take(&key(CallResult::NoPort, 42, 443), &calls(2, 100, 200));
        assert_eq!(told.counts().of(Cause::NoPort), 2, "what failed since is counted");
        assert_eq!(
            told.places().map(|place| place.count).max(),
            Some(21),
            "and told with the rest"
        );
        assert!(told.refused.is_empty());
    }

    #[test]
    fn counts_that_cannot_be_are_as_many_as_can_be() {
        let mut failures = Failures::default();
        for result in [CallResult::NoPort, CallResult::Tried, CallResult::AddressInUse] {
            failures.take(&key(result, 42, 443), &calls(u64::MAX, 100, 100));
            failures.take(&key(result, 42, 443), &calls(u64::MAX, 100, 100));
            failures.recall(&key(result, 43, 443), &calls(u64::MAX, 100, 100));
        }
        assert!(failures.places().all(|place| place.count == u64::MAX));
        failures.take(&key(CallResult::NoPort, 44, 443), &calls(2, 100, 100));
        assert!(failures.counts().total() < u64::MAX, "what was before is taken off");
    }

    #[test]
    fn too_many_places_become_other_and_no_failure_is_lost() {
        let mut failures = Failures::default();
        let places = u32::try_from(Failures::CAPACITY).unwrap() + 10;
        for pid in 0..places {
            failures.take(&key(CallResult::NoPort, pid, 443), &calls(2, 1, 1 + u64::from(pid)));
            failures.take(&key(CallResult::Tried, pid, 443), &calls(2, 1, 1 + u64::from(pid)));
        }
        assert!(failures.places().count() <= Failures::CAPACITY);
        assert!(failures.tried.len() <= Failures::CAPACITY, "they go with their places");
        assert!(failures.other().total() > 0);
        assert_eq!(failures.counts().total(), 2 * u64::from(places));
        let newest = failures.places().map(|place| place.last_ns).max();
        assert_eq!(newest, Some(u64::from(places) * SECOND));
    }
}
