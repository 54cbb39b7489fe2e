//! What a number of places will come to: from those held now and when each of them is free, from
//! what comes, and from how much leaves before its time.

/// What a timer of TIME_WAIT may be late by, seconds: its wheel has steps of two seconds at 250 ticks
/// a second, and of four at 1000 (kernel/time/timer.c).
pub const TIMER_SLACK: f64 = 2.0;
/// Steps a second.
const STEPS: f64 = 4.0;
/// Steps looked ahead: as long as anything of TIME_WAIT lasts, a timer armed again left out.
const AHEAD: usize = 4 * 64;
/// The same in seconds.
pub const AHEAD_S: f64 = AHEAD as f64 / STEPS;

/// What is held now, by when it will be free.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    /// What is free again within each step.
    freed: Box<[f64; AHEAD]>,
    /// What is held, all of it.
    now: f64,
}

impl Default for Held {
    fn default() -> Self {
        Self { freed: Box::new([0.0; AHEAD]), now: 0.0 }
    }
}

/// The step that so many seconds ahead are in.
fn step_of(seconds: f64) -> usize {
    ((seconds.max(0.0) * STEPS) as usize).min(AHEAD - 1)
}

impl Held {
    /// Adds so much that is free in some seconds; later than is looked ahead is at the end.
    pub fn add(&mut self, count: f64, seconds: f64) {
        self.freed[step_of(seconds)] += count;
        self.now += count;
    }

    /// Adds so much of which no more is known than that it came evenly, so much a second, and that
    /// each is held for `seconds`.
    pub fn spread(&mut self, count: f64, rate: f64, seconds: f64) {
        let over = if rate > 0.0 { (count / rate).min(seconds) } else { seconds };
        let pieces = (over * STEPS).ceil().max(1.0);
        for piece in 0..pieces as usize {
            let before = over * (piece as f64 + 0.5) / pieces;
            self.freed[step_of(seconds - before)] += count / pieces;
        }
        self.now += count;
    }

    /// What is held now.
    pub const fn now(&self) -> f64 {
        self.now
    }

    /// When the next of them is free, in seconds; `None` if none is held.
    pub fn next_free(&self) -> Option<f64> {
        let step = self.freed.iter().position(|freed| *freed > 0.0)?;
        Some((step + 1) as f64 / STEPS)
    }

    /// When the last of them is free, in seconds.
    pub fn last_free(&self) -> Option<f64> {
        let step = self.freed.iter().rposition(|freed| *freed > 0.0)?;
        Some((step + 1) as f64 / STEPS)
    }
}

/// Something that comes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Inflow {
    /// So often a second.
    pub rate: f64,
    /// Each holds its place for so many seconds if nothing ends it before.
    pub seconds: f64,
}

/// What will be.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Forecast {
    /// Seconds until all places are held; `None` if that will not be.
    pub full_in: Option<f64>,
    /// The most that will be held.
    pub peak: f64,
    /// What will be held when as many come as go.
    pub steady: f64,
}

/// What `inflows` hold after some seconds, beginning with none, if each place is left early at
/// `leave` a second.
fn arrived(inflows: &[Inflow], seconds: f64, leave: f64) -> f64 {
    let each = inflows.iter().map(|inflow| {
        let held_for = seconds.min(inflow.seconds);
        let mean = if leave > 1e-6 { (1.0 - (-leave * held_for).exp()) / leave } else { held_for };
        inflow.rate * mean
    });
    each.sum()
}

/// Places that are held, and what comes, as far as they are left alike.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// What is held now.
    pub held: &'a Held,
    /// What comes.
    pub inflows: &'a [Inflow],
    /// Of each place the chance to be left before its time, a second.
    pub leave: f64,
}

/// Looks ahead. `fixed` places are held all the time by something else; of each other one the chance
/// to be left before its time is `leave` a second.
pub fn look_ahead(
    places: f64,
    fixed: f64,
    held: &Held,
    inflows: &[Inflow],
    leave: f64,
) -> Forecast {
    look_ahead_of(places, fixed, &[Part { held, inflows, leave }])
}

