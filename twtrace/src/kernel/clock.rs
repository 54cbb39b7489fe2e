//! The clock of the kernel programs, as this process sees it.
//!
//! `bpf_ktime_get_ns()` is `CLOCK_MONOTONIC` of the initial time namespace, in which this process need
//! not be (Linux 5.6 on). Neither it nor the kernel's timers go on while the machine is suspended, so
//! a lifetime is time awake, as TIME_WAIT itself is.

use std::{fs, sync::OnceLock};

use rustix::time::{ClockId, clock_gettime};

/// How far the clocks of this process's time namespace are ahead, seconds and nanoseconds.
const OFFSETS: &str = "/proc/self/timens_offsets";

/// The kernel programs' clock now, nanoseconds.
pub fn monotonic_ns() -> u64 {
    static AHEAD: OnceLock<i64> = OnceLock::new();
    let ahead = *AHEAD.get_or_init(|| {
        // Where there is no such file all processes have one time.
        fs::read_to_string(OFFSETS).ok().and_then(|text| ahead_ns(&text)).unwrap_or(0)
    });
    let now = clock_gettime(ClockId::Monotonic);
    let here = now.tv_sec.saturating_mul(1_000_000_000).saturating_add(now.tv_nsec);
    u64::try_from(here.saturating_sub(ahead)).unwrap_or(0)
}

/// How far `CLOCK_MONOTONIC` is ahead, nanoseconds.
fn ahead_ns(offsets: &str) -> Option<i64> {
    let line = offsets.lines().find_map(|line| line.strip_prefix("monotonic"))?;
    let mut numbers = line.split_ascii_whitespace().map(str::parse::<i64>);
    let (seconds, nanos) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    seconds.checked_mul(1_000_000_000)?.checked_add(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offset_of_a_time_namespace_is_read_as_the_kernel_tells_it() {
        let told = "monotonic      86400         5\nboottime           0         0\n";
        assert_eq!(ahead_ns(told), Some(86_400_000_000_005));
        assert_eq!(ahead_ns("monotonic         -1         0\n"), Some(-1_000_000_000));
        assert_eq!(ahead_ns("boottime           0         0\n"), None);
        assert_eq!(ahead_ns("monotonic much 0\n"), None);
    }
}
