//! Connection tracking of a namespace against its limit, `nf_conntrack_max`.

use super::arithmetic::{self, Exhaustion};
use crate::host::facts::{Conntrack, NamespaceFacts};

/// Seconds ahead that are too few to wait for the morning.
pub const SOON_S: f64 = 600.0;

/// How full the table of connections is.
///
/// What fills it is whatever passes, forwarded connections as well as this host's own, and it keeps
/// each closed one for a time of its own: so the table is watched, and not the sockets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tracking {
    /// The table, and its limit.
    pub now: Conntrack,
    /// Entries it grows by a second; `None` as long as it was read once.
    pub growth: Option<f64>,
    /// Over how long that is, seconds.
    pub seconds: f64,
    /// The most entries there may be if that goes on, as far as it has lasted: nothing of what is there
    /// goes, and each that comes stays for its time.
    pub most: f64,
    /// When no entry is left.
    pub exhaustion: Exhaustion,
    /// Packets dropped of late because none was; `None` where that is not counted.
    pub dropped: Option<u64>,
}

impl Tracking {
    /// That of a namespace, where anything is tracked.
    pub fn of(facts: &NamespaceFacts) -> Option<Self> {
        let now = facts.conntrack.filter(|conntrack| conntrack.count > 0)?;
        let growth = facts.lately.and_then(|lately| lately.conntrack);
        let lasting = growth.map_or(0.0, |growth| growth.lasting.max(0.0));
        let (count, max) = (now.count as f64, now.max as f64);
        let most = count + arithmetic::steady_state(lasting, now.time_wait_s as f64);
        let rate = growth.map_or(0.0, |growth| growth.rate);
        Some(Self {
            now,
            growth: growth.map(|growth| growth.rate),
            seconds: facts.lately.map_or(0.0, |lately| lately.seconds),
            most,
            exhaustion: arithmetic::exhaustion(max, 0.0, count, rate, most),
            dropped: growth.and_then(|growth| growth.dropped),
        })
    }

    /// Share taken now; all of it while packets are dropped.
    pub fn used_share(&self) -> f64 {
        let share = arithmetic::share(self.now.count as f64, self.now.max as f64);
        if self.dropped.is_some_and(|dropped| dropped > 0) { share.max(1.0) } else { share }
    }

    /// Share that is taken, or will be.
    pub fn share(&self) -> f64 {
        self.used_share().max(arithmetic::share(self.most, self.now.max as f64))
    }
}
