//! Finds out whose the control groups and network namespaces are that events tell of: each once, before
//! the first event of it is taken in.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    hash::Hash,
    io,
    path::Path,
    time::Instant,
};

use twtrace_common::{Failure, FailureKey};

use crate::{
    event::{Batch, Event},
    host::{cgroup, owners},
    kernel::{self, Namespaces},
    owner::{Owned, Owner, Place, Subject, of_path},
};

/// Control groups and namespaces that are remembered as told; those told first are told again when they
/// are met again. No more than whoever is told keeps.
const MOST: usize = 8192;
/// Processes of a namespace that are asked whose they are.
const MOST_PROCESSES: usize = 64;
/// A walk over all processes or control groups is not begun before this many times what the last one
/// took: a fiftieth of one processor at most.
const PAUSE: u32 = 50;

/// Things met, the oldest of which are forgotten.
struct Met<T> {
    all: HashSet<T>,
    order: VecDeque<T>,
}

impl<T: Copy + Eq + Hash> Met<T> {
    fn new() -> Self {
        Self { all: HashSet::new(), order: VecDeque::new() }
    }

    fn has(&self, one: T) -> bool {
        self.all.contains(&one)
    }

    fn add(&mut self, one: T) {
        if self.all.insert(one) {
            self.order.push_back(one);
            if self.order.len() > MOST
                && let Some(oldest) = self.order.pop_front()
            {
                self.all.remove(&oldest);
            }
        }
    }
}

/// A walk that must not be made too often.
#[derive(Default)]
struct Walked {
    next: Option<Instant>,
}

impl Walked {
    fn is_due(&self) -> bool {
        self.next.is_none_or(|next| Instant::now() >= next)
    }

    fn note(&mut self, began: Instant) {
        let now = Instant::now();
        self.next = Some(now + (now - began) * PAUSE);
    }
}

/// What finds out.
pub struct Resolver {
    cgroups: Met<u64>,
    netns: Met<(u32, u64)>,
    /// The last of each, which the next event most often has as well.
    last: (u64, u32, u64),
    /// Namespaces met since processes were last looked at.
    unasked: HashSet<(u32, u64)>,
    processes: Walked,
    groups: Walked,
    /// The namespace of the first process, which is nobody's alone.
    initial: Option<u32>,
    /// Whether namespaces have cookies, by which those that had one number are told apart.
    has_cookies: bool,
}

impl Resolver {
    /// One that has met nobody.
    pub fn new() -> Self {
        Self {
            cgroups: Met::new(),
            netns: Met::new(),
            last: (0, 0, 0),
            unasked: HashSet::new(),
            processes: Walked::default(),
            groups: Walked::default(),
            has_cookies: kernel::netns_cookie() != 0,
            initial: kernel::find_namespace("/proc/1/ns/net").ok(),
        }
    }

    /// The owners of what these records tell of and that were not told yet.
    pub fn meet(&mut self, batch: &Batch) -> Vec<Owned> {
        let mut groups = Vec::new();
        for event in batch.events().flatten() {
            let cgroup = match &event {
                Event::Entered(entered) => entered.cgroup,
                Event::Failed(failed) => failed.cgroup,
                Event::Present(_) | Event::Ended(_) => 0,
            };
            let netns = (event.header().netns, event.netns_cookie().unwrap_or(0));
            self.see(cgroup, netns, &mut groups);
        }
        self.resolve(&groups)
    }

    /// The same of failed calls.
    pub fn meet_failures(&mut self, failures: &[(FailureKey, Failure)]) -> Vec<Owned> {
        let mut groups = Vec::new();
        for (key, failure) in failures {
            self.see(failure.cgroup, (key.netns, 0), &mut groups);
        }
        self.resolve(&groups)
    }

