//! Maps of a loaded object.

use std::os::fd::AsRawFd;

use aya::{Ebpf, Pod, maps::Map};
use tokio::io::{Interest, unix::AsyncFd};
use twtrace_common::NetnsCounts;

use super::KernelError;

/// Value of the map of namespaces as aya wants it.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct PodCounts(pub NetnsCounts);
// SAFETY: repr(C), words only.
unsafe impl Pod for PodCounts {}

/// Counts of all CPUs together.
pub fn sum<'a>(each: impl Iterator<Item = &'a PodCounts>) -> NetnsCounts {
    each.fold(NetnsCounts::default(), |sum, one| sum.plus(one.0))
}

/// Registers something that owns a descriptor with the runtime: of aya's, or the descriptor itself.
pub fn watch<T: AsRawFd>(owner: T) -> std::io::Result<AsyncFd<T>> {
    // SAFETY: aya's ring buffers own their descriptor, as an `OwnedFd` does, give the same one as long
    // as they live, and close it only when the registration is dropped with them.
    unsafe { AsyncFd::register_with_interest(owner, Interest::READABLE) }.map_err(Into::into)
}

/// Takes a map out of a loaded object.
///
/// # Errors
/// [`KernelError::Incomplete`] if it has none of that name.
pub fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, KernelError> {
    ebpf.take_map(name).ok_or(KernelError::Incomplete(name))
}
