//! Rates over the last seconds, and how far they have lasted.

use super::entry::Entry;

/// Seconds the rates look back.
const WINDOW_SECONDS: usize = 10;
/// Seconds that "of late" means at least: a shorter pause of a busy program is no end.
const RECENT_SECONDS: u32 = 3;
/// Seconds from which on a rate has lasted: of the window's ten the current one and part of the
/// first may be missing.
const LASTING_SECONDS: f64 = 8.0;
/// Nanoseconds of a second.
const SECOND: u64 = 1_000_000_000;

/// What came in a second, in a part of the window.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pace {
    /// Entries.
    pub entered: f64,
    /// Entries whose fast path is closed.
    pub blocked: f64,
    /// Entries as FIN_WAIT2 mini-sockets.
    pub fin_wait2: f64,
}

/// What happened a second of late.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    /// Seconds that the rates are taken over.
    pub seconds: f64,
    /// Entries.
    pub entered: f64,
    /// Entries whose fast path is closed.
    pub blocked: f64,
    /// Entries as FIN_WAIT2 mini-sockets.
    pub fin_wait2: f64,
    /// Share of the entries without timestamps, 0 to 1; `None` when nothing entered.
    pub without_share: Option<f64>,
    /// Ends.
    pub ended: f64,
    /// Ends of sockets whose fast path was closed.
    pub freed: f64,
    /// Ends before the timer ran out: taken over, replaced, killed.
    pub early: f64,
    /// Of them, those whose fast path was closed.
    pub freed_early: f64,
    /// The last three of these seconds, with what has passed of the present one.
    pub recent: Pace,
    /// The slower of those and of what was before them, which is what has lasted: a burst does not
    /// fill both. 0 if there was less than a second before.
    pub held: Pace,
    /// Whether what was there at the start bears them out, as far back as the window goes.
    borne_out: bool,
}

impl Rates {
    /// Whether they are of so long a time that [`Rates::held`] can be relied on.
    pub const fn have_lasted(&self) -> bool {
        self.seconds >= LASTING_SECONDS || self.borne_out
    }

    /// The same with what came before the session as far as it is still there: so many `earlier`, as
    /// [`Earlier`] tells. A burst is not borne out, nor is what was taken over since.
    #[must_use]
    pub fn borne_out(self, earlier: u32, span: &Earlier) -> Self {
        let seconds = span.seconds();
        if self.have_lasted() || seconds < 1.0 || earlier == 0 || self.recent.entered <= 0.0 {
            return self;
        }
        let share = (f64::from(earlier) / seconds / self.recent.entered).min(1.0);
        let Pace { entered, blocked, fin_wait2 } = self.recent;
        // In the session there was enough of a time before to tell.
        let told = self.seconds >= f64::from(RECENT_SECONDS) + 2.0;
        let lower = |before: f64, rate: f64| {
            if told { before.min(rate * share) } else { rate * share }
        };
        let held = Pace {
            entered: lower(self.held.entered, entered),
            blocked: lower(self.held.blocked, blocked),
            fin_wait2: lower(self.held.fin_wait2, fin_wait2),
        };
        Self { held, borne_out: true, ..self }
    }
}

/// The part of the window before the session, and before what counts as of late.
#[derive(Clone, Copy, Debug)]
pub struct Earlier {
    from_ns: u64,
    to_ns: u64,
}

impl Earlier {
    /// That of a session that began at `since_ns`.
    pub fn of(now_ns: u64, since_ns: u64) -> Self {
        let from_ns = now_ns.saturating_sub(WINDOW_SECONDS as u64 * SECOND);
        let lately_ns = now_ns.saturating_sub((u64::from(RECENT_SECONDS) + 1) * SECOND);
        Self { from_ns, to_ns: since_ns.min(lately_ns) }
    }

    /// Whether something that came then is of it.
    pub const fn has(&self, mono_ns: u64) -> bool {
        self.from_ns <= mono_ns && mono_ns < self.to_ns
    }

