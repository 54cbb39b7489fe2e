//! The sums of a port space: what is held, what comes, and what that will come to.

use std::ops::RangeInclusive;

use twtrace_common::PortChoice;

use super::{
    AT_ONCE_S, OF_LATE_S, Open, Pressure, SHORT, SHORT_YOUNG, Stamps, WhatIf,
    holders::{Holder, Holders},
    ports::Ports,
    reuse_delay,
    spaces::{Draft, PortSpace},
    time_wait,
};
use crate::{
    diagnose::{
        Case,
        arithmetic::{self, Exhaustion},
        forecast::{AHEAD_S, Inflow, TIMER_SLACK, look_ahead},
    },
    failures::Place,
    host::open::{OpenGrowth, OpenPorts},
    peer::rates::{Pace, Rates},
    units::TCP_TIMEWAIT_LEN_MS,
};

/// The widest port range that root's own ports leave.
const WIDEST_RANGE: RangeInclusive<u16> = 1024..=u16::MAX;

/// Share of the ports that open connections hold from which on it counts that they become more: before,
/// a pool that fills looks the same.
const SOME_OPEN: f64 = 0.4;

/// How fast open connections become more as long as that goes on: a pool that has filled keeps what it
/// has.
fn lasting_growth(growth: &OpenGrowth) -> f64 {
    match growth.lasting {
        Some(lasting) if lasting < growth.rate / 2.0 => lasting,
        _ => growth.rate,
    }
}

/// Nanoseconds of a second.
const SECOND_NS: u64 = 1_000_000_000;

/// Seconds for which TW019 tells of a failure.
const TOLD_S: f64 = 60.0;

/// How long sockets of a space hold their ports, in seconds.
#[derive(Clone, Copy)]
struct Times {
    time_wait: f64,
    delay: f64,
    fin_wait2: f64,
}

/// What comes into a space, a second, by what will hold the port and how long.
struct Coming([(Holder, Inflow); 5]);

impl Coming {
    /// Of a pace. `without` is the share without timestamps; of FIN_WAIT2 mini-sockets, `minis` is the
    /// share that stays one and holds its port as such.
    fn of(draft: &Draft<'_>, times: Times, pace: Pace, without: f64, minis: f64) -> Self {
        let for_all = draft.space.chosen != PortChoice::Connect;
        let mini = if for_all { 0.0 } else { pace.fin_wait2 * minis };
        let rest = (pace.entered - mini).max(0.0);
        let blocked = if for_all { 0.0 } else { arithmetic::share(pace.blocked, pace.entered) };
        let no_timestamps = without.min(blocked);
        // Set anew, it lets those pass that it forbade when they came.
        let forbidden = if draft.facts.tw_reuse == Some(1) { 0.0 } else { blocked - no_timestamps };
        let young = if for_all { 0.0 } else { 1.0 - no_timestamps - forbidden };
        let time_wait = if for_all { draft.stock.kept_share() } else { 0.0 };
        let flow = |holder, share, seconds| (holder, Inflow { rate: rest * share, seconds });
        Self([
            flow(Holder::NoTimestamps, no_timestamps, times.time_wait),
            flow(Holder::Forbidden, forbidden, times.time_wait),
            flow(Holder::TimeWait, time_wait, times.time_wait),
            flow(Holder::Young, young, times.delay),
            (Holder::FinWait2, Inflow { rate: mini, seconds: times.fin_wait2 }),
        ])
    }

    fn flows(&self) -> [Inflow; 5] {
        self.0.map(|(_, flow)| flow)
    }

    /// The rate of what cannot be taken over, or of all where it is the delay that counts.
    fn rate_as(&self, young: bool) -> f64 {
        let of = |(holder, flow): &(Holder, Inflow)| {
            if young || *holder != Holder::Young { flow.rate } else { 0.0 }
        };
        self.0.iter().map(of).sum()
    }

    /// What they hold when as many come as go.
    fn holders(&self) -> Holders {
        let mut holders = Holders::default();
        self.0.iter().for_each(|(holder, flow)| holders.add(*holder, flow.rate * flow.seconds));
        holders
    }
}

