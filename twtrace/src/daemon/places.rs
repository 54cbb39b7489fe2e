//! How many may be connected at once, how much their answers may take, and who came.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::agent::Clients;

/// Unit in which the memory of answers is given out, bytes.
const PAGE: usize = 1024;
/// Memory for answers that are being written, in [`PAGE`]s: together 8 MiB.
const PAGES: usize = 8 * 1024;

/// The places, and the counts of who took them.
#[derive(Debug)]
pub struct Places {
    taken: AtomicUsize,
    requests: AtomicU64,
    refused: AtomicU64,
    dropped: Arc<AtomicU64>,
    memory: Arc<Semaphore>,
}

impl Places {
    /// All free. Subscribers that fall behind are counted in `dropped`, elsewhere.
    pub fn new(dropped: Arc<AtomicU64>) -> Arc<Self> {
        Arc::new(Self {
            taken: AtomicUsize::new(0),
            requests: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            dropped,
            memory: Arc::new(Semaphore::new(PAGES)),
        })
    }

    /// A place among `most`, of which a quarter is kept for the privileged; `None`, counted, when
    /// there is none.
    pub fn take(self: &Arc<Self>, most: usize, privileged: bool) -> Option<Place> {
        let most = if privileged { most } else { most - most / 4 };
        let taken = self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, |taken| {
            (taken < most).then_some(taken + 1)
        });
        if taken.is_err() {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(Place(Arc::clone(self)))
    }

    /// Memory for an answer, given back when dropped; waits until there is some.
    pub async fn memory(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let pages = u32::try_from(bytes.div_ceil(PAGE).min(PAGES)).unwrap_or(u32::MAX);
        Arc::clone(&self.memory).acquire_many_owned(pages).await.ok()
    }

    /// Counts a request.
    pub fn asked(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Who came so far.
    pub fn clients(&self) -> Clients {
        Clients {
            connected: self.taken.load(Ordering::Acquire) as u64,
            requests: self.requests.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
        }
    }
}

/// One place, given back when dropped.
#[derive(Debug)]
pub struct Place(Arc<Places>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_the_places_is_kept_for_the_privileged() {
        let places = Places::new(Arc::default());
        let mut held: Vec<_> = (0..3).filter_map(|_| places.take(4, false)).collect();
        assert_eq!(held.len(), 3);
        assert!(places.take(4, false).is_none(), "the fourth is kept");
        held.extend(places.take(4, true));
        assert!(places.take(4, true).is_none(), "and then there is none");
        assert_eq!(places.clients(), Clients { connected: 4, refused: 2, ..Clients::default() });
        held.clear();
        assert_eq!(places.clients().connected, 0);
        assert!(places.take(4, false).is_some());
    }
}
