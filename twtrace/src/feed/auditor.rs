//! Holds what the kernel programs counted against the kernel's own counters, while they run.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::Path,
    thread,
    time::Duration,
};

use twtrace_common::{NetnsCounts, NetnsKey};

use crate::{
    audit::{Audit, Audited, Basis, Compared},
    host::netstat::{self, TcpExt},
    kernel::{Namespace, Namespaces, Source, Visitor, netns_cookie},
};

/// Most namespaces looked at.
const MAX_NAMESPACES: usize = 256;
/// How often the start is looked for between two entries.
const TRIES: usize = 16;
/// How long after the kernel counted a socket the programs may count it: it may be interrupted.
const IN_FLIGHT: Duration = Duration::from_millis(5);
/// The files of the thread's own namespace.
const NET: &str = "/proc/thread-self/net";

/// A namespace, told from others that had its number: inode number and cookie.
type Id = (u32, u64);

/// What is compared, by what can be seen.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    /// What the kernel's counters are of.
    pub basis: Basis,
    /// Whether sockets that were not made are counted.
    pub overflow: bool,
    /// Whether ends are followed.
    pub ends: bool,
}

/// What the kernel counted of a namespace.
#[derive(Clone, Copy, Debug, Default)]
struct Kernel {
    /// By the basis.
    entries: u64,
    /// `TWRecycled`.
    reused: u64,
    /// `TCPTimeWaitOverflow`.
    overflow: u64,
    /// Sockets that live.
    live: u64,
}

/// One namespace's figures.
#[derive(Clone, Copy, Debug, Default)]
struct Book {
    /// What both sides had counted at the start.
    before: (Kernel, NetnsCounts),
    /// Sockets that were missing and have been found.
    adopted: u64,
    /// Sockets found to have ended unseen.
    vanished: u64,
    now: Audited,
}

/// The books of all namespaces.
#[derive(Debug)]
pub struct Auditor {
    scope: Scope,
    books: HashMap<Id, Book>,
    gone: Audited,
    unaudited: u64,
    /// What was counted of namespaces that are not found, when that was last looked at.
    left: HashMap<Id, u64>,
    /// Whether all namespaces that were there at the start have been looked at.
    begun: bool,
}

impl Auditor {
    /// No namespace yet.
    pub fn new(scope: Scope) -> Self {
        Self {
            scope,
            books: HashMap::new(),
            gone: Audited::default(),
            unaudited: 0,
            left: HashMap::new(),
            begun: false,
        }
    }

    /// Looks at every namespace, or at the only one whose sockets are counted. One that is looked at
    /// for the first time begins now, or from nothing if it was made since the start.
    pub fn look(&mut self, source: &mut Source, all: &Namespaces, only: u32) -> Audit {
        let seen = Visitor::travel(|visitor| self.visit(visitor, source, all, only));
        let seen = seen.unwrap_or_else(|error| {
            tracing::error!(%error, "the kernel's own counters were not looked at");
            BTreeMap::new()
        });
        self.close(source, &seen, only);
        self.begun = true;
        let namespaces =
            seen.iter().filter_map(|(inum, id)| Some((*inum, self.books.get(id)?.now))).collect();
        let basis = self.scope.basis;
        Audit { basis, namespaces, gone: self.gone, unaudited: self.unaudited }
    }

    /// Brings the books up to date; answers which namespaces have been looked at.
    fn visit(
        &mut self,
        visitor: &mut Visitor,
        source: &Source,
        all: &Namespaces,
        only: u32,
    ) -> BTreeMap<u32, Id> {
        let wanted = all.iter().filter(|namespace| only == 0 || namespace.inum == only);
        let known: HashMap<u32, Id> = self.books.keys().map(|id| (id.0, *id)).collect();
        let mut seen = BTreeMap::new();
        let mut again = Vec::new();
        for namespace in wanted.take(MAX_NAMESPACES) {
            let id = known.get(&namespace.inum).copied();
            let before = id.and_then(|id| self.books.get(&id)).map(|book| book.now);
            let Some((id, now)) = self.one(visitor, source, (namespace, id)) else { continue };
            seen.insert(namespace.inum, id);
            if !now.agrees() && before != Some(now) {
                again.push((namespace, id));
            }
        }
        // What does not agree may only have been on its way.
        if !again.is_empty() {
            thread::sleep(IN_FLIGHT);
        }
        for (namespace, id) in again {
            let first = self.books.get(&id).map_or(0, |book| book.now.entries.missing);
            if self.one(visitor, source, (namespace, Some(id))).is_some()
                && let Some(book) = self.books.get_mut(&id)
            {
                book.now.entries.missing = book.now.entries.missing.min(first);
            }
        }
        seen
    }

    /// How many sockets may be missing that live still, by namespace.
    pub fn missing(&self) -> HashMap<u32, u64> {
        let missing = |now: &Audited| match self.scope.basis {
            Basis::Creations => now.entries.missing,
            // Timers that run out say nothing of the living.
            Basis::Expiries => now.live.map_or(0, |live| live.missing),
        };
        let books = self.books.iter().map(|((inum, _), book)| (*inum, missing(&book.now)));
        books.filter(|(_, missing)| *missing > 0).collect()
    }

    /// A socket that was missing is not any more.
    pub fn adopt(&mut self, netns: u32) {
        self.books_of(netns).for_each(|book| book.adopted += 1);
    }

    /// A socket that the kernel side followed is gone, and it had not noticed.
    pub fn vanish(&mut self, netns: u32) {
        self.books_of(netns).for_each(|book| book.vanished += 1);
    }

    fn books_of(&mut self, netns: u32) -> impl Iterator<Item = &mut Book> {
        let books = self.books.iter_mut().filter(move |((inum, _), _)| *inum == netns);
        books.map(|(_, book)| book)
    }

