//! What sockets hold of a port space.

use twtrace_common::PortChoice;

use super::{
    holders::{Holder, Holders},
    ports::Ports,
    reuse_delay,
};
use crate::{
    diagnose::forecast::Held, host::facts::NamespaceFacts, peer::spaces::Hold, track::Tracked,
    units::TCP_TIMEWAIT_LEN_MS,
};

/// What the sockets of a space hold.
#[derive(Clone, Debug, Default)]
pub struct Stock {
    /// By when it is free; FIN_WAIT2 mini-sockets left out.
    pub held: Held,
    /// The same, by what holds it.
    pub holders: Holders,
    /// Ports in TIME_WAIT that a `connect()` may take over now.
    pub takeable: f64,
    /// FIN_WAIT2 mini-sockets, as they entered; some may have become TIME_WAIT since.
    pub mini: Vec<Mini>,
    /// Sockets followed, and those of them that are blocked.
    pub followed: (u64, u64),
    /// Those that came before the session, as lately as the rates look back.
    pub earlier: u32,
    /// When those came that bar their port to every `bind()`: without `SO_REUSEADDR`.
    pub barring: Arrivals,
    ports: Ports,
}

/// When sockets came.
#[derive(Clone, Copy, Debug, Default)]
pub struct Arrivals {
    /// How many.
    pub count: u64,
    /// `CLOCK_MONOTONIC` of the first and the last, nanoseconds.
    span: (u64, u64),
}

/// A steady stream that has stopped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stopped {
    /// How many came a second.
    pub rate: f64,
    /// Seconds since the last.
    pub ago: f64,
}

impl Arrivals {
    /// Shortest time that makes a stream, seconds: a batch that is done stops as well.
    const STREAM_S: f64 = 5.0;
    /// Shortest silence that is an end, seconds.
    const SILENCE_S: f64 = 2.0;
    /// The same in times of what was usual between two.
    const GAPS: f64 = 5.0;

    /// One more came.
    pub fn add(&mut self, came_ns: u64) {
        let (first, last) = self.span;
        self.span = if self.count == 0 {
            (came_ns, came_ns)
        } else {
            (first.min(came_ns), last.max(came_ns))
        };
        self.count += 1;
    }

    /// Whether they came for a while and come no more.
    pub fn stopped(&self, now_ns: u64) -> Option<Stopped> {
        let (first, last) = self.span;
        let stream = last.saturating_sub(first) as f64 / 1e9;
        let ago = now_ns.saturating_sub(last) as f64 / 1e9;
        let rate = self.count.saturating_sub(1) as f64 / stream;
        let silent = ago >= Self::SILENCE_S.max(Self::GAPS / rate);
        (stream >= Self::STREAM_S && silent).then_some(Stopped { rate, ago })
    }
}

/// A socket that entered as a FIN_WAIT2 mini-socket.
#[derive(Clone, Copy, Debug)]
pub struct Mini {
    /// Seconds until its timer runs out.
    pub left: f64,
    /// What holds its port if it has become TIME_WAIT since; `None` if it may then be taken over.
    pub then: Option<Holder>,
}

impl Stock {
    /// Counts a socket as followed, whether it holds a port that may be chosen or not: the range may have been
    /// another one when it came.
    pub fn follow(&mut self, hold: Hold) {
        self.followed.0 += 1;
        self.followed.1 += u64::from(hold.is(Hold::BLOCKED));
    }

    /// Adds a socket, as whoever chooses a port of the kind finds it.
    pub fn add(
        &mut self,
        chosen: PortChoice,
        facts: &NamespaceFacts,
        socket: &Tracked,
        now_ns: u64,
    ) {
        let holding = socket.holding;
        let left = holding.due.seconds_from(now_ns);
        let is = |hold: Hold| holding.hold.is(hold);
        if chosen != PortChoice::Connect {
            // A port that is named passes bind() with SO_REUSEADDR, and connect() needs a timestamp and
            // no more. Where bind() chooses it does not (inet_csk_find_open_port(), not relaxed).
            let takeable = is(Hold::ELIGIBLE) && is(Hold::REUSEADDR);
            if chosen == PortChoice::Program && takeable {
                self.takeable += 1.0;
            } else if self.ports.add(holding.port) {
                self.hold(Holder::TimeWait, left);
            }
            return;
        }
        let holder = if is(Hold::UNKNOWN) {
            Some(Holder::Assumed)
        } else if !is(Hold::ELIGIBLE) {
            Some(Holder::NoTimestamps)
        } else {
            (!may_take_over(facts, holding.hold)).then_some(Holder::Forbidden)
        };
        if is(Hold::FIN_WAIT2) {
            self.mini.push(Mini { left, then: holder });
            return;
        }
        match holder {
            Some(holder) => self.hold(holder, left),
            None => {
                let entered_ns = match socket.entered_ns {
                    0 => holding.due.mono_ns().saturating_sub(TCP_TIMEWAIT_LEN_MS * 1_000_000),
                    entered_ns => entered_ns,
                };
                let age = now_ns.saturating_sub(entered_ns) as f64 / 1e9;
                let delay = reuse_delay(facts);
                if age < delay {
                    self.hold(Holder::Young, delay - age);
                } else {
                    self.takeable += 1.0;
                }
            }
        }
    }

    /// One port more is held, for so many seconds.
    fn hold(&mut self, holder: Holder, left: f64) {
        self.holders.add(holder, 1.0);
        self.held.add(1.0, left);
    }

    /// Tells the mini-sockets apart: `still` of them are such, and as such hold their ports if
    /// `they_hold`; the others became TIME_WAIT, and live so many seconds longer.
    pub fn settle_minis(&mut self, still: f64, they_hold: bool, longer: f64) {
        for Mini { left, then } in std::mem::take(&mut self.mini) {
            if they_hold {
                self.holders.add(Holder::FinWait2, still);
                self.held.add(still, left);
            }
            match then {
                Some(holder) => {
                    self.holders.add(holder, 1.0 - still);
                    self.held.add(1.0 - still, left + longer);
                }
                None => self.takeable += 1.0 - still,
            }
        }
    }

    /// Of the sockets that bind() took ports for, the share that keeps them; all if none is known.
    pub fn kept_share(&self) -> f64 {
        let kept = self.holders.of(Holder::TimeWait);
        let all = kept + self.takeable;
        if all > 0.0 { kept / all } else { 1.0 }
    }

    /// Adds sockets of which no more is known than that they came evenly and how long they hold.
    pub fn spread(&mut self, holder: Holder, count: f64, rate: f64, seconds: f64) {
        self.holders.add(holder, count);
        self.held.spread(count, rate, seconds);
    }
}

/// Whether a `connect()` that comes now may take over a socket that has a timestamp: the sysctl counts
/// as it is then, not as it was at the entry (`tcp_twsk_unique()`).
fn may_take_over(facts: &NamespaceFacts, hold: Hold) -> bool {
    match facts.tw_reuse {
        Some(1) => true,
        Some(0) if facts.tw_recycle.unwrap_or(0) == 0 => false,
        _ => hold.is(Hold::ALLOWED),
    }
}
