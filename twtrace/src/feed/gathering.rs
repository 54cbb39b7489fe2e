//! When to take out what waits in the kernel: at once if it is the first for a while, else together
//! with what comes within an interval; and never while nothing comes.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

/// How long records gather before they are taken out together.
pub const DRAIN_INTERVAL: Duration = Duration::from_millis(50);

/// What is known of the buffer since a batch was last taken out.
#[derive(Debug)]
pub struct Gathering {
    drained: Instant,
    /// Whether the kernel has woken the reader since.
    told: bool,
    /// Whether there was something, and so perhaps more behind it, for which the kernel wakes nobody.
    found: bool,
}

impl Gathering {
    /// Nothing was taken out yet.
    pub fn begin() -> Self {
        Self { drained: Instant::now(), told: false, found: true }
    }

    /// A batch was taken out, in which there was something or nothing.
    pub fn drained(&mut self, found: bool) {
        *self = Self { drained: Instant::now(), told: false, found };
    }

    /// Waits until it is time to take out what waits. `woken` waits until the kernel wakes the reader:
    /// for the first record once all was taken out, and from then on when much waits. With `soon` it is
    /// time after an interval even if nothing comes.
    ///
    /// # Errors
    /// Those of `woken`.
    pub async fn due<E, F: Future<Output = Result<(), E>>>(
        &mut self,
        soon: bool,
        woken: impl Fn() -> F,
    ) -> Result<(), E> {
        let gathered = self.drained + DRAIN_INTERVAL;
        if !self.told {
            if soon || self.found {
                let Ok(first) = timeout_at(gathered, woken()).await else { return Ok(()) };
                first?;
            } else {
                woken().await?;
            }
            self.told = true;
        }
        timeout_at(gathered, woken()).await.unwrap_or(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, sync::Arc};

    use tokio::{sync::Notify, time::timeout};

    use super::*;

    /// A kernel that wakes, and how long it was waited for.
    struct Bench {
        kernel: Arc<Notify>,
        gathering: Gathering,
    }

    impl Bench {
        fn new() -> Self {
            Self { kernel: Arc::new(Notify::new()), gathering: Gathering::begin() }
        }

        /// Milliseconds until it is time; `None` if that is not within a minute.
        async fn due(&mut self, soon: bool) -> Option<u128> {
            let begun = Instant::now();
            let woken = || async {
                self.kernel.notified().await;
                Ok::<(), Infallible>(())
            };
            let due = self.gathering.due(soon, woken);
            timeout(Duration::from_mins(1), due).await.ok()?.unwrap();
            Some(begun.elapsed().as_millis())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_woken_while_nothing_comes() {
        let mut bench = Bench::new();
        assert_eq!(bench.due(false).await, Some(50), "there may be something from before");
        bench.gathering.drained(false);
        assert_eq!(bench.due(false).await, None);
        assert_eq!(bench.due(true).await, Some(0), "whoever has something else to see to");
        bench.gathering.drained(false);
        assert_eq!(bench.due(true).await, Some(50));
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_for_a_while_is_taken_out_at_once_and_others_together() {
        let mut bench = Bench::new();
        bench.gathering.drained(false);
        tokio::time::advance(Duration::from_secs(1)).await;
        bench.kernel.notify_one();
        assert_eq!(bench.due(false).await, Some(0));
        bench.gathering.drained(true);
        bench.kernel.notify_one();
        assert_eq!(bench.due(false).await, Some(50), "the first since, and what comes with it");
        bench.gathering.drained(true);
        assert_eq!(bench.due(false).await, Some(50), "nothing; but the batch had an end");
        bench.gathering.drained(false);
        assert_eq!(bench.due(false).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn much_is_not_waited_for_even_if_the_wait_was_broken_off() {
        let mut bench = Bench::new();
        bench.gathering.drained(true);
        bench.kernel.notify_one();
        let broken_off = timeout(Duration::from_millis(10), bench.due(false)).await;
        assert!(broken_off.is_err(), "the first alone");
        bench.kernel.notify_one();
        assert_eq!(bench.due(false).await, Some(0), "woken again: much waits");
    }
}
