//! How events, totals and refusals come out of the kernel: one way for each object.

use aya::{
    Ebpf, Pod,
    maps::{MapData, PerCpuArray, PerCpuHashMap, RingBuf},
};
use tokio::io::unix::AsyncFd;
use twtrace_common::{Counter, Entered, RefusalKey};

use super::{
    KernelError, Totals,
    listing::ByEnds,
    perf::PerfOutlet,
    source::{take, watch},
};
use crate::event::BatchBuilder;

/// Key of the refusal map as aya wants it.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct PodKey(RefusalKey);
// SAFETY: integers only, no padding, which twtrace-common asserts.
unsafe impl Pod for PodKey {}

/// The way of one object.
pub enum Outlet {
    /// A ring buffer and per-CPU maps.
    RingBuf(RingBufOutlet),
    /// Perf buffers and arrays.
    Perf(PerfOutlet),
}

impl Outlet {
    /// Waits until there is enough to be woken for.
    pub async fn readable(&self) -> Result<(), KernelError> {
        match self {
            Self::RingBuf(outlet) => outlet.readable().await,
            // The kernel would wake the reader for every event, which costs more than the event:
            // the reader's own timer is all there is.
            Self::Perf(_) => std::future::pending().await,
        }
    }

    /// Takes out what waits, up to `most` records.
    pub fn drain(&mut self, batch: &mut BatchBuilder, most: usize) {
        match self {
            Self::RingBuf(outlet) => outlet.drain(batch, most),
            Self::Perf(outlet) => outlet.drain(batch, most),
        }
    }

    /// Takes out what waits while the sockets that were there at the start are being found. Where
    /// they are listed it is given out later: it has to be compared with the list first.
    pub fn drain_meanwhile(&mut self, batch: &mut BatchBuilder, most: usize) {
        match self {
            Self::RingBuf(outlet) => outlet.drain(batch, most),
            Self::Perf(outlet) => outlet.read(),
        }
    }

    /// Gives out those of the sockets listed at the start that were there before the session.
    pub fn follow(&mut self, listed: Vec<Entered>, batch: &mut BatchBuilder) {
        match self {
            Self::RingBuf(_) => debug_assert!(listed.is_empty(), "the kernel side follows them"),
            Self::Perf(outlet) => outlet.follow(listed, batch),
        }
    }

    /// The sockets followed, by their ends, where that is how they are known.
    pub fn by_ends(&self) -> Option<&ByEnds> {
        match self {
            Self::RingBuf(_) => None,
            Self::Perf(outlet) => Some(outlet.sockets()),
        }
    }

    /// The exact totals.
    pub fn totals(&mut self) -> Result<Totals, KernelError> {
        match self {
            Self::RingBuf(outlet) => outlet.totals(),
            Self::Perf(outlet) => outlet.totals(),
        }
    }

    /// Shows each refusal count to `add`; a peer may come several times.
    pub fn refusals(&self, mut add: impl FnMut(RefusalKey, u64)) {
        match self {
            Self::RingBuf(outlet) => {
                for (key, per_cpu) in outlet.refusals.iter().filter_map(Result::ok) {
                    add(key.0, per_cpu.iter().sum());
                }
            }
            Self::Perf(outlet) => outlet.refusals(add),
        }
    }
}

/// A ring buffer and per-CPU maps.
pub struct RingBufOutlet {
    ring: AsyncFd<RingBuf<MapData>>,
    counters: PerCpuArray<MapData, u64>,
    refusals: PerCpuHashMap<MapData, PodKey, u64>,
}

impl RingBufOutlet {
    /// Takes the maps of a loaded object.
    pub fn open(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        let object = |error: aya::maps::MapError| KernelError::Object(error.to_string());
        let ring = RingBuf::try_from(take(ebpf, "EVENTS")?).map_err(object)?;
        Ok(Self {
            ring: watch(ring).map_err(KernelError::Ring)?,
            counters: PerCpuArray::try_from(take(ebpf, "COUNTERS")?).map_err(object)?,
            refusals: PerCpuHashMap::try_from(take(ebpf, "REFUSALS")?).map_err(object)?,
        })
    }

    async fn readable(&self) -> Result<(), KernelError> {
        let mut ready = self.ring.readable().await.map_err(KernelError::Ring)?;
        ready.clear_ready();
        Ok(())
    }

    fn drain(&mut self, batch: &mut BatchBuilder, most: usize) {
        let ring = self.ring.get_mut();
        while batch.len() < most {
            let Some(record) = ring.next() else { break };
            batch.push(&record);
        }
    }

    fn totals(&self) -> Result<Totals, KernelError> {
        let mut totals = Totals::default();
        for counter in Counter::ALL {
            let per_cpu = self
                .counters
                .get(&(*counter as u32), 0)
                .map_err(|error| KernelError::Object(error.to_string()))?;
            totals.add(*counter, per_cpu.iter().sum());
        }
        Ok(totals)
    }
}
