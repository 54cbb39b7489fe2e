//! What a figure needs to be known.

/// Parts of a session that figures rest on: what a figure needs, or what a session has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs(u8);

impl Needs {
    /// It is always known.
    pub const NOTHING: Self = Self(0);
    /// Ends are followed.
    pub const ENDS: Self = Self(1);
    /// The positions of the kernel's fields are known: only the full socket tells it.
    pub const TYPES: Self = Self(1 << 1);
    /// Functions are hooked: tracepoints do not show it.
    pub const FUNCTIONS: Self = Self(1 << 2);
    /// Failed calls are looked for.
    pub const FAILURES: Self = Self(1 << 3);
    /// Rows that are no peers: a `bind()` has none.
    pub const NO_PEERS: Self = Self(1 << 4);
    /// The kernel's own counters are compared with.
    pub const AUDIT: Self = Self(1 << 5);
    /// Refused `bind()` calls are seen.
    pub const BINDS: Self = Self(1 << 6);

    /// Connections that closed without a TIME_WAIT socket.
    pub const OVERFLOW: Self = Self::ENDS.and(Self::FUNCTIONS);
    /// Refused takeovers.
    pub const REFUSALS: Self = Self::OVERFLOW.and(Self::TYPES);

    /// Both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The same with more, if `there`.
    #[must_use]
    pub const fn with(self, more: Self, there: bool) -> Self {
        if there { self.and(more) } else { self }
    }

    /// Whether all that is needed is there.
    pub const fn has(self, needed: Self) -> bool {
        self.0 & needed.0 == needed.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_known_where_all_that_it_needs_is_there() {
        let tracepoint = Needs::ENDS.and(Needs::TYPES).and(Needs::FAILURES);
        assert!(tracepoint.has(Needs::NOTHING) && tracepoint.has(Needs::TYPES));
        assert!(!tracepoint.has(Needs::OVERFLOW) && !tracepoint.has(Needs::BINDS));
        assert!(tracepoint.with(Needs::FUNCTIONS, true).has(Needs::REFUSALS));
    }
}
