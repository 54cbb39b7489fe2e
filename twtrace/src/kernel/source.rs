//! Reads what the kernel programs send and count.

use std::{
    collections::HashMap as StdHashMap,
    sync::{Arc, Mutex, PoisonError},
};

use aya::{
    Ebpf, Pod,
    maps::{HashMap, MapData},
};
use twtrace_common::{
    Counter, Decode as _, Entered, Failure, FailureKey, Live, NetnsCounts, NetnsKey, RefusalKey,
    Refusals, TCP_FIN_WAIT2,
};

use super::{
    KernelError,
    binds::Locals,
    failures::FailureMap,
    listing::{self, ByEnds},
    maps::take,
    platform::Platform,
    waiting::Waiting,
};
use crate::{
    event::{Batch, BatchBuilder},
    peer::Refused,
    totals::Totals,
};

/// Most records taken out of the buffer before whoever waits gets a turn.
const BATCH: usize = 16_384;

/// Only what is not there yet, `include/uapi/linux/bpf.h`.
const BPF_NOEXIST: u64 = 1;

/// Value of the live map as aya wants it.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct PodLive(Live);
// SAFETY: repr(C) and integers only; every byte is written by the kernel side.
unsafe impl Pod for PodLive {}

/// The sockets that the kernel side follows, for whichever thread.
#[derive(Clone)]
pub struct Followed(Arc<Mutex<HashMap<MapData, u64, PodLive>>>);

impl Followed {
    /// Whether the kernel side still follows the socket that entered at `entered_ns`. Of one that it
    /// never followed the answer is yes: it cannot tell.
    pub fn holds(&self, tw: u64, entered_ns: u64) -> bool {
        let live = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        listing::is_number(tw) || live.get(&tw, 0).is_ok_and(|live| live.0.entered_ns == entered_ns)
    }

    /// Whether the kernel side follows a socket at this address. Of one without an address the answer
    /// is yes, as above.
    pub fn has(&self, tw: u64) -> bool {
        let live = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        listing::is_number(tw) || live.get(&tw, 0).is_ok()
    }

    /// Makes the kernel side follow a socket, unless it follows one at this address.
    pub fn follow(&self, tw: u64, socket: Live) -> bool {
        let mut live = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        live.insert(tw, PodLive(socket), BPF_NOEXIST).is_ok()
    }

    /// Makes the kernel side let go of a socket whose end it missed, unless the address has
    /// become another socket's. Answers whether it did: not, if the socket has ended just now.
    pub fn forget(&self, tw: u64, entered_ns: u64) -> bool {
        if !self.holds(tw, entered_ns) {
            return false;
        }
        let mut live = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        live.remove(&tw).is_ok()
    }
}

/// How a socket found in TIME_WAIT is called.
#[derive(Clone)]
pub struct SocketNames(Option<ByEnds>);

impl SocketNames {
    /// The name that its end will have: its address, or the number that stands for it. `None` if it
    /// is not followed.
    pub fn of(&self, found: Entered) -> Option<Entered> {
        match &self.0 {
            Some(sockets) => sockets.named(&found),
            None => Some(found),
        }
    }
}

/// What the kernel programs have to say.
pub struct Source {
    platform: Platform,
    followed: Followed,
    waiting: Option<Waiting>,
    /// Sockets adopted, and those of them in FIN_WAIT2.
    adopted: [u64; 2],
    seen_refusals: StdHashMap<RefusalKey, Refusals>,
    failures: FailureMap,
    locals: Locals,
    batch: BatchBuilder,
}

impl Source {
    pub(super) fn new(ebpf: &mut Ebpf, platform: Platform) -> Result<Self, KernelError> {
        let live = HashMap::try_from(take(ebpf, "LIVE")?);
        let live = live.map_err(|error| KernelError::Object(error.to_string()))?;
        Ok(Self {
            platform,
            followed: Followed(Arc::new(Mutex::new(live))),
            waiting: Waiting::open(ebpf)?,
            adopted: [0; 2],
            seen_refusals: StdHashMap::new(),
            failures: FailureMap::open(ebpf)?,
            locals: Locals::default(),
            batch: BatchBuilder::default(),
        })
    }

