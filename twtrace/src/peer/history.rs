//! What a row's past looked like, in bounded memory: rates over the last seconds, when timestamps
//! were seen and when not, and which addresses and ports of this end took part.

use serde::{Deserialize, Serialize};

use super::Past;

/// Seconds the rates look back.
pub const WINDOW_SECONDS: usize = 10;
/// Seconds that "of late" means at least: a shorter pause of a busy program is no end.
const RECENT_SECONDS: u64 = 3;
/// Seconds from which on a rate has lasted: of the window's ten the current one and part of the
/// first may be missing.
const LASTING_SECONDS: f64 = 8.0;
/// Local addresses told apart; beyond, sources are only known to be more.
const MAX_LOCALS: usize = 8;
/// Changes between "with timestamps" and "without" that are kept; the latest are.
const MAX_CHANGES: usize = 8;
/// Nanoseconds of a second.
const SECOND: u64 = 1_000_000_000;

/// What happened in one second.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    second: u64,
    entered: u32,
    blocked: u32,
    without: u32,
    ended: u32,
    freed: u32,
}

impl Slot {
    /// Takes in what happened in another second, or to another row in the same one.
    fn add(&mut self, other: &Self) {
        self.entered = self.entered.saturating_add(other.entered);
        self.blocked = self.blocked.saturating_add(other.blocked);
        self.without = self.without.saturating_add(other.without);
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
        }
    }
}

/// Seconds from one moment to a later one, 0 if it is not.
fn span(from_ns: u64, to_ns: u64) -> f64 {
    to_ns.saturating_sub(from_ns) as f64 / SECOND as f64
}

/// One entry, as far as the history looks at it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Entry {
    /// `CLOCK_MONOTONIC` nanoseconds of the entry.
    pub mono_ns: u64,
    /// Whether the peer had sent timestamps.
    pub with_timestamps: bool,
    /// Whether it holds a port whose fast path is closed, by a reason other than FIN_WAIT2.
    pub blocked: bool,
    /// Whether `connect()` chose the local port.
    pub autobound: bool,
    /// Address of this end, v4-mapped where it is IPv4.
    pub local: [u8; 16],
    /// Port of this end.
    pub local_port: u16,
    /// Port of the other end.
    pub remote_port: u16,
}

/// The ports of a row's connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ports {
    /// No connection was seen.
    #[default]
    None,
    /// Every connection had this local and this remote port.
    Same(u16, u16),
    /// They differed.
    Many,
}

/// Moment at which sockets began to come with timestamps, or without.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// `CLOCK_MONOTONIC` nanoseconds of the first socket of the new kind.
    pub mono_ns: u64,
    /// When the last socket of the kind before was seen.
    pub before_ns: u64,
    /// The new kind.
    pub with_timestamps: bool,
}

/// When sockets of one kind were seen; 0 is never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// The first, `CLOCK_MONOTONIC` nanoseconds.
    pub first_ns: u64,
    /// The last.
    pub last_ns: u64,
}

impl Span {
    fn note(&mut self, mono_ns: u64) {
        self.first_ns = if self.first_ns == 0 { mono_ns } else { self.first_ns.min(mono_ns) };
        self.last_ns = self.last_ns.max(mono_ns);
    }

    fn absorb(&mut self, other: &Self) {
        for moment in [other.first_ns, other.last_ns].into_iter().filter(|moment| *moment != 0) {
            self.note(moment);
        }
    }
}

/// What came in a second, in a part of the window.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pace {
    /// Entries.
    pub entered: f64,
    /// Entries whose fast path is closed.
    pub blocked: f64,
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
    /// Share of the entries without timestamps, 0 to 1; `None` when nothing entered.
    pub without_share: Option<f64>,
    /// Ends.
    pub ended: f64,
    /// Ends of sockets whose fast path was closed.
    pub freed: f64,
    /// The last three of these seconds, with what has passed of the present one.
    pub recent: Pace,
    /// The slower of those and of what was before them, which is what has lasted: a burst does not
    /// fill both. 0 if there was less than a second before.
    pub held: Pace,
}

