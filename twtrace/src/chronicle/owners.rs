//! Entries by whose they are, as far as that is known of each.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;

use crate::{
    event::{Event, owner_is_known},
    summary::Summary,
};

/// Most owners told apart.
const MOST: usize = 4096;

/// Whose an entry is: control group, user, and the network namespace with its cookie.
type Key = (u64, u32, u32, u64);

/// Entries by owner.
#[derive(Debug, Default)]
pub struct OwnerEntries {
    entries: FxHashMap<Key, u64>,
    unknown: u64,
    beyond: u64,
}

/// One owner's entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owned {
    /// The unit, container or pod; the control group, where nobody could tell.
    pub name: String,
    /// The user.
    pub uid: u32,
    /// Entries.
    pub entries: u64,
}

impl OwnerEntries {
    /// Takes in an event.
    pub fn event(&mut self, event: &Event) {
        let Event::Entered(entered) = event else { return };
        let key = (entered.cgroup, entered.uid, entered.header.netns, entered.netns_cookie);
        if !owner_is_known(entered) {
            self.unknown += 1;
        } else if self.entries.len() < MOST || self.entries.contains_key(&key) {
            *self.entries.entry(key).or_default() += 1;
        } else {
            self.beyond += 1;
        }
    }

    /// By the names that a summary knows, those with the most entries first.
    pub fn named(&self, summary: &Summary) -> Vec<Owned> {
        let owners = summary.owners.read();
        let mut all: BTreeMap<(String, u32), u64> = BTreeMap::new();
        for ((cgroup, uid, netns, cookie), entries) in &self.entries {
            let group = (*cgroup != 0).then_some(*cgroup);
            let owner = owners.of(group, *netns, *cookie).map(|known| known.owner.name.clone());
            let path = || summary.cgroup_names.get(cgroup).cloned();
            let number = || match group {
                Some(cgroup) => format!("control group {cgroup}"),
                None => "control group not known".to_owned(),
            };
            let name = owner.or_else(path).unwrap_or_else(number);
            *all.entry((name, *uid)).or_default() += entries;
        }
        let owned = |((name, uid), entries)| Owned { name, uid, entries };
        let mut all: Vec<Owned> = all.into_iter().map(owned).collect();
        all.sort_by_key(|owned| std::cmp::Reverse(owned.entries));
        all
    }

    /// Entries of which the owner is not known.
    pub const fn unknown(&self) -> u64 {
        self.unknown
    }

    /// Entries of owners that were too many to be told apart.
    pub const fn beyond(&self) -> u64 {
        self.beyond
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        aggregate::{Aggregate, Settings},
        attached::Backend,
        summary::{Context, RowChoice},
    };
    use twtrace_common::Entered;

    #[test]
    fn what_is_not_known_of_an_owner_is_counted_as_such() {
        let mut owners = OwnerEntries::default();
        let entered =
            |cgroup, uid, rto| Event::Entered(Entered { cgroup, uid, rto, ..Entered::default() });
        for event in [entered(7, 33, 50), entered(7, 33, 50), entered(9, 0, 50), entered(0, 0, 0)] {
            owners.event(&event);
        }
        let context = Context::bare(Backend::Kprobe);
        let aggregate = Aggregate::new(Settings::default());
        let mut summary = Summary::new(&aggregate, &RowChoice::default(), context);
        summary.cgroup_names.insert(7, "system.slice/nginx.service".into());
        let named: Vec<_> =
            owners.named(&summary).into_iter().map(|it| (it.name, it.uid, it.entries)).collect();
        let known = ("system.slice/nginx.service".to_owned(), 33, 2);
        assert_eq!(named, [known, ("control group 9".to_owned(), 0, 1)]);
        assert_eq!((owners.unknown(), owners.beyond()), (1, 0));
    }
}