/// Weighs a space; `bound` has the ports of its namespace that `bind()` took.
pub fn weigh(mut draft: Draft<'_>, case: &Case<'_>, bound: &Ports) -> Pressure {
    let space = draft.space.clone();
    let (peer, facts) = (draft.peer, draft.facts);
    let for_all = space.chosen != PortChoice::Connect;
    let all = arithmetic::usable_ports(&space.ports(), &[]);
    let usable = match space.few.len() {
        0 => arithmetic::usable_ports(&space.ports(), draft.reserved()),
        few => few as u64,
    };
    let reserved = if space.few.is_empty() { all - usable } else { 0 };
    let places = usable as f64;
    let rates = draft.window.rates(case.now_ns, draft.since_ns);
    let rates = rates.borne_out(draft.stock.earlier, &draft.earlier(case.now_ns));
    let (time_wait_ms, seconds_source) =
        peer.map_or((TCP_TIMEWAIT_LEN_MS, "TCP_TIMEWAIT_LEN"), |peer| time_wait(peer, facts));
    let times = Times {
        time_wait: time_wait_ms as f64 / 1000.0,
        delay: reuse_delay(facts),
        fin_wait2: facts.fin_timeout.unwrap_or(60) as f64,
    };

    let still = still_mini(&draft);
    let minis = if case.fin_wait2_taken { 0.0 } else { still };
    let longer = times.time_wait - times.fin_wait2.min(times.time_wait);
    draft.stock.settle_minis(still, !case.fin_wait2_taken, longer);
    add_unfollowed(&mut draft, case, &rates, times);
    let stuck = draft.stock.held.now().min(places);
    let open = open_ports(&draft, case);
    let mut holders = draft.stock.holders;
    holders.add(Holder::Open, open.map_or(0.0, |open| open.ports as f64));
    if !for_all {
        holders.add(Holder::Bound, bound.within(space.range) as f64);
    }
    let taken = holders.of(Holder::Open) + holders.of(Holder::Bound);
    let fixed = taken.min((places - stuck).max(0.0));

    let without = rates.without_share.unwrap_or(0.0);
    let coming = |pace| Coming::of(&draft, times, pace, without, minis);
    let now =
        coming(Pace { entered: rates.entered, blocked: rates.blocked, fin_wait2: rates.fin_wait2 });
    let (lasting, recent) = (coming(rates.held), coming(rates.recent));
    let early = if for_all { rates.early } else { rates.freed_early };
    let leave = if early < rates.entered { arithmetic::share(early, stuck) } else { 0.0 };
    // What is open stays so for as long as can be looked ahead.
    let growth = facts.open_growth.get(&(space.remote, space.local)).filter(|_| !for_all);
    let open_growth = growth.map_or(0.0, lasting_growth);
    let opened = Inflow { rate: open_growth, seconds: AHEAD_S };
    let ahead = |flows: &[Inflow]| look_ahead(places, fixed, &draft.stock.held, flows, leave);
    let with_opened = |flows: [Inflow; 5]| ahead(&[&flows[..], &[opened]].concat());
    let (forecast, lasts) = (with_opened(now.flows()), ahead(&lasting.flows()));
    let peak = lasts.peak.max(lasts.steady);
    let grows = growth.is_some_and(|growth| growth.lasting.is_some());
    let peak_with_open = if grows && fixed >= SOME_OPEN * places {
        // Where that does not use the ports up, how far it goes is not known.
        let with_open = with_opened(lasting.flows());
        with_open.full_in.map_or(peak, |_| with_open.peak)
    } else {
        peak
    };
    // Counted over a window, a rate may be one too high; and a timer may be late.
    let events = (rates.entered * rates.seconds).max(1.0);
    let will = with_opened(now.flows().map(|flow| Inflow {
        rate: flow.rate * (1.0 - 1.0 / events),
        seconds: if flow.seconds > TIMER_SLACK { flow.seconds + TIMER_SLACK } else { flow.seconds },
    }));

    // Those that had another range to choose from say nothing of this one.
    let of_space = case.failures.places().filter(|place| space.is_of(place) && space.is_now(place));
    let of_space: Vec<&Place> = of_space.collect();
    let last_ns = of_space.iter().map(|place| place.last_ns).max();
    let wanted = rates.entered + failed_rate(&of_space, case.now_ns);
    let failed_ago = last_ns
        .map(|last_ns| case.now_ns.saturating_sub(last_ns) as f64 / 1e9)
        .filter(|seconds| *seconds < TOLD_S);
    // So many may have been too young at once; of a longer time than is looked back, at the present rate.
    let most_young =
        (draft.window.most_within(times.delay) as f64).max(rates.entered * times.delay);
    let suffice = holders.total().max(was_open(&draft) as f64) < SHORT * places
        && most_young < SHORT_YOUNG * places
        && will.full_in.is_none();
    // The load may be over as well by now.
    let succeeded = recent.rate_as(true) > 0.0
        || last_ns.is_some_and(|last_ns| draft.window.entered_since(last_ns + SECOND_NS) > 0);
    let came_back =
        !for_all && suffice && succeeded && failed_ago.is_some_and(|seconds| seconds >= AT_ONCE_S);
    let failed_ago = failed_ago.filter(|_| !came_back);
    let failing = failed_ago.is_some_and(|seconds| seconds < OF_LATE_S);
    if failing && holders.total() < SHORT * places {
        // What was open when they failed may be closed by now.
        let was_open = was_open(&draft) as f64;
        holders.add(Holder::Open, if was_open >= SHORT * places { was_open } else { 0.0 });
    }
    let seen = if for_all { case.sees_binds } else { case.sees_connects };
    // A refused bind() that cannot be seen leaves its mark: all ports were held, if not just now.
    let most = match space.chosen {
        PortChoice::Bind if !seen && case.sockets.is_some() => {
            draft.window.most_of_late(stuck as u64, case.now_ns) as f64
        }
        _ => stuck,
    };
    // What was used so far is all only once a port came a second time.
    let complete = space.chosen != PortChoice::Program || u64::from(draft.seen) > usable;
    let barring = draft.stock.barring;
    let barred = barring.stopped(case.now_ns).filter(|_| {
        space.chosen == PortChoice::Program && barring.count >= usable && stuck >= places
    });
    let exhaustion = if failing || (complete && most + fixed >= places) {
        Exhaustion::Now
    } else if !complete {
        Exhaustion::Never
    } else {
        match (will.full_in, forecast.full_in) {
            (Some(_), Some(seconds)) | (Some(seconds), None) => Exhaustion::In(seconds),
            (None, _) => Exhaustion::Never,
        }
    };
    let held_as = holders.and(&now.holders()).most();
    let young = held_as == Some(Holder::Young);
    let per = match held_as {
        Some(Holder::Young) => times.delay,
        Some(Holder::FinWait2) => times.fin_wait2,
        _ => times.time_wait,
    };
    let free = places - taken;
    // A program that names its ports takes those over that have SO_REUSEADDR and timestamps, at any age.
    let at_once = space.chosen == PortChoice::Program
        && draft.stock.takeable > 0.0
        && draft.stock.kept_share() == 0.0;
    let fits = if at_once { f64::INFINITY } else { arithmetic::highest_rate(free, per) };
    let widest = arithmetic::usable_ports(&WIDEST_RANGE, &facts.reserved_ports) as f64;
    Pressure {
        row: draft.row,
        peer: peer.map_or_else(|| space.remote.to_string(), |peer| peer.group.to_string()),
        sources: peer.map_or(1, |peer| {
            peer.history.locals().len() + usize::from(peer.history.other_locals() > 0)
        }),
        usable,
        reserved,
        stuck,
        holders,
        coming: now.holders(),
        takeable: draft.stock.takeable,
        elsewhere: elsewhere(&draft),
        stamps: Stamps::of(peer),
        ever: draft.seen,
        live: draft.live,
        open,
        open_growth,
        rate: rates.entered,
        wanted,
        blocked_rate: now.rate_as(false),
        recent_rate: recent.rate_as(young),
        held_rate: lasting.rate_as(false),
        window: rates.seconds,
        lasted: rates.have_lasted(),
        seconds: times.time_wait,
        seconds_source,
        delay: times.delay,
        fin_seconds: times.fin_wait2,
        fits,
        steady: forecast.steady,
        peak,
        peak_with_open,
        exhaustion,
        takes_over: rates.early > 0.0 && rates.early >= rates.entered / 2.0,
        free_in: draft.stock.held.next_free().zip(draft.stock.held.last_free()),
        failed_ago,
        back_since: last_ns.map_or(0, |last_ns| draft.window.freed_since(last_ns)),
        came_back,
        seen,
        barred,
        moved: false,
        complete,
        what_if: WhatIf {
            takeover: arithmetic::highest_rate(free, times.delay),
            two_sources: 2.0 * fits,
            widest_range: arithmetic::highest_rate(widest - taken, per),
        },
        space,
    }
}

