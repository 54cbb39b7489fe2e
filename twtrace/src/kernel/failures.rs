//! Reads what the kernel programs count of calls that failed.

use std::collections::{HashMap as StdHashMap, HashSet};

use aya::{
    Ebpf, Pod,
    maps::{HashMap, MapData},
};
use twtrace_common::{Failure, FailureKey, PerCpuFailure};

use super::{KernelError, maps::take, monotonic_ns};

/// Key of the map of failures as aya wants it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
struct PodFailureKey(PerCpuFailure);
// SAFETY: integers only, no padding, which twtrace-common asserts.
unsafe impl Pod for PodFailureKey {}

/// Value of the map of failures as aya wants it.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct PodFailure(Failure);
// SAFETY: as above.
unsafe impl Pod for PodFailure {}

/// What failed, as the kernel side counts it.
pub struct FailureMap {
    counts: HashMap<MapData, PodFailureKey, PodFailure>,
    /// What is kept of processes that failed: of no interest here but to make room.
    failing: HashMap<MapData, u64, [u64; 3]>,
    /// Counts as they were seen last.
    seen: StdHashMap<PodFailureKey, u64>,
}

impl FailureMap {
    /// Entries from which on room is made for others; the map holds twice as many.
    const CROWDED: usize = 2048;
    /// The same of processes.
    const CROWDED_PROCESSES: usize = 512;
    /// Entries that were quiet for as long may go, nanoseconds.
    const QUIET_NS: u64 = 60_000_000_000;

    /// Takes the maps of a loaded object.
    pub fn open(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        let object = |error: aya::maps::MapError| KernelError::Object(error.to_string());
        Ok(Self {
            counts: HashMap::try_from(take(ebpf, "FAILURES")?).map_err(object)?,
            failing: HashMap::try_from(take(ebpf, "FAILING")?).map_err(object)?,
            seen: StdHashMap::new(),
        })
    }

    /// What was counted since the last call.
    pub fn news(&mut self) -> Vec<(FailureKey, Failure)> {
        let all: Vec<_> = self.counts.iter().filter_map(Result::ok).collect();
        let mut news: StdHashMap<FailureKey, Failure> = StdHashMap::new();
        for (key, PodFailure(failure)) in &all {
            let before = self.seen.insert(*key, failure.count).unwrap_or(0);
            let count = failure.count.saturating_sub(before);
            if count == 0 {
                continue;
            }
            let more = Failure { count, ..*failure };
            news.entry(key.0.key)
                .and_modify(|sum| {
                    sum.count += more.count;
                    sum.first_ns = sum.first_ns.min(more.first_ns);
                    sum.last_ns = sum.last_ns.max(more.last_ns);
                })
                .or_insert(more);
        }
        if all.len() >= Self::CROWDED {
            self.make_room(&all);
        }
        news.into_iter().collect()
    }

    /// Lets go of what was quiet for long. A call that is counted between the look and this is told by
    /// the exact totals.
    fn make_room(&mut self, all: &[(PodFailureKey, PodFailure)]) {
        let now = monotonic_ns();
        let quiet = |failure: &Failure| now.saturating_sub(failure.last_ns) > Self::QUIET_NS;
        let mut busy = HashSet::new();
        for (key, PodFailure(failure)) in all {
            if !quiet(failure) {
                busy.insert(u64::from(key.0.key.netns) << 32 | u64::from(key.0.key.pid));
            } else if let Err(error) = self.counts.remove(key) {
                tracing::debug!(%error, "cannot make room for failures");
            } else {
                self.seen.remove(key);
            }
        }
        let processes: Vec<u64> = self.failing.keys().filter_map(Result::ok).collect();
        if processes.len() >= Self::CROWDED_PROCESSES {
            for process in processes.iter().filter(|process| !busy.contains(process)) {
                if let Err(error) = self.failing.remove(process) {
                    tracing::debug!(%error, "cannot make room for processes that fail");
                }
            }
        }
    }
}
