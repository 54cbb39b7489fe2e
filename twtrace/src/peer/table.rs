//! The rows, capped: a flood of peers costs a bounded amount of memory and no count.

use std::{collections::VecDeque, hash::BuildHasher as _};

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use super::{
    Counts, Group, History, Lifetimes, Netns, Past, Pasts, Tally,
    minutes::{Book, Memory, Minute},
};

/// Index of the row that takes what found no place.
pub const OTHER: u32 = 0;

/// Rows that there is room for from the start, if there may be so many.
const ROOM: usize = 1 << 16;

/// Rows on offer that are looked at for one that can give its place away.
const EVICTION_PROBES: usize = 16;

/// One row.
#[derive(Clone, Debug)]
pub struct Peer {
    /// What the row stands for.
    pub group: Group,
    /// Its counts.
    pub tally: Tally,
    /// Its lifetimes.
    pub lifetimes: Lifetimes,
    /// Rates of late, and when timestamps were seen.
    pub history: History,
    /// Timeout its last TIME_WAIT socket was armed with, milliseconds; 0 when never seen.
    pub scheduled_ms: u32,
    /// The longest such timeout.
    pub scheduled_max_ms: u32,
    /// RTO of its last socket, milliseconds; 0 when never seen.
    pub rto_ms: u32,
    /// The longest RTO.
    pub rto_max_ms: u32,
    /// `CLOCK_MONOTONIC` nanoseconds of its last event.
    pub last_ns: u64,
    /// The newest minute in which something happened; those before are in the table's book.
    minute: Minute,
    /// Number of the row among all that ever were: a place is used again, a number is not.
    serial: u32,
    /// Found again since it was put on offer.
    recent: bool,
    /// On offer: in the queue of those that may have to give their place away.
    offered: bool,
}

impl Peer {
    /// An empty row.
    pub fn new(group: Group) -> Self {
        Self {
            group,
            tally: Tally::default(),
            lifetimes: Lifetimes::default(),
            history: History::default(),
            scheduled_ms: 0,
            scheduled_max_ms: 0,
            rto_ms: 0,
            rto_max_ms: 0,
            last_ns: 0,
            minute: Minute::default(),
            serial: 0,
            recent: false,
            offered: false,
        }
    }

    /// What was counted.
    pub fn counts(&self) -> Counts {
        self.tally.counts()
    }

    /// Whether nothing was ever counted here.
    pub fn is_empty(&self) -> bool {
        self.counts() == Counts::default()
    }

    /// Takes another row's counts in.
    pub fn absorb(&mut self, other: &Self) {
        self.tally.edit(|counts| *counts += &other.counts());
        self.lifetimes.merge(&other.lifetimes);
        self.history.absorb(&other.history);
        if other.last_ns >= self.last_ns {
            self.last_ns = other.last_ns;
            self.scheduled_ms = other.scheduled_ms;
            self.rto_ms = other.rto_ms;
        }
        self.scheduled_max_ms = self.scheduled_max_ms.max(other.scheduled_max_ms);
        self.rto_max_ms = self.rto_max_ms.max(other.rto_max_ms);
    }
}

/// All rows. Row 0 is [`OTHER`].
#[derive(Debug)]
pub struct PeerTable {
    rows: Vec<Peer>,
    /// Rows by the hash of their group.
    index: HashTable<u32>,
    /// Seeded anew in each session: remote ends choose the groups, and must not be able to choose
    /// ones that collide.
    hasher: RandomState,
    /// Rows that had no live socket when they came in, the longest there first. Some have one
    /// again: that is looked at when it comes to it.
    offers: VecDeque<u32>,
    capacity: usize,
    evicted: u64,
    folded: u64,
    serials: u32,
    book: Book,
}

impl PeerTable {
    /// A table of at most `capacity` rows beside [`OTHER`].
    pub fn with_capacity(capacity: usize, memory: Memory) -> Self {
        // Memory that is not used yet costs nothing; growing would leave holes of its size.
        let room = capacity.min(ROOM);
        let mut rows = Vec::with_capacity(room + 1);
        rows.push(Peer::new(Group::Other));
        Self {
            rows,
            index: HashTable::with_capacity(room),
            hasher: RandomState::default(),
            offers: VecDeque::new(),
            capacity,
            evicted: 0,
            folded: 0,
            serials: 0,
            book: Book::new(memory),
        }
    }

    /// The row of a group, made if need be; [`OTHER`] when there is no place left.
    ///
    /// A full table lets go of a row with no live socket that was not used of late, and its
    /// counts move to [`OTHER`]. A row whose sockets are all gone has to be put on offer with
    /// [`PeerTable::offer`] for that.
    pub fn slot(&mut self, group: Group) -> u32 {
        let hash = self.hasher.hash_one(group);
        if let Some(row) = self.find(hash, &group) {
            self.rows[row as usize].recent = true;
            return row;
        }
        let row = if self.rows.len() <= self.capacity {
            self.rows.push(Peer::new(group));
            u32::try_from(self.rows.len() - 1).unwrap_or(OTHER)
        } else if let Some(row) = self.evict() {
            self.rows[row as usize] = Peer::new(group);
            row
        } else {
            self.folded += 1;
            return OTHER;
        };
        self.serials = self.serials.wrapping_add(1);
        self.rows[row as usize].serial = self.serials;
        let (rows, hasher) = (&self.rows, &self.hasher);
        self.index.insert_unique(hash, row, |&row| hasher.hash_one(rows[row as usize].group));
        row
    }

