//! What failed: `connect()` calls that got no port and `bind()` calls that were refused, by place,
//! cause and program.
//!
//! The kernel programs count them ([`Input::Failures`](crate::origin::Input::Failures) has what came
//! since the last look), so that a retry loop costs no event each.

use std::{
    borrow::Cow,
    cmp::Reverse,
    collections::{BTreeMap, HashSet, hash_map::Entry},
    fmt,
    net::SocketAddr,
};

use rustc_hash::{FxBuildHasher, FxHashMap};
use twtrace_common::{CallResult, Failed, Failure, FailureKey, failed_flags};

use crate::{
    event::{ip, octets},
    owner::{Owner, Owners},
};

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

/// Who called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Program {
    /// Process, as the initial PID namespace numbers it.
    pub pid: u32,
    /// Name of the thread, padded with zeroes.
    pub comm: [u8; 16],
    /// Owner of the socket.
    pub uid: Option<u32>,
    /// Inode number of the control group that owns the socket.
    pub cgroup: Option<u64>,
    /// Whether it is a thread of the kernel, and the owner of the socket somebody else.
    pub kernel_thread: Option<bool>,
}

impl Program {
    /// Of what the kernel programs noted.
    pub const fn of(pid: u32, comm: [u8; 16], uid: u32, cgroup: u64, flags: u16) -> Self {
        Self {
            pid,
            comm,
            uid: if flags & failed_flags::OWNER_UNKNOWN == 0 { Some(uid) } else { None },
            cgroup: if cgroup == 0 { None } else { Some(cgroup) },
            kernel_thread: if flags & failed_flags::THREAD_UNKNOWN == 0 {
                Some(flags & failed_flags::KERNEL_THREAD != 0)
            } else {
                None
            },
        }
    }

    /// What was noted of it beside names and numbers.
    const fn flags(&self) -> u16 {
        let thread = match self.kernel_thread {
            Some(true) => failed_flags::KERNEL_THREAD,
            Some(false) => 0,
            None => failed_flags::THREAD_UNKNOWN,
        };
        thread | if self.uid.is_none() { failed_flags::OWNER_UNKNOWN } else { 0 }
    }

    /// Its name.
    pub fn name(&self) -> Cow<'_, str> {
        comm_text(&self.comm)
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.kernel_thread == Some(true) { "kernel thread " } else { "" };
        write!(f, "{kind}{} (pid {})", self.name(), self.pid)
    }
}

/// A name without the zeroes behind it. Anybody may call himself what he likes.
pub fn comm_text(comm: &[u8; 16]) -> Cow<'_, str> {
    let length = comm.iter().position(|byte| *byte == 0).unwrap_or(comm.len());
    String::from_utf8_lossy(&comm[..length])
}

impl From<&Failed> for Program {
    fn from(failed: &Failed) -> Self {
        Self::of(failed.pid, failed.comm, failed.uid, failed.cgroup, failed.header.flags)
    }
}

/// Nanoseconds within which a failure is one of now.
const MINUTE_NS: u64 = 60_000_000_000;

/// Nanoseconds of a second.
const SECOND_NS: u64 = 1_000_000_000;

/// Seconds that a slot of [`Place::last_minute`] holds.
const SLOT_S: u64 = 5;
/// Slots of a minute.
const SLOTS: u64 = 60 / SLOT_S;

/// Calls that failed with never a minute without one between them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shortage {
    /// How many.
    pub count: u64,
    /// `CLOCK_MONOTONIC` of the first, nanoseconds; of all but the first shortage of a place it is when
    /// the look that saw it ended, a second later at most.
    pub since_ns: u64,
}

