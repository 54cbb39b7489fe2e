//! What holds the ports of a space, by why it does.

/// Why a port cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// In TIME_WAIT, and without a timestamp of the peer nothing takes it over.
    NoTimestamps,
    /// In TIME_WAIT, and `tcp_tw_reuse` does not let it be taken over.
    Forbidden,
    /// In TIME_WAIT, and whoever binds his port beforehand has to wait, timestamps or not.
    TimeWait,
    /// In TIME_WAIT for less than the delay after which it may be taken over.
    Young,
    /// A FIN_WAIT2 mini-socket.
    FinWait2,
    /// In TIME_WAIT, and whether it may be taken over is not known: taken to be held.
    Assumed,
    /// In TIME_WAIT with a port that `bind()` took from everybody.
    Bound,
    /// An open connection to the same peer, or a listener.
    Open,
}

impl Holder {
    /// All of them, what sits in a TIME_WAIT table of this very space first.
    pub const ALL: [Self; 8] = [
        Self::NoTimestamps,
        Self::Forbidden,
        Self::TimeWait,
        Self::Young,
        Self::FinWait2,
        Self::Assumed,
        Self::Bound,
        Self::Open,
    ];
}

/// Ports, by what holds them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Holders([f64; Holder::ALL.len()]);

impl Holders {
    /// How many one kind holds.
    pub const fn of(&self, holder: Holder) -> f64 {
        self.0[holder as usize]
    }

    /// Adds some.
    pub fn add(&mut self, holder: Holder, ports: f64) {
        self.0[holder as usize] += ports;
    }

    /// Those of two times together.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        self.0.iter_mut().zip(other.0).for_each(|(ours, theirs)| *ours += theirs);
        self
    }

    /// What all of them hold.
    pub fn total(&self) -> f64 {
        self.0.iter().sum()
    }

    /// The kind that holds most; `None` if nothing is held.
    pub fn most(&self) -> Option<Holder> {
        let most = Holder::ALL.into_iter().max_by(|a, b| self.of(*a).total_cmp(&self.of(*b)))?;
        (self.of(most) > 0.0).then_some(most)
    }
}