    /// Brings the book of one namespace up to date, which was this one when it was last looked at;
    /// `None` if it cannot be read.
    fn one(
        &mut self,
        visitor: &mut Visitor,
        source: &Source,
        (namespace, known): (&Namespace, Option<Id>),
    ) -> Option<(Id, Audited)> {
        visitor.enter(namespace).ok()?;
        let earlier = known.map(|id| source.counted(&key(id)));
        let (kernel, cookie) = self.read()?;
        let id = (namespace.inum, cookie);
        let later = source.counted(&key(id));
        let mut book = match self.books.get(&id) {
            Some(book) => *book,
            None => self.begin(source, id, (kernel, later))?,
        };
        let earlier = earlier.filter(|_| known == Some(id)).unwrap_or(later);
        book.now = self.compare(&book, kernel, earlier, later);
        book.now.cookie = cookie;
        self.books.insert(id, book);
        Some((id, book.now))
    }

    /// The book of a namespace that is looked at for the first time, of which both sides have counted
    /// that much.
    fn begin(
        &mut self,
        source: &Source,
        id: Id,
        (kernel, counted): (Kernel, NetnsCounts),
    ) -> Option<Book> {
        if self.begun {
            if kernel.entries <= self.of_basis(counted) {
                // All that happened there happened since the start.
                return Some(Book::default());
            }
            // It was there before, where nobody could find it; or some is missing.
            self.unaudited += 1;
        }
        Some(Book { before: self.start(source, id)?, ..Book::default() })
    }

    /// The kernel's count against ours, which was read before and after.
    fn compare(
        &self,
        book: &Book,
        kernel: Kernel,
        earlier: NetnsCounts,
        later: NetnsCounts,
    ) -> Audited {
        let (before, counted_before) = book.before;
        let (earlier, later) = (earlier.since(counted_before), later.since(counted_before));
        let entries = kernel.entries.saturating_sub(before.entries);
        let counted = match self.scope.basis {
            Basis::Creations => later.entered + book.adopted,
            Basis::Expiries => later.expired,
        };
        let overflow = kernel.overflow.saturating_sub(before.overflow);
        let reused = kernel.reused.saturating_sub(before.reused);
        // As many as may live by what came and went until then.
        let live = |came: NetnsCounts, went: NetnsCounts| {
            let came = before.live + book.adopted + came.entered;
            came.saturating_sub(came.min(later.overflow) + went.ended + book.vanished)
        };
        let counted_live = kernel.live.clamp(live(earlier, later), live(later, earlier));
        Audited {
            cookie: 0,
            entries: Compared::of(entries, counted),
            reused: self.scope.ends.then(|| Compared::of(reused, later.reused)),
            overflow: self.scope.overflow.then(|| Compared::of(overflow, later.overflow)),
            live: self.scope.ends.then(|| Compared::of(kernel.live, counted_live)),
        }
    }

    /// What both sides have counted by now, ours before the kernel's, and if possible with nothing
    /// in between.
    fn start(&self, source: &Source, id: Id) -> Option<(Kernel, NetnsCounts)> {
        let key = key(id);
        let mut counted = source.counted(&key);
        for _ in 1..TRIES {
            let (kernel, _) = self.read()?;
            let after = source.counted(&key);
            if after == counted {
                return Some((kernel, counted));
            }
            counted = after;
        }
        let (kernel, _) = self.read()?;
        Some((kernel, counted))
    }

    /// What the kernel has counted of the namespace the thread is in, and its cookie.
    fn read(&self) -> Option<(Kernel, u64)> {
        let Scope { basis, overflow, ends } = self.scope;
        let counters = TcpExt::read_some(Path::new(NET), &Basis::COUNTERS).ok()?;
        let live = if ends { netstat::time_wait_sockets(Path::new(NET)).ok()? } else { None };
        let kernel = Kernel {
            entries: basis.of(&counters, overflow)?,
            reused: counters.get("TWRecycled")?,
            overflow: counters.get("TCPTimeWaitOverflow")?,
            live: live.unwrap_or(0),
        };
        Some((kernel, netns_cookie()))
    }

    /// Closes the books of namespaces that are gone, and notes those of which not all was compared.
    fn close(&mut self, source: &mut Source, seen: &BTreeMap<u32, Id>, only: u32) {
        let open: HashSet<Id> = seen.values().copied().collect();
        let mut compared = HashMap::new();
        let gone: Vec<Id> = self.books.keys().filter(|id| !open.contains(id)).copied().collect();
        for id in gone {
            if let Some(Book { before, adopted, now, .. }) = self.books.remove(&id) {
                self.gone = self.gone.plus(now.gone());
                let before = self.of_basis(before.1);
                compared.insert(id, before + now.entries.counted - adopted);
            }
        }
        for (key, counts) in source.counted_namespaces() {
            let id = (key.netns, key.cookie);
            // The programs for old kernels try themselves in twtrace's own namespace before they
            // know which one is asked for.
            if open.contains(&id) || (only != 0 && key.netns != only) {
                continue;
            }
            let count = self.of_basis(counts);
            match self.left.insert(id, count) {
                // Nothing happens there any more.
                Some(before) if before == count => {
                    source.forget_namespace(&key);
                    self.left.remove(&id);
                }
                None if compared.get(&id) != Some(&count) => self.unaudited += 1,
                Some(_) | None => {}
            }
        }
    }

    fn of_basis(&self, counts: NetnsCounts) -> u64 {
        match self.scope.basis {
            Basis::Creations => counts.entered,
            Basis::Expiries => counts.expired,
        }
    }
}

fn key((netns, cookie): Id) -> NetnsKey {
    NetnsKey::new(netns, cookie)
}