    fn see(&mut self, cgroup: u64, (inum, cookie): (u32, u64), groups: &mut Vec<u64>) {
        if self.last == (cgroup, inum, cookie) {
            return;
        }
        self.last = (cgroup, inum, cookie);
        if cgroup != 0 && !self.cgroups.has(cgroup) {
            self.cgroups.add(cgroup);
            groups.push(cgroup);
        }
        // Which namespace has the number is not known.
        if cookie == 0 && self.has_cookies {
            return;
        }
        if inum != 0 && Some(inum) != self.initial && !self.netns.has((inum, cookie)) {
            self.unasked.insert((inum, cookie));
        }
    }

    fn resolve(&mut self, groups: &[u64]) -> Vec<Owned> {
        let mut owned = self.of_groups(groups);
        if !self.unasked.is_empty() && self.processes.is_due() {
            let began = Instant::now();
            owned.extend(self.of_namespaces());
            self.processes.note(began);
        }
        owned
    }

    /// Whose control groups are. The root is nobody's, and its sockets may be told by their namespace.
    fn of_groups(&mut self, groups: &[u64]) -> Vec<Owned> {
        let Some(root) = cgroup::root().filter(|_| !groups.is_empty()) else { return Vec::new() };
        let mut walk: Option<HashMap<u64, String>> = None;
        let mut owned = Vec::new();
        for id in groups {
            let path = match kernel::cgroup_path(root, *id) {
                Ok(path) => Some(path.display().to_string()),
                Err(error) if is_gone(&error) => None,
                Err(_) => {
                    if walk.is_none() && self.groups.is_due() {
                        let began = Instant::now();
                        walk = Some(cgroup::names(root));
                        self.groups.note(began);
                    }
                    walk.as_ref().and_then(|names| names.get(id).cloned())
                }
            };
            if path.as_deref() != Some("/") {
                let place = path.as_deref().and_then(of_path);
                owned.push(Owned { of: Subject::Cgroup(*id), owner: place.as_ref().map(named) });
            }
        }
        owned
    }

    /// Whose the namespaces are that were met since the last look: all processes of one have the same
    /// owner, or nobody knows.
    fn of_namespaces(&mut self) -> Vec<Owned> {
        let all = Namespaces::scan();
        let unasked = std::mem::take(&mut self.unasked);
        let mut owned = Vec::new();
        for (inum, cookie) in unasked {
            self.netns.add((inum, cookie));
            let namespace = all.get(inum);
            // The number may be another namespace's by now.
            let same = cookie == 0
                || namespace
                    .is_some_and(|found| found.run(kernel::netns_cookie).ok() == Some(cookie));
            let owner = namespace.filter(|_| same).and_then(|found| common(&found.pids));
            owned.push(Owned { of: Subject::Netns { inum, cookie }, owner });
        }
        owned
    }
}

/// The owner of all these processes, if they have one.
fn common(pids: &[u32]) -> Option<Owner> {
    let mut places =
        pids.iter().take(MOST_PROCESSES).map(|pid| owners::of_process(Path::new("/proc"), *pid));
    let first = places.next()??;
    let name = first.owner().name;
    let same = places.all(|place| place.is_some_and(|place| place.owner().name == name));
    same.then(|| named(&first).without_container())
}

fn named(place: &Place) -> Owner {
    owners::named(Path::new("/"), place)
}

/// Whether an error says that a control group is no more, rather than that it cannot be asked for.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ESTALE | libc::ENOENT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_was_met_is_not_asked_for_again_until_it_is_forgotten() {
        let mut met = Met::new();
        for id in 0..=MOST as u64 {
            assert!(!met.has(id));
            met.add(id);
        }
        assert!(!met.has(0) && met.has(1) && met.has(MOST as u64));
        assert_eq!((met.all.len(), met.order.len()), (MOST, MOST));
    }

    #[test]
    fn a_walk_is_followed_by_a_pause_of_many_times_what_it_took() {
        let mut walked = Walked::default();
        assert!(walked.is_due());
        walked.note(Instant::now() - Duration::from_secs(10));
        assert!(!walked.is_due());
        walked.note(Instant::now());
    }
}
