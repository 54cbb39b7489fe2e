//! Waiting for a condition with a deadline: the one place where the tests let time pass.

use std::panic::Location;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Long enough for anything that needs no timer to fire, also under software emulation.
pub const SOON: Duration = Duration::from_secs(60);

/// Least and most time between two looks at a condition.
const LOOK_EVERY: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));

/// What part of the time that has passed is let pass until the next look: six thousand looks at a
/// socket that lives for a minute take longer than all else, where instructions are emulated.
const PART: u32 = 20;

/// Looks until `condition` gives a value, and gives that; fails when `limit` has passed.
///
/// `what` completes the sentence "waited in vain for ...".
#[track_caller]
pub fn until<T>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let began = Instant::now();
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        if began.elapsed() >= limit {
            bail!("waited {limit:?} in vain for {what}, at {}", Location::caller());
        }
        thread::sleep((began.elapsed() / PART).clamp(LOOK_EVERY.0, LOOK_EVERY.1));
    }
}

/// Lets `time` pass where age itself is what the kernel looks at, as with the reuse delay.
pub fn pass(time: Duration) {
    thread::sleep(time);
}
