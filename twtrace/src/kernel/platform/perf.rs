//! Events, totals and refusals of the object for perf buffers.
//!
//! There is a buffer for each CPU, and between CPUs records come in no order. They are put into the
//! order of their times here, and what is younger than the moment the reading began waits for the
//! next one, so that no end comes out before its entry.

use std::collections::{HashMap as StdHashMap, HashSet, VecDeque};

use aya::{
    Ebpf, Pod,
    maps::{
        Array, HashMap, MapData, MapError, PerfEventArray,
        perf::{PerfEvent, PerfEventArrayBuffer},
    },
    util::online_cpus,
};
use twtrace_common::{
    Counter, Cpu, Decode, Ended, Entered, Failed, Kind, NetnsCounts, NetnsKey, PerCpuNetns,
    PerCpuRefusal, RefusalKey,
};

use crate::kernel::{
    KernelError,
    listing::{ByEnds, Ends},
    maps::{PodCounts, sum, take},
    monotonic_ns,
    object::chain,
    preflight,
};
use crate::{event::BatchBuilder, totals::Totals, units::Hz};

/// Least size of one CPU's buffer, bytes: two thousand events.
const LEAST_BYTES: usize = 256 << 10;

/// Key of the refusal map as aya wants it.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct PodKey(PerCpuRefusal);
// SAFETY: integers only, no padding, which twtrace-common asserts.
unsafe impl Pod for PodKey {}

/// Key of the map of namespaces as aya wants it.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct PodNetns(PerCpuNetns);
// SAFETY: integers only, no padding, which twtrace-common asserts.
unsafe impl Pod for PodNetns {}

/// Element of the map of CPUs as aya wants it.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct PodCpu(Cpu);
// SAFETY: repr(C), words only.
unsafe impl Pod for PodCpu {}

/// One record.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Record {
    Entered(Entered),
    Ended(Ended),
    Failed(Failed),
}

/// Perf buffers and arrays.
pub struct Perf {
    buffers: Vec<PerfEventArrayBuffer<MapData>>,
    cpus: Array<MapData, PodCpu>,
    refusals: HashMap<MapData, PodKey, u64>,
    namespaces: HashMap<MapData, PodNetns, PodCounts>,
    /// Read and not yet given out, by time.
    waiting: VecDeque<Record>,
    /// The sockets followed, as of what was given out.
    sockets: ByEnds,
    /// Records read, by kind: entries and ends.
    received: [u64; 2],
    /// Totals of what came before the session.
    before: Totals,
}

impl Perf {
    /// Takes the maps of a loaded object and opens a buffer for each CPU, `bytes` in all.
    pub fn open(ebpf: &mut Ebpf, bytes: u32) -> Result<Self, KernelError> {
        let object = |error: aya::maps::MapError| KernelError::Object(error.to_string());
        let cpus = online_cpus()
            .map_err(|(path, error)| KernelError::Object(format!("{path}: {error}")))?;
        let each = (bytes as usize / cpus.len().max(1)).max(LEAST_BYTES);
        let pages = (each / rustix::param::page_size()).next_power_of_two();
        let mut events = PerfEventArray::try_from(take(ebpf, "EVENTS")?).map_err(object)?;
        let open = |cpu| {
            events.open(cpu, Some(pages)).map_err(|error| {
                let hint = preflight::perf_hint();
                KernelError::Object(format!("perf buffer of CPU {cpu}: {}{hint}", chain(&error)))
            })
        };
        Ok(Self {
            buffers: cpus.into_iter().map(open).collect::<Result<_, _>>()?,
            cpus: Array::try_from(take(ebpf, "CPUS")?).map_err(object)?,
            refusals: HashMap::try_from(take(ebpf, "REFUSALS")?).map_err(object)?,
            namespaces: HashMap::try_from(take(ebpf, "NAMESPACES")?).map_err(object)?,
            waiting: VecDeque::new(),
            sockets: ByEnds::new(Hz::of_running_kernel()),
            received: [0; 2],
            before: Totals::default(),
        })
    }