    /// Whether the session is older than all of it.
    pub const fn is_empty(&self) -> bool {
        self.to_ns <= self.from_ns
    }

    /// How long it is.
    fn seconds(&self) -> f64 {
        span(self.from_ns, self.to_ns)
    }
}

/// What happened in one second.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// Of `CLOCK_MONOTONIC`.
    second: u32,
    entered: u32,
    blocked: u32,
    fin_wait2: u32,
    without: u32,
    ended: u32,
    freed: u32,
    early: u32,
    freed_early: u32,
}

impl Slot {
    /// Takes in what happened in another second, or to another row in the same one.
    fn add(&mut self, other: &Self) {
        self.entered = self.entered.saturating_add(other.entered);
        self.blocked = self.blocked.saturating_add(other.blocked);
        self.fin_wait2 = self.fin_wait2.saturating_add(other.fin_wait2);
        self.without = self.without.saturating_add(other.without);
        self.early = self.early.saturating_add(other.early);
        self.freed_early = self.freed_early.saturating_add(other.freed_early);
        self.ended = self.ended.saturating_add(other.ended);
        self.freed = self.freed.saturating_add(other.freed);
    }

    /// What came in a second if this happened in so many; nothing if in less than one.
    fn pace(&self, seconds: f64) -> Pace {
        if seconds < 1.0 {
            return Pace::default();
        }
        Pace {
            entered: f64::from(self.entered) / seconds,
            blocked: f64::from(self.blocked) / seconds,
            fin_wait2: f64::from(self.fin_wait2) / seconds,
        }
    }
}

/// The second of a moment; there are enough for 136 years.
fn second_of(mono_ns: u64) -> u32 {
    u32::try_from(mono_ns / SECOND).unwrap_or(u32::MAX)
}

/// Its beginning.
fn begins_ns(second: u32) -> u64 {
    u64::from(second) * SECOND
}

/// Seconds from one moment to a later one, 0 if it is not.
fn span(from_ns: u64, to_ns: u64) -> f64 {
    to_ns.saturating_sub(from_ns) as f64 / SECOND as f64
}

/// The last seconds, second by second.
#[derive(Clone, Debug, Default)]
pub struct Window(Slots);

/// Most rows of a flood are of one socket: they have no need for ten places.
#[derive(Clone, Debug)]
enum Slots {
    /// One second in which something happened, and no other in the window.
    One(Slot),
    /// Several; a second's place is its number modulo ten.
    Ten(Box<[Slot; WINDOW_SECONDS]>),
}

impl Default for Slots {
    fn default() -> Self {
        Self::One(Slot::default())
    }
}

impl Slots {
    fn all(&self) -> &[Slot] {
        match self {
            Self::One(slot) => std::slice::from_ref(slot),
            Self::Ten(slots) => slots.as_slice(),
        }
    }
}

impl Window {
    /// Takes an entry in.
    pub fn enter(&mut self, entry: &Entry) {
        if let Some(slot) = self.slot(entry.mono_ns) {
            slot.entered = slot.entered.saturating_add(1);
            slot.blocked = slot.blocked.saturating_add(u32::from(entry.blocked));
            slot.fin_wait2 = slot.fin_wait2.saturating_add(u32::from(entry.fin_wait2));
            slot.without = slot.without.saturating_add(u32::from(entry.is_without_timestamps()));
        }
    }

    /// Takes an end in; `stuck` if the socket's fast path was closed, `early` if its timer had not run
    /// out.
    pub fn end(&mut self, mono_ns: u64, stuck: bool, early: bool) {
        if let Some(slot) = self.slot(mono_ns) {
            slot.ended = slot.ended.saturating_add(1);
            slot.freed = slot.freed.saturating_add(u32::from(stuck));
            slot.early = slot.early.saturating_add(u32::from(early));
            slot.freed_early = slot.freed_early.saturating_add(u32::from(stuck && early));
        }
    }