/// The same of several parts, which share the places.
pub fn look_ahead_of(places: f64, fixed: f64, parts: &[Part<'_>]) -> Forecast {
    let settled = |part: &Part<'_>| arrived(part.inflows, f64::INFINITY, part.leave);
    let steady = fixed + parts.iter().map(settled).sum::<f64>();
    let peak = fixed + parts.iter().map(|part| part.held.now).sum::<f64>();
    let mut forecast = Forecast { full_in: (peak >= places).then_some(0.0), peak, steady };
    let mut left: Vec<f64> = parts.iter().map(|part| part.held.now).collect();
    let mut before = forecast.peak;
    for step in 0..AHEAD {
        let seconds = (step + 1) as f64 / STEPS;
        let mut now = fixed;
        for (part, left) in parts.iter().zip(&mut left) {
            *left -= part.held.freed[step];
            now += left.max(0.0) * (-part.leave * seconds).exp()
                + arrived(part.inflows, seconds, part.leave);
        }
        if now >= places && forecast.full_in.is_none() {
            let share = if now > before { (places - before) / (now - before) } else { 1.0 };
            forecast.full_in = Some((step as f64 + share) / STEPS);
        }
        forecast.peak = forecast.peak.max(now);
        before = now;
    }
    forecast
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none() -> Held {
        Held::default()
    }

    fn sixty(rate: f64) -> [Inflow; 1] {
        [Inflow { rate, seconds: 60.0 }]
    }

    #[test]
    fn places_fill_at_the_rate_at_which_they_are_taken() {
        let forecast = look_ahead(1000.0, 0.0, &none(), &sixty(50.0), 0.0);
        assert_eq!(forecast.full_in, Some(20.0));
        assert_eq!((forecast.peak, forecast.steady), (3000.0, 3000.0));
        let mut half = none();
        half.spread(500.0, 50.0, 60.0);
        assert_eq!(half.now(), 500.0);
        assert_eq!(look_ahead(1000.0, 0.0, &half, &sixty(50.0), 0.0).full_in, Some(10.0));
    }

    #[test]
    fn one_place_more_than_is_needed_is_never_full() {
        let mut steady = none();
        steady.spread(1200.0, 20.0, 60.0);
        let forecast = look_ahead(1201.0, 0.0, &steady, &sixty(20.0), 0.0);
        assert_eq!(forecast.full_in, None, "{forecast:?}");
        assert!((1195.0..1201.0).contains(&forecast.peak), "{forecast:?}");
    }

    #[test]
    fn what_comes_back_before_the_places_are_gone_counts() {
        let mut old = none();
        old.add(900.0, 5.0);
        let forecast = look_ahead(1000.0, 0.0, &old, &sixty(15.0), 0.0);
        assert_eq!(forecast.full_in, None, "900 go before 100 have come: {forecast:?}");
        assert_eq!(look_ahead(1000.0, 0.0, &old, &sixty(25.0), 0.0).full_in, Some(4.0));
    }

    #[test]
    fn a_server_whose_sockets_are_replaced_stays_where_it_is() {
        let mut held = none();
        held.spread(499.0, 1700.0, 60.0);
        let forecast = look_ahead(131_072.0, 0.0, &held, &sixty(1700.0), 1700.0 / 499.0);
        assert!((498.0..500.0).contains(&forecast.steady), "{forecast:?}");
        assert_eq!(forecast.full_in, None);
    }

    #[test]
    fn open_places_are_not_given_back() {
        let forecast = look_ahead(1000.0, 400.0, &none(), &sixty(10.0), 0.0);
        assert_eq!((forecast.full_in, forecast.steady), (Some(60.0), 1000.0));
    }

    #[test]
    fn the_first_and_the_last_to_be_free_are_known() {
        let mut held = none();
        assert_eq!((held.next_free(), held.last_free()), (None, None));
        held.add(1.0, 7.1);
        held.add(1.0, 500.0);
        assert_eq!((held.next_free(), held.last_free()), (Some(7.25), Some(64.0)));
    }
}