    /// Forgets all that came so far: it is of before the session.
    pub fn begin(&mut self) -> Result<(), KernelError> {
        self.before = self.counted()?;
        self.read();
        self.waiting.clear();
        self.received = [0; 2];
        Ok(())
    }

    /// Takes out what waits in every buffer, as it is.
    pub fn read_raw(&mut self, mut take: impl FnMut(&[u8])) {
        let mut joined = Vec::new();
        for buffer in &mut self.buffers {
            buffer.for_each(|event| match event {
                PerfEvent::Sample { head, tail: [] } => take(head),
                PerfEvent::Sample { head, tail } => {
                    joined.clear();
                    joined.extend_from_slice(head);
                    joined.extend_from_slice(tail);
                    take(&joined);
                }
                // Found out from the totals, which know the kind.
                PerfEvent::Lost { .. } => {}
            });
        }
    }

    /// Takes the records out of every buffer and puts them in order; none is given out yet.
    pub fn read(&mut self) {
        let mut fresh = Vec::new();
        self.read_raw(|bytes| fresh.extend(Record::from_bytes(bytes)));
        for record in &fresh {
            match record {
                Record::Entered(_) => self.received[0] += 1,
                Record::Ended(_) => self.received[1] += 1,
                // Counted by the kernel side, whatever becomes of this.
                Record::Failed(_) => {}
            }
        }
        if !fresh.is_empty() {
            self.waiting.extend(fresh);
            self.waiting.make_contiguous().sort_by_key(Record::mono_ns);
        }
    }

    /// Gives out what is older than this call, up to `most` records; all that waits, if nothing is.
    pub fn drain(&mut self, batch: &mut BatchBuilder, most: usize) {
        let mut until = monotonic_ns();
        self.read();
        if self.waiting.front().is_some_and(|first| first.mono_ns() > until) {
            until = u64::MAX;
        }
        while batch.len() < most
            && let Some(mut record) = self.waiting.pop_front_if(|record| record.mono_ns() <= until)
        {
            record.pass(&mut self.sockets);
            batch.push(record.as_bytes());
        }
    }

    /// Gives out those of the sockets listed at the start that were there before the session: of
    /// the others there is a record among those that wait.
    pub fn follow(&mut self, listed: Vec<Entered>, batch: &mut BatchBuilder) {
        self.read();
        let told: HashSet<Ends> = self.waiting.iter().filter_map(Record::ends).collect();
        for socket in listed {
            if !told.contains(&Ends::of(&socket.header, &socket.flow)) {
                batch.push(self.sockets.number(socket).as_bytes());
            }
        }
    }

    /// Follows sockets whose entry was missed, not more than are missing by namespace: one of which
    /// there is a record by now was merely on its way.
    pub fn adopt(
        &mut self,
        entries: Vec<Entered>,
        mut missing: StdHashMap<u32, u64>,
    ) -> Vec<Entered> {
        let mut adopted = Vec::new();
        for entry in entries {
            if let Some(missing @ 1..) = missing.get_mut(&entry.header.netns)
                && self.sockets.named(&entry).is_none()
            {
                *missing -= 1;
                adopted.push(self.sockets.number(entry));
            }
        }
        adopted
    }

    /// The sockets followed, by their ends.
    pub fn sockets(&self) -> &ByEnds {
        &self.sockets
    }

    /// The exact totals, and what was lost.
    ///
    /// The kernel side cannot tell before 5.0. But it counts what it sends: whatever had been
    /// counted when the reading began and did not arrive is lost.
    pub fn totals(&mut self) -> Result<Totals, KernelError> {
        let totals = self.counted()?.since(&self.before);
        self.read();
        let ends = totals.of(Counter::Ended) + totals.of(Counter::EndedUntracked);
        let [entries_received, ends_received] = self.received;
        let lost_entries = totals.of(Counter::Entered).saturating_sub(entries_received);
        Ok(totals
            .with(Counter::LostEntered, lost_entries)
            .with(Counter::LostEnded, ends.saturating_sub(ends_received)))
    }

