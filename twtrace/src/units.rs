//! Jiffies, and what they are in milliseconds on this host; the two clocks; and releases of the kernel.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

/// Something a second, written with as many decimals as the format has and with more where it is so few
/// that they would tell it from nothing.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct PerSecond(pub f64);

impl fmt::Display for PerSecond {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wanted = match self.0 {
            0.0 => 0,
            ..1.0 => 2,
            ..10.0 => 1,
            _ => 0,
        };
        write!(out, "{:.*}", out.precision().unwrap_or(0).max(wanted), self.0)
    }
}

/// Ticks a second of the kernel (`CONFIG_HZ`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "u32", into = "u32")]
pub struct Hz {
    ticks: u32,
    /// Milliseconds of a tick where that is a whole number, else 0: spares the division that would
    /// be the slowest instruction of the event path.
    whole_millis: u32,
}

impl From<u32> for Hz {
    fn from(ticks: u32) -> Self {
        Self::new(ticks)
    }
}

impl From<Hz> for u32 {
    fn from(hz: Hz) -> Self {
        hz.ticks
    }
}

impl Hz {
    /// A tick rate; 0 is taken as 1.
    pub const fn new(ticks_per_second: u32) -> Self {
        let ticks = if ticks_per_second == 0 { 1 } else { ticks_per_second };
        Self { ticks, whole_millis: if 1000 % ticks == 0 { 1000 / ticks } else { 0 } }
    }

    /// The running kernel's tick rate.
    ///
    /// `CLOCK_MONOTONIC_COARSE` advances once a tick, and its resolution is the tick's length:
    /// `posix_get_coarse_res()`, kernel/time/posix-timers.c (`KTIME_LOW_RES`). `getconf CLK_TCK`
    /// is USER_HZ, something else.
    pub fn of_running_kernel() -> Self {
        let tick = rustix::time::clock_getres(rustix::time::ClockId::MonotonicCoarse);
        let nanoseconds = u64::try_from(tick.tv_nsec).unwrap_or(0).max(1);
        Self::new(u32::try_from((1_000_000_000 + nanoseconds / 2) / nanoseconds).unwrap_or(1))
    }

    /// Ticks a second.
    pub const fn ticks(self) -> u32 {
        self.ticks
    }

    /// Milliseconds of a number of jiffies, rounded to the nearest.
    pub fn millis(self, jiffies: u32) -> u64 {
        match self.whole_millis {
            0 => (u64::from(jiffies) * 1000 + u64::from(self.ticks) / 2) / u64::from(self.ticks),
            millis => u64::from(jiffies) * u64::from(millis),
        }
    }

    /// Jiffies of a number of milliseconds, rounded down; what is too many for a timer is as many as
    /// there can be.
    pub fn jiffies(self, millis: u64) -> u32 {
        u32::try_from(millis.saturating_mul(self.ticks.into()) / 1000).unwrap_or(u32::MAX)
    }
}

/// A jump of the wall clock from which on it was set: what NTP corrects step by step is less.
const SET: Duration = Duration::from_secs(1);

/// The time of day of a moment, to the second.
pub fn time_of_day(wall: SystemTime) -> String {
    let stamp = humantime::format_rfc3339_seconds(wall).to_string();
    let time = stamp.split_once('T').map_or(stamp.as_str(), |(_, time)| time);
    format!("{} UTC", time.trim_end_matches('Z'))
}

/// One moment by two clocks, to turn times of the one into times of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clock {
    /// `CLOCK_MONOTONIC`, the clock of the kernel programs, nanoseconds.
    pub mono_ns: u64,
    /// The time of day.
    pub wall: SystemTime,
}

impl Clock {
    /// The time of day of another moment.
    pub fn wall(&self, mono_ns: u64) -> SystemTime {
        let since = Duration::from_nanos(mono_ns.abs_diff(self.mono_ns));
        let then = if mono_ns < self.mono_ns {
            self.wall.checked_sub(since)
        } else {
            self.wall.checked_add(since)
        };
        then.unwrap_or(self.wall)
    }

    /// The time of day of a moment that may have been before this boot.
    pub fn wall_at(&self, mono_ns: i64) -> SystemTime {
        match u64::try_from(mono_ns) {
            Ok(mono_ns) => self.wall(mono_ns),
            Err(_) => {
                let since = self.mono_ns.saturating_add(mono_ns.unsigned_abs());
                self.wall.checked_sub(Duration::from_nanos(since)).unwrap_or(self.wall)
            }
        }
    }

    /// The clock to go on with at the moment `now`: this one, so that the time of day of a moment
    /// is the same to the last digit whenever it is asked for; `now`, if the time of day was set
    /// meanwhile, or has drifted as far.
    pub fn unless_set(self, now: Self) -> Self {
        let told = self.wall(now.mono_ns);
        let apart = told.duration_since(now.wall).unwrap_or_else(|error| error.duration());
        if apart < SET { self } else { now }
    }