    fn find(&self, hash: u64, group: &Group) -> Option<u32> {
        self.index.find(hash, |&row| self.rows[row as usize].group == *group).copied()
    }

    /// Changes how much is remembered; what is too much now is forgotten.
    pub fn set_memory(&mut self, memory: Memory) {
        self.book.set_memory(memory);
    }

    /// The minute of a row in which something happens at `mono_ns` of `CLOCK_MONOTONIC`.
    ///
    /// What is told late, in no order, is counted in the row's newest minute.
    pub fn minute(&mut self, row: u32, mono_ns: u64) -> &mut Minute {
        let peer = &mut self.rows[row as usize];
        let now = Minute::at(i64::try_from(mono_ns).unwrap_or(i64::MAX));
        if now > peer.minute.minute {
            let fresh = Minute { minute: now, ..Minute::default() };
            let over = std::mem::replace(&mut peer.minute, fresh);
            self.book.put(peer.serial, over);
        }
        &mut peer.minute
    }

    /// A row's minutes in which something happened, as far as they are remembered, ascending.
    pub fn minutes(&self, peer: &Peer) -> Vec<Minute> {
        let newest = Some(peer.minute).filter(|minute| !minute.is_empty());
        Minute::united(self.book.of(peer.serial).chain(newest))
    }

    /// What is known of each peer that would be worth telling another session.
    pub fn pasts(&self) -> Pasts {
        let newest = |peer: &Peer| Some(peer.minute).filter(|minute| !minute.is_empty());
        let of = |peer: &Peer| {
            let past = Past::of(&peer.group, &peer.history, newest(peer).into_iter().collect())?;
            Some((peer.serial, past))
        };
        Pasts::new(self.rows().iter().filter_map(of).collect(), self.book.all())
    }

    /// Takes in what was known of a peer before.
    pub fn remember(&mut self, past: &Past) {
        let row = self.slot(past.group());
        if row == OTHER {
            return;
        }
        let peer = &mut self.rows[row as usize];
        peer.history.remember(past);
        let serial = peer.serial;
        for minute in &past.minutes {
            if self.book.is_full() {
                break;
            }
            self.book.put(serial, *minute);
        }
        self.offer(row);
    }

    /// Puts a row on offer if it has no live socket: it may have to give its place away. To be
    /// called when a socket of the row is gone, or never was.
    pub fn offer(&mut self, row: u32) {
        let peer = &mut self.rows[row as usize];
        if row != OTHER && !peer.offered && peer.tally.live() == 0 {
            peer.offered = true;
            peer.recent = false;
            self.offers.push_back(row);
        }
    }

    /// Frees a row by the second-chance rule; `None` if those on offer are live or in use again.
    fn evict(&mut self) -> Option<u32> {
        for _ in 0..EVICTION_PROBES {
            let row = self.offers.pop_front()?;
            let (other, peers) = self.rows.split_first_mut()?;
            let peer = &mut peers[row as usize - 1];
            if peer.tally.live() > 0 {
                peer.offered = false;
            } else if std::mem::take(&mut peer.recent) {
                self.offers.push_back(row);
            } else {
                other.absorb(peer);
                let hash = self.hasher.hash_one(peer.group);
                if let Ok(entry) = self.index.find_entry(hash, |&found| found == row) {
                    entry.remove();
                }
                self.evicted += 1;
                return Some(row);
            }
        }
        None
    }

    /// A row.
    pub fn row(&mut self, row: u32) -> &mut Peer {
        &mut self.rows[row as usize]
    }

    /// The row of what found no place.
    pub fn other(&self) -> &Peer {
        &self.rows[OTHER as usize]
    }

    /// All rows but [`OTHER`], in no useful order.
    pub fn rows(&self) -> &[Peer] {
        &self.rows[1..]
    }

    /// The row of a group, if it has one.
    pub fn get(&self, group: &Group) -> Option<&Peer> {
        self.find_row(group).map(|row| &self.rows[row as usize])
    }

    /// Its number, if it has one.
    pub fn find_row(&self, group: &Group) -> Option<u32> {
        self.find(self.hasher.hash_one(group), group)
    }

    /// The row in which the end of a socket of `group` was booked whose entry seemed lost: the
    /// group's own, or [`OTHER`] if the group had or has no place.
    pub fn row_with_entry_lost(&self, group: &Group) -> u32 {
        let own = self.find(self.hasher.hash_one(group), group);
        own.filter(|&row| self.rows[row as usize].counts().entry_lost > 0).unwrap_or(OTHER)
    }

