//! How short the ports are: of one peer for `connect()`, of one address for `bind(address, 0)`, of a
//! program that names its own.
//!
//! [`spaces`] has which port spaces there are, [`taking`] has what the sockets followed hold of them,
//! and [`weigh`] does the sums; here is the verdict.

mod holders;
mod ports;
mod spaces;
mod stock;
mod taking;
#[cfg(test)]
mod tests;
mod weigh;

use rustc_hash::{FxHashMap, FxHashSet};
use twtrace_common::PortChoice;

pub use holders::{Holder, Holders};
pub use spaces::PortSpace;
pub use stock::Stopped;
pub use taking::came_before;

use super::{
    Case,
    arithmetic::{self, Exhaustion},
    finding::{Severity, source},
};
use crate::{host::facts::NamespaceFacts, peer::Peer, units::TCP_TIMEWAIT_LEN_MS};

/// Share of the ports from which on they run short.
pub const SHORT: f64 = 0.7;
/// The same where ports are given back within a second or so, and there is no pile to watch, or where the
/// pile is going.
const SHORT_YOUNG: f64 = 0.9;
/// Share of the ports from which on what holds them is worth a word beside what holds most.
pub const SOME: f64 = 0.1;
/// Share of the ports up to which what comes does not keep up a pile.
const GOES: f64 = SHORT / 2.0;
/// Seconds within which what holds ports does not change much.
pub const AT_ONCE_S: f64 = 2.0;
/// Seconds within which a failure says that ports are wanted.
const OF_LATE_S: f64 = 10.0;

/// How short the ports of one space are.
#[derive(Clone, Debug, PartialEq)]
pub struct Pressure {
    /// The space.
    pub space: PortSpace,
    /// Index of the (first) row among the case's; none of a space of open connections.
    pub row: Option<usize>,
    /// The peer, as rows are named; of `bind()` the first of all.
    pub peer: String,
    /// Addresses of this end that take part; the ports are scarce for each by itself.
    pub sources: usize,
    /// Ports usable.
    pub usable: u64,
    /// Ports that `ip_local_reserved_ports` takes out of the range.
    pub reserved: u64,
    /// Ports held by sockets in TIME_WAIT or FIN_WAIT2 that cannot be taken over now.
    pub stuck: f64,
    /// What holds ports now.
    pub holders: Holders,
    /// What will hold them when as many come as go.
    pub coming: Holders,
    /// Ports in TIME_WAIT that a `connect()` may take over now.
    pub takeable: f64,
    /// Ports that open connections to others have, and none of this space.
    pub elsewhere: u64,
    /// Why its sockets have no timestamps, where they have none.
    pub stamps: Stamps,
    /// Sockets ever seen in it.
    pub ever: u32,
    /// Sockets that live, whether they hold their ports or not.
    pub live: u64,
    /// Ports that open connections and listeners hold; `None` if not known.
    pub open: Option<Open>,
    /// Open connections that come a second and are kept, as far as that lasts.
    pub open_growth: f64,
    /// Connections a second, all of them.
    pub rate: f64,
    /// Calls a second that want a port: those, and those that fail.
    pub wanted: f64,
    /// Connections a second whose port cannot be taken over.
    pub blocked_rate: f64,
    /// The same in the last seconds: 0 says that no more come.
    recent_rate: f64,
    /// The same as far as it has lasted: a burst has not.
    pub held_rate: f64,
    /// Seconds that the rates are taken over.
    pub window: f64,
    /// Whether that is long enough to rely on them.
    lasted: bool,
    /// Seconds that a socket in TIME_WAIT keeps its port.
    pub seconds: f64,
    /// Where that is known from.
    pub(super) seconds_source: &'static str,
    /// Seconds after which a port may be taken over, where it may.
    pub delay: f64,
    /// Seconds that a FIN_WAIT2 mini-socket keeps its port (`tcp_fin_timeout`).
    pub fin_seconds: f64,
    /// Most connections a second, each holding its port as most do here.
    fits: f64,
    /// Ports held when as many come as go.
    steady: f64,
    /// The most that are held from now on, of what has lasted.
    peak: f64,
    /// The same with open connections that become more, where those are not merely few yet.
    peak_with_open: f64,
    /// When no port is left.
    pub exhaustion: Exhaustion,
    /// Whether most that came of late took a port over.
    takes_over: bool,
    /// Seconds until the next port comes back, and the last.
    pub free_in: Option<(f64, f64)>,
    /// Seconds since a call failed for want of a port here, within the last minute.
    pub failed_ago: Option<f64>,
    /// Ports that came back in the second in which a call failed here last, and since.
    pub back_since: u64,
    /// Whether calls failed within the last minute and the ports suffice again: what held them is gone, or
    /// a setting that kept them was changed.
    pub came_back: bool,
    /// Whether calls that fail here would be seen.
    pub seen: bool,
    /// Of ports that a program names: that no `bind()` passes any of them, and that connections came for a
    /// while and come no more.
    pub barred: Option<Stopped>,
    /// Whether nobody wants ports of it any more: connections to its peer come from another address.
    moved: bool,
    /// Whether the ports are known to be those there are: of a program, once it begins anew.
    complete: bool,
    /// The most connections a second if something were different.
    pub what_if: WhatIf,
}

