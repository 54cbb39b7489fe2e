//! TIME_WAIT sockets of a namespace against their limit, `tcp_max_tw_buckets`.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;

use super::{
    Case, Subject,
    arithmetic::{self, Exhaustion},
    forecast::{Forecast, Held, Inflow, Part, TIMER_SLACK, look_ahead_of},
    pressure::time_wait,
};
use crate::{
    host::facts::NamespaceFacts,
    path::Outcome,
    peer::{Peer, rates::Pace},
    units::TCP_TIMEWAIT_LEN_MS,
};

/// Share of the buckets from which on few are left.
pub const FULL: f64 = 0.9;

/// The buckets of one namespace.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Buckets {
    /// Live now, by the kernel's count.
    pub live: u64,
    /// `tcp_max_tw_buckets`.
    pub max: u64,
    /// Connections that closed without a TIME_WAIT socket in this session.
    pub overflow: u64,
    /// The same since the namespace was made.
    pub ever: u64,
    /// Of those of this session, those of the last minute.
    pub overflow_lately: u64,
    /// Over how long that is, seconds.
    pub lately: f64,
    /// The same a second.
    pub overflow_rate: f64,
    /// Connections that want a bucket a second, those that get none among them.
    pub rate: f64,
    /// Buckets that are wanted when as many come as go: at that rate, and leaving as they do now.
    pub steady: f64,
    /// The most that are wanted from now on, of what has lasted: a burst has not.
    peak: f64,
    /// When no bucket is left.
    pub exhaustion: Exhaustion,
}

/// The buckets of all namespaces of which both figures are known.
pub fn of_all(case: &Case<'_>, subjects: &[Subject<'_>]) -> BTreeMap<u32, Buckets> {
    let mut stocks: BTreeMap<u32, Stock> =
        case.facts.namespaces.keys().map(|netns| (*netns, Stock::default())).collect();
    let mut alike = vec![0; case.peers.len()];
    for subject in subjects {
        let Some(stock) = stocks.get_mut(&subject.netns) else { continue };
        alike[subject.row] = stock.comes(subject);
    }
    for (_, socket) in case.sockets.iter().flat_map(|sockets| sockets.iter()) {
        let Some(stock) = stocks.get_mut(&socket.netns) else { continue };
        // Rows are counted from 1, and the first of all is nobody's.
        let row = (socket.row as usize).checked_sub(1);
        let alike = row.and_then(|row| alike.get(row)).copied().unwrap_or(0);
        let left = socket.holding.due.seconds_from(case.now_ns);
        stock.kinds.entry(alike).or_default().held.add(1.0, left);
    }
    let of = |(netns, stock): (u32, Stock)| {
        let buckets = Buckets::of(case, case.facts.namespaces.get(&netns)?, stock)?;
        Some((netns, buckets))
    };
    stocks.into_iter().filter_map(of).collect()
}

/// What a namespace has, by how likely it is left early.
#[derive(Default)]
struct Stock {
    kinds: FxHashMap<u8, KeptKind>,
    /// Entries a second.
    rate: f64,
    /// Seconds that the rates are taken over, of the longest known row.
    window: f64,
    /// Overflows that are among the entries.
    overflow_seen: u64,
}

/// Sockets that are left alike.
#[derive(Default)]
struct KeptKind {
    held: Held,
    now: Vec<Inflow>,
    lasting: Vec<Inflow>,
    live: f64,
    early: f64,
}

impl Stock {
    /// Adds what comes to a row. Answers its kind: none of the first is left early, of the others
    /// the chance doubles from one to the next, so that a row that is replaced all the time says
    /// nothing of one that is not.
    fn comes(&mut self, subject: &Subject<'_>) -> u8 {
        let Subject { peer, rates, facts, .. } = subject;
        let counts = peer.counts();
        let live = counts.live() as f64;
        let leave = arithmetic::share(rates.early, live);
        let alike = if leave > 0.0 { (leave.log2() + 9.0).clamp(1.0, 24.0) as u8 } else { 0 };
        let kind = self.kinds.entry(alike).or_default();
        kind.live += live;
        kind.early += rates.early;
        let now = Pace { entered: rates.entered, fin_wait2: rates.fin_wait2, ..Pace::default() };
        for (flows, pace) in [(&mut kind.now, now), (&mut kind.lasting, rates.held)] {
            inflows(peer, facts, pace).into_iter().for_each(|flow| add(flows, flow));
        }
        self.rate += rates.entered;
        self.window = self.window.max(rates.seconds);
        self.overflow_seen += counts.overflow;
        alike
    }
}

/// How long what comes at a pace keeps its bucket if nothing ends it before.
fn inflows(peer: &Peer, facts: &NamespaceFacts, pace: Pace) -> [Inflow; 2] {
    let seconds = time_wait(peer, facts).0 as f64 / 1000.0;
    let fin_timeout = facts.fin_timeout.unwrap_or(60) as f64;
    // Where FINs come after all, what was a mini-socket lives on in TIME_WAIT.
    let in_vain = peer.counts().outcome(Outcome::FinWait2Timeout) > 0;
    let mini = if in_vain { fin_timeout } else { seconds.max(fin_timeout) };
    let rest = (pace.entered - pace.fin_wait2).max(0.0);
    [Inflow { rate: rest, seconds }, Inflow { rate: pace.fin_wait2, seconds: mini }]
}

