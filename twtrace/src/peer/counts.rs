//! What is counted for a row, and for all rows together.

use std::ops::AddAssign;

use twtrace_common::{RefusalReason, Refusals};

use crate::path::{Block, Outcome};

/// Refused takeovers, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    /// In the order of [`RefusalReason`].
    pub by_reason: [u64; 5],
}

impl Refused {
    /// Names in machine output, in the order of [`RefusalReason`].
    pub const KEYS: [&'static str; 5] =
        ["no_timestamps", "reuse_off", "loopback_only", "fin_wait2", "too_young"];

    /// All of them.
    pub fn total(&self) -> u64 {
        self.by_reason.iter().sum()
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

/// The counts of a row. They only grow, and rows add up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Entries seen.
    pub entered: u64,
    /// Of them, as FIN_WAIT2 mini-sockets.
    pub fin_wait2: u64,
    /// Sockets that were there at the start.
    pub present: u64,
    /// Ends seen of sockets whose entry event was lost: they entered all the same.
    pub entry_lost: u64,
    /// Entries of connections on which the peer sent timestamps (`ts_recent_stamp` not 0).
    pub with_timestamps: u64,
    /// Entries of connections on which it did not.
    pub without_timestamps: u64,
    /// Entries of connections that negotiated the option (`tstamp_ok`).
    pub negotiated: u64,
    /// Entries that the fast path could take.
    pub eligible: u64,
    /// Of them, those that the sysctls allow as well.
    pub allowed: u64,
    /// Blocked, in the order of [`Block::ALL`].
    pub blocked: [u64; 5],
    /// Ends, in the order of [`Outcome::ALL`].
    pub ended: [u64; 8],
    /// Entries for which no TIME_WAIT socket could be allocated.
    pub overflow: u64,
    /// Times a timer was set again, over all ended sockets.
    pub rearms: u64,
    /// Takeovers refused.
    pub refused: Refused,
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
        self.blocked.iter().sum()
    }

    /// Those of them that were blocked when they entered: a FIN_WAIT2 mini-socket that is never
    /// more is known at its end.
    pub fn blocked_at_entry(&self) -> u64 {
        self.blocked_total() - self.blocked(Block::FinWait2)
    }

    /// Ends on the fast path.
    pub fn fast(&self) -> u64 {
        self.outcome(Outcome::Recycled)
            + self.outcome(Outcome::Reused)
            + self.outcome(Outcome::Replaced)
    }

    /// All ends.
    pub fn ended_total(&self) -> u64 {
        self.ended.iter().sum()
    }

    /// Sockets of this row that live now.
    pub fn live(&self) -> u64 {
        (self.present + self.entered + self.entry_lost)
            .saturating_sub(self.overflow + self.ended_total())
    }
}

impl Counts {
    /// Puts each count together with the other's.
    #[must_use]
    fn with(mut self, other: &Self, put: impl Fn(u64, u64) -> u64) -> Self {
        let each = |mine: &mut u64, theirs: u64| *mine = put(*mine, theirs);
        each(&mut self.entered, other.entered);
        each(&mut self.fin_wait2, other.fin_wait2);
        each(&mut self.present, other.present);
        each(&mut self.entry_lost, other.entry_lost);
        each(&mut self.with_timestamps, other.with_timestamps);
        each(&mut self.without_timestamps, other.without_timestamps);
        each(&mut self.negotiated, other.negotiated);
        each(&mut self.eligible, other.eligible);
        each(&mut self.allowed, other.allowed);
        each(&mut self.overflow, other.overflow);
        each(&mut self.rearms, other.rearms);
        let blocked = self.blocked.iter_mut().zip(other.blocked);
        let ended = self.ended.iter_mut().zip(other.ended);
        let refused = self.refused.by_reason.iter_mut().zip(other.refused.by_reason);
        blocked.chain(ended).chain(refused).for_each(|(mine, theirs)| each(mine, theirs));
        self
    }

    /// What came since other, earlier counts.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        self.with(before, u64::saturating_sub)
    }

    /// The greater of each count.
    #[must_use]
    pub fn max(&self, other: &Self) -> Self {
        self.with(other, u64::max)
    }
}

impl AddAssign<&Self> for Counts {
    fn add_assign(&mut self, other: &Self) {
        *self = self.with(other, |mine, theirs| mine + theirs);
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
        assert_eq!(counts.fast(), 0);
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
}