/// What failed at one place, for one cause, in one program.
#[derive(Clone, Debug)]
pub struct Place {
    /// Inode number of the network namespace.
    pub netns: u32,
    /// Why.
    pub cause: Cause,
    /// This end; the port is the one asked for, 0 where the kernel had to choose.
    pub local: SocketAddr,
    /// The other end of a `connect()`.
    pub remote: Option<SocketAddr>,
    /// Who called.
    pub program: Program,
    /// Calls that failed.
    pub count: u64,
    /// `CLOCK_MONOTONIC` of the first, nanoseconds.
    pub first_ns: u64,
    /// `CLOCK_MONOTONIC` of the last, nanoseconds.
    pub last_ns: u64,
    /// The shortage of now, or the last there was.
    pub shortage: Shortage,
    /// Ports that the kernel could choose from when it failed last, if known.
    pub ports: Option<(u16, u16)>,
    /// Whether that range is the socket's own (`IP_LOCAL_PORT_RANGE`).
    pub own_range: bool,
    /// Whether the namespace is gone, and its number another one's.
    pub gone: bool,
    /// Failures of the last minute, by the time of the last one in each look.
    slots: [u32; SLOTS as usize],
}

impl Place {
    fn of(key: &FailureKey, cause: Cause, failure: &Failure) -> Self {
        let Failure { comm, uid, cgroup, flags, port_low, port_high, .. } = *failure;
        let remote = SocketAddr::new(ip(key.remote), key.remote_port);
        Self {
            netns: key.netns,
            cause,
            local: SocketAddr::new(ip(key.local), key.local_port),
            remote: (cause != Cause::AddressInUse).then_some(remote),
            program: Program::of(key.pid, comm, uid, cgroup, flags),
            count: 0,
            first_ns: failure.first_ns,
            last_ns: 0,
            shortage: Shortage { count: 0, since_ns: failure.first_ns },
            ports: (port_high != 0).then_some((port_low, port_high)),
            own_range: flags & failed_flags::OWN_RANGE != 0,
            gone: false,
            slots: [0; SLOTS as usize],
        }
    }

    /// Adds what failed since the last look.
    fn take(&mut self, failure: &Failure) {
        let anew = self.count > 0 && is_apart(self.last_ns, failure.last_ns);
        self.add(failure, if anew { failure.last_ns } else { self.shortage.since_ns });
    }

    /// Adds what failed in the shortage that began at a time.
    fn add(&mut self, failure: &Failure, since_ns: u64) {
        if since_ns > self.shortage.since_ns {
            self.shortage = Shortage { count: 0, since_ns };
        }
        let (before, now) = (slot(self.last_ns), slot(failure.last_ns));
        for passed in (before + 1..=now).rev().take(SLOTS as usize) {
            self.slots[(passed % SLOTS) as usize] = 0;
        }
        self.gone = false;
        if failure.port_high != 0 {
            self.ports = Some((failure.port_low, failure.port_high));
            self.own_range = failure.flags & failed_flags::OWN_RANGE != 0;
        }
        add(&mut self.count, failure.count);
        add(&mut self.shortage.count, failure.count);
        self.last_ns = self.last_ns.max(failure.last_ns);
        let slot = &mut self.slots[(now % SLOTS) as usize];
        *slot = slot.saturating_add(u32::try_from(failure.count).unwrap_or(u32::MAX));
    }

    /// Counts that leave the same behind when they are [added](Self::add) in this order, their first
    /// times being those of the shortages: what failed before this one, in this one more than a minute
    /// before the last, and each slot.
    fn retold(&self) -> impl Iterator<Item = Failure> {
        let Shortage { count, since_ns } = self.shortage;
        let newest = slot(self.last_ns);
        let oldest = (newest + 1).saturating_sub(SLOTS);
        let of = |slot: u64| u64::from(self.slots[(slot % SLOTS) as usize]);
        let lately: u64 = (oldest..=newest).map(of).sum();
        // The slots of the last minute have nothing of an earlier shortage.
        let earlier = (self.count.saturating_sub(count), self.first_ns, self.first_ns);
        let older_ns = since_ns.min((oldest * SLOT_S * SECOND_NS).saturating_sub(1));
        let older = (count.saturating_sub(lately), since_ns, older_ns);
        let slots =
            (oldest..newest).map(move |slot| (of(slot), since_ns, slot * SLOT_S * SECOND_NS));
        let (port_low, port_high) = self.ports.unwrap_or_default();
        let failure = Failure {
            comm: self.program.comm,
            uid: self.program.uid.unwrap_or_default(),
            cgroup: self.program.cgroup.unwrap_or_default(),
            flags: self.program.flags() | if self.own_range { failed_flags::OWN_RANGE } else { 0 },
            port_low,
            port_high,
            ..Failure::default()
        };
        [earlier, older]
            .into_iter()
            .chain(slots)
            .filter(|(count, ..)| *count > 0)
            .chain([(of(newest), since_ns, self.last_ns)])
            .map(move |(count, first_ns, last_ns)| Failure { count, first_ns, last_ns, ..failure })
    }

