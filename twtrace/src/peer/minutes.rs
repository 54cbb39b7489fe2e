//! What happened minute by minute over the last hours, bounded over all rows together.
//!
//! A row keeps its newest minute itself; when the next one begins, the old one goes into the book,
//! which forgets whole minutes, the oldest first.

use std::collections::VecDeque;

use crate::path::Class;

/// Nanoseconds of a minute.
const MINUTE_NS: i64 = 60_000_000_000;

/// One row's minute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Minute {
    /// Minutes of `CLOCK_MONOTONIC` at its beginning; below 0 for a minute before this boot.
    pub minute: i32,
    /// Entries.
    pub entered: u32,
    /// Entries without timestamps.
    pub without_timestamps: u32,
    /// Entries whose fast path is closed.
    pub blocked: u32,
    /// Ends of [`Class::Fast`].
    pub fast: u32,
    /// Ends of [`Class::TwoMsl`].
    pub two_msl: u32,
    /// Ends of [`Class::Other`].
    pub other: u32,
    /// Entries for which there was no room.
    pub overflow: u32,
    /// Takeovers refused, as far as they are told by the minute.
    pub refused: u32,
}

impl Minute {
    /// The minute of a moment of `CLOCK_MONOTONIC`, nanoseconds.
    pub fn at(mono_ns: i64) -> i32 {
        i32::try_from(mono_ns.div_euclid(MINUTE_NS)).unwrap_or(i32::MAX)
    }

    /// Its beginning, `CLOCK_MONOTONIC` nanoseconds.
    pub fn begins_ns(&self) -> i64 {
        i64::from(self.minute) * MINUTE_NS
    }

    /// The count of ends of a class.
    pub const fn ended(&mut self, class: Class) -> &mut u32 {
        match class {
            Class::Fast => &mut self.fast,
            Class::TwoMsl => &mut self.two_msl,
            Class::Other => &mut self.other,
        }
    }

    /// Adds what else happened in the same minute.
    fn add(&mut self, other: &Self) {
        let Self {
            minute: _,
            entered,
            without_timestamps,
            blocked,
            fast,
            two_msl,
            other: ended_otherwise,
            overflow,
            refused,
        } = self;
        for (own, more) in [
            (entered, other.entered),
            (without_timestamps, other.without_timestamps),
            (blocked, other.blocked),
            (fast, other.fast),
            (two_msl, other.two_msl),
            (ended_otherwise, other.other),
            (overflow, other.overflow),
            (refused, other.refused),
        ] {
            *own = own.saturating_add(more);
        }
    }

    /// Ascending minutes of one row, each of them once: what was remembered of a minute and what
    /// happened in it since came apart.
    pub fn united(minutes: impl Iterator<Item = Self>) -> Vec<Self> {
        let mut all: Vec<_> = minutes.collect();
        all.dedup_by(|next, kept| {
            let same = next.minute == kept.minute;
            if same {
                kept.add(next);
            }
            same
        });
        all
    }

    /// Whether nothing happened.
    pub fn is_empty(&self) -> bool {
        *self == Self { minute: self.minute, ..Self::default() }
    }
}

/// How much is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Minutes back from the newest.
    pub minutes: i32,
    /// Rows' minutes over all rows; 40 bytes each.
    pub entries: usize,
}

impl Default for Memory {
    /// Three hours, 5 MiB.
    fn default() -> Self {
        Self { minutes: 180, entries: 131_072 }
    }
}

/// Minutes that are over, of all rows.
#[derive(Debug, Default)]
pub struct Book {
    /// By minute, ascending; of each the rows' serial numbers and counts.
    pages: VecDeque<(i32, Vec<(u32, Minute)>)>,
    entries: usize,
    memory: Memory,
}

impl Book {
    /// An empty book.
    pub fn new(memory: Memory) -> Self {
        Self { memory, ..Self::default() }
    }