    /// Entries since a moment, as far back as the window goes, in whole seconds.
    pub fn entered_since(&self, mono_ns: u64) -> u64 {
        u64::from(self.sum(second_of(mono_ns)..u32::MAX).entered)
    }

    /// Ends since a moment of sockets whose fast path was closed, likewise.
    pub fn freed_since(&self, mono_ns: u64) -> u64 {
        u64::from(self.sum(second_of(mono_ns)..u32::MAX).freed)
    }

    /// The most sockets that lived at the end of one of the last seconds, as seen from the `live` of
    /// now: what came since was not there, and what went was.
    pub fn most_of_late(&self, live: u64, now_ns: u64) -> u64 {
        let now = second_of(now_ns);
        let (mut then, mut most) = (live, live);
        for back in 0..WINDOW_SECONDS as u32 - 1 {
            let Some(second) = now.checked_sub(back) else { break };
            let slot = self.sum(second..second + 1);
            then = (then + u64::from(slot.ended)).saturating_sub(slot.entered.into());
            most = most.max(then);
        }
        most
    }

    /// The most entries within so many seconds on end, as far as the window goes; that slots are whole
    /// seconds counts for more and not for less.
    pub fn most_within(&self, seconds: f64) -> u64 {
        let slots = (seconds.max(0.0).ceil() as u32).saturating_add(1);
        let within = |from: u32| u64::from(self.sum(from..from.saturating_add(slots)).entered);
        self.0.all().iter().map(|slot| within(slot.second)).max().unwrap_or(0)
    }

    /// Takes another row's last seconds in.
    pub fn absorb(&mut self, other: &Self) {
        for theirs in other.0.all() {
            if let Some(slot) = self.slot(begins_ns(theirs.second)) {
                slot.add(theirs);
            }
        }
    }

    /// The slot of a moment, emptied if it was another second's; `None` for the distant past.
    fn slot(&mut self, mono_ns: u64) -> Option<&mut Slot> {
        let second = second_of(mono_ns);
        if let Slots::One(only) = self.0
            && only.second != second
            && only.second.abs_diff(second) < WINDOW_SECONDS as u32
        {
            let mut slots = Box::new([Slot::default(); WINDOW_SECONDS]);
            slots[only.second as usize % WINDOW_SECONDS] = only;
            self.0 = Slots::Ten(slots);
        }
        let slot = match &mut self.0 {
            Slots::One(slot) => slot,
            Slots::Ten(slots) => &mut slots[second as usize % WINDOW_SECONDS],
        };
        if slot.second > second {
            return None;
        }
        if slot.second < second {
            *slot = Slot { second, ..Slot::default() };
        }
        Some(slot)
    }

    /// What happened a second, over the window or the time since `since_ns` if that is shorter; over
    /// a second at least.
    pub fn rates(&self, now_ns: u64, since_ns: u64) -> Rates {
        let oldest = second_of(now_ns).saturating_sub(WINDOW_SECONDS as u32 - 1);
        let from = begins_ns(oldest).max(since_ns);
        // Slots are whole seconds, so the parts meet where one begins.
        let lately = second_of(now_ns).saturating_sub(RECENT_SECONDS).max(oldest);
        let older = self.sum(oldest..lately);
        let newer = self.sum(lately..u32::MAX);
        let seconds = span(from, now_ns).max(1.0);
        let recent = newer.pace(span(from.max(begins_ns(lately)), now_ns).max(1.0));
        let before = older.pace(span(from, begins_ns(lately)));
        let mut all = older;
        all.add(&newer);
        let rate = |count: u32| f64::from(count) / seconds;
        Rates {
            seconds,
            entered: rate(all.entered),
            blocked: rate(all.blocked),
            without_share: (all.entered > 0)
                .then(|| f64::from(all.without) / f64::from(all.entered)),
            ended: rate(all.ended),
            freed: rate(all.freed),
            fin_wait2: rate(all.fin_wait2),
            early: rate(all.early),
            freed_early: rate(all.freed_early),
            recent,
            held: Pace {
                entered: recent.entered.min(before.entered),
                blocked: recent.blocked.min(before.blocked),
                fin_wait2: recent.fin_wait2.min(before.fin_wait2),
            },
            borne_out: false,
        }
    }

