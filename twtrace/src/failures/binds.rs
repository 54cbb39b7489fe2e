//! How the `bind()` calls of a program fared.

use twtrace_common::{CallResult, Failure};

use super::{MINUTE_NS, SECOND_NS, add};

/// What became of the `bind()` calls of one program since its first that was refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Binds {
    /// Refused.
    pub refused: u64,
    /// Of them, followed by a successful one within a second: the program looks for a free port.
    pub answered: u64,
    /// Of them, not followed by one so soon. The others are too young to tell.
    pub unanswered: u64,
    /// Successful.
    pub bound: u64,
    /// `CLOCK_MONOTONIC` of the last refusal, nanoseconds.
    pub refused_ns: u64,
    /// `CLOCK_MONOTONIC` of the last success, nanoseconds; 0 for none.
    pub bound_ns: u64,
    /// When it was last told that no success had come soon, `CLOCK_MONOTONIC` nanoseconds.
    pub unanswered_ns: u64,
}

impl Binds {
    /// A program that gets a port within this time was merely looking for one, nanoseconds.
    pub const PATIENCE_NS: u64 = SECOND_NS;

    pub(super) const fn add(&mut self, result: CallResult, failure: &Failure) {
        let Failure { count, last_ns, .. } = *failure;
        let (sum, latest) = match result {
            CallResult::AddressInUse => (&mut self.refused, Some(&mut self.refused_ns)),
            CallResult::Bound => (&mut self.bound, Some(&mut self.bound_ns)),
            CallResult::Answered => (&mut self.answered, None),
            CallResult::Unanswered => (&mut self.unanswered, Some(&mut self.unanswered_ns)),
            CallResult::Tried | CallResult::NoPort | CallResult::PortBusy => return,
        };
        add(sum, count);
        if let Some(latest) = latest
            && *latest < last_ns
        {
            *latest = last_ns;
        }
    }

    /// Refused calls that no success followed within a second, as of `now_ns`.
    pub const fn unanswered_at(&self, now_ns: u64) -> u64 {
        if now_ns.saturating_sub(self.refused_ns) > Self::PATIENCE_NS {
            self.refused.saturating_sub(self.answered)
        } else {
            self.unanswered
        }
    }

    /// Whether one of the refusals of the last minute was followed by no success within a second, as of
    /// `now_ns`.
    pub const fn in_vain(&self, now_ns: u64) -> bool {
        let waits = self.refused > self.answered + self.unanswered;
        let told = now_ns.saturating_sub(self.unanswered_ns) < MINUTE_NS && self.unanswered > 0;
        let since = now_ns.saturating_sub(self.refused_ns);
        told || (waits && since > Self::PATIENCE_NS && since < MINUTE_NS)
    }
}
