//! Sockets that are counted as live and not followed, by the cap.
//!
//! Nothing but a number is kept of them: how many each row has in each namespace. Their ends tell
//! neither when they entered nor whose they were, so an entry is counted in the row that its end will
//! be counted in.

use rustc_hash::FxHashMap;

use crate::peer::OTHER;

/// Row, and inode number of the network namespace.
type Place = (u32, u32);

/// How many there are.
#[derive(Debug, Default)]
pub struct Unfollowed {
    places: FxHashMap<Place, u64>,
    total: u64,
    /// How many there were ever.
    entered: u64,
}

impl Unfollowed {
    /// One more lives.
    pub fn enter(&mut self, row: u32, netns: u32) {
        *self.places.entry((row, netns)).or_default() += 1;
        self.total += 1;
        self.entered += 1;
    }

    /// One ended whose group has this row, if it has any. Answers the row it is counted in: another
    /// one if the group had no place when it entered, or was taken for another. `None` if there is
    /// none in the namespace.
    pub fn end(&mut self, row: Option<u32>, netns: u32) -> Option<u32> {
        let row = row.unwrap_or(OTHER);
        let of = |place: &Place| self.places.contains_key(place).then_some(*place);
        let place = of(&(row, netns))
            .or_else(|| of(&(OTHER, netns)))
            .or_else(|| self.places.keys().find(|(_, its)| *its == netns).copied())?;
        self.leave(place, 1);
        Some(place.0)
    }

    /// Takes note that not more than `most` live in a namespace. Answers from which rows how many are
    /// gone: those with the most there, for nobody knows better, and from each its own once none
    /// lives.
    pub fn rebase(&mut self, netns: u32, most: u64) -> Vec<(u32, u64)> {
        let here = self.places.iter().filter(|((_, its), _)| *its == netns);
        let mut here: Vec<(u32, u64)> = here.map(|((row, _), count)| (*row, *count)).collect();
        here.sort_unstable_by_key(|(row, count)| (std::cmp::Reverse(*count), *row));
        let mut over = here.iter().map(|(_, count)| count).sum::<u64>().saturating_sub(most);
        let mut gone = Vec::new();
        for (row, count) in here {
            let taken = count.min(over);
            if taken == 0 {
                break;
            }
            over -= taken;
            self.leave((row, netns), taken);
            gone.push((row, taken));
        }
        gone
    }

    fn leave(&mut self, place: Place, count: u64) {
        self.total -= count;
        if let Some(there) = self.places.get_mut(&place) {
            *there -= count;
            if *there == 0 {
                self.places.remove(&place);
            }
        }
    }

    /// How many live.
    pub const fn total(&self) -> u64 {
        self.total
    }

    /// How many there were ever.
    pub const fn entered(&self) -> u64 {
        self.entered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_counted_where_an_entry_was() {
        let mut sockets = Unfollowed::default();
        sockets.enter(3, 1);
        sockets.enter(OTHER, 1);
        assert_eq!(sockets.end(Some(3), 1), Some(3));
        assert_eq!(sockets.end(Some(3), 1), Some(OTHER), "it had no row when it entered");
        assert_eq!(sockets.end(Some(3), 1), None);
        sockets.enter(4, 1);
        assert_eq!(sockets.end(Some(4), 2), None, "of a namespace that has none");
        assert_eq!(sockets.end(None, 1), Some(4), "whatever it was taken for");
        assert_eq!((sockets.total(), sockets.entered()), (0, 3));
    }

    #[test]
    fn what_does_not_live_is_gone_from_the_rows_of_its_namespace() {
        let mut sockets = Unfollowed::default();
        (0..5).for_each(|_| sockets.enter(3, 1));
        (0..2).for_each(|_| sockets.enter(4, 1));
        sockets.enter(3, 2);
        assert_eq!(sockets.rebase(1, 9), []);
        assert_eq!(sockets.rebase(1, 4), [(3, 3)]);
        assert_eq!(sockets.rebase(1, 0), [(3, 2), (4, 2)]);
        assert_eq!(sockets.total(), 1, "that of the other namespace");
    }
}
