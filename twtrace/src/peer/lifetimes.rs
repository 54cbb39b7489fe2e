//! How long a row's sockets lived, in bounded memory.

use hdrhistogram::Histogram;
use smallvec::SmallVec;

/// Lifetimes kept one by one before a histogram takes their place: most peers end few sockets,
/// and an empty histogram costs a kilobyte.
const EXACT: usize = 8;
/// Significant digits of the histogram: percentiles are within 3.2 % of the truth.
const DIGITS: u8 = 1;

/// Lifetimes of one row's sockets, in milliseconds.
#[derive(Clone, Debug, Default)]
pub struct Lifetimes {
    few: SmallVec<[u32; EXACT]>,
    many: Option<Box<Histogram<u32>>>,
    max: u32,
    sum: u64,
}

/// What a row shows of its lifetimes, milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LifetimeSummary {
    /// How many lifetimes are known.
    pub count: u64,
    /// Half lived no longer.
    pub p50: Option<u64>,
    /// Nine in ten lived no longer.
    pub p90: Option<u64>,
    /// Ninety-nine in a hundred lived no longer.
    pub p99: Option<u64>,
    /// The longest, exact.
    pub max: Option<u64>,
}

impl Lifetimes {
    /// Adds one lifetime in milliseconds; 49 days and more count as 49 days.
    pub fn record(&mut self, millis: u64) {
        let millis = u32::try_from(millis).unwrap_or(u32::MAX);
        self.max = self.max.max(millis);
        self.sum += u64::from(millis);
        if let Some(many) = &mut self.many {
            add(many, millis);
        } else if self.few.len() < EXACT {
            self.few.push(millis);
        } else {
            let mut many = new_histogram();
            for millis in self.few.drain(..).chain([millis]) {
                add(&mut many, millis);
            }
            self.many = Some(Box::new(many));
        }
    }

    /// Adds all lifetimes of another row.
    pub fn merge(&mut self, other: &Self) {
        let sum = self.sum + other.sum;
        for millis in &other.few {
            self.record(u64::from(*millis));
        }
        self.sum = sum;
        if let Some(theirs) = &other.many {
            let ours = self.many.get_or_insert_with(|| Box::new(new_histogram()));
            for millis in self.few.drain(..) {
                add(ours, millis);
            }
            // Both are auto-resizing with the same digits, so nothing can be out of range.
            let _ = ours.add(theirs.as_ref());
        }
        self.max = self.max.max(other.max);
    }

    /// Count, percentiles and maximum.
    pub fn summary(&self) -> LifetimeSummary {
        let at = |quantile: f64| {
            if let Some(many) = &self.many {
                Some(many.value_at_quantile(quantile).min(u64::from(self.max)))
            } else {
                let mut sorted = self.few.clone();
                sorted.sort_unstable();
                let rank = (quantile * sorted.len() as f64).ceil() as usize;
                sorted.get(rank.saturating_sub(1)).map(|millis| u64::from(*millis))
            }
        };
        let count = self.many.as_ref().map_or(self.few.len() as u64, |many| many.len());
        LifetimeSummary {
            count,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            max: (count > 0).then_some(u64::from(self.max)),
        }
    }

    /// All lifetimes together, milliseconds; exact.
    pub const fn sum_ms(&self) -> u64 {
        self.sum
    }

    /// Counts by upper bound: element `i` counts the lifetimes above `bounds[i - 1]` and up to
    /// `bounds[i]`; one more element counts those above the last bound.
    pub fn buckets(&self, bounds: &[u64]) -> Vec<u64> {
        let mut buckets = vec![0; bounds.len() + 1];
        let mut add = |millis: u64, count: u64| {
            buckets[bounds.partition_point(|bound| *bound < millis)] += count;
        };
        for millis in &self.few {
            add(u64::from(*millis), 1);
        }
        for step in self.many.iter().flat_map(|many| many.iter_recorded()) {
            add(
                step.value_iterated_to().min(u64::from(self.max)),
                step.count_since_last_iteration(),
            );
        }
        buckets
    }
}

/// Adds one lifetime; the histogram grows to hold it, for which any `u32` is small enough.
fn add(histogram: &mut Histogram<u32>, millis: u32) {
    let recorded = histogram.record(u64::from(millis));
    debug_assert!(recorded.is_ok(), "{recorded:?}");
}

/// An empty histogram that grows to the largest lifetime it is given.
fn new_histogram() -> Histogram<u32> {
    Histogram::new(DIGITS).expect("one significant digit is within the histogram's range")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lifetimes: impl IntoIterator<Item = u64>) -> Lifetimes {
        let mut all = Lifetimes::default();
        lifetimes.into_iter().for_each(|millis| all.record(millis));
        all
    }

    #[test]
    fn a_few_lifetimes_are_exact() {
        let summary = of([61_000, 20, 61_400, 60_900]).summary();
        assert_eq!(
            summary,
            LifetimeSummary {
                count: 4,
                p50: Some(60_900),
                p90: Some(61_400),
                p99: Some(61_400),
                max: Some(61_400)
            }
        );
        assert_eq!(of([]).summary(), LifetimeSummary::default());
    }

    #[test]
    fn many_lifetimes_are_close_and_the_maximum_is_exact() {
        let all = of((0..1000).map(|n| if n < 900 { 700 } else { 61_234 }));
        let summary = all.summary();
        assert_eq!(summary.count, 1000);
        assert_eq!(summary.max, Some(61_234));
        let p50 = summary.p50.unwrap();
        assert!((678..=723).contains(&p50), "{p50} is not within 3.2 % of 700");
        assert_eq!(all.buckets(&[500, 1000, 62_000]), [0, 900, 100, 0]);
    }

    #[test]
    fn merging_loses_no_lifetime() {
        let mut few = of([1, 2]);
        few.merge(&of(0..100));
        few.merge(&of([5]));
        assert_eq!(few.summary().count, 103);
        let mut many = of(0..100);
        many.merge(&of([1, 2, 70_000]));
        assert_eq!((many.summary().count, many.summary().max), (103, Some(70_000)));
        assert_eq!(many.sum_ms(), 99 * 100 / 2 + 70_003);
        many.merge(&of(0..100));
        assert_eq!(many.sum_ms(), 99 * 100 + 70_003);
    }
}
