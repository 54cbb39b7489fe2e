//! Exact totals of the kernel programs.

use serde::{Deserialize, Serialize};
use twtrace_common::Counter;

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
    pub fn add(&mut self, counter: Counter, count: u64) {
        self.by_counter[counter as usize] += count;
    }
}
