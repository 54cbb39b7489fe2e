//! Failed calls: how many there were, and when.

use super::socket::Key;

/// Failed calls of one place. Counts come with moments and are the truth; events come between them, tell
/// when calls failed, and are told of at most ten a second of each processor.
#[derive(Clone, Copy, Debug, Default)]
pub struct Told {
    /// Where the ports were wanted; `None` where the program named its port.
    pub key: Option<Key>,
    /// Calls that events stand for.
    events: u64,
    /// The first event since the last moment, milliseconds, and the last one.
    seen_ms: Option<(u64, u64)>,
    /// Calls that were known of at the last moment.
    known: u64,
    /// When the last of them was, milliseconds.
    last_ms: u64,
    /// Whether calls may have failed all the time since, untold by events.
    goes_on: bool,
}

/// Calls that failed evenly in some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spread {
    /// How many.
    pub calls: u64,
    /// After when, milliseconds.
    pub since_ms: u64,
    /// Until when.
    pub until_ms: u64,
}

impl Told {
    /// Of a place.
    pub fn of(key: Option<Key>) -> Self {
        Self { key, ..Self::default() }
    }

    /// An event tells of so many.
    pub fn event(&mut self, calls: u64, at_ms: u64) {
        self.events = self.events.saturating_add(calls);
        let (first, last) = self.seen_ms.unwrap_or((at_ms, at_ms));
        self.seen_ms = Some((first.min(at_ms), last.max(at_ms)));
    }

    /// What was known of before the session began is not of it.
    pub fn begin(&mut self, count: u64, last_ms: u64) {
        self.known = count.max(self.events);
        self.events = self.known;
        self.last_ms = last_ms;
        self.seen_ms = None;
    }

    /// Whether events tell of it since the last moment.
    pub const fn has_events(&self) -> bool {
        self.seen_ms.is_some()
    }

    /// So many there were until then by what was counted, if that is known, and a moment before at
    /// `moment_ms`; answers those that are new.
    pub fn moment(&mut self, counted: Option<(u64, u64)>, moment_ms: u64) -> Option<Spread> {
        let (count, counted_ms) = counted.unwrap_or_default();
        let (first_ms, seen_ms) = self.seen_ms.take().unwrap_or((u64::MAX, 0));
        let calls = count.max(self.events).saturating_sub(self.known);
        let until_ms = counted_ms.max(seen_ms).max(self.last_ms);
        // Where nothing was kept back, events tell of the first one as well.
        let began_ms = if self.goes_on { 0 } else { first_ms.saturating_sub(1) };
        let since_ms = began_ms.max(self.last_ms).max(moment_ms).min(until_ms);
        self.known += calls;
        self.last_ms = until_ms;
        self.goes_on = self.known > self.events;
        (calls > 0).then_some(Spread { calls, since_ms, until_ms })
    }
}

/// Parts that calls are replayed in that are told together.
const PARTS: u64 = 200;

impl Spread {
    /// When so many of them are, milliseconds.
    pub fn parts(self) -> impl Iterator<Item = (u64, u64)> {
        let parts = self.calls.min(PARTS);
        let part = move |whole: u64, part: u64| {
            (u128::from(whole) * u128::from(part) / u128::from(parts)) as u64
        };
        let Self { calls, since_ms, until_ms } = self;
        (1..=parts).map(move |number| {
            let at_ms = since_ms + part(until_ms - since_ms, number);
            (at_ms, part(calls, number) - part(calls, number - 1))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(calls: u64, since_ms: u64, until_ms: u64) -> Option<Spread> {
        Some(Spread { calls, since_ms, until_ms })
    }

    #[test]
    fn calls_that_events_tell_of_are_between_the_first_and_the_last_of_them() {
        let mut told = Told::default();
        told.event(1, 5_300);
        told.event(1, 5_310);
        assert_eq!(told.moment(Some((2, 5_310)), 5_000), spread(2, 5_299, 5_310));
        assert_eq!(told.moment(Some((2, 5_310)), 6_000), None);
    }

    #[test]
    fn calls_that_events_keep_back_are_spread_over_all_the_time_they_may_have_been_in() {
        let mut told = Told::default();
        (0..10).for_each(|n| told.event(1, 5_300 + n));
        assert_eq!(told.moment(Some((70, 5_990)), 5_000), spread(70, 5_299, 5_990));
        // Another processor tells its own at once, while the first one's wait to be told.
        (0..10).for_each(|n| told.event(1, 6_500 + n));
        assert_eq!(told.moment(Some((170, 6_990)), 6_000), spread(100, 6_000, 6_990));
        told.event(130, 7_020);
        assert_eq!(told.moment(Some((180, 7_060)), 7_000), spread(10, 7_000, 7_060));
    }

    #[test]
    fn what_failed_before_a_session_is_not_of_it_and_no_count_is_no_loss() {
        let mut told = Told::default();
        told.event(4, 4_000);
        told.begin(30, 4_000);
        assert_eq!(told.moment(Some((30, 4_000)), 4_500), None);
        told.event(3, 5_500);
        assert_eq!(told.moment(None, 5_000), spread(3, 5_499, 5_500));
    }

    #[test]
    fn parts_are_all_calls_at_their_times() {
        let spread = Spread { calls: 4, since_ms: 100, until_ms: 140 };
        assert_eq!(spread.parts().collect::<Vec<_>>(), [(110, 1), (120, 1), (130, 1), (140, 1)]);
        let many = Spread { calls: 1_000_001, since_ms: 0, until_ms: 1_000 };
        assert_eq!(many.parts().map(|(_, calls)| calls).sum::<u64>(), 1_000_001);
        assert_eq!(many.parts().count(), 200);
    }
}
