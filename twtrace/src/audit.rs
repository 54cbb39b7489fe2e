//! What the kernel itself counted, against what the kernel programs did.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{host::netstat::TcpExt, text::counted};

/// What the kernel counts in `TW` and `TWKilled`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Basis {
    /// Sockets that are made: from Linux 5.18 on, where `inet_timewait_sock` has no `tw_kill`.
    Creations,
    /// Timers that run out, which are to be told apart by `tw_kill`.
    Expiries,
}

impl Basis {
    /// The kernel's counters that are looked at.
    pub const COUNTERS: [&str; 4] = ["TW", "TWKilled", "TWRecycled", "TCPTimeWaitOverflow"];

    /// Name in machine output.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Creations => "creations",
            Self::Expiries => "expiries",
        }
    }

    /// What is counted, for a person.
    pub const fn counts(self) -> &'static str {
        match self {
            Self::Creations => "sockets",
            Self::Expiries => "timers that ran out",
        }
    }

    /// What the kernel has counted by this. With `overflow` sockets that were not made for want of
    /// a bucket are among the entries.
    pub fn of(self, counters: &TcpExt, overflow: bool) -> Option<u64> {
        let made = counters.get("TW")? + counters.get("TWKilled")?;
        match self {
            Self::Creations if overflow => Some(made + counters.get("TCPTimeWaitOverflow")?),
            Self::Creations | Self::Expiries => Some(made),
        }
    }
}

/// Both sides of one comparison, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Compared {
    /// What the kernel counted.
    pub kernel: u64,
    /// What the kernel programs counted, a moment later.
    pub counted: u64,
    /// What is not among it, though it happened before.
    pub missing: u64,
}

impl Compared {
    /// Of a count that only grows, where ours is the later one.
    pub const fn of(kernel: u64, counted: u64) -> Self {
        Self { kernel, counted, missing: kernel.saturating_sub(counted) }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            kernel: self.kernel + other.kernel,
            counted: self.counted + other.counted,
            missing: self.missing + other.missing,
        }
    }

    fn since(self, before: Self) -> Self {
        Self {
            kernel: self.kernel.saturating_sub(before.kernel),
            counted: self.counted.saturating_sub(before.counted),
            missing: self.missing.saturating_sub(before.missing),
        }
    }
}

/// All that is compared of a namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Audited {
    /// `net_cookie`; 0 where it cannot be had.
    pub cookie: u64,
    /// What [`Basis`] says.
    pub entries: Compared,
    /// `TWRecycled`: sockets that an outgoing `connect()` took over; `None` unless ends are followed.
    pub reused: Option<Compared>,
    /// `TCPTimeWaitOverflow`; `None` where overflows are not seen.
    pub overflow: Option<Compared>,
    /// `tw` of `sockstat`: the sockets that live, as the kernel has them now, and as many as must
    /// live by what was seen to come and go; `None` unless ends are followed. More than the kernel
    /// has ended unseen.
    pub live: Option<Compared>,
}

impl Audited {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let both = |one: Option<Compared>, two: Option<Compared>| match (one, two) {
            (Some(one), Some(two)) => Some(one.plus(two)),
            (one, two) => one.or(two),
        };
        Self {
            cookie: 0,
            entries: self.entries.plus(other.entries),
            reused: both(self.reused, other.reused),
            overflow: both(self.overflow, other.overflow),
            live: both(self.live, other.live),
        }
    }

    /// What came since `before`; what lives does now.
    fn since(self, before: Self) -> Self {
        let since = |now: Option<Compared>, before: Option<Compared>| {
            now.map(|now| now.since(before.unwrap_or_default()))
        };
        Self {
            entries: self.entries.since(before.entries),
            reused: since(self.reused, before.reused),
            overflow: since(self.overflow, before.overflow),
            ..self
        }
    }

    /// As it is kept once the namespace is gone, and all that lived with it.
    #[must_use]
    pub fn gone(self) -> Self {
        Self { cookie: 0, live: None, ..self }
    }

    /// Whether both sides say the same.
    pub fn agrees(&self) -> bool {
        let missing = |figure: Option<Compared>| figure.is_some_and(|figure| figure.missing > 0);
        self.entries.missing == 0
            && !missing(self.reused)
            && !missing(self.overflow)
            && self.live.is_none_or(|live| live.kernel == live.counted)
    }
}

/// The comparison of a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audit {
    /// What is compared.
    pub basis: Basis,
    /// By inode number of the network namespace.
    pub namespaces: BTreeMap<u32, Audited>,
    /// Namespaces that are gone, as they were when they were last looked at.
    pub gone: Audited,
    /// Namespaces of which something was counted and nothing could be compared: they went between
    /// two looks, or cannot be entered.
    pub unaudited: u64,
}