/// The share of the mini-sockets that are still such, where that was looked at.
fn still_mini(draft: &Draft<'_>) -> f64 {
    let open = draft.facts.open.as_ref();
    let listed = open.and_then(|open| open.mini_sockets(draft.space.local, draft.space.remote));
    let entered = draft.stock.mini.len() as f64;
    listed.map_or(1.0, |listed| arithmetic::share(listed as f64, entered).min(1.0))
}

/// Adds the sockets that are not followed: of those no more is known than how many there are.
fn add_unfollowed(draft: &mut Draft<'_>, case: &Case<'_>, rates: &Rates, times: Times) {
    let (live, blocked) = (draft.live, draft.blocked);
    let (followed, blocked_followed) = draft.stock.followed;
    let stock = &mut draft.stock;
    if draft.space.chosen != PortChoice::Connect {
        if case.sockets.is_none() {
            stock.spread(Holder::TimeWait, live as f64, rates.entered, times.time_wait);
        }
        return;
    }
    let without = rates.without_share.unwrap_or(0.0) >= 0.5;
    let holder = if without { Holder::NoTimestamps } else { Holder::Forbidden };
    let rest = blocked.saturating_sub(blocked_followed) as f64;
    stock.spread(holder, rest, rates.blocked, times.time_wait);
    if followed == 0 {
        let came = (rates.entered - rates.blocked) * times.delay;
        let young = came.min(live.saturating_sub(blocked) as f64).max(0.0);
        stock.spread(Holder::Young, young, young, times.delay);
    }
}