    /// Whose socket it was about, if that is known.
    pub fn owner<'a>(&self, owners: &'a Owners) -> Option<&'a Owner> {
        let netns = if self.gone { 0 } else { self.netns };
        owners.of(self.program.cgroup, netns, 0).map(|known| &*known.owner)
    }

    /// Calls that failed in the last minute, to within five seconds.
    pub fn last_minute(&self, now_ns: u64) -> u64 {
        let newest = slot(self.last_ns);
        let oldest = (slot(now_ns) + 1).saturating_sub(SLOTS);
        let kept = (newest + 1).saturating_sub(SLOTS).max(oldest)..=newest;
        kept.map(|slot| u64::from(self.slots[(slot % SLOTS) as usize])).sum()
    }
}

/// Whether calls that failed at two times are of two shortages, where none did in between.
pub const fn is_apart(earlier_ns: u64, later_ns: u64) -> bool {
    later_ns.saturating_sub(earlier_ns) > MINUTE_NS
}

/// Number of the slot that a time lies in.
const fn slot(mono_ns: u64) -> u64 {
    mono_ns / (SLOT_S * SECOND_NS)
}

/// What became of the `bind()` calls of one program since its first that was refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Binds {
    /// Refused.
    pub refused: u64,
    /// Of them, followed by a successful one within a second: the program looks for a free port.
    pub answered: u64,
    /// Of them, not followed by one so soon. The others are too young to tell.
    pub unanswered: u64,
    /// Successful.
    pub bound: u64,
    /// `CLOCK_MONOTONIC` of the last refusal, nanoseconds.
    pub refused_ns: u64,
    /// `CLOCK_MONOTONIC` of the last success, nanoseconds; 0 for none.
    pub bound_ns: u64,
    /// When it was last told that no success had come soon, `CLOCK_MONOTONIC` nanoseconds.
    pub unanswered_ns: u64,
}

impl Binds {
    /// A program that gets a port within this time was merely looking for one, nanoseconds.
    pub const PATIENCE_NS: u64 = 1_000_000_000;

    const fn add(&mut self, result: CallResult, failure: &Failure) {
        let Failure { count, last_ns, .. } = *failure;
        let (sum, latest) = match result {
            CallResult::AddressInUse => (&mut self.refused, Some(&mut self.refused_ns)),
            CallResult::Bound => (&mut self.bound, Some(&mut self.bound_ns)),
            CallResult::Answered => (&mut self.answered, None),
            CallResult::Unanswered => (&mut self.unanswered, Some(&mut self.unanswered_ns)),
            CallResult::Tried | CallResult::NoPort | CallResult::PortBusy => return,
        };
        add(sum, count);
        if let Some(latest) = latest
            && *latest < last_ns
        {
            *latest = last_ns;
        }
    }

    /// Refused calls that no success followed within a second, as of `now_ns`.
    pub const fn unanswered_at(&self, now_ns: u64) -> u64 {
        if now_ns.saturating_sub(self.refused_ns) > Self::PATIENCE_NS {
            self.refused.saturating_sub(self.answered)
        } else {
            self.unanswered
        }
    }

    /// Whether one of the refusals of the last minute was followed by no success within a second, as of
    /// `now_ns`.
    pub const fn in_vain(&self, now_ns: u64) -> bool {
        let waits = self.refused > self.answered + self.unanswered;
        let told = now_ns.saturating_sub(self.unanswered_ns) < MINUTE_NS && self.unanswered > 0;
        let since = now_ns.saturating_sub(self.refused_ns);
        told || (waits && since > Self::PATIENCE_NS && since < MINUTE_NS)
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