    /// Waits until the kernel wakes the reader: for the first record once all was taken out, and once
    /// much waits.
    ///
    /// # Errors
    /// [`KernelError::Ring`].
    pub async fn woken(&self) -> Result<(), KernelError> {
        self.platform.woken().await
    }

    /// Whether the kernel wakes the reader at all.
    pub const fn wakes(&self) -> bool {
        self.platform.wakes()
    }

    /// Takes out what is waiting now, up to a bound; `None` when nothing was.
    pub fn drain(&mut self) -> Option<Batch> {
        self.platform.drain(&mut self.batch, BATCH, &mut self.locals);
        (!self.batch.is_empty()).then(|| self.batch.take())
    }

    /// Takes out what is waiting while the sockets that were there at the start are being found;
    /// `None` also when it has to wait for what is found.
    pub fn drain_meanwhile(&mut self) -> Option<Batch> {
        self.platform.drain_meanwhile(&mut self.batch, BATCH, &mut self.locals);
        (!self.batch.is_empty()).then(|| self.batch.take())
    }

    /// Follows those of the sockets listed at the start that were there before the session, and
    /// answers their records.
    pub fn follow(&mut self, listed: Vec<Entered>) -> Batch {
        self.platform.follow(listed, &mut self.batch);
        self.batch.take()
    }

    /// Counts sockets whose entry was missed and that are followed now, showing each to `note`; of
    /// those that nobody follows yet not more than are missing, by namespace. Whatever waits has to
    /// have been taken out before.
    pub fn adopt(
        &mut self,
        entries: Vec<Entered>,
        missing: StdHashMap<u32, u64>,
        mut note: impl FnMut(&Entered),
    ) -> Option<Batch> {
        for entry in self.platform.adopt(entries, missing) {
            note(&entry);
            self.adopted[0] += 1;
            self.adopted[1] += u64::from(entry.header.state == TCP_FIN_WAIT2);
            // What its timer was armed with was not seen.
            self.batch.push(Entered { armed: 0, ..entry }.as_bytes());
        }
        (!self.batch.is_empty()).then(|| self.batch.take())
    }

    /// Gives sockets found in TIME_WAIT their names, as they are now.
    pub fn names(&self) -> SocketNames {
        SocketNames(self.platform.by_ends().cloned())
    }

    /// The sockets that the kernel side follows.
    pub fn followed(&self) -> Followed {
        self.followed.clone()
    }

    /// What was counted of a namespace.
    pub fn counted(&self, key: &NetnsKey) -> NetnsCounts {
        self.platform.counted(key)
    }

    /// The namespaces of which something was counted, and what.
    pub fn counted_namespaces(&self) -> StdHashMap<NetnsKey, NetnsCounts> {
        self.platform
            .namespaces()
            .into_iter()
            .map(|key| (key, self.platform.counted(&key)))
            .collect()
    }

    /// Makes room for other namespaces.
    pub fn forget_namespace(&mut self, key: &NetnsKey) {
        self.platform.forget_namespace(key);
    }

    /// Reads the exact totals. Whatever they count has a record that can be taken out now, unless it
    /// is lost.
    ///
    /// # Errors
    /// [`KernelError::Object`].
    pub fn totals(&mut self) -> Result<Totals, KernelError> {
        let totals = self.platform.totals()?;
        if let Some(waiting) = &mut self.waiting {
            waiting.take(&mut self.batch);
        }
        let [adopted, fin_wait2] = self.adopted;
        Ok(totals
            .with(Counter::Adopted, adopted)
            .with(Counter::Entered, totals.of(Counter::Entered) + adopted)
            .with(Counter::EnteredFinWait2, totals.of(Counter::EnteredFinWait2) + fin_wait2))
    }

    /// Refusals that came since the last call, by peer.
    pub fn new_refusals(&mut self) -> Vec<(RefusalKey, Refused)> {
        let mut all: StdHashMap<RefusalKey, Refusals> = StdHashMap::new();
        self.platform.refusals(|key, count| {
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

    /// Calls that failed since the last call of this, by place, cause and process.
    pub fn new_failures(&mut self) -> Vec<(FailureKey, Failure)> {
        let mut news = self.failures.news();
        news.retain(|(key, failure)| self.locals.counts(failure.flags, key.netns, key.local));
        news
    }
}