/// Ports of the space that were open when that was looked at last, whether they are now or not.
fn was_open(draft: &Draft<'_>) -> u64 {
    let space = &draft.space;
    let counted = draft.facts.open.as_ref().filter(|_| space.chosen == PortChoice::Connect);
    counted.and_then(|counted| held(counted, space)).unwrap_or(0)
}

/// Ports of a space of `connect()` that are open: of a range of the socket's own those within it.
fn held(open: &OpenPorts, space: &PortSpace) -> Option<u64> {
    if space.own_range {
        open.held_within(space.local, space.remote, space.range)
    } else {
        open.held(space.local, space.remote)
    }
}

/// Calls a second that failed within the last minute.
fn failed_rate(places: &[&Place], now_ns: u64) -> f64 {
    let count: u64 = places.iter().map(|place| place.last_minute(now_ns)).sum();
    let lately = places.iter().filter(|place| place.last_minute(now_ns) > 0);
    let since_ns = lately.map(|place| place.shortage.since_ns).min().unwrap_or(now_ns);
    let seconds = now_ns.saturating_sub(since_ns) as f64 / 1e9;
    count as f64 / seconds.clamp(1.0, TOLD_S)
}

/// Ports that connections to others have, and none of the space.
fn elsewhere(draft: &Draft<'_>) -> u64 {
    let space = &draft.space;
    // Of a range of the socket's own it is not counted.
    let whole = space.chosen == PortChoice::Connect && !space.own_range;
    let counted = draft.facts.open.as_ref().filter(|_| whole);
    counted.map_or(0, |open| open.elsewhere(space.local, space.remote))
}

/// Ports of the space that something else than TIME_WAIT holds.
fn open_ports(draft: &Draft<'_>, case: &Case<'_>) -> Option<Open> {
    let counted = draft.facts.open.as_ref()?;
    let space = &draft.space;
    let age = case.now_ns.saturating_sub(counted.read_ns) as f64 / 1e9;
    // Those that closed since are among the others.
    let closed = || draft.window.entered_since(counted.read_ns + SECOND_NS);
    let ports = match space.chosen {
        PortChoice::Program => return None,
        PortChoice::Bind => counted.held_for_all(space.local),
        _ => held(counted, space)?,
    };
    Some(Open { ports: ports.saturating_sub(closed()), age })
}
