//! Owners as they were told, by control group and by network namespace.

use std::{
    collections::VecDeque,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
};

use rustc_hash::FxHashMap;

use super::{Owned, Owner, Subject};

/// Control groups and namespaces whose owner is kept, and as many names beside. Those told first are
/// forgotten first, and told again by whoever told them.
const MOST: usize = 16_384;

/// An owner's number in one session; never given to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnerId(u32);

impl OwnerId {
    /// The number.
    pub const fn number(self) -> u32 {
        self.0
    }
}

/// An owner that was told.
#[derive(Clone, Debug)]
pub struct Known {
    /// Its number: the same for all that have its name.
    pub id: OwnerId,
    /// The owner.
    pub owner: Arc<Owner>,
}

/// Of a namespace: its cookie, and whose it is.
type OfNetns = (u64, Option<Known>);

/// All owners that were told, also those that are gone.
#[derive(Clone, Debug, Default)]
pub struct Owners {
    cgroups: FxHashMap<u64, Option<Known>>,
    netns: FxHashMap<u32, OfNetns>,
    /// In the order they were told.
    order: VecDeque<Subject>,
    ids: FxHashMap<String, OwnerId>,
    /// Each without what only one of its control groups has.
    names: FxHashMap<OwnerId, Arc<Owner>>,
    next: u32,
}

impl Owners {
    /// Takes note of an owner. Where nobody could tell any more, who was known before still is.
    pub fn tell(&mut self, owned: &Owned) {
        let known = owned.owner.as_ref().map(|owner| self.know(owner));
        match owned.of {
            Subject::Cgroup(id) => {
                let before = self.cgroups.get(&id);
                if before.is_none() {
                    self.order.push_back(owned.of);
                }
                if known.is_some() || before.is_none() {
                    self.cgroups.insert(id, known);
                }
            }
            Subject::Netns { inum, cookie } => {
                let before = self.netns.get(&inum).filter(|(its, _)| *its == cookie);
                if known.is_some() || before.is_none() {
                    if before.is_none() {
                        self.order.push_back(owned.of);
                    }
                    self.netns.insert(inum, (cookie, known));
                }
            }
        }
        while self.order.len() > MOST {
            self.forget_first();
        }
    }

    fn know(&mut self, owner: &Owner) -> Known {
        let next = &mut self.next;
        let id = *self.ids.entry(owner.name.clone()).or_insert_with(|| {
            *next = next.wrapping_add(1);
            OwnerId(*next)
        });
        self.names.entry(id).or_insert_with(|| Arc::new(owner.without_container()));
        Known { id, owner: Arc::new(owner.clone()) }
    }

    fn forget_first(&mut self) {
        match self.order.pop_front() {
            Some(Subject::Cgroup(id)) => drop(self.cgroups.remove(&id)),
            Some(Subject::Netns { inum, cookie })
                if self.netns.get(&inum).is_some_and(|(its, _)| *its == cookie) =>
            {
                self.netns.remove(&inum);
            }
            Some(Subject::Netns { .. }) | None => {}
        }
    }

    /// Whether there are more names than are kept, so that some should be [forgotten](Self::keep).
    pub fn is_crowded(&self) -> bool {
        self.names.len() > 2 * MOST
    }

    /// Forgets the names of all but those told last and those still `used`.
    pub fn keep(&mut self, used: impl Iterator<Item = OwnerId>) {
        let mut used: std::collections::HashSet<OwnerId> = used.collect();
        let told = self.cgroups.values().chain(self.netns.values().map(|(_, known)| known));
        used.extend(told.flatten().map(|known| known.id));
        self.names.retain(|id, _| used.contains(id));
        self.ids.retain(|_, id| used.contains(id));
    }

    /// Who owns a socket: by its control group, or by its namespace where the group is not known or is
    /// the root, which nobody tells of.
    pub fn of(&self, cgroup: Option<u64>, netns: u32, cookie: u64) -> Option<&Known> {
        let by_cgroup = cgroup.filter(|id| *id != 0).and_then(|id| self.cgroups.get(&id));
        by_cgroup.map_or_else(|| self.of_netns(netns, cookie), Option::as_ref)
    }

    /// Whose a namespace is, with all that is in it. Without a cookie the one that has the number now
    /// is meant.
    pub fn of_netns(&self, inum: u32, cookie: u64) -> Option<&Known> {
        let (its, known) = self.netns.get(&inum)?;
        known.as_ref().filter(|_| *its == cookie || cookie == 0 || *its == 0)
    }

    /// The owner with that number.
    pub fn get(&self, id: OwnerId) -> Option<&Owner> {
        self.names.get(&id).map(Arc::as_ref)
    }