/// A row's past.
#[derive(Clone, Debug, Default)]
pub struct History {
    slots: [Slot; WINDOW_SECONDS],
    locals: Vec<([u8; 16], u64)>,
    /// Entries from addresses beyond those told apart.
    other_locals: u64,
    changes: Vec<Change>,
    /// Changes ever seen; more than are kept if they are frequent.
    pub changes_seen: u64,
    /// Sockets with timestamps.
    pub with: Span,
    /// Sockets without.
    pub without: Span,
    /// Kind of the last socket.
    last_with: Option<bool>,
    /// Ports of the connections.
    pub ports: Ports,
    /// Entries whose local port `connect()` chose.
    pub autobound: u64,
    /// Live sockets whose fast path is closed.
    pub stuck: u64,
    /// Ended sockets whose TIME_WAIT was armed again, promotion from FIN_WAIT2 left out.
    pub rearmed: u64,
    /// Ends by RST of sockets that were in TIME_WAIT proper.
    pub assassinated: u64,
    /// Takeovers by sockets bound beforehand.
    pub bound_reuse: u64,
}

impl Rates {
    /// Whether they are of so long a time that [`Rates::held`] can be relied on.
    pub fn have_lasted(&self) -> bool {
        self.seconds >= LASTING_SECONDS
    }
}

impl History {
    /// Takes an entry in.
    pub fn enter(&mut self, entry: &Entry) {
        if let Some(slot) = self.slot(entry.mono_ns) {
            slot.entered = slot.entered.saturating_add(1);
            slot.blocked = slot.blocked.saturating_add(u32::from(entry.blocked));
            slot.without = slot.without.saturating_add(u32::from(!entry.with_timestamps));
        }
        self.autobound += u64::from(entry.autobound);
        self.change(entry);
        self.seen(entry);
    }

    /// Takes in a socket that was there at the start; its entry is what its timer tells.
    pub fn present(&mut self, entry: &Entry) {
        self.autobound += u64::from(entry.autobound);
        self.seen(entry);
    }

    /// Takes in what was known before the session.
    pub fn remember(&mut self, past: &Past) {
        self.with.absorb(&past.with);
        self.without.absorb(&past.without);
        let newest = past.changes.len().saturating_sub(MAX_CHANGES);
        self.changes = past.changes[newest..].to_vec();
        self.changes_seen += past.changes_seen;
    }

    fn seen(&mut self, entry: &Entry) {
        let span = if entry.with_timestamps { &mut self.with } else { &mut self.without };
        span.note(entry.mono_ns);
        let pair = Ports::Same(entry.local_port, entry.remote_port);
        self.ports = match self.ports {
            Ports::None => pair,
            same if same == pair => same,
            _ => Ports::Many,
        };
        self.count_local(entry.local, 1);
    }

    fn count_local(&mut self, address: [u8; 16], more: u64) {
        let known = self.locals.iter().position(|(local, _)| *local == address);
        match known {
            Some(index) => self.locals[index].1 += more,
            None if self.locals.len() < MAX_LOCALS => self.locals.push((address, more)),
            None => self.other_locals += more,
        }
    }

    /// Notes a change of kind; entries come in order but for what two CPUs report at once.
    fn change(&mut self, entry: &Entry) {
        let with = entry.with_timestamps;
        // What was there at the start is the kind before the first entry.
        let before = self.last_with.or_else(|| {
            let known = self.with.last_ns.max(self.without.last_ns) != 0;
            known.then_some(self.with.last_ns > self.without.last_ns)
        });
        self.last_with = Some(with);
        if before.is_none_or(|before| before == with) {
            return;
        }
        let before_ns = if with { self.without.last_ns } else { self.with.last_ns };
        self.changes_seen += 1;
        if self.changes.len() == MAX_CHANGES {
            self.changes.remove(0);
        }
        self.changes.push(Change { mono_ns: entry.mono_ns, before_ns, with_timestamps: with });
    }

