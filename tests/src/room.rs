//! How many scenarios run at the same time, by what they weigh and how twtrace is attached.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::lab::Way;
use crate::scenario::Weight;

/// Ordinary scenarios at the same time: they mostly wait for something, so there are more of them
/// than processors.
pub const PLACES: usize = 6;

/// What runs now.
struct Running {
    /// The one way in which all of them are attached: a program that runs while another kind of
    /// program does is skipped by some kernels, and nothing else than that would be tested.
    way: Option<Way>,
    /// Those that wait long.
    waiting: usize,
    /// Ordinary ones.
    ordinary: usize,
    /// One that runs alone.
    alone: bool,
}

static RUNNING: Mutex<Running> =
    Mutex::new(Running { way: None, waiting: 0, ordinary: 0, alone: false });
/// Told when one of them has ended.
static LEFT: Condvar = Condvar::new();

impl Running {
    fn has_room(&self, way: Way, weight: Weight) -> bool {
        let none = self.waiting + self.ordinary == 0;
        let same = none || self.way == Some(way);
        !self.alone
            && same
            && match weight {
                Weight::LongWait => true,
                Weight::Ordinary => self.ordinary < PLACES,
                Weight::Alone => none,
            }
    }

    fn count(&mut self, weight: Weight, change: impl Fn(usize) -> usize) {
        match weight {
            Weight::LongWait => self.waiting = change(self.waiting),
            Weight::Ordinary => self.ordinary = change(self.ordinary),
            Weight::Alone => self.alone = !self.alone,
        }
    }
}

fn running() -> MutexGuard<'static, Running> {
    // A scenario that panics does so outside: these are numbers that are right at any time.
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Room for one scenario, until this is dropped.
pub struct Room(Weight);

/// Waits until there is room for one more of that weight, attached that way.
pub fn take(way: Way, weight: Weight) -> Room {
    let free = LEFT.wait_while(running(), |running| !running.has_room(way, weight));
    let mut running = free.unwrap_or_else(PoisonError::into_inner);
    running.way = Some(way);
    running.count(weight, |count| count + 1);
    Room(weight)
}

impl Drop for Room {
    fn drop(&mut self) {
        running().count(self.0, |count| count - 1);
        LEFT.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_do_not_mix_long_waits_take_no_place_and_one_runs_alone() {
        let [fentry, kprobe, ..] = Way::ALL;
        let some = Running { way: Some(fentry), waiting: 9, ordinary: PLACES - 1, alone: false };
        assert!(some.has_room(fentry, Weight::Ordinary));
        assert!(!some.has_room(kprobe, Weight::Ordinary));
        assert!(!some.has_room(fentry, Weight::Alone));
        let full = Running { ordinary: PLACES, ..some };
        assert!(!full.has_room(fentry, Weight::Ordinary));
        assert!(full.has_room(fentry, Weight::LongWait));
        let none = Running { way: Some(fentry), waiting: 0, ordinary: 0, alone: false };
        assert!(none.has_room(kprobe, Weight::Alone));
        let alone = Running { alone: true, ..none };
        assert!(!alone.has_room(kprobe, Weight::LongWait));
    }
}