/// Adds an inflow to those that last as long.
fn add(flows: &mut Vec<Inflow>, flow: Inflow) {
    match flows.iter_mut().find(|known| (known.seconds - flow.seconds).abs() < 0.5) {
        Some(known) => known.rate += flow.rate,
        None => flows.push(flow),
    }
}

impl Buckets {
    fn of(case: &Case<'_>, facts: &NamespaceFacts, mut stock: Stock) -> Option<Self> {
        let (live, max) = (facts.time_wait?, facts.max_tw_buckets?);
        let overflow = facts.grown("TCPTimeWaitOverflow");
        let session_s = case.now_ns.saturating_sub(case.since_ns) as f64 / 1e9;
        let (overflow_lately, seconds) = match facts.lately {
            Some(lately) => (lately.overflow, lately.seconds),
            None => (overflow, session_s),
        };
        let overflow_rate = overflow_lately as f64 / seconds.max(1.0);
        // Some backends do not see them: then they are among no entries.
        let unseen = overflow.saturating_sub(stock.overflow_seen) as f64;
        // Where there is room again all that come are entries.
        let overflows = live as f64 >= FULL * max as f64;
        let unseen_rate = if overflows {
            overflow_rate * arithmetic::share(unseen, overflow as f64)
        } else {
            0.0
        };
        let time_wait = facts.tw_timeout.map_or(TCP_TIMEWAIT_LEN_MS as f64 / 1000.0, |s| s as f64);
        let followed: f64 = stock.kinds.values().map(|kind| kind.held.now()).sum();
        let rate = stock.rate + unseen_rate;
        let rest = stock.kinds.entry(0).or_default();
        rest.held.spread((live as f64 - followed).max(0.0), rate, time_wait);
        let more = Inflow { rate: unseen_rate, seconds: time_wait };
        add(&mut rest.now, more);
        add(&mut rest.lasting, more);

        let places = max as f64;
        let now = stock.look_ahead(places, |kind| &kind.now, 0.0);
        let lasting = stock.look_ahead(places, |kind| &kind.lasting, 0.0);
        let late = stock.look_ahead(places, |kind| &kind.lasting, TIMER_SLACK);
        // A burst is foretold as far ahead as it was looked back.
        let soon = now.full_in.filter(|seconds| *seconds <= stock.window);
        let full_in = match (late.full_in, now.full_in) {
            (Some(_), Some(seconds)) | (Some(seconds), None) => Some(seconds),
            (None, _) => soon,
        };
        let exhaustion = match full_in {
            _ if live >= max => Exhaustion::Now,
            Some(seconds) => Exhaustion::In(seconds),
            None => Exhaustion::Never,
        };
        Some(Self {
            live,
            max,
            overflow,
            ever: facts.counters.get("TCPTimeWaitOverflow").unwrap_or(0),
            overflow_lately,
            lately: seconds,
            overflow_rate,
            rate,
            steady: now.steady,
            peak: lasting.peak.max(lasting.steady),
            exhaustion,
        })
    }

    /// Whether connections that found no bucket of late would find one now.
    pub fn has_room_again(&self) -> bool {
        self.overflow_lately > 0
            && (self.live as f64) < FULL * self.max as f64
            && self.exhaustion == Exhaustion::Never
    }

    /// Share taken now; all of it while connections find none.
    pub fn used_share(&self) -> f64 {
        let overflows = self.overflow_lately > 0 && !self.has_room_again();
        let used = if overflows { self.max.max(self.live) } else { self.live };
        arithmetic::share(used as f64, self.max as f64)
    }

    /// Whether buckets are still being taken and will not run out, by all that is known.
    pub fn will_do(&self) -> bool {
        self.rate > 0.0
            && self.exhaustion == Exhaustion::Never
            && (self.overflow_lately == 0 || self.has_room_again())
    }

    /// Share that is taken, or will be wanted at the rate that has lasted.
    pub fn share(&self) -> f64 {
        self.used_share().max(arithmetic::share(self.peak, self.max as f64))
    }
}

impl Stock {
    /// Looks ahead, at some of the inflows, whose timers are so late.
    fn look_ahead(
        &self,
        places: f64,
        flows: impl Fn(&KeptKind) -> &Vec<Inflow>,
        late: f64,
    ) -> Forecast {
        // The wheel's steps are an eighth of a timeout at most.
        let late = |seconds: f64| seconds + late.min(seconds / 8.0);
        let flow = |flow: &Inflow| Inflow { seconds: late(flow.seconds), ..*flow };
        let kinds: Vec<(&KeptKind, Vec<Inflow>)> = self
            .kinds
            .values()
            .map(|kind| (kind, flows(kind).iter().map(flow).collect()))
            .collect();
        let parts: Vec<Part<'_>> = kinds
            .iter()
            .map(|(kind, inflows)| Part {
                held: &kind.held,
                inflows,
                leave: arithmetic::share(kind.early, kind.live),
            })
            .collect();
        look_ahead_of(places, 0.0, &parts)
    }
}