    /// Takes an end in; `stuck` if its fast path was closed.
    pub fn end(&mut self, mono_ns: u64, stuck: bool) {
        if let Some(slot) = self.slot(mono_ns) {
            slot.ended = slot.ended.saturating_add(1);
            slot.freed = slot.freed.saturating_add(u32::from(stuck));
        }
        self.stuck = self.stuck.saturating_sub(u64::from(stuck));
    }

    /// The slot of a moment, emptied if it was another second's; `None` for the distant past.
    fn slot(&mut self, mono_ns: u64) -> Option<&mut Slot> {
        let second = mono_ns / SECOND;
        let slot = &mut self.slots[second as usize % WINDOW_SECONDS];
        if slot.second > second {
            return None;
        }
        if slot.second < second {
            *slot = Slot { second, ..Slot::default() };
        }
        Some(slot)
    }

    /// What happened a second, over the window or the time since `since_ns`, the start of the
    /// session, or since the row's first entry if that is shorter; over a second at least.
    pub fn rates(&self, now_ns: u64, since_ns: u64) -> Rates {
        let oldest = (now_ns / SECOND).saturating_sub(WINDOW_SECONDS as u64 - 1);
        let from = (oldest * SECOND).max(since_ns).max(self.first_ns());
        // Slots are whole seconds, so the parts meet where one begins.
        let lately = (now_ns / SECOND).saturating_sub(RECENT_SECONDS).max(oldest);
        let older = self.sum(oldest..lately);
        let newer = self.sum(lately..u64::MAX);
        let seconds = span(from, now_ns).max(1.0);
        let recent = newer.pace(span(from.max(lately * SECOND), now_ns).max(1.0));
        let before = older.pace(span(from, lately * SECOND));
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
            recent,
            held: Pace {
                entered: recent.entered.min(before.entered),
                blocked: recent.blocked.min(before.blocked),
            },
        }
    }

    /// When the first socket was seen, `CLOCK_MONOTONIC` nanoseconds; 0 if none was.
    pub fn first_ns(&self) -> u64 {
        match (self.with.first_ns, self.without.first_ns) {
            (0, only) | (only, 0) => only,
            (with, without) => with.min(without),
        }
    }

    /// What happened in some seconds.
    fn sum(&self, seconds: std::ops::Range<u64>) -> Slot {
        let mut sum = Slot::default();
        let slots = self.slots.iter().filter(|slot| seconds.contains(&slot.second));
        slots.for_each(|slot| sum.add(slot));
        sum
    }

    /// The latest changes, oldest first.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// Whether the last socket came with timestamps; `None` if there was no socket.
    pub fn last_with_timestamps(&self) -> Option<bool> {
        self.last_with.or_else(|| {
            let last = self.with.last_ns.max(self.without.last_ns);
            (last != 0).then_some(self.with.last_ns == last)
        })
    }

    /// Addresses of this end, the busiest first, with the sockets of each.
    pub fn locals(&self) -> Vec<([u8; 16], u64)> {
        let mut locals = self.locals.clone();
        locals.sort_by(|one, two| two.1.cmp(&one.1).then(one.0.cmp(&two.0)));
        locals
    }

    /// Sockets from addresses beyond those told apart.
    pub const fn other_locals(&self) -> u64 {
        self.other_locals
    }

    /// Takes another row's past in. What is told of single moments stays the own row's.
    pub fn absorb(&mut self, other: &Self) {
        for theirs in &other.slots {
            if let Some(slot) = self.slot(theirs.second * SECOND) {
                slot.add(theirs);
            }
        }
        for (local, count) in &other.locals {
            self.count_local(*local, *count);
        }
        self.other_locals += other.other_locals;
        self.changes_seen += other.changes_seen;
        self.with.absorb(&other.with);
        self.without.absorb(&other.without);
        if other.ports != Ports::None && self.ports != other.ports {
            let empty = self.ports == Ports::None;
            self.ports = if empty { other.ports } else { Ports::Many };
        }
        self.autobound += other.autobound;
        self.stuck += other.stuck;
        self.rearmed += other.rearmed;
        self.assassinated += other.assassinated;
        self.bound_reuse += other.bound_reuse;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(millis: u64, with_timestamps: bool) -> Entry {
        Entry {
            mono_ns: millis * 1_000_000,
            with_timestamps,
            blocked: !with_timestamps,
            local: [1; 16],
            local_port: (millis % 60_000) as u16,
            remote_port: 80,
            ..Entry::default()
        }
    }

    #[test]
    fn rates_are_those_of_the_last_seconds_only() {
        let mut history = History::default();
        for tenth in 0..300 {
            history.enter(&entry(100_000 + tenth * 100, tenth >= 200));
        }
        let rates = history.rates(130_000_000_000, 0);
        assert!((9.5..=10.5).contains(&rates.entered), "{rates:?}");
        assert_eq!(rates.without_share, Some(0.0), "the first 20 s are forgotten");
        assert_eq!(history.rates(150_000_000_000, 0).entered, 0.0);
    }

    #[test]
    fn a_young_rows_rate_is_taken_over_its_age() {
        let mut history = History::default();
        (0..100).for_each(|n| history.enter(&entry(50_000 + n * 20, false)));
        let rates = history.rates(52_000_000_000, 0);
        assert!((49.0..=51.0).contains(&rates.entered), "{rates:?}");
        let young = history.rates(50_010_000_000, 0);
        assert_eq!(young.seconds, 1.0, "never over less than a second");
    }

    /// `rate` entries in each of some seconds.
    fn seconds(history: &mut History, seconds: std::ops::Range<u64>, rate: u64) {
        for second in seconds {
            (0..rate).for_each(|n| history.enter(&entry(second * 1000 + n * 1000 / rate, false)));
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
        short.enter(&entry(100_900, false));
        assert_eq!(short.rates(101_100_000_000, 0).recent.blocked, 1.0, "over a second at least");
    }

    #[test]
    fn the_moment_timestamps_went_away_is_kept() {
        let mut history = History::default();
        history.enter(&entry(1_000, true));
        history.enter(&entry(2_000, true));
        history.enter(&entry(3_000, false));
        history.enter(&entry(4_000, false));
        let change =
            Change { mono_ns: 3_000_000_000, before_ns: 2_000_000_000, with_timestamps: false };
        assert_eq!(history.changes(), [change]);
        assert_eq!(history.last_with_timestamps(), Some(false));
        assert_eq!(history.with.last_ns, 2_000_000_000);
        assert_eq!(history.without.first_ns, 3_000_000_000);
    }

    #[test]
    fn sockets_of_before_the_session_are_the_kind_before() {
        let mut history = History::default();
        history.present(&entry(500, true));
        history.enter(&entry(9_000, false));
        assert_eq!(history.changes().len(), 1);
        assert_eq!(history.changes()[0].before_ns, 500_000_000);
    }

    #[test]
    fn changes_and_addresses_stay_bounded() {
        let mut history = History::default();
        for n in 0..100_u64 {
            let local = [n as u8; 16];
            history.enter(&Entry { local, ..entry(n * 10 + 1, n % 2 == 0) });
        }
        assert_eq!((history.changes().len(), history.changes_seen), (MAX_CHANGES, 99));
        assert_eq!((history.locals().len(), history.other_locals()), (MAX_LOCALS, 92));
    }

    #[test]
    fn ports_are_the_same_until_one_differs() {
        let mut history = History::default();
        let fixed = Entry { local_port: 5000, ..entry(1, true) };
        history.enter(&fixed);
        history.enter(&fixed);
        assert_eq!(history.ports, Ports::Same(5000, 80));
        history.enter(&Entry { local_port: 5001, ..fixed });
        assert_eq!(history.ports, Ports::Many);
    }

    #[test]
    fn absorbing_adds_rates_and_addresses() {
        let mut one = History::default();
        let mut two = History::default();
        one.enter(&entry(5_000, true));
        two.enter(&Entry { local: [2; 16], ..entry(5_100, false) });
        two.stuck = 3;
        one.absorb(&two);
        assert_eq!(one.rates(5_900_000_000, 0).entered, 2.0);
        assert_eq!(one.locals().len(), 2);
        assert_eq!(one.stuck, 3);
    }
}