    /// What the kernel side has counted since it was loaded.
    fn counted(&self) -> Result<Totals, KernelError> {
        let mut totals = Totals::default();
        for cpu in self.cpus.iter() {
            let cpu = cpu.map_err(|error| KernelError::Object(error.to_string()))?;
            for (counter, count) in Counter::ALL.iter().zip(cpu.0.totals) {
                totals.add(*counter, count);
            }
        }
        Ok(totals)
    }

    /// What was counted of a namespace.
    pub fn counted_of(&self, key: &NetnsKey) -> NetnsCounts {
        let each: Vec<_> =
            self.per_cpu(key).filter_map(|key| self.namespaces.get(&key, 0).ok()).collect();
        sum(each.iter())
    }

    /// The namespaces of which something was counted, CPU by CPU.
    pub fn namespaces(&self) -> Vec<NetnsKey> {
        self.namespaces.keys().filter_map(Result::ok).map(|key| key.0.key).collect()
    }

    /// Makes room for other namespaces.
    pub fn forget_namespace(&mut self, key: &NetnsKey) -> Result<(), MapError> {
        let there: Vec<_> =
            self.per_cpu(key).filter(|key| self.namespaces.get(key, 0).is_ok()).collect();
        there.iter().try_for_each(|key| self.namespaces.remove(key))
    }

    /// Where a count of a namespace is kept.
    fn per_cpu(&self, key: &NetnsKey) -> impl Iterator<Item = PodNetns> + use<> {
        let key = *key;
        (0..self.cpus.len()).map(move |cpu| PodNetns(PerCpuNetns { key, cpu, reserved: 0 }))
    }

    /// Shows each refusal count to `add`, CPU by CPU.
    pub fn refusals(&self, mut add: impl FnMut(RefusalKey, u64)) {
        for (key, count) in self.refusals.iter().filter_map(Result::ok) {
            add(key.0.key, count);
        }
    }
}

impl Record {
    /// A record without the padding that the kernel puts behind it.
    fn from_bytes(sample: &[u8]) -> Option<Self> {
        match *sample.first()? {
            kind if kind == Kind::Ended as u8 => Ended::from_bytes(sample).map(Self::Ended),
            kind if kind == Kind::Failed as u8 => Failed::from_bytes(sample).map(Self::Failed),
            _ => Entered::from_bytes(sample).map(Self::Entered),
        }
    }

    fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Entered(entered) => entered.as_bytes(),
            Self::Ended(ended) => ended.as_bytes(),
            Self::Failed(failed) => failed.as_bytes(),
        }
    }

    fn mono_ns(&self) -> u64 {
        match self {
            Self::Entered(entered) => entered.mono_ns,
            Self::Ended(ended) => ended.mono_ns,
            Self::Failed(failed) => failed.mono_ns,
        }
    }

    /// Namespace and ends of its timewait socket, if it is about one.
    fn ends(&self) -> Option<Ends> {
        match self {
            Self::Entered(entered) => Some(Ends::of(&entered.header, &entered.flow)),
            Self::Ended(ended) => Some(Ends::of(&ended.header, &ended.flow)),
            Self::Failed(_) => None,
        }
    }

    /// Brings the sockets followed up to date, and itself: see [`ByEnds::end`].
    fn pass(&mut self, sockets: &mut ByEnds) {
        match self {
            Self::Entered(entered) => sockets.enter(entered),
            Self::Ended(ended) => sockets.end(ended),
            Self::Failed(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use twtrace_common::Header;

    #[test]
    fn a_record_is_freed_of_the_kernels_padding() {
        let header = Header { kind: Kind::Ended as u8, ..Header::default() };
        let ended = Ended { header, mono_ns: 77, ..Ended::default() };
        let padded = [ended.as_bytes(), &[0xee; 4]].concat();
        let record = Record::from_bytes(&padded).unwrap();
        assert_eq!(record, Record::Ended(ended));
        assert_eq!((record.mono_ns(), record.as_bytes()), (77, ended.as_bytes()));
        assert_eq!(Record::from_bytes(&padded[..40]), None, "cut short");
        assert_eq!(Record::from_bytes(&[]), None);
    }
}
