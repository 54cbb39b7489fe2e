//! The arithmetic of ports and buckets, and nothing else.
//!
//! A port is scarce per triple of source address, peer address and peer port: two connections may
//! share a local port if any of the three differs.

use std::ops::RangeInclusive;

/// Ports that `connect()` may choose for one triple: the range without what is reserved in it.
pub fn usable_ports(range: &RangeInclusive<u16>, reserved: &[RangeInclusive<u16>]) -> u64 {
    // Ranges the kernel prints do not overlap: it prints a bitmap.
    let taken: u64 = reserved
        .iter()
        .map(|reserved| {
            let low = u64::from(*reserved.start().max(range.start()));
            let high = u64::from(*reserved.end().min(range.end()));
            (high + 1).saturating_sub(low)
        })
        .sum();
    let all = (u64::from(*range.end()) + 1).saturating_sub(u64::from(*range.start()));
    all.saturating_sub(taken)
}

/// Sockets in TIME_WAIT when as many come as go: `rate` a second that each stay `seconds`.
pub fn steady_state(rate: f64, seconds: f64) -> f64 {
    rate * seconds
}

/// The most connections a second that `places` allow, each being taken for `seconds`.
pub fn highest_rate(places: f64, seconds: f64) -> f64 {
    if seconds > 0.0 { places.max(0.0) / seconds } else { f64::INFINITY }
}

/// When the last of the places is taken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Exhaustion {
    /// Practically all are taken.
    Now,
    /// In this many seconds at the present rate.
    In(f64),
    /// Not at the present rate.
    Never,
}

/// When `places` are all taken, or all but the share `rest`: `used` are now, `growth` more come
/// than go a second, and `steady` would be taken in the end.
pub fn exhaustion(places: f64, rest: f64, used: f64, growth: f64, steady: f64) -> Exhaustion {
    if used >= places * (1.0 - rest) {
        Exhaustion::Now
    } else if steady > places && growth > 0.0 {
        Exhaustion::In((places - used) / growth)
    } else {
        Exhaustion::Never
    }
}

impl Exhaustion {
    /// Seconds until then, 0 for now; `None` for never.
    pub const fn seconds(self) -> Option<f64> {
        match self {
            Self::Now => Some(0.0),
            Self::In(seconds) => Some(seconds),
            Self::Never => None,
        }
    }
}

/// One number as a share of another, 0 for a share of nothing.
pub fn share(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_ports_count_only_inside_the_range() {
        assert_eq!(usable_ports(&(32_768..=60_999), &[]), 28_232, "the default");
        assert_eq!(usable_ports(&(20_000..=20_999), &[19_990..=20_009, 20_999..=30_000]), 989);
        assert_eq!(usable_ports(&(20_000..=20_999), &[80..=80, 443..=443]), 1000);
        assert_eq!(usable_ports(&(1..=u16::MAX), &[1..=u16::MAX]), 0);
        let one = 5_u16;
        assert_eq!(usable_ports(&(one..=one), &[]), 1);
    }

    #[test]
    fn four_hundred_and_seventy_a_second_is_what_the_default_range_allows() {
        assert_eq!(highest_rate(28_232.0, 60.0).floor(), 470.0);
        assert_eq!(steady_state(470.0, 60.0), 28_200.0);
    }

    #[test]
    fn exhaustion_is_told_from_what_is_left_and_what_comes_on_balance() {
        let at = |used, growth, steady| exhaustion(1000.0, 0.02, used, growth, steady);
        assert_eq!(at(400.0, 50.0, 3000.0), Exhaustion::In(12.0));
        assert_eq!(at(400.0, 10.0, 600.0), Exhaustion::Never, "it settles below");
        assert_eq!(at(400.0, 10.0, 1000.0), Exhaustion::Never, "just fits");
        assert_eq!(at(400.0, 0.0, 3000.0), Exhaustion::Never, "as many go");
        assert_eq!(at(979.0, 0.0, 0.0), Exhaustion::Never);
        assert_eq!(at(980.0, 0.0, 0.0), Exhaustion::Now);
        assert_eq!(exhaustion(1000.0, 0.0, 999.0, 1.0, 1001.0), Exhaustion::In(1.0));
        assert_eq!(exhaustion(1000.0, 0.0, 1000.0, 0.0, 0.0), Exhaustion::Now);
    }

    #[test]
    fn a_share_of_nothing_is_nothing() {
        assert_eq!(share(5.0, 0.0), 0.0);
        assert_eq!(share(1.0, 4.0), 0.25);
    }
}
