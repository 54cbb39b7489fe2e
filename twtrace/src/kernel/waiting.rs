//! Entries whose record waits in the kernel for the full socket to close (tracepoints only).

use std::time::Duration;

use aya::{
    Ebpf, Pod,
    maps::{HashMap, MapData},
};
use twtrace_common::{Decode as _, Entered, FlowKey};

use super::KernelError;
use crate::event::BatchBuilder;

/// Key of the map as aya wants it.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct PodKey(FlowKey);
// SAFETY: repr(C), integers only, and the sizes of its members leave no gap.
unsafe impl Pod for PodKey {}

/// Value of the map as aya wants it.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct PodEntered(Entered);
// SAFETY: integers only, no padding, which twtrace-common asserts.
unsafe impl Pod for PodEntered {}

/// How long a record may wait: the full socket closes in the same system call or softirq.
const CLOSING: Duration = Duration::from_millis(5);

/// The records that wait.
pub struct Waiting(HashMap<MapData, PodKey, PodEntered>);

impl Waiting {
    /// Those of a loaded object, if it has a place for them.
    pub fn open(ebpf: &mut Ebpf) -> Result<Option<Self>, KernelError> {
        let armed = ebpf.take_map("ARMED").map(HashMap::try_from).transpose();
        let armed = armed.map_err(|error| KernelError::Object(error.to_string()))?;
        Ok(armed.map(Self))
    }

    /// Takes over the records of entries whose full socket was not seen to close.
    pub fn take(&mut self, batch: &mut BatchBuilder) {
        let waiting: Vec<_> = self.0.iter().filter_map(Result::ok).collect();
        if waiting.is_empty() {
            return;
        }
        std::thread::sleep(CLOSING);
        for (key, PodEntered(entered)) in waiting {
            let same = |now: PodEntered| now.0.mono_ns == entered.mono_ns;
            // Whoever removes it is who tells.
            if self.0.get(&key, 0).is_ok_and(same) && self.0.remove(&key).is_ok() {
                batch.push(entered.as_bytes());
            }
        }
    }
}
