//! How long a row's sockets lived, in bounded memory.

use arrayvec::ArrayVec;
use hdrhistogram::Histogram;

/// Lifetimes kept one by one before a histogram takes their place: most peers end few sockets,
/// and an empty histogram costs a kilobyte.
const EXACT: usize = 8;
/// Significant digits of the histogram: percentiles are within 3.2 % of the truth.
const DIGITS: u8 = 1;

/// Lifetimes of one row's sockets, in milliseconds.
#[derive(Clone, Debug)]
pub struct Lifetimes(Kept);

#[derive(Clone, Debug)]
enum Kept {
    Few(ArrayVec<u32, EXACT>),
    Many(Box<Many>),
}

/// What is kept of more lifetimes than a few.
#[derive(Clone, Debug)]
struct Many {
    histogram: Histogram<u32>,
    /// The longest.
    max: u32,
    /// All together.
    sum: u64,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self(Kept::Few(ArrayVec::new()))
    }
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
        match &mut self.0 {
            Kept::Few(few) if !few.is_full() => few.push(millis),
            _ => self.many().record(millis),
        }
    }

    /// Adds all lifetimes of another row.
    pub fn merge(&mut self, other: &Self) {
        match &other.0 {
            Kept::Few(few) => few.iter().for_each(|millis| self.record(u64::from(*millis))),
            Kept::Many(theirs) => self.many().merge(theirs),
        }
    }

    /// The histogram, made of the few there are if need be.
    fn many(&mut self) -> &mut Many {
        if let Kept::Few(few) = &self.0 {
            let mut many = Many { histogram: new_histogram(), max: 0, sum: 0 };
            few.iter().for_each(|millis| many.record(*millis));
            self.0 = Kept::Many(Box::new(many));
        }
        match &mut self.0 {
            Kept::Many(many) => many,
            Kept::Few(_) => unreachable!("it has just become a histogram"),
        }
    }

    /// Count, percentiles and maximum.
    pub fn summary(&self) -> LifetimeSummary {
        match &self.0 {
            Kept::Few(few) => {
                let mut sorted = few.clone();
                sorted.sort_unstable();
                let at = |quantile: f64| {
                    let rank = (quantile * sorted.len() as f64).ceil() as usize;
                    sorted.get(rank.saturating_sub(1)).map(|millis| u64::from(*millis))
                };
                LifetimeSummary {
                    count: sorted.len() as u64,
                    p50: at(0.5),
                    p90: at(0.9),
                    p99: at(0.99),
                    max: at(1.0),
                }
            }
            Kept::Many(many) => {
                let max = u64::from(many.max);
                let at = |quantile| Some(many.histogram.value_at_quantile(quantile).min(max));
                LifetimeSummary {
                    count: many.histogram.len(),
                    p50: at(0.5),
                    p90: at(0.9),
                    p99: at(0.99),
                    max: Some(max),
                }
            }
        }
    }

    /// All lifetimes together, milliseconds; exact.
    pub fn sum_ms(&self) -> u64 {
        match &self.0 {
            Kept::Few(few) => few.iter().copied().map(u64::from).sum(),
            Kept::Many(many) => many.sum,
        }
    }

    /// Counts by upper bound: element `i` counts the lifetimes above `bounds[i - 1]` and up to
    /// `bounds[i]`; one more element counts those above the last bound.
    pub fn buckets(&self, bounds: &[u64]) -> Vec<u64> {
        let mut buckets = vec![0; bounds.len() + 1];
        let mut add = |millis: u64, count: u64| {
            buckets[bounds.partition_point(|bound| *bound < millis)] += count;
        };
        match &self.0 {
            Kept::Few(few) => few.iter().for_each(|millis| add(u64::from(*millis), 1)),
            Kept::Many(many) => {
                for step in many.histogram.iter_recorded() {
                    let millis = step.value_iterated_to().min(u64::from(many.max));
                    add(millis, step.count_since_last_iteration());
                }
            }
        }
        buckets
    }
}

impl Many {
    /// Adds one lifetime; the histogram grows to hold it, for which any `u32` is small enough.
    fn record(&mut self, millis: u32) {
        self.max = self.max.max(millis);
        self.sum += u64::from(millis);
        let recorded = self.histogram.record(u64::from(millis));
        debug_assert!(recorded.is_ok(), "{recorded:?}");
    }

    fn merge(&mut self, other: &Self) {
        self.max = self.max.max(other.max);
        self.sum += other.sum;
        // Both are auto-resizing with the same digits, so nothing can be out of range.
        let added = self.histogram.add(&other.histogram);
        debug_assert!(added.is_ok(), "{added:?}");
    }
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