/// Why sockets have no timestamps, as far as it was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stamps {
    /// They were there before, made with settings of which nothing is known.
    #[default]
    Unknown,
    /// This end offered them, and the peer sent none.
    NotFromPeer,
    /// This end offered none.
    NotOffered,
}

impl Stamps {
    fn of(peer: Option<&Peer>) -> Self {
        let history = peer.map(|peer| &peer.history);
        match history.map(|history| (history.not_from_peer, history.not_offered)) {
            Some((0, 0)) | None => Self::Unknown,
            Some((not_from_peer, not_offered)) if not_offered > not_from_peer => Self::NotOffered,
            Some(_) => Self::NotFromPeer,
        }
    }
}

/// Ports that are held by something else than TIME_WAIT.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Open {
    /// How many.
    pub ports: u64,
    /// Seconds since they were counted.
    pub age: f64,
}

/// The most connections a second that fit if one thing were different and all else as it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WhatIf {
    /// If ports could be taken over: the peer's timestamps arrive and `tcp_tw_reuse` is 1.
    pub takeover: f64,
    /// With a second source address, or a second port of the peer.
    pub two_sources: f64,
    /// With the widest `ip_local_port_range`, 1024 to 65535.
    pub widest_range: f64,
}

/// All port spaces of a case: of each namespace those in use first, and of them the shortest.
pub fn of_all(case: &Case<'_>) -> Vec<Pressure> {
    let mut drafts = spaces::drafts(case);
    let bound = match case.sockets {
        Some(sockets) => taking::take_stock(case, &mut drafts, sockets),
        None => FxHashMap::default(),
    };
    let none = ports::Ports::default();
    let weigh = |draft: spaces::Draft<'_>| {
        let bound = bound.get(&draft.space.netns).unwrap_or(&none);
        weigh::weigh(draft, case, bound)
    };
    let mut all: Vec<Pressure> = drafts.into_iter().map(weigh).collect();
    note_moves(&mut all);
    all.sort_by(|one, two| {
        let netns = one.space.netns.cmp(&two.space.netns);
        let in_use = two.is_in_use().cmp(&one.is_in_use());
        netns.then(in_use).then_with(|| two.share().total_cmp(&one.share()))
    });
    all
}

/// Notes the spaces that traffic has left for another address of this end.
fn note_moves(all: &mut [Pressure]) {
    let to = |ports: &Pressure| (ports.space.netns, ports.space.remote);
    let connects = |ports: &&mut Pressure| ports.space.chosen == PortChoice::Connect;
    let busy: FxHashSet<_> = all
        .iter_mut()
        .filter(connects)
        .filter(|ports| ports.rate > 0.0)
        .map(|ports| to(ports))
        .collect();
    for ports in all.iter_mut().filter(connects) {
        let left =
            ports.seen && ports.rate + ports.open_growth == 0.0 && ports.failed_ago.is_none();
        ports.moved = left && busy.contains(&to(ports));
    }
}

impl Pressure {
    /// Ports held by open connections, listeners, and what others bound.
    pub fn other_ports(&self) -> f64 {
        let others = self.holders.of(Holder::Open) + self.holders.of(Holder::Bound);
        others.min(self.usable as f64 - self.stuck).max(0.0)
    }

    /// Ports taken now; never more than there are.
    pub fn used(&self) -> f64 {
        self.stuck + self.other_ports()
    }