    /// Makes the rows of the namespace that had a number until now those of `gone`.
    pub fn retire(&mut self, gone: Netns) {
        let before = Netns::from(gone.inum);
        for row in 1..self.rows.len() {
            let group = self.rows[row].group;
            if group.namespace() != Some(before) {
                continue;
            }
            let row = row as u32;
            let hash = self.hasher.hash_one(group);
            if let Ok(entry) = self.index.find_entry(hash, |&found| found == row) {
                entry.remove();
            }
            let group = group.within(gone);
            self.rows[row as usize].group = group;
            let (rows, hasher) = (&self.rows, &self.hasher);
            let rehash = |&row: &u32| hasher.hash_one(rows[row as usize].group);
            self.index.insert_unique(self.hasher.hash_one(group), row, rehash);
        }
    }

    /// Rows that gave their place away.
    pub const fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Events counted in [`OTHER`] because no row was free for their peer.
    pub const fn folded(&self) -> u64 {
        self.folded
    }

    /// Everything together, [`OTHER`] included.
    pub fn sum(&self) -> Peer {
        let mut sum = Peer::new(Group::Other);
        self.rows.iter().for_each(|row| sum.absorb(row));
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::Outcome;

    fn enter(table: &mut PeerTable, uid: u32) -> u32 {
        let row = table.slot(Group::Uid(uid));
        table.row(row).tally.count().entered += 1;
        row
    }

    fn end(table: &mut PeerTable, row: u32) {
        table.row(row).tally.count().ended[Outcome::TwoMsl as usize] += 1;
        table.offer(row);
    }

    #[test]
    fn a_minute_before_and_after_a_restart_is_one() {
        let group = Group::peer(1, crate::event::Role::Client, [1; 16], 443);
        let count = |table: &mut PeerTable, minute: u64, entries: u32| {
            let row = table.slot(group);
            table.minute(row, minute * 60_000_000_000).entered += entries;
        };
        let mut past = Vec::new();
        for (restart, entries) in [(0, 5), (1, 7), (2, 9)] {
            let mut table = PeerTable::with_capacity(2, Memory::default());
            past.iter().for_each(|peer| table.remember(peer));
            count(&mut table, 3 + restart / 2, entries);
            past = table.pasts().into_iter().collect();
        }
        let minutes: Vec<_> = past[0].minutes.iter().map(|it| (it.minute, it.entered)).collect();
        assert_eq!(minutes, [(3, 12), (4, 9)]);
    }

    #[test]
    fn a_full_table_folds_new_peers_while_the_old_ones_live() {
        let mut table = PeerTable::with_capacity(2, Memory::default());
        for uid in [1, 2, 1, 3, 4] {
            enter(&mut table, uid);
        }
        let rows: Vec<_> =
            table.rows().iter().map(|row| (row.group, row.counts().entered)).collect();
        assert_eq!(rows, [(Group::Uid(1), 2), (Group::Uid(2), 1)]);
        assert_eq!(table.other().counts().entered, 2);
        assert_eq!((table.folded(), table.evicted()), (2, 0));
        assert_eq!(table.sum().counts().entered, 5, "no count is lost");
    }

    #[test]
    fn a_quiet_peer_without_live_sockets_gives_its_place_away() {
        let mut table = PeerTable::with_capacity(2, Memory::default());
        let first = enter(&mut table, 1);
        end(&mut table, first);
        enter(&mut table, 2);
        assert_eq!(enter(&mut table, 3), first);
        assert_eq!(table.evicted(), 1);
        assert!(table.get(&Group::Uid(1)).is_none());
        assert_eq!(enter(&mut table, 4), OTHER, "the others are live");
        assert_eq!(table.other().counts().entered, 2, "one evicted, one folded");
        assert_eq!(table.sum().counts().entered, 4);
        assert_eq!(table.sum().counts().ended_total(), 1);
    }

    #[test]
    fn a_peer_that_came_again_outlives_one_that_did_not() {
        let mut table = PeerTable::with_capacity(2, Memory::default());
        for uid in [1, 2, 1] {
            let row = enter(&mut table, uid);
            end(&mut table, row);
        }
        enter(&mut table, 3);
        assert!(table.get(&Group::Uid(1)).is_some(), "idle for longer, but used since");
        assert!(table.get(&Group::Uid(2)).is_none());
        let live = enter(&mut table, 1);
        assert_eq!(enter(&mut table, 4), OTHER, "both are live");
        end(&mut table, live);
        assert_eq!(enter(&mut table, 5), live, "on offer again");
    }

    #[test]
    fn a_table_without_room_counts_everything_as_other() {
        let mut table = PeerTable::with_capacity(0, Memory::default());
        assert_eq!(enter(&mut table, 1), OTHER);
        assert_eq!(table.other().counts().entered, 1);
    }
}