impl Audit {
    /// All namespaces together.
    pub fn total(&self) -> Audited {
        self.namespaces.values().copied().fold(self.gone, Audited::plus)
    }

    /// What is wrong with the counts, in a sentence; `None` if nothing is.
    pub fn fault(&self) -> Option<String> {
        let Compared { kernel, missing, .. } = self.total().entries;
        let what = self.basis.counts();
        let missing = (missing > 0).then(|| {
            format!("{missing} of the {kernel} {what} that the kernel counted are MISSING")
        });
        let unaudited = (self.unaudited > 0)
            .then(|| format!("{} went UNAUDITED", counted(self.unaudited, "namespaces")));
        let parts: Vec<String> = missing.into_iter().chain(unaudited).collect();
        (!parts.is_empty()).then(|| format!("{}: figures are lower bounds", parts.join(", ")))
    }

    /// That of one namespace. If others were watched as well, those that went were not it.
    #[must_use]
    pub fn of(mut self, inum: u32) -> Self {
        let watched = self.namespaces.len();
        self.namespaces.retain(|other, _| *other == inum);
        if self.namespaces.len() < watched {
            (self.gone, self.unaudited) = Default::default();
        }
        self
    }

    /// What came since `before`, a moment of the same programs.
    #[must_use]
    pub fn since(mut self, before: &Self) -> Self {
        let same = |inum: &u32, cookie| {
            let before = before.namespaces.get(inum);
            before.copied().filter(|before| before.cookie == cookie)
        };
        for (inum, audited) in &mut self.namespaces {
            *audited = audited.since(same(inum, audited.cookie).unwrap_or_default());
        }
        // One that was there then and is gone now is in both sums.
        let there = before.namespaces.iter().filter(|(inum, audited)| {
            self.namespaces.get(inum).is_none_or(|now| now.cookie != audited.cookie)
        });
        let gone = there.map(|(_, audited)| audited.gone()).fold(before.gone, Audited::plus);
        self.gone = self.gone.since(gone);
        self.unaudited = self.unaudited.saturating_sub(before.unaudited);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn audited(kernel: u64, counted: u64) -> Audited {
        let entries = Compared::of(kernel, counted);
        Audited { entries, reused: Some(entries), ..Audited::default() }
    }

    fn audit(namespaces: &[(u32, Audited)], gone: Audited) -> Audit {
        Audit {
            basis: Basis::Creations,
            namespaces: namespaces.iter().copied().collect(),
            gone,
            unaudited: 0,
        }
    }

    #[test]
    fn overflows_are_among_the_entries_only_where_they_are_seen() {
        let counters =
            TcpExt::default().with("TW", 5).with("TWKilled", 2).with("TCPTimeWaitOverflow", 3);
        assert_eq!(Basis::Creations.of(&counters, true), Some(10));
        assert_eq!(Basis::Creations.of(&counters, false), Some(7));
        assert_eq!(Basis::Expiries.of(&counters, true), Some(7));
        assert_eq!(Basis::Creations.of(&TcpExt::default(), false), None);
    }

    #[test]
    fn what_came_since_leaves_out_what_was_missing_before() {
        let before = audit(&[(1, audited(9, 8)), (2, audited(4, 4))], Audited::default());
        let now = audit(&[(1, audited(19, 16))], audited(6, 5));
        let since = now.since(&before).total();
        assert_eq!(since.entries, Compared { kernel: 12, counted: 9, missing: 3 });
        assert_eq!(since.reused, Some(since.entries));
    }

    #[test]
    fn what_lives_in_a_namespace_goes_with_it() {
        let live = |kernel, counted| Some(Compared::of(kernel, counted));
        let there = Audited { live: live(5, 7), ..audited(9, 9) };
        assert!(!there.agrees());
        let all = audit(&[(1, there)], Audited { live: live(3, 3), ..audited(4, 4) }.gone());
        assert_eq!(all.total().live, live(5, 7));
    }

    #[test]
    fn nothing_is_said_of_counts_that_agree() {
        let mut all = audit(&[(1, audited(9, 9))], Audited::default());
        assert_eq!(all.fault(), None);
        all.unaudited = 1;
        assert_eq!(
            all.fault().as_deref(),
            Some("1 namespace went UNAUDITED: figures are lower bounds")
        );
        all.namespaces.insert(2, audited(4, 1));
        let fault = all.fault().unwrap_or_default();
        assert!(fault.starts_with("3 of the 13 sockets that the kernel counted are MISSING, 1 "));
    }
}
