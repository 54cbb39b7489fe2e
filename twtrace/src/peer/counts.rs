//! What is counted for a row, and for all rows together.

use std::{iter::zip, ops::AddAssign};

use twtrace_common::{RefusalReason, Refusals};

use crate::{
    failures::FailedCalls,
    path::{Block, Class, Outcome},
};

/// Refused takeovers, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refused<N = u64> {
    /// In the order of [`RefusalReason`].
    pub by_reason: [N; 5],
}

impl Refused {
    /// Names in machine output, in the order of [`RefusalReason`].
    pub const KEYS: [&'static str; 5] =
        ["no_timestamps", "reuse_off", "loopback_only", "fin_wait2", "too_young"];

    /// Why, in words for a person, in that order.
    pub const SENTENCES: [&'static str; 5] = [
        "the connection had no timestamps",
        "tcp_tw_reuse is 0",
        "tcp_tw_reuse is 2 and this is not loopback",
        "it was still a FIN_WAIT2 mini-socket",
        "it was younger than the reuse delay (1 s)",
    ];

    /// All of them.
    pub fn total(&self) -> u64 {
        sum(self.by_reason)
    }

    /// What came since `before`; the kernel's counts only grow.
    pub fn since(now: &Refusals, before: &Refusals) -> Self {
        let mut delta = Self::default();
        for (delta, (now, before)) in
            delta.by_reason.iter_mut().zip(now.by_reason.iter().zip(before.by_reason))
        {
            *delta = now.saturating_sub(before);
        }
        delta
    }

    /// The count for one reason.
    pub fn of(&self, reason: RefusalReason) -> u64 {
        self.by_reason[reason as usize]
    }
}

/// Makes [`Counts`] of the plain ones among them, and of the lists.
macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// The counts of a row. They only grow, and rows add up.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counts<N = u64> {
            $($(#[$doc])* pub $name: N,)+
            /// Blocked, in the order of [`Block::ALL`].
            pub blocked: [N; 5],
            /// Ends, in the order of [`Outcome::ALL`].
            pub ended: [N; 9],
            /// Takeovers refused.
            pub refused: Refused<N>,
            /// Calls that failed. Of a `bind()` no peer is known: it is in rows that are no peers.
            pub failed: FailedCalls<N>,
        }

        impl<N: Copy> Counts<N> {
            /// Puts each count together with the other's.
            fn put<M: Copy>(&mut self, other: &Counts<M>, put: impl Fn(N, M) -> N) {
                let each = |mine: &mut N, theirs: M| *mine = put(*mine, theirs);
                $(each(&mut self.$name, other.$name);)+
                // A list after the other, not one chain of them: several at once go in one instruction.
                zip(&mut self.blocked, other.blocked).for_each(|(mine, its)| each(mine, its));
                zip(&mut self.ended, other.ended).for_each(|(mine, its)| each(mine, its));
                let (refused, failed) = (&mut self.refused, &mut self.failed);
                zip(&mut refused.by_reason, other.refused.by_reason)
                    .for_each(|(mine, its)| each(mine, its));
                zip(&mut failed.by_cause, other.failed.by_cause)
                    .for_each(|(mine, its)| each(mine, its));
            }
        }
    };
}

counts! {
    /// Entries seen.
    entered,
    /// Of them, as FIN_WAIT2 mini-sockets.
    fin_wait2,
    /// Entries whose port the program had bound before it called connect().
    bound,
    /// Sockets that were there at the start.
    present,
    /// Ends seen of sockets whose entry event was lost: they entered all the same.
    entry_lost,
    /// Entries of connections on which the peer sent timestamps (`tstamp_ok`).
    with_timestamps,
    /// Entries of connections on which it did not.
    without_timestamps,
    /// Entries that the fast path could take (`ts_recent_stamp` not 0).
    eligible,
    /// Of them, those that the sysctls allow as well.
    allowed,
    /// Entries for which no TIME_WAIT socket could be allocated.
    overflow,
    /// Times a timer was set again, over all ended sockets.
    rearms,
    /// Ended sockets that were FIN_WAIT2 mini-sockets first, and became TIME_WAIT.
    promoted,
}

/// Counts together, however large a recording says they are.
pub fn sum(counts: impl IntoIterator<Item = u64>) -> u64 {
    counts.into_iter().fold(0, u64::saturating_add)
}

impl Counts {
    /// The count of one outcome.
    pub fn outcome(&self, outcome: Outcome) -> u64 {
        self.ended[outcome as usize]
    }

    /// The count of one reason.
    pub fn blocked(&self, block: Block) -> u64 {
        self.blocked[block as usize]
    }

    /// The blocked together.
    pub fn blocked_total(&self) -> u64 {
        sum(self.blocked)
    }

    /// Those of them that were blocked when they entered: a FIN_WAIT2 mini-socket that is never
    /// more is known at its end.
    pub fn blocked_at_entry(&self) -> u64 {
        self.blocked_total() - self.blocked(Block::FinWait2)
    }

    /// Ends of a class.
    pub fn class(&self, class: Class) -> u64 {
        let of = Outcome::ALL.into_iter().filter(|outcome| outcome.class() == class);
        sum(of.map(|outcome| self.outcome(outcome)))
    }

    /// All ends.
    pub fn ended_total(&self) -> u64 {
        sum(self.ended)
    }

    /// Sockets that entered, or were there.
    pub fn came(&self) -> u64 {
        sum([self.present, self.entered, self.entry_lost])
    }

