//! Events, totals and refusals of the object for ring buffers.

use aya::{
    Ebpf, Pod,
    maps::{MapData, MapError, PerCpuArray, PerCpuHashMap, RingBuf as Ring},
};
use tokio::io::unix::AsyncFd;
use twtrace_common::{Counter, NetnsCounts, NetnsKey, RefusalKey};

use crate::kernel::{
    KernelError,
    binds::Locals,
    maps::{PodCounts, sum, take, watch},
};
use crate::{event::BatchBuilder, totals::Totals};

/// Key of the refusal map as aya wants it.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct PodKey(RefusalKey);
// SAFETY: integers only, no padding, which twtrace-common asserts.
unsafe impl Pod for PodKey {}

/// Key of the map of namespaces as aya wants it.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct PodNetns(NetnsKey);
// SAFETY: integers only, no padding, which twtrace-common asserts.
unsafe impl Pod for PodNetns {}

/// A ring buffer and per-CPU maps.
pub struct RingBuf {
    ring: AsyncFd<Ring<MapData>>,
    counters: PerCpuArray<MapData, u64>,
    refusals: PerCpuHashMap<MapData, PodKey, u64>,
    namespaces: PerCpuHashMap<MapData, PodNetns, PodCounts>,
}

impl RingBuf {
    /// Takes the maps of a loaded object.
    pub fn open(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        let object = |error: MapError| KernelError::Object(error.to_string());
        let ring = Ring::try_from(take(ebpf, "EVENTS")?).map_err(object)?;
        Ok(Self {
            ring: watch(ring).map_err(KernelError::Ring)?,
            counters: PerCpuArray::try_from(take(ebpf, "COUNTERS")?).map_err(object)?,
            refusals: PerCpuHashMap::try_from(take(ebpf, "REFUSALS")?).map_err(object)?,
            namespaces: PerCpuHashMap::try_from(take(ebpf, "NAMESPACES")?).map_err(object)?,
        })
    }

    /// Waits until the kernel wakes the reader.
    pub async fn woken(&self) -> Result<(), KernelError> {
        let mut ready = self.ring.readable().await.map_err(KernelError::Ring)?;
        ready.clear_ready();
        Ok(())
    }

    /// Takes out what waits, up to `most` records, but for calls that did not fail for want of a port.
    pub fn drain(&mut self, batch: &mut BatchBuilder, most: usize, locals: &mut Locals) {
        let ring = self.ring.get_mut();
        while batch.len() < most {
            let Some(record) = ring.next() else { break };
            if locals.passes(&record) {
                batch.push(&record);
            }
        }
    }

    /// The exact totals.
    pub fn totals(&self) -> Result<Totals, KernelError> {
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

    /// What was counted of a namespace.
    pub fn counted_of(&self, key: &NetnsKey) -> NetnsCounts {
        let each = self.namespaces.get(&PodNetns(*key), 0);
        each.map_or_else(|_| NetnsCounts::default(), |each| sum(each.iter()))
    }

    /// The namespaces of which something was counted.
    pub fn namespaces(&self) -> Vec<NetnsKey> {
        self.namespaces.keys().filter_map(Result::ok).map(|key| key.0).collect()
    }

    /// Makes room for other namespaces.
    pub fn forget_namespace(&mut self, key: &NetnsKey) -> Result<(), MapError> {
        self.namespaces.remove(&PodNetns(*key))
    }

    /// Shows each refusal count to `add`; a peer comes once.
    pub fn refusals(&self, mut add: impl FnMut(RefusalKey, u64)) {
        for (key, per_cpu) in self.refusals.iter().filter_map(Result::ok) {
            add(key.0, per_cpu.iter().sum());
        }
    }
}
