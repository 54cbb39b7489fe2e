//! Ticks at a steady interval, at a wake-up each.
//!
//! What waits for hours with nothing to see is to wake as seldom as it can. The runtime's own timers
//! are kept in a wheel, whose longer turns are coarse: a second is waited for in two steps, and every
//! fourth in three. The kernel waits for it in one.

use std::{io, os::fd::OwnedFd, time::Duration};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::{Interest, unix::AsyncFd};

use crate::kernel::watch;

/// A timer of the kernel that goes off at an interval, the first time at once. Ticks that nobody waited
/// for are one.
#[derive(Debug)]
pub struct Ticks(AsyncFd<OwnedFd>);

impl Ticks {
    /// One that goes off each `time`, which is not zero.
    ///
    /// # Errors
    /// The kernel gives no timer, or the runtime cannot wait for it: no more descriptors.
    pub fn every(time: Duration) -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        // A time of nothing would stop it.
        let at_once = Timespec { tv_sec: 0, tv_nsec: 1 };
        let it_interval = Timespec::try_from(time).map_err(io::Error::other)?;
        let times = Itimerspec { it_interval, it_value: at_once };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &times)?;
        Ok(Self(watch(timer)?))
    }

    /// Waits for the next. May be dropped and called again.
    ///
    /// # Errors
    /// The runtime is about to end.
    pub async fn tick(&self) -> io::Result<()> {
        let gone_off = |timer: &OwnedFd| Ok(rustix::io::read(timer, &mut [0; 8])?);
        self.0.async_io(Interest::READABLE, gone_off).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn the_first_comes_at_once_and_each_other_after_the_interval() {
        let interval = Duration::from_millis(20);
        let begun = Instant::now();
        let ticks = Ticks::every(interval).unwrap();
        ticks.tick().await.unwrap();
        for number in 1..4 {
            ticks.tick().await.unwrap();
            assert!(begun.elapsed() >= interval * number, "{number}");
        }
    }

    #[tokio::test]
    async fn ticks_that_nobody_waited_for_are_one() {
        let interval = Duration::from_millis(20);
        let begun = Instant::now();
        let ticks = Ticks::every(interval).unwrap();
        std::thread::sleep(3 * interval);
        for _ in 0..2 {
            ticks.tick().await.unwrap();
        }
        assert!(begun.elapsed() >= 4 * interval, "the second is a new one");
    }
}