    /// Sockets of this row that live now.
    pub fn live(&self) -> u64 {
        self.came().saturating_sub(sum([self.overflow, self.ended_total()]))
    }
}

impl Counts {
    /// What came since other, earlier counts.
    #[must_use]
    pub fn since(mut self, before: &Self) -> Self {
        self.put(before, u64::saturating_sub);
        self
    }

    /// The greater of each count.
    #[must_use]
    pub fn max(mut self, other: &Self) -> Self {
        self.put(other, u64::max);
        self
    }
}

impl AddAssign<&Self> for Counts {
    fn add_assign(&mut self, other: &Self) {
        // A recording may say whatever its writer liked.
        self.put(other, u64::saturating_add);
    }
}

/// The counts of a row, in half the bytes until there is much to count.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    recent: Counts<u32>,
    /// Events counted in `recent`.
    events: u32,
    /// What was counted before.
    older: Option<Box<Counts>>,
}

impl Tally {
    /// Events after which what is recent becomes older. Any number would do that 32 bits hold; this
    /// one is often reached.
    const CARRY: u32 = 1 << 16;

    /// The counts to add an event to: to each at most one.
    pub fn count(&mut self) -> &mut Counts<u32> {
        if self.events == Self::CARRY {
            self.carry();
        }
        self.events += 1;
        &mut self.recent
    }

    /// Adds times a timer was set again: a peer that sends its FIN over and over can make them many.
    pub fn add_rearms(&mut self, rearms: u32) {
        match self.recent.rearms.checked_add(rearms) {
            Some(sum) => self.recent.rearms = sum,
            None => self.edit(|counts| counts.rearms += u64::from(rearms)),
        }
    }

    /// Changes the counts as one likes.
    pub fn edit(&mut self, edit: impl FnOnce(&mut Counts)) {
        edit(self.carry());
    }

    /// Makes what is recent older.
    fn carry(&mut self) -> &mut Counts {
        let recent = std::mem::take(&mut self.recent);
        self.events = 0;
        let older = self.older.get_or_insert_default();
        older.put(&recent, |older, recent| older + u64::from(recent));
        older
    }

    /// Takes an end back whose entry had seemed lost.
    pub fn found_entry(&mut self) {
        let recent = &mut self.recent.entry_lost;
        match (recent, &mut self.older) {
            (recent @ 1.., _) => *recent -= 1,
            (_, Some(older)) => older.entry_lost = older.entry_lost.saturating_sub(1),
            (_, None) => {}
        }
    }

    /// All that was counted.
    pub fn counts(&self) -> Counts {
        let mut counts = self.older.as_deref().copied().unwrap_or_default();
        counts.put(&self.recent, |older, recent| older + u64::from(recent));
        counts
    }

    /// Sockets that live now.
    pub fn live(&self) -> u64 {
        let came = |counts: &Counts<u32>| {
            [counts.present, counts.entered, counts.entry_lost].map(u64::from).iter().sum::<u64>()
        };
        let went = |counts: &Counts<u32>| {
            let ended = counts.ended.iter().copied().map(u64::from).sum::<u64>();
            u64::from(counts.overflow) + ended
        };
        match &self.older {
            // It is asked with each end, and nearly all rows are of this kind.
            None => came(&self.recent).saturating_sub(went(&self.recent)),
            Some(_) => self.counts().live(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_is_what_came_less_what_ended_or_never_was() {
        let mut counts = Counts { present: 3, entered: 10, overflow: 2, ..Counts::default() };
        counts.ended[Outcome::TwoMsl as usize] = 4;
        counts.ended[Outcome::Unknown as usize] = 1;
        assert_eq!(counts.live(), 6);
        assert_eq!(counts.class(Class::Fast), 0);
    }

    #[test]
    fn rows_add_up_field_by_field() {
        let one = Counts {
            entered: 1,
            blocked: [1, 2, 3, 4, 5],
            refused: Refused { by_reason: [5, 4, 3, 2, 1] },
            ..Counts::default()
        };
        let mut sum = one;
        sum += &one;
        assert_eq!(sum.entered, 2);
        assert_eq!(sum.blocked_total(), 30);
        assert_eq!(sum.refused.total(), 30);
        assert_eq!(sum.refused.of(RefusalReason::NoTimestamps), 10);
    }

    #[test]
    fn a_tally_overflows_nothing() {
        const STEP: u32 = u16::MAX as u32;
        let mut tally = Tally::default();
        let events = u64::from(Tally::CARRY) * 2 + 7;
        for _ in 0..events {
            let counts = tally.count();
            counts.entered += 1;
            counts.ended[0] += 1;
            tally.add_rearms(STEP);
        }
        tally.add_rearms(u32::MAX);
        let counts = tally.counts();
        assert_eq!((counts.entered, counts.ended[0], tally.live()), (events, events, 0));
        let rearms = events * u64::from(STEP) + u64::from(u32::MAX);
        assert_eq!(counts.rearms, rearms);
    }

    #[test]
    fn an_entry_that_seemed_lost_is_found_wherever_it_was_counted() {
        let mut tally = Tally::default();
        tally.count().entry_lost += 1;
        tally.edit(|counts| counts.entry_lost += 1);
        tally.count().entry_lost += 1;
        assert_eq!((tally.counts().entry_lost, tally.live()), (3, 3));
        tally.found_entry();
        tally.found_entry();
        tally.found_entry();
        tally.found_entry();
        assert_eq!((tally.counts().entry_lost, tally.live()), (0, 0));
    }
}
