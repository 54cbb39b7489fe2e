//! Network namespaces as rows know them: a number that comes back is another namespace.

use std::{collections::VecDeque, fmt};

use rustc_hash::FxHashMap;

/// Namespaces that are gone and whose late records are still told from those of the one that has
/// their number now.
const MOST_GONE: usize = 256;

/// A network namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Netns {
    /// Inode number: what `ls -Li /proc/PID/ns/net` shows.
    pub inum: u32,
    /// 0 for the namespace that has the number now, and another for each that had it before.
    pub gone: u32,
}

impl Netns {
    /// The number, if it is this namespace that has it now.
    pub const fn current(self) -> Option<u32> {
        if self.gone == 0 { Some(self.inum) } else { None }
    }
}

impl From<u32> for Netns {
    /// The namespace that has the number now.
    fn from(inum: u32) -> Self {
        Self { inum, gone: 0 }
    }
}

impl fmt::Display for Netns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.gone {
            0 => write!(f, "{}", self.inum),
            _ => write!(f, "{} (gone)", self.inum),
        }
    }
}

/// Which namespace has a number, by cookies (`SO_NETNS_COOKIE`), which never come back.
#[derive(Debug, Default)]
pub struct Cookies {
    current: FxHashMap<u32, u64>,
    /// The oldest first.
    gone: VecDeque<(Netns, u64)>,
    /// Namespaces that went so far.
    count: u32,
}

impl Cookies {
    /// The namespace that a record is of. If it is one that took over the number of another, that one
    /// comes second: all that was of it is from now on of this.
    pub fn of(&mut self, inum: u32, cookie: u64) -> (Netns, Option<Netns>) {
        let netns = Netns::from(inum);
        if cookie == 0 || self.current.get(&inum) == Some(&cookie) {
            return (netns, None);
        }
        if let Some((gone, _)) =
            self.gone.iter().find(|(gone, its)| (gone.inum, *its) == (inum, cookie))
        {
            return (*gone, None);
        }
        let Some(before) = self.current.insert(inum, cookie) else { return (netns, None) };
        self.count = self.count.wrapping_add(1).max(1);
        let gone = Netns { inum, gone: self.count };
        self.gone.push_back((gone, before));
        if self.gone.len() > MOST_GONE {
            self.gone.pop_front();
        }
        (netns, Some(gone))
    }

    /// The cookie of a namespace, if it is known.
    pub fn get(&self, netns: Netns) -> Option<u64> {
        match netns.current() {
            Some(inum) => self.current.get(&inum).copied(),
            None => self.gone.iter().find(|(gone, _)| *gone == netns).map(|(_, cookie)| *cookie),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_comes_back_is_another_namespace() {
        let mut cookies = Cookies::default();
        assert_eq!(cookies.of(7, 0), (Netns::from(7), None));
        assert_eq!(cookies.of(7, 100), (Netns::from(7), None));
        let (now, Some(gone)) = cookies.of(7, 200) else { panic!("the number changed hands") };
        assert_eq!((now.current(), gone.current()), (Some(7), None));
        assert_eq!(cookies.of(7, 100), (gone, None), "late");
        assert_eq!(cookies.of(7, 0), (now, None), "not told: the one that has it");
        assert_eq!((cookies.get(now), cookies.get(gone)), (Some(200), Some(100)));
        assert_ne!(cookies.of(7, 300).1, Some(gone));
    }
}