    /// The same, to be kept.
    pub fn shared(&self, id: OwnerId) -> Option<Arc<Owner>> {
        self.names.get(&id).cloned()
    }

    /// Namespaces that are one owner's.
    pub fn namespaces(&self) -> impl Iterator<Item = (u32, &Arc<Owner>)> {
        self.netns.iter().filter_map(|(inum, (_, known))| Some((*inum, &known.as_ref()?.owner)))
    }

    /// How many names are kept.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether nobody was told of.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// All that was told, for somebody who begins to listen.
    pub fn retold(&self) -> Vec<Owned> {
        let told = self.order.iter().filter_map(|of| {
            let known = match of {
                Subject::Cgroup(id) => self.cgroups.get(id)?,
                Subject::Netns { inum, cookie } => {
                    let (its, known) = self.netns.get(inum)?;
                    (its == cookie).then_some(known)?
                }
            };
            Some(Owned { of: *of, owner: known.as_ref().map(|known| (*known.owner).clone()) })
        });
        told.collect()
    }
}

/// The owners of a session, which whoever shows its events or rows can look up: what was told is never
/// told otherwise.
#[derive(Clone, Debug, Default)]
pub struct Book(Arc<RwLock<Owners>>);

impl Book {
    /// Looks up.
    pub fn read(&self) -> RwLockReadGuard<'_, Owners> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of an owner; `used` are those that rows stand for.
    pub fn tell(&self, owned: &Owned, used: impl FnOnce() -> Vec<OwnerId>) {
        let mut owners = self.0.write().unwrap_or_else(PoisonError::into_inner);
        owners.tell(owned);
        if owners.is_crowded() {
            owners.keep(used().into_iter());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::owner::of_path;

    fn cgroup(id: u64, path: &str) -> Owned {
        Owned { of: Subject::Cgroup(id), owner: of_path(path).map(|place| place.owner()) }
    }

    fn netns(cookie: u64, path: &str) -> Owned {
        let of = Subject::Netns { inum: 7, cookie };
        Owned { of, owner: of_path(path).map(|place| place.owner()) }
    }

    #[test]
    fn an_owner_that_is_gone_is_known_still_and_one_that_comes_back_is_the_same() {
        let mut owners = Owners::default();
        owners.tell(&cgroup(5, "/system.slice/a.service"));
        owners.tell(&cgroup(5, "/"));
        owners.tell(&cgroup(6, "/system.slice/a.service"));
        owners.tell(&cgroup(8, "/nobody"));
        let id = |cgroup| owners.of(Some(cgroup), 1, 0).map(|known| known.id);
        assert_eq!(id(5), id(6));
        assert_eq!((id(8), id(9)), (None, None));
        assert_eq!(owners.get(id(5).unwrap()).unwrap().name, "a.service");
        let mut again = Owners::default();
        owners.retold().iter().for_each(|owned| again.tell(owned));
        assert_eq!(again.retold(), owners.retold());
    }

    #[test]
    fn a_namespace_tells_where_the_group_does_not_and_its_number_alone_is_nobody_s() {
        let mut owners = Owners::default();
        owners.tell(&netns(1, "/system.slice/a.service"));
        owners.tell(&cgroup(8, "/nobody"));
        let name = |owners: &Owners, cgroup, cookie| {
            owners.of(cgroup, 7, cookie).map(|known| known.owner.name.clone())
        };
        let a = Some("a.service".to_owned());
        assert_eq!(name(&owners, None, 1), a);
        assert_eq!(name(&owners, Some(1), 1), a, "the root group");
        assert_eq!(name(&owners, Some(8), 1), None, "a group that is nobody's");
        assert_eq!(name(&owners, None, 2), None, "another namespace has the number");
        owners.tell(&netns(2, "/system.slice/b.service"));
        assert_eq!(name(&owners, None, 2), Some("b.service".to_owned()));
        assert_eq!(name(&owners, None, 1), None, "a late record of the one before");
    }

    #[test]
    fn however_many_come_and_go_no_more_are_kept() {
        let mut owners = Owners::default();
        let last = 3 * MOST as u64;
        for id in 1..=last {
            owners.tell(&cgroup(id, &format!("/system.slice/run-{id}.service")));
            if owners.is_crowded() {
                let first = owners.of(Some(id), 0, 0).unwrap().id;
                owners.keep([OwnerId(1), first].into_iter());
            }
        }
        assert!(owners.len() <= 2 * MOST + 1, "{}", owners.len());
        assert_eq!(owners.cgroups.len(), MOST);
        assert_eq!(owners.get(OwnerId(1)).unwrap().name, "run-1.service", "a row has it");
        assert!(owners.get(OwnerId(2)).is_none());
        assert!(owners.of(Some(last), 0, 0).is_some());
    }
}