    /// What happened in some seconds.
    fn sum(&self, seconds: std::ops::Range<u32>) -> Slot {
        let mut sum = Slot::default();
        let slots = self.0.all().iter().filter(|slot| seconds.contains(&slot.second));
        slots.for_each(|slot| sum.add(slot));
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::{super::History, *};

    fn entry(millis: u64, with_timestamps: bool) -> Entry {
        Entry {
            mono_ns: millis * 1_000_000,
            with_timestamps,
            blocked: !with_timestamps,
            ..Entry::default()
        }
    }

    #[test]
    fn rates_are_those_of_the_last_seconds_only() {
        let mut history = History::default();
        for tenth in 0..300 {
            history.take_in(&entry(100_000 + tenth * 100, tenth >= 200));
        }
        let rates = history.rates(130_000_000_000, 0);
        assert!((9.5..=10.5).contains(&rates.entered), "{rates:?}");
        assert_eq!(rates.without_share, Some(0.0), "the first 20 s are forgotten");
        assert_eq!(history.rates(150_000_000_000, 0).entered, 0.0);
    }

    #[test]
    fn a_young_rows_rate_is_taken_over_its_age() {
        let mut history = History::default();
        for n in 0..100 {
            history.take_in(&entry(50_000 + n * 20, false));
        }
        let rates = history.rates(52_000_000_000, 0);
        assert!((49.0..=51.0).contains(&rates.entered), "{rates:?}");
        let young = history.rates(50_010_000_000, 0);
        assert_eq!(young.seconds, 1.0, "never over less than a second");
    }

    /// `rate` entries in each of some seconds.
    fn seconds(history: &mut History, seconds: std::ops::Range<u64>, rate: u64) {
        for second in seconds {
            for n in 0..rate {
                history.take_in(&entry(second * 1000 + n * 1000 / rate, false));
            }
        }
    }

    #[test]
    fn a_steady_rate_is_the_same_in_all_parts_of_the_window() {
        let mut history = History::default();
        seconds(&mut history, 100..120, 40);
        let rates = history.rates(120_000_000_000, 0);
        assert_eq!((rates.blocked, rates.recent.blocked, rates.held.blocked), (40.0, 40.0, 40.0));
    }

    #[test]
    fn a_burst_does_not_last() {
        let mut burst = History::default();
        seconds(&mut burst, 100..103, 300);
        let at_once = burst.rates(103_000_000_000, 0);
        assert_eq!((at_once.blocked, at_once.held), (300.0, Pace::default()), "nothing before");
        seconds(&mut burst, 103..110, 2);
        let after = burst.rates(110_000_000_000, 0);
        assert!(after.blocked > 60.0, "the whole window is full of it: {after:?}");
        assert_eq!((after.recent.blocked, after.held.blocked), (2.0, 2.0));
        let mut late = History::default();
        seconds(&mut late, 100..106, 2);
        seconds(&mut late, 106..110, 300);
        let held = late.rates(110_000_000_000, 0).held.blocked;
        assert!((50.0..60.0).contains(&held), "a second of it lies before the last three: {held}");
    }

    #[test]
    fn a_short_pause_is_no_end() {
        let mut history = History::default();
        seconds(&mut history, 100..105, 40);
        assert!(history.rates(107_500_000_000, 0).recent.blocked > 0.0, "2.5 s of silence");
        assert!(history.rates(110_000_000_000, 0).recent.blocked == 0.0, "5 s of silence");
        let mut short = History::default();
        short.take_in(&entry(100_900, false));
        assert_eq!(short.rates(101_100_000_000, 0).recent.blocked, 1.0, "over a second at least");
    }
}
