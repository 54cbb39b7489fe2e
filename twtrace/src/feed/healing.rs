//! When sockets whose end was lost are looked for.

use std::{
    collections::HashMap,
    io,
    time::{Duration, Instant},
};

use twtrace_common::Entered;

use super::beside::{Beside, Progress};

/// Least time between the beginnings of two walks: what is lost while events are lost all the time
/// is found a few seconds later, and the walks cost the host little.
const REST: Duration = Duration::from_secs(5);

/// What a walk finds.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Sockets that ended unseen, by address and time of entry.
    pub vanished: Vec<(u64, u64)>,
    /// Namespaces of those of them whose end the kernel side had not noticed, one for each.
    pub missed: Vec<u32>,
    /// How many live that are not followed, by namespace; of those that could be read.
    pub unfollowed: HashMap<u32, u64>,
    /// How many there had ever been when the walk began.
    pub unfollowed_before: u64,
    /// Entries of sockets that entered unseen.
    pub adopted: Vec<Entered>,
}

/// The look for them.
#[derive(Debug, Default)]
pub struct Healing {
    /// Something was lost since the last walk began.
    wanted: bool,
    begun: Option<Instant>,
    walk: Option<Beside<Found>>,
}

/// How long a look may be put off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Haste {
    /// Until the host had its rest.
    None,
    /// Not at all: this is the last chance.
    Last,
}

impl Healing {
    /// Something was lost.
    pub fn want(&mut self) {
        self.wanted = true;
    }

    /// Whether nothing is looked for, and nothing has to be.
    pub fn is_over(&self) -> bool {
        !self.wanted && self.walk.is_none()
    }

    /// Begins a walk if one is due; answers what one has found that is over by now, waiting for it
    /// for as long as `time`.
    pub fn step(
        &mut self,
        haste: Haste,
        time: Duration,
        begin: impl FnOnce() -> io::Result<Beside<Found>>,
    ) -> Option<Found> {
        let rested = self.begun.is_none_or(|begun| begun.elapsed() >= REST);
        if self.wanted && self.walk.is_none() && (rested || haste == Haste::Last) {
            self.begun = Some(Instant::now());
            self.wanted = false;
            match begin() {
                Ok(walk) => self.walk = Some(walk),
                Err(error) => tracing::warn!(%error, "cannot look for sockets that ended unseen"),
            }
        }
        let progress = self.walk.as_ref()?.wait(time);
        if progress != Progress::Under {
            self.walk = None;
        }
        match progress {
            Progress::Done(found) => Some(found),
            Progress::Under => None,
            Progress::Failed => {
                tracing::error!("the look for sockets that ended unseen failed");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AWHILE: Duration = Duration::from_secs(60);

    fn vanished(vanished: &[(u64, u64)]) -> Found {
        Found { vanished: vanished.to_vec(), ..Found::default() }
    }

    fn found(sockets: &[(u64, u64)]) -> io::Result<Beside<Found>> {
        let found = vanished(sockets);
        Beside::begin("test", move || found)
    }

    #[test]
    fn losses_are_looked_for_once_and_not_again_at_once() {
        let mut healing = Healing::default();
        let never = || panic!("nothing was lost");
        assert_eq!(healing.step(Haste::Last, AWHILE, never), None);
        healing.want();
        assert!(!healing.is_over());
        assert_eq!(
            healing.step(Haste::None, AWHILE, || found(&[(1, 2)])),
            Some(vanished(&[(1, 2)]))
        );
        assert!(healing.is_over());
        healing.want();
        assert_eq!(healing.step(Haste::None, AWHILE, || panic!("too soon")), None);
        assert!(!healing.is_over(), "it is put off, not forgotten");
        assert_eq!(healing.step(Haste::Last, AWHILE, || found(&[])), Some(vanished(&[])));
    }

    #[test]
    fn a_walk_that_goes_on_keeps_nobody_waiting_and_is_the_only_one() {
        let (go, going) = std::sync::mpsc::channel::<()>();
        let slow =
            || Beside::begin("test", move || going.recv().map(|()| vanished(&[(7, 8)])).unwrap());
        let mut healing = Healing::default();
        healing.want();
        assert_eq!(healing.step(Haste::None, Duration::ZERO, slow), None);
        healing.want();
        let second = || panic!("one at a time");
        assert_eq!(healing.step(Haste::Last, Duration::ZERO, second), None);
        go.send(()).unwrap();
        assert_eq!(healing.step(Haste::None, AWHILE, second), Some(vanished(&[(7, 8)])));
        assert!(!healing.is_over(), "what was lost meanwhile");
    }
}
