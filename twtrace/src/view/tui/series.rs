//! Entries a second over the last minute, row by row.

use std::collections::VecDeque;

use rustc_hash::FxHashMap;

use crate::{peer::Group, summary::Summary};

/// Summaries looked back on: a minute at the usual interval.
pub const SAMPLES: usize = 60;

/// The rates of one row, oldest first.
#[derive(Clone, Debug, Default)]
pub struct Series {
    rates: VecDeque<f64>,
    entered: u64,
}

impl Series {
    /// Takes in the count at this moment, `seconds` after the last.
    fn push(&mut self, entered: u64, seconds: f64) {
        // A row that lost its place begins at 0 again.
        let more = entered.checked_sub(self.entered).unwrap_or(entered);
        self.entered = entered;
        if self.rates.len() == SAMPLES {
            self.rates.pop_front();
        }
        self.rates.push_back(more as f64 / seconds);
    }

    /// The rates, oldest first.
    pub fn rates(&self) -> impl DoubleEndedIterator<Item = f64> + ExactSizeIterator {
        self.rates.iter().copied()
    }

    /// The rate at this moment.
    pub fn last(&self) -> f64 {
        self.rates.back().copied().unwrap_or(0.0)
    }
}

/// The series of all rows shown.
#[derive(Clone, Debug, Default)]
pub struct AllSeries {
    rows: FxHashMap<Group, Series>,
    elapsed: f64,
}

impl AllSeries {
    /// Takes a summary in; rows that are not in it are forgotten.
    pub fn push(&mut self, summary: &Summary) {
        let elapsed = summary.elapsed.as_secs_f64();
        let seconds = elapsed - self.elapsed;
        if seconds <= 0.0 {
            return;
        }
        self.elapsed = elapsed;
        let mut before = std::mem::take(&mut self.rows);
        for row in &summary.rows {
            let mut series = before.remove(&row.group).unwrap_or_default();
            series.push(row.counts.entered, seconds);
            self.rows.insert(row.group, series);
        }
    }

    /// Of one row.
    pub fn of(&self, group: &Group) -> Option<&Series> {
        self.rows.get(group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_differences_over_the_time_between() {
        let mut series = Series::default();
        for (entered, seconds) in [(100, 2.0), (100, 1.0), (130, 0.5), (7, 1.0)] {
            series.push(entered, seconds);
        }
        assert_eq!(series.rates().collect::<Vec<_>>(), [50.0, 0.0, 60.0, 7.0]);
        assert_eq!(series.last(), 7.0);
        (0..200).for_each(|count| series.push(count, 1.0));
        assert_eq!(series.rates().len(), SAMPLES);
    }
}
