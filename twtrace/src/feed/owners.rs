//! Finds out whose the control groups and network namespaces are that events tell of: each once, before
//! the first event of it is taken in.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    hash::Hash,
    io,
    path::Path,
    time::{Duration, Instant},
};

use rustc_hash::FxHashSet;
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
/// Part of one processor that walks over all processes or control groups may take.
const SHARE: u32 = 50;
/// Time of walks that may be saved up.
const MOST_SAVED: Duration = Duration::from_millis(200);

/// Things met, the oldest of which are forgotten.
struct Met<T> {
    all: FxHashSet<T>,
    order: VecDeque<T>,
}

impl<T: Copy + Eq + Hash> Met<T> {
    fn new() -> Self {
        Self { all: FxHashSet::default(), order: VecDeque::new() }
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

/// Time for a kind of walk, of which some comes in every moment.
struct Budget {
    saved: Duration,
    since: Instant,
}

impl Budget {
    fn new(now: Instant) -> Self {
        Self { saved: MOST_SAVED, since: now }
    }

    /// Whether there is any.
    fn has_some(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.since);
        self.saved = (self.saved + passed / SHARE).min(MOST_SAVED);
        self.since = self.since.max(now);
        !self.saved.is_zero()
    }

    /// Takes what a walk took. What is taken too much is missing later.
    fn spend(&mut self, began: Instant, now: Instant) {
        let took = now.saturating_duration_since(began);
        let lacking = took.saturating_sub(self.saved);
        self.saved = self.saved.saturating_sub(took);
        self.since = now + lacking * SHARE;
    }
}

/// What finds out.
pub struct Resolver {
    cgroups: Met<u64>,
    netns: Met<(u32, u64)>,
    /// The last of each, which the next event most often has as well.
    last_group: u64,
    last_netns: (u32, u64),
    /// Namespaces met since processes were last looked at.
    unasked: HashSet<(u32, u64)>,
    processes: Budget,
    /// Control groups as the last walk found them.
    listed: HashMap<u64, String>,
    groups: Budget,
    /// The namespace of the first process, which is nobody's alone.
    initial: Option<u32>,
    /// Whether namespaces have cookies, by which those that had one number are told apart.
    has_cookies: bool,
}

impl Default for Resolver {
    fn default() -> Self {
        Self::new()
    }
}

impl Resolver {
    /// One that has met nobody.
    pub fn new() -> Self {
        Self {
            cgroups: Met::new(),
            netns: Met::new(),
            last_group: 0,
            last_netns: (0, 0),
            unasked: HashSet::new(),
            listed: HashMap::new(),
            processes: Budget::new(Instant::now()),
            groups: Budget::new(Instant::now()),
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
        // Ends have none, and come between entries.
        if cgroup != 0 && cgroup != self.last_group {
            self.last_group = cgroup;
            if !self.cgroups.has(cgroup) {
                self.cgroups.add(cgroup);
                groups.push(cgroup);
            }
        }
        if self.last_netns == (inum, cookie) {
            return;
        }
        self.last_netns = (inum, cookie);
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
        let began = Instant::now();
        if !self.unasked.is_empty() && self.processes.has_some(began) {
            owned.extend(self.of_namespaces());
            self.processes.spend(began, Instant::now());
        }
        owned
    }

    /// Whose control groups are. The root is nobody's, and its sockets may be told by their namespace.
    fn of_groups(&mut self, groups: &[u64]) -> Vec<Owned> {
        let Some(root) = cgroup::root().filter(|_| !groups.is_empty()) else { return Vec::new() };
        let mut owned = Vec::new();
        for id in groups {
            let path = match kernel::cgroup_path(root, *id) {
                Ok(path) => Some(path.display().to_string()),
                Err(error) if is_gone(&error) => None,
                Err(_) => self.listed(root, *id),
            };
            if path.as_deref() != Some("/") {
                let place = path.as_deref().and_then(of_path);
                owned.push(Owned { of: Subject::Cgroup(*id), owner: place.as_ref().map(named) });
            }
        }
        owned
    }

    /// The path of a group as the last walk had it, or another walk has, if there is time for one.
    fn listed(&mut self, root: &Path, id: u64) -> Option<String> {
        let began = Instant::now();
        if !self.listed.contains_key(&id) && self.groups.has_some(began) {
            self.listed = cgroup::names(root);
            self.groups.spend(began, Instant::now());
        }
        self.listed.get(&id).cloned()
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
    fn walks_take_a_fiftieth_of_the_time_and_what_was_saved() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut budget = Budget::new(start);
        assert!(budget.has_some(at(0)));
        budget.spend(at(0), at(150));
        assert!(budget.has_some(at(150)));
        // 50 ms were left, and 3 ms had come.
        budget.spend(at(150), at(250));
        assert!(!budget.has_some(at(250)) && !budget.has_some(at(2249)));
        assert!(budget.has_some(at(3000)));
        assert!(budget.has_some(at(1_000_000)));
        budget.spend(at(1_000_000), at(1_000_200));
        assert!(!budget.has_some(at(1_000_200)), "no more than so much is saved");
    }
}
