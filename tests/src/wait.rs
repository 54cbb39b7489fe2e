//! Waiting for a condition with a deadline: the one place where the tests let time pass.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Long enough for anything that needs no timer to fire, also under software emulation.
pub const SOON: Duration = Duration::from_secs(60);

/// Time between two looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Looks until `condition` gives a value, and gives that; fails when `limit` has passed.
///
/// `what` completes the sentence "waited in vain for ...".
pub fn until<T>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            bail!("waited {limit:?} in vain for {what}");
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// Lets `time` pass where age itself is what the kernel looks at, as with the reuse delay.
pub fn pass(time: Duration) {
    thread::sleep(time);
}