    /// Share of the ports taken now.
    pub fn used_share(&self) -> f64 {
        if self.usable == 0 { 1.0 } else { arithmetic::share(self.used(), self.usable as f64) }
    }

    /// Ports taken when as many come as go, at the present rate.
    pub const fn steady(&self) -> f64 {
        self.steady
    }

    /// Share of the ports that are taken, or will be at the rate that has lasted; all at most.
    pub fn share(&self) -> f64 {
        if self.usable == 0 {
            return 1.0;
        }
        // A program that always binds one port holds all it wants, or none.
        let unknown = !self.complete || self.is_fixed() || self.is_of_nobody();
        if !self.failing() && unknown {
            return 0.0;
        }
        arithmetic::share(self.used().max(self.peak_with_open), self.usable as f64).min(1.0)
    }

    /// Whether somebody wants ports of it: connections come, or fail, or the next one will.
    pub fn is_in_use(&self) -> bool {
        self.rate + self.open_growth > 0.0 || (self.exhaustion == Exhaustion::Now && !self.moved)
    }

    /// Whether ports are still being taken and will not run out, by all that is known.
    pub fn will_do(&self) -> bool {
        self.rate + self.open_growth > 0.0 && self.exhaustion == Exhaustion::Never
    }

    /// The most connections a second that fit: without taking ports over, or, where they are, by
    /// the delay after which they may be.
    pub const fn highest_rate(&self) -> f64 {
        self.fits
    }

    /// Whether all ports of it are known: those that a program names are once it began anew.
    pub const fn is_complete(&self) -> bool {
        self.complete
    }

    /// Whether it is ports for `bind(address, 0)` where nobody was seen to bind like that.
    pub fn is_of_nobody(&self) -> bool {
        self.space.chosen == PortChoice::Bind && self.ever == 0
    }

    /// Whether it is one port, which the program names.
    pub fn is_fixed(&self) -> bool {
        self.space.chosen == PortChoice::Program && self.usable == 1
    }

    /// What holds most of the ports: of those held where they are all taken, else of those that will
    /// be; `None` if nothing is known to.
    pub fn holder(&self) -> Option<Holder> {
        if self.exhaustion != Exhaustion::Now {
            return self.holders.and(&self.coming).most();
        }
        // What is held for a second only may be free again a moment after it was wanted.
        let young = self.coming.most().filter(|coming| *coming == Holder::Young && self.takes_over);
        let free_again = self.holders.total() < SHORT * self.usable as f64;
        young.filter(|_| free_again).or_else(|| self.holders.most())
    }

    /// What holds a good part of the ports beside another holder; `None` if nothing does.
    pub fn second_holder(&self, first: Holder) -> Option<Holder> {
        let lasting = |holder: &Holder| !matches!(*holder, Holder::Young | Holder::Assumed);
        let others = Holder::ALL.into_iter().filter(|holder| *holder != first).filter(lasting);
        let second = others.max_by(|a, b| self.holders.of(*a).total_cmp(&self.holders.of(*b)))?;
        (self.holders.of(second) >= SOME * self.usable as f64).then_some(second)
    }

    /// The same as if nobody had bound ports first: what fits then, most being held by another holder.
    #[must_use]
    pub fn without_bound(&self, holder: Holder) -> Self {
        let per = match holder {
            Holder::FinWait2 => self.fin_seconds,
            _ => self.seconds,
        };
        let bound = self.holders.of(Holder::Bound);
        let free = self.usable as f64 - self.holders.of(Holder::Open);
        let fits = arithmetic::highest_rate(free, per);
        let what_if = WhatIf {
            takeover: arithmetic::highest_rate(free, self.delay),
            two_sources: 2.0 * fits,
            widest_range: self.what_if.widest_range + arithmetic::highest_rate(bound, per),
        };
        Self { fits, what_if, ..self.clone() }
    }

    /// The `tcp_tw_reuse` with which `connect()` takes ports of this space over: on loopback the
    /// default is enough.
    pub const fn reuse_wanted(&self) -> u64 {
        if self.space.local.is_loopback() { 2 } else { 1 }
    }

    /// Whether `tcp_tw_reuse`, as it is, lets `connect()` take ports of this space over; not if it is
    /// not known.
    pub fn may_take_over(&self, facts: &NamespaceFacts) -> bool {
        facts.tw_reuse.is_some_and(|setting| setting == 1 || setting == self.reuse_wanted())
    }

