//! What failed at one place: in all, in the last shortage, and in the last minute.

use std::net::SocketAddr;

use twtrace_common::{Failure, FailureKey, failed_flags};

use super::{Cause, MINUTE_NS, Program, SECOND_NS, add};
use crate::{
    event::ip,
    owner::{Owner, Owners},
};

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
    /// Whether it is inferred: calls that began and got no port, without their answers.
    pub inferred: bool,
    /// Whether the namespace is gone, and its number another one's.
    pub gone: bool,
    /// Failures of the last minute, by the time of the last one in each look.
    slots: [u32; SLOTS as usize],
}

impl Place {
    pub(super) fn of(key: &FailureKey, cause: Cause, failure: &Failure) -> Self {
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
            inferred: flags & failed_flags::INFERRED != 0,
            gone: false,
            slots: [0; SLOTS as usize],
        }
    }

    /// Adds what failed since the last look.
    pub(super) fn take(&mut self, failure: &Failure) {
        let anew = self.count > 0 && is_apart(self.last_ns, failure.last_ns);
        self.add(failure, if anew { failure.last_ns } else { self.shortage.since_ns });
    }

    /// Adds what failed in the shortage that began at a time.
    pub(super) fn add(&mut self, failure: &Failure, since_ns: u64) {
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
    pub(super) fn retold(&self) -> impl Iterator<Item = Failure> {
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
            flags: self.program.flags()
                | if self.own_range { failed_flags::OWN_RANGE } else { 0 }
                | if self.inferred { failed_flags::INFERRED } else { 0 },
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
