//! What the two objects differ in, as `platform` of the kernel programs: how events, totals and
//! refusals come out of the kernel.

mod perf;
mod ringbuf;

use std::collections::HashMap;

use twtrace_common::{Entered, NetnsCounts, NetnsKey, RefusalKey};

pub use self::{perf::Perf, ringbuf::RingBuf};
use super::{KernelError, binds::Locals, listing::ByEnds};
use crate::{event::BatchBuilder, totals::Totals};

/// The platform of the object that runs.
pub enum Platform {
    /// A ring buffer and per-CPU maps.
    RingBuf(RingBuf),
    /// Perf buffers and arrays.
    Perf(Perf),
}

impl Platform {
    /// Waits until the kernel wakes the reader: once all was taken out for the first record after that,
    /// and once much waits.
    pub async fn woken(&self) -> Result<(), KernelError> {
        match self {
            Self::RingBuf(platform) => platform.woken().await,
            Self::Perf(_) => std::future::pending().await,
        }
    }

    /// Whether the kernel wakes the reader at all. With perf buffers it would for every event, which
    /// costs more than the event: the reader's own timer is all there is.
    pub const fn wakes(&self) -> bool {
        matches!(self, Self::RingBuf(_))
    }

    /// Takes out what waits, up to `most` records, but for calls that did not fail for want of a port.
    pub fn drain(&mut self, batch: &mut BatchBuilder, most: usize, locals: &mut Locals) {
        match self {
            Self::RingBuf(platform) => platform.drain(batch, most, locals),
            Self::Perf(platform) => platform.drain(batch, most),
        }
    }

    /// Takes out what waits while the sockets that were there at the start are being found. Where
    /// they are listed it is given out later: it has to be compared with the list first.
    pub fn drain_meanwhile(&mut self, batch: &mut BatchBuilder, most: usize, locals: &mut Locals) {
        match self {
            Self::RingBuf(platform) => platform.drain(batch, most, locals),
            Self::Perf(platform) => platform.read(),
        }
    }

    /// Gives out those of the sockets listed at the start that were there before the session.
    pub fn follow(&mut self, listed: Vec<Entered>, batch: &mut BatchBuilder) {
        match self {
            Self::RingBuf(_) => debug_assert!(listed.is_empty(), "the kernel side follows them"),
            Self::Perf(platform) => platform.follow(listed, batch),
        }
    }

    /// Follows sockets whose entry was missed where the kernel side does not, not more than are
    /// missing, by namespace. Answers all that are followed now.
    pub fn adopt(&mut self, entries: Vec<Entered>, missing: HashMap<u32, u64>) -> Vec<Entered> {
        match self {
            Self::RingBuf(_) => entries,
            Self::Perf(platform) => platform.adopt(entries, missing),
        }
    }

    /// The sockets followed, by their ends, where that is how they are known.
    pub fn by_ends(&self) -> Option<&ByEnds> {
        match self {
            Self::RingBuf(_) => None,
            Self::Perf(platform) => Some(platform.sockets()),
        }
    }

    /// The exact totals.
    pub fn totals(&mut self) -> Result<Totals, KernelError> {
        match self {
            Self::RingBuf(platform) => platform.totals(),
            Self::Perf(platform) => platform.totals(),
        }
    }

    /// What was counted of a namespace.
    pub fn counted(&self, key: &NetnsKey) -> NetnsCounts {
        match self {
            Self::RingBuf(platform) => platform.counted_of(key),
            Self::Perf(platform) => platform.counted_of(key),
        }
    }

    /// The namespaces of which something was counted; one may come several times.
    pub fn namespaces(&self) -> Vec<NetnsKey> {
        match self {
            Self::RingBuf(platform) => platform.namespaces(),
            Self::Perf(platform) => platform.namespaces(),
        }
    }

    /// Makes room for other namespaces.
    pub fn forget_namespace(&mut self, key: &NetnsKey) {
        let forgotten = match self {
            Self::RingBuf(platform) => platform.forget_namespace(key),
            Self::Perf(platform) => platform.forget_namespace(key),
        };
        if let Err(error) = forgotten {
            tracing::debug!(%error, netns = key.netns, "cannot forget a namespace");
        }
    }

    /// Shows each refusal count to `add`; a peer may come several times.
    pub fn refusals(&self, add: impl FnMut(RefusalKey, u64)) {
        match self {
            Self::RingBuf(platform) => platform.refusals(add),
            Self::Perf(platform) => platform.refusals(add),
        }
    }
}