    /// Keeps as much from now on.
    pub fn set_memory(&mut self, memory: Memory) {
        self.memory = memory;
        self.forget();
    }

    /// Puts a row's minute that is over in.
    pub fn put(&mut self, serial: u32, minute: Minute) {
        if minute.is_empty() {
            return;
        }
        let at = self.pages.partition_point(|(page, _)| *page < minute.minute);
        if self.pages.get(at).is_none_or(|(page, _)| *page != minute.minute) {
            self.pages.insert(at, (minute.minute, Vec::new()));
        }
        self.pages[at].1.push((serial, minute));
        self.entries += 1;
        self.forget();
    }

    fn forget(&mut self) {
        let newest = self.pages.back().map_or(i32::MIN, |(minute, _)| *minute);
        let oldest = newest.saturating_sub(self.memory.minutes);
        while let Some((minute, page)) = self.pages.front() {
            // The newest page stays whatever its size: there are no more rows than fit.
            if self.pages.len() == 1 || (*minute >= oldest && self.entries <= self.memory.entries) {
                break;
            }
            self.entries -= page.len();
            self.pages.pop_front();
        }
    }

    /// A row's minutes that are over and not forgotten, ascending.
    pub fn of(&self, serial: u32) -> impl Iterator<Item = Minute> {
        self.pages.iter().flat_map(move |(_, page)| {
            page.iter().filter(move |(row, _)| *row == serial).map(|(_, minute)| *minute)
        })
    }

    /// All minutes that are over with their rows' serial numbers, ascending by minute.
    pub fn all(&self) -> Vec<(u32, Minute)> {
        let mut minutes = Vec::with_capacity(self.entries);
        self.pages.iter().for_each(|(_, page)| minutes.extend_from_slice(page));
        minutes
    }

    /// Whether there is no room for what is remembered from before: what happens now makes its own.
    pub const fn is_full(&self) -> bool {
        self.entries >= self.memory.entries
    }

    /// Rows' minutes kept.
    pub const fn entries(&self) -> usize {
        self.entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minute(minute: i32, entered: u32) -> Minute {
        Minute { minute, entered, ..Minute::default() }
    }

    #[test]
    fn a_row_finds_its_own_minutes_in_order() {
        let mut book = Book::default();
        book.put(1, minute(10, 5));
        book.put(2, minute(10, 7));
        book.put(1, minute(12, 6));
        book.put(1, minute(11, 1));
        book.put(1, minute(13, 0));
        let minutes: Vec<_> = book.of(1).map(|minute| (minute.minute, minute.entered)).collect();
        assert_eq!(minutes, [(10, 5), (11, 1), (12, 6)], "an empty minute is not kept");
        let all = [(1, 10, 5), (2, 10, 7), (1, 11, 1), (1, 12, 6)];
        assert_eq!(book.all(), all.map(|(row, at, entered)| (row, minute(at, entered))));
    }

    #[test]
    fn the_oldest_minutes_are_forgotten_by_age_and_by_number() {
        let mut book = Book::new(Memory { minutes: 2, entries: 100 });
        (0..5).for_each(|at| book.put(1, minute(at, 1)));
        assert_eq!(book.of(1).map(|minute| minute.minute).collect::<Vec<_>>(), [2, 3, 4]);
        let mut book = Book::new(Memory { minutes: 100, entries: 10 });
        for at in 0..20 {
            (0..4).for_each(|row| book.put(row, minute(at, 1)));
        }
        assert!(book.entries() <= 10, "{}", book.entries());
        assert_eq!(book.of(3).last(), Some(minute(19, 1)));
    }

    #[test]
    fn minutes_before_the_boot_are_below_zero() {
        assert_eq!(Minute::at(-1), -1);
        assert_eq!(Minute::at(59_999_999_999), 0);
        assert_eq!(minute(-2, 1).begins_ns(), -120_000_000_000);
    }
}