    /// Seconds from another moment to this one, 0 for a later one.
    pub const fn seconds_since(&self, mono_ns: u64) -> f64 {
        self.mono_ns.saturating_sub(mono_ns) as f64 / 1e9
    }
}

/// `TCP_TIMEWAIT_LEN`, include/net/tcp.h: 2MSL on mainline kernels, milliseconds.
pub const TCP_TIMEWAIT_LEN_MS: u64 = 60_000;

/// The kernel's own arithmetic for a recycled socket's timer, `tcp_time_wait()` up to 4.11:
/// 3.5 times the retransmission timeout, in the unit of `rto`.
pub const fn recycle_timeout(rto: u64) -> u64 {
    (rto << 2) - (rto >> 1)
}

/// Whether the kernel of this release is of that version, or a later one; not if it is none that is known.
pub fn is_from(release: &str, version: (u32, u32)) -> bool {
    let mut numbers = release.split(|char: char| !char.is_ascii_digit()).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= version,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_a_second_are_told_from_none() {
        let whole = [0.0, 0.333, 3.33, 33.3, f64::INFINITY].map(|rate| PerSecond(rate).to_string());
        assert_eq!(whole, ["0", "0.33", "3.3", "33", "inf"]);
        let tenths = [0.0, 0.016, 16.66].map(|rate| format!("{:.1}", PerSecond(rate)));
        assert_eq!(tenths, ["0.0", "0.02", "16.7"]);
    }

    #[test]
    fn a_kernel_is_of_the_version_that_its_release_begins_with() {
        let told = ["4.19", "5.10.0-46-cloud-amd64", "6.4.9", "6.5.0", "6.12.1", "7.2", "strange"];
        let told = told.map(|release| is_from(release, (6, 5)));
        assert_eq!(told, [false, false, false, true, true, true, false]);
    }

    #[test]
    fn jiffies_become_milliseconds_at_every_usual_tick_rate() {
        assert_eq!(Hz::new(250).millis(15_000), 60_000);
        assert_eq!(Hz::new(250).millis(51), 204);
        assert_eq!(Hz::new(100).millis(1), 10);
        assert_eq!(Hz::new(1000).millis(u32::MAX), 4_294_967_295);
        assert_eq!(Hz::new(300).millis(1), 3);
    }

    #[test]
    fn milliseconds_become_jiffies() {
        assert_eq!(Hz::new(250).jiffies(60_000), 15_000);
        assert_eq!(Hz::new(300).jiffies(999), 299);
        assert_eq!(Hz::new(1000).jiffies(u64::MAX), u32::MAX);
    }

    #[test]
    fn the_recycle_timeout_is_the_kernels_three_and_a_half_rto() {
        assert_eq!(recycle_timeout(51), 179, "KERNEL: 204 ms at 250 Hz armed 179 jiffies");
        assert_eq!(recycle_timeout(52), 182);
    }

    #[test]
    fn a_moment_of_the_kernels_clock_has_a_time_of_day() {
        let clock = Clock { mono_ns: 5_000_000_000, wall: SystemTime::UNIX_EPOCH };
        let later = clock.wall(7_000_000_000).duration_since(SystemTime::UNIX_EPOCH);
        assert_eq!(later.unwrap(), Duration::from_secs(2));
        let earlier = SystemTime::UNIX_EPOCH.duration_since(clock.wall(1_000_000_000));
        assert_eq!(earlier.unwrap(), Duration::from_secs(4));
        assert_eq!(clock.wall_at(7_000_000_000), clock.wall(7_000_000_000));
        let before = SystemTime::UNIX_EPOCH.duration_since(clock.wall_at(-2_000_000_000));
        assert_eq!(before.unwrap(), Duration::from_secs(7), "before the boot");
        assert_eq!(clock.seconds_since(4_500_000_000), 0.5);
        assert_eq!(clock.seconds_since(9_000_000_000), 0.0);
    }

    #[test]
    fn a_clock_is_replaced_when_the_time_of_day_was_set_and_not_when_it_drifts() {
        let second = 1_000_000_000;
        let at = |millis| SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
        let clock = Clock { mono_ns: 5 * second, wall: at(20_000_000) };
        let drifted = Clock { mono_ns: 7 * second, wall: at(20_002_900) };
        assert_eq!(clock.unless_set(drifted), clock);
        for wall in [at(20_000_000 - 18_000_000), at(20_000_000 + 18_000_000)] {
            let set = Clock { mono_ns: 7 * second, wall };
            assert_eq!(clock.unless_set(set), set);
        }
    }

    #[test]
    fn the_running_kernel_has_a_plausible_tick_rate() {
        assert!([100, 250, 300, 1000].contains(&Hz::of_running_kernel().ticks()));
    }
}