    /// Whether calls failed for want of a port here within the last seconds.
    pub fn failing(&self) -> bool {
        self.failed_ago.is_some_and(|seconds| seconds < OF_LATE_S)
    }

    /// Whether TW019 tells of calls that failed here, with the cause and what helps.
    pub const fn is_told(&self) -> bool {
        self.failed_ago.is_some()
    }

    /// Connections a second that hold a port: where it is the delay that counts, all that come.
    pub fn stuck_rate(&self) -> f64 {
        if self.is_young() { self.rate } else { self.blocked_rate }
    }

    /// Whether it is the delay of takeovers that limits the rate.
    pub fn is_young(&self) -> bool {
        self.holder() == Some(Holder::Young)
    }

    /// How bad it is; `None` while the ports suffice.
    ///
    /// Ports that are taken and come back do no harm while no more of the kind come. A burst counts
    /// by the ports it took; what it would take if it went on is worth a word only when it has.
    pub fn severity(&self) -> Option<Severity> {
        if self.share() == 0.0 || self.moved {
            return None;
        }
        // A pile that is going, and is not kept up by what comes, gives its ports back as well.
        let goes =
            self.exhaustion == Exhaustion::Never && self.steady() < GOES * self.usable as f64;
        let limit = if self.is_young() || goes { SHORT_YOUNG } else { SHORT };
        let comes = self.recent_rate + self.open_growth > 0.0;
        let short = comes && self.share() >= limit;
        match self.exhaustion {
            // Connections that succeed, and none that fails where that would be seen.
            Exhaustion::Now if self.seen && !self.failing() && self.recent_rate > 0.0 => {
                Some(Severity::Warning)
            }
            Exhaustion::Now => Some(Severity::Critical),
            Exhaustion::In(seconds) if short && self.is_foreseeable(seconds) => {
                Some(Severity::Critical)
            }
            _ => short.then_some(Severity::Warning),
        }
    }

    /// Whether a moment so many seconds ahead can be foretold: the rate has lasted, and what lasted
    /// of it is enough; or one need not look further ahead than was looked back.
    fn is_foreseeable(&self, seconds: f64) -> bool {
        (self.lasted && self.peak > self.usable as f64) || seconds <= self.window
    }

    /// Where the usable ports are known from.
    pub const fn range_source(&self) -> &'static str {
        if self.space.own_range {
            "IP_LOCAL_PORT_RANGE of the socket"
        } else if matches!(self.space.chosen, PortChoice::Program) {
            source::COUNTED
        } else if self.reserved > 0 {
            source::RANGE
        } else {
            "net.ipv4.ip_local_port_range"
        }
    }

    /// The space as people write it.
    pub fn triple(&self) -> String {
        let local = self.space.local;
        match self.space.chosen {
            PortChoice::Bind => format!("{local} (bound first, all peers)"),
            PortChoice::Program => format!("{local}:{} -> {}", self.space.list(), self.peer),
            _ => format!("{local} -> {}", self.peer),
        }
    }
}

/// Seconds after which a port may be taken over, where that is allowed: `tcp_tw_reuse_delay`, and
/// never less than the millisecond it is counted in; without it about a second, and up to two on the
/// kernels with [`NamespaceFacts::long_stamps`], among them all that recycle.
pub fn reuse_delay(facts: &NamespaceFacts) -> f64 {
    let without = if facts.long_stamps || facts.tw_recycle.is_some() { 2000 } else { 1000 };
    facts.tw_reuse_delay_ms.unwrap_or(without).max(1) as f64 / 1000.0
}

/// How long a socket stays in TIME_WAIT that nothing takes over, milliseconds, and how that is
/// known: as its timer was armed, as the vendor's sysctl says, or 2MSL.
pub fn time_wait(peer: &Peer, facts: &NamespaceFacts) -> (u64, &'static str) {
    match (peer.scheduled_ms, facts.tw_timeout) {
        (0, Some(seconds)) => (seconds * 1000, "net.ipv4.tcp_tw_timeout"),
        (0, None) => (TCP_TIMEWAIT_LEN_MS, "TCP_TIMEWAIT_LEN"),
        (armed, _) => (u64::from(armed), "the timer, as it was armed"),
    }
}
