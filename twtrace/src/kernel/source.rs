//! Reads what the kernel programs send and count.

use std::{collections::HashMap as StdHashMap, os::fd::AsRawFd};

use aya::{
    Ebpf, Pod,
    maps::{HashMap, Map, MapData},
};
use serde::{Deserialize, Serialize};
use tokio::io::{Interest, unix::AsyncFd};
use twtrace_common::{Counter, Entered, Live, RefusalKey, Refusals};

use super::{KernelError, listing, outlet::Outlet};
use crate::{
    event::{Batch, BatchBuilder},
    peer::Refused,
};

/// Most records taken out of the buffer before whoever waits gets a turn.
const BATCH: usize = 16_384;

/// Value of the live map as aya wants it.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct PodLive(Live);
// SAFETY: repr(C) and integers only; every byte is written by the kernel side.
unsafe impl Pod for PodLive {}

/// Exact totals of the kernel programs, all CPUs together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<u64>", into = "Vec<u64>")]
pub struct Totals {
    by_counter: [u64; Counter::COUNT as usize],
}

impl From<Vec<u64>> for Totals {
    /// By index; counters that whoever wrote them did not have are 0.
    fn from(counts: Vec<u64>) -> Self {
        let mut totals = Self::default();
        for (total, count) in totals.by_counter.iter_mut().zip(counts) {
            *total = count;
        }
        totals
    }
}

impl From<Totals> for Vec<u64> {
    fn from(totals: Totals) -> Self {
        totals.by_counter.to_vec()
    }
}

impl Totals {
    /// One total.
    pub fn of(&self, counter: Counter) -> u64 {
        self.by_counter[counter as usize]
    }

    /// Totals with one of them set; for sources that are not a kernel.
    #[must_use]
    pub fn with(mut self, counter: Counter, value: u64) -> Self {
        self.by_counter[counter as usize] = value;
        self
    }

    /// What was counted since `before`. A counter that is behind it wraps, as one that a feed
    /// from the middle sets back does.
    #[must_use]
    pub fn since(mut self, before: &Self) -> Self {
        for (count, before) in self.by_counter.iter_mut().zip(before.by_counter) {
            *count = count.wrapping_sub(before);
        }
        self
    }

    /// Events that found no room in the buffer.
    pub fn lost(&self) -> u64 {
        self.of(Counter::LostEntered) + self.of(Counter::LostEnded) + self.of(Counter::LostPresent)
    }
}

impl Totals {
    /// Adds one CPU's count.
    pub(super) fn add(&mut self, counter: Counter, count: u64) {
        self.by_counter[counter as usize] += count;
    }
}

/// What the kernel programs have to say.
pub struct Source {
    outlet: Outlet,
    live: HashMap<MapData, u64, PodLive>,
    seen_refusals: StdHashMap<RefusalKey, Refusals>,
    batch: BatchBuilder,
}

impl Source {
    pub(super) fn new(ebpf: &mut Ebpf, outlet: Outlet) -> Result<Self, KernelError> {
        let live = HashMap::try_from(take(ebpf, "LIVE")?);
        Ok(Self {
            outlet,
            live: live.map_err(|error| KernelError::Object(error.to_string()))?,
            seen_refusals: StdHashMap::new(),
            batch: BatchBuilder::default(),
        })
    }

    /// Waits until the kernel side says that much is waiting. Less than that is taken out on the
    /// caller's own timer.
    ///
    /// # Errors
    /// [`KernelError::Ring`].
    pub async fn readable(&self) -> Result<(), KernelError> {
        self.outlet.readable().await
    }

    /// Takes out what is waiting now, up to a bound; `None` when nothing was.
    pub fn drain(&mut self) -> Option<Batch> {
        self.outlet.drain(&mut self.batch, BATCH);
        (!self.batch.is_empty()).then(|| self.batch.take())
    }

    /// Takes out what is waiting while the sockets that were there at the start are being found;
    /// `None` also when it has to wait for what is found.
    pub fn drain_meanwhile(&mut self) -> Option<Batch> {
        self.outlet.drain_meanwhile(&mut self.batch, BATCH);
        (!self.batch.is_empty()).then(|| self.batch.take())
    }

    /// Follows those of the sockets listed at the start that were there before the session, and
    /// answers their records.
    pub fn follow(&mut self, listed: Vec<Entered>) -> Batch {
        self.outlet.follow(listed, &mut self.batch);
        self.batch.take()
    }

    /// Gives a socket found in TIME_WAIT the name that its end will have: its address, or the number
    /// that stands for it. `None` if it is not followed.
    pub fn named(&self, found: Entered) -> Option<Entered> {
        match self.outlet.by_ends() {
            Some(sockets) => sockets.named(&found),
            None => Some(found),
        }
    }

    /// Reads the exact totals.
    ///
    /// # Errors
    /// [`KernelError::Object`].
    pub fn totals(&mut self) -> Result<Totals, KernelError> {
        self.outlet.totals()
    }

    /// Refusals that came since the last call, by peer.
    pub fn new_refusals(&mut self) -> Vec<(RefusalKey, Refused)> {
        let mut all: StdHashMap<RefusalKey, Refusals> = StdHashMap::new();
        self.outlet.refusals(|key, count| {
            let peer = all.entry(RefusalKey { reason: 0, ..key }).or_default();
            if let Some(total) = peer.by_reason.get_mut(usize::from(key.reason)) {
                *total += count;
            }
        });
        let mut changed = Vec::new();
        for (key, now) in all {
            let before = self.seen_refusals.insert(key, now).unwrap_or_default();
            let refused = Refused::since(&now, &before);
            if refused.total() > 0 {
                changed.push((key, refused));
            }
        }
        changed
    }

    /// Whether the kernel side still follows the socket that entered at `entered_ns`. Of one that it
    /// never followed the answer is yes: it cannot tell.
    pub fn follows(&self, tw: u64, entered_ns: u64) -> bool {
        listing::is_number(tw)
            || self.live.get(&tw, 0).is_ok_and(|live| live.0.entered_ns == entered_ns)
    }

    /// Makes the kernel side let go of a socket whose end it missed, unless the address has
    /// become another socket's.
    pub fn forget(&mut self, tw: u64, entered_ns: u64) {
        if self.follows(tw, entered_ns) {
            // It may have ended just now; then there is nothing left to remove.
            let _ = self.live.remove(&tw);
        }
    }
}

/// Registers something of aya's that owns a descriptor with the runtime.
pub(super) fn watch<T: AsRawFd>(owner: T) -> std::io::Result<AsyncFd<T>> {
    // SAFETY: aya's ring buffers own their descriptor, give the same one as long as they live,
    // and close it only when the registration is dropped with them.
    unsafe { AsyncFd::register_with_interest(owner, Interest::READABLE) }.map_err(Into::into)
}

pub(super) fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, KernelError> {
    ebpf.take_map(name).ok_or(KernelError::Incomplete(name))
}
