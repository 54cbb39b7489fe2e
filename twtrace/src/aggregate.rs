//! Folds events into rows and live sockets; the one owner of both.
//!
//! # Conservation
//! With `entered` and `present` as the kernel programs counted them, at every moment
//!
//! > present + entered = live + all ends + overflow + lost
//!
//! where `lost` are the entries whose event was lost and whose end has not been seen either. The
//! identity is checked by [`Aggregate::conservation`], in every test and, in debug builds, with
//! every summary.
//!
//! # Selection
//! Sockets that a filter leaves out and the kernel programs do not ([`Settings::selection`]) are
//! folded in like all others, into one row that is not shown: so the identity, the healing and
//! what is known of losses hold for all that was reported, and a socket's end is where its entry
//! is. The kernel side's own totals are then of more sockets than those shown, and say nothing
//! about them but how many events were lost.

use twtrace_common::{Ended, Entered, Flow, RefusalKey, TCP_FIN_WAIT2, TCP_TIME_WAIT};
use twtrace_common::{ended_flags, entered_flags};

use crate::{
    event::{Event, Role, owner_is_known},
    filter::{self, Selection, Verdict},
    path::{self, Block, EntryPath, Outcome},
    peer::{
        Group, GroupBy, Past, Peer, PeerTable, Prefixes, Refused, history::Entry, minutes::Memory,
        minutes::Minute,
    },
    track::{EndResult, EnterResult, LiveSockets, Tracked},
    units::{Hz, TCP_TIMEWAIT_LEN_MS},
};

/// How events are grouped and how much is kept.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which sockets are shown.
    pub selection: Selection,
    /// What rows stand for.
    pub group_by: GroupBy,
    /// Prefix lengths of the subnet grouping.
    pub prefixes: Prefixes,
    /// Most rows beside `other`.
    pub max_peers: usize,
    /// Most sockets followed at once.
    pub max_live: usize,
    /// How much is remembered minute by minute.
    pub memory: Memory,
    /// Tick rate of the kernel the events come from.
    pub hz: Hz,
    /// Whether that kernel has `tcp_tw_recycle`.
    pub recycle_exists: bool,
    /// Whether ends are reported at all; without, nothing is known of what lives.
    pub follow_ends: bool,
}

impl Default for Settings {
    /// A row a peer, with ends, as the command line has it when nothing is said; on a kernel of 250
    /// ticks a second that does not recycle.
    fn default() -> Self {
        Self {
            selection: Selection::default(),
            group_by: GroupBy::Peer,
            prefixes: Prefixes::default(),
            max_peers: 65_536,
            max_live: 262_144,
            memory: Memory::default(),
            hz: Hz::new(250),
            recycle_exists: false,
            follow_ends: true,
        }
    }
}

/// What the two sides of the conservation identity came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conservation {
    /// present + entered, of the events seen.
    pub came: u64,
    /// live + ends + overflow.
    pub went_or_lives: u64,
}

impl Conservation {
    /// Whether nothing appeared or vanished.
    pub fn holds(self) -> bool {
        self.came == self.went_or_lives
    }
}

/// Index, among the rows, of the one with the sockets left out.
const LEFT_OUT: u32 = Tracked::MAX_ROW;

/// Events folded into rows.
#[derive(Debug)]
pub struct Aggregate {
    settings: Settings,
    table: PeerTable,
    /// The sockets that are not.
    left_out: Peer,
    /// Ends and refusals left out because it is not known whether their sockets match.
    undecided: u64,
    live: LiveSockets,
    /// Sockets that are counted as live but not followed, by the cap.
    unfollowed: u64,
    /// Ends healed: sockets whose end was lost and that are counted as unknown.
    healed: u64,
    /// Ends of sockets that nobody saw enter and that were not there at the start, in namespaces
    /// that could not be read then.
    unseen_ends: u64,
    /// Records that said what another had said before.
    duplicates: u64,
    /// Sockets that entered before this moment and are not followed belong to before the feed.
    began_ns: u64,
    /// Ends before this moment of sockets not followed belong to before the session.
    ready_ns: u64,
}

impl Aggregate {
    /// An empty aggregate.
    pub fn new(settings: Settings) -> Self {
        Self {
            table: PeerTable::with_capacity(settings.max_peers, settings.memory),
            live: LiveSockets::with_capacity(settings.max_live),
            settings,
            left_out: Peer::new(Group::LeftOut),
            undecided: 0,
            unfollowed: 0,
            healed: 0,
            unseen_ends: 0,
            duplicates: 0,
            began_ns: 0,
            ready_ns: 0,
        }
    }

    /// Remembers as much from now on.
    pub fn set_memory(&mut self, memory: Memory) {
        self.settings.memory = memory;
        self.table.set_memory(memory);
    }

    /// Tells when the feed began, `CLOCK_MONOTONIC` nanoseconds. A socket that entered before and
    /// is not followed was in no list of those present: that it entered is not news.
    pub fn set_began(&mut self, mono_ns: u64) {
        self.began_ns = mono_ns;
    }

    /// Tells when the sockets present at the start had all been read, `CLOCK_MONOTONIC`
    /// nanoseconds. Unfollowed sockets that ended before were never counted.
    pub fn set_ready(&mut self, mono_ns: u64) {
        self.ready_ns = mono_ns;
    }

    /// Folds one event in. False if it is of a socket left out, or tells nothing new.
    pub fn apply(&mut self, event: &Event) -> bool {
        let row = match event {
            Event::Entered(entered) | Event::Present(entered) => {
                self.enter(entered, event.role(), matches!(event, Event::Present(_)))
            }
            Event::Ended(ended) => self.end(ended, event.role()),
        };
        row.is_some_and(|row| row != LEFT_OUT)
    }

    /// Answers the row that an entry was counted in, if it was.
    fn enter(&mut self, entered: &Entered, role: Role, present: bool) -> Option<u32> {
        let path = path::at_entry(entered, role);
        let blocked = path.blocked.is_some();
        let followed = entered.header.flags & entered_flags::FOLLOWED != 0;
        // A socket that was there was allocated, whatever its record says.
        let overflow = !present && entered.header.flags & entered_flags::OVERFLOW != 0;
        let untracked = entered.header.flags & entered_flags::UNTRACKED != 0;
        let entry_known = entered.header.flags & entered_flags::ENTRY_KNOWN != 0;
        let mut row = self.row_of_entry(entered, role);
        let mut stuck = false;
        let mut lives = true;
        if overflow {
            // No socket came of it: there is nothing to follow.
            lives = false;
        } else if followed && !untracked {
            let entered_ns = if present && !entry_known { 0 } else { entered.mono_ns };
            match self.live.enter(
                entered.tw,
                Tracked { entered_ns, row, netns: entered.header.netns, blocked },
            ) {
                EnterResult::Followed => stuck = blocked,
                EnterResult::Displaced(before) => {
                    self.heal(before);
                    stuck = blocked;
                }
                EnterResult::AlreadyEnded(group) => {
                    // The end was booked as that of a lost entry, which turned up after all: it
                    // belongs in the row where the end is.
                    self.offer(row);
                    row = self.row_with_entry_lost(&group);
                    self.row(row).tally.found_entry();
                    lives = false;
                }
                EnterResult::Duplicate => {
                    self.duplicates += 1;
                    self.offer(row);
                    return None;
                }
                EnterResult::Full => self.unfollowed += 1,
            }
        } else if self.settings.follow_ends {
            self.unfollowed += 1;
        }

        let hz = self.settings.hz;
        let peer = self.row(row);
        peer.last_ns = peer.last_ns.max(entered.mono_ns);
        peer.history.stuck += u64::from(stuck);
        // Where no bucket was left there is no socket that could hold the port.
        let entry = history_entry(entered, &path, overflow);
        if present {
            peer.tally.count().present += 1;
            let left_ns = hz.millis(entered.armed) * 1_000_000;
            let lived_ns = (TCP_TIMEWAIT_LEN_MS * 1_000_000).saturating_sub(left_ns);
            let mono_ns = if entry_known {
                entered.mono_ns
            } else {
                entered.mono_ns.saturating_sub(lived_ns)
            };
            peer.history.present(&Entry { mono_ns, ..entry });
            return Some(row);
        }
        peer.history.enter(&entry);
        let counts = peer.tally.count();
        counts.entered += 1;
        counts.fin_wait2 += u32::from(entered.header.state == TCP_FIN_WAIT2);
        counts.negotiated += u32::from(entered.header.flags & entered_flags::TSTAMP_OK != 0);
        counts.with_timestamps += u32::from(path.eligible == Some(true));
        counts.without_timestamps += u32::from(path.eligible == Some(false));
        counts.eligible += u32::from(path.eligible == Some(true));
        counts.allowed += u32::from(path.allowed == Some(true));
        counts.overflow += u32::from(overflow);
        if let Some(block) = path.blocked {
            counts.blocked[block as usize] += 1;
        }
        if entered.rto != 0 {
            peer.rto_ms = millis(hz, entered.rto);
            peer.rto_max_ms = peer.rto_max_ms.max(peer.rto_ms);
        }
        if entered.armed != 0 && entered.header.state == TCP_TIME_WAIT {
            peer.scheduled_ms = millis(hz, entered.armed);
            peer.scheduled_max_ms = peer.scheduled_max_ms.max(peer.scheduled_ms);
        }
        if !lives {
            self.offer(row);
        }
        if let Some(minute) = self.minute(row, entered.mono_ns) {
            add(&mut minute.entered, 1);
            add(&mut minute.without_timestamps, u64::from(path.eligible == Some(false)));
            add(&mut minute.blocked, u64::from(blocked));
            add(&mut minute.overflow, u64::from(overflow));
        }
        Some(row)
    }

    /// Answers the row that an end was counted in, if it was.
    fn end(&mut self, ended: &Ended, role: Role) -> Option<u32> {
        let outcome = path::at_end(ended, self.settings.recycle_exists, self.settings.hz);
        let mut blocked = false;
        let row = if ended.header.flags & ended_flags::UNTRACKED != 0 {
            if ended.mono_ns < self.ready_ns {
                return None;
            }
            if self.unfollowed == 0 {
                self.unseen_ends += 1;
                return None;
            }
            self.unfollowed -= 1;
            self.row_of_end(ended, role)
        } else {
            match self.live.end(ended.tw, ended.entered_ns) {
                EndResult::Known(socket) => {
                    blocked = socket.blocked;
                    socket.row
                }
                EndResult::Displaced(before) => {
                    self.heal(before);
                    self.orphan(ended, role)
                }
                // Beyond our own cap, though the kernel side followed it.
                EndResult::Orphan if self.unfollowed > 0 => {
                    self.unfollowed -= 1;
                    self.row_of_end(ended, role)
                }
                EndResult::Orphan if (1..self.began_ns).contains(&ended.entered_ns) => {
                    self.unseen_ends += 1;
                    return None;
                }
                EndResult::Orphan => self.orphan(ended, role),
                EndResult::Duplicate => {
                    self.duplicates += 1;
                    return None;
                }
            }
        };

        let hz = self.settings.hz;
        let peer = self.row(row);
        peer.last_ns = peer.last_ns.max(ended.mono_ns);
        let counts = peer.tally.count();
        counts.ended[outcome as usize] += 1;
        if ended.header.state == TCP_FIN_WAIT2 && !blocked {
            counts.blocked[Block::FinWait2 as usize] += 1;
        }
        peer.tally.add_rearms(ended.rearms);
        peer.history.end(ended.mono_ns, blocked);
        let flag = |flag: u16| ended.header.flags & flag != 0;
        let promotion = u32::from(flag(ended_flags::PROMOTED));
        let in_time_wait = ended.header.state == TCP_TIME_WAIT;
        peer.history.rearmed += u64::from(in_time_wait && ended.rearms > promotion);
        peer.history.assassinated += u64::from(in_time_wait && outcome == Outcome::Killed);
        peer.history.bound_reuse +=
            u64::from(outcome == Outcome::Reused && flag(ended_flags::BOUND));
        if ended.entered_ns != 0 {
            peer.lifetimes.record(ended.mono_ns.saturating_sub(ended.entered_ns) / 1_000_000);
        }
        if ended.last_armed != 0 && ended.header.state == TCP_TIME_WAIT {
            peer.scheduled_ms = millis(hz, ended.last_armed);
            peer.scheduled_max_ms = peer.scheduled_max_ms.max(peer.scheduled_ms);
        }
        self.offer(row);
        if let Some(minute) = self.minute(row, ended.mono_ns) {
            let count = match outcome {
                Outcome::Recycled | Outcome::Reused | Outcome::Replaced => &mut minute.fast,
                Outcome::TwoMsl => &mut minute.two_msl,
                _ => &mut minute.other,
            };
            add(count, 1);
        }
        Some(row)
    }

    /// Books the end of a socket whose entry event was lost: it did enter.
    fn orphan(&mut self, ended: &Ended, role: Role) -> u32 {
        let group = self.group_of_end(ended, role);
        let row = self.slot(group);
        self.row(row).tally.count().entry_lost += 1;
        self.live.remember_orphan(ended.tw, ended.entered_ns, group);
        row
    }

    /// Books a socket that is gone without having been seen to end.
    fn heal(&mut self, socket: Tracked) {
        self.healed += 1;
        let peer = self.row(socket.row);
        peer.tally.count().ended[Outcome::Unknown as usize] += 1;
        // When it ended is not known, so it is in no rate.
        peer.history.stuck = peer.history.stuck.saturating_sub(u64::from(socket.blocked));
        self.offer(socket.row);
    }

    /// Followed sockets that entered before `before_ns` and for which `lives` says no. Ends of
    /// some may still be on their way: apply those first, then [`Aggregate::heal_vanished`].
    pub fn vanished(
        &self,
        before_ns: u64,
        lives: impl FnMut(u64, Tracked) -> bool,
    ) -> Vec<(u64, u64)> {
        self.live.vanished(before_ns, lives)
    }

    /// Books those of the vanished sockets whose end has not come in since as ended unseen.
    /// Answers how many there were.
    pub fn heal_vanished(&mut self, vanished: &[(u64, u64)]) -> u64 {
        let mut healed = 0;
        for (tw, entered_ns) in vanished {
            if let Some(socket) = self.live.remove(*tw, *entered_ns) {
                self.heal(socket);
                healed += 1;
            }
        }
        healed
    }

    /// Takes in what was known of peers before the session, where rows are peers.
    pub fn remember(&mut self, past: &[Past]) {
        if self.settings.group_by == GroupBy::Peer {
            let here = &self.settings.selection.here;
            let wanted = |peer: &&Past| here.matches(&filter::Socket::from(*peer)) != Verdict::No;
            past.iter().filter(wanted).for_each(|peer| self.table.remember(peer));
        }
    }

    /// Adds refused takeovers of a peer.
    pub fn refuse(&mut self, key: &RefusalKey, refused: &Refused) {
        let selected = self.selects(key);
        let group = match self.settings.group_by {
            _ if !selected => Group::LeftOut,
            GroupBy::Peer => Group::peer(key.netns, Role::Client, key.remote, key.remote_port),
            GroupBy::Addr => Group::Addr { netns: key.netns, address: key.remote },
            GroupBy::Subnet => Group::subnet(key.netns, key.remote, self.settings.prefixes),
            GroupBy::Netns => Group::Netns(key.netns),
            GroupBy::Cgroup | GroupBy::Uid => Group::UnknownOwner,
        };
        let row = self.slot(group);
        let peer = self.row(row);
        peer.tally.edit(|counts| {
            for (total, more) in counts.refused.by_reason.iter_mut().zip(refused.by_reason) {
                *total += more;
            }
        });
        let last_ns = peer.last_ns;
        self.offer(row);
        if let Some(minute) = self.minute(row, last_ns) {
            add(&mut minute.refused, refused.total());
        }
    }

    /// The minute of a row that is shown.
    fn minute(&mut self, row: u32, mono_ns: u64) -> Option<&mut Minute> {
        (row != LEFT_OUT).then(|| self.table.minute(row, mono_ns))
    }

    fn row_of_entry(&mut self, entered: &Entered, role: Role) -> u32 {
        let event = Event::Entered(*entered);
        let owner_known = owner_is_known(entered);
        let selected = self.selects(&event);
        let group = match self.settings.group_by {
            _ if !selected => Group::LeftOut,
            GroupBy::Cgroup if owner_known => Group::Cgroup(entered.cgroup),
            GroupBy::Uid if owner_known => Group::Uid(entered.uid),
            _ => self.group_by_address(entered.header.netns, &entered.flow, role),
        };
        self.slot(group)
    }

    fn row_of_end(&mut self, ended: &Ended, role: Role) -> u32 {
        let group = self.group_of_end(ended, role);
        self.slot(group)
    }

    /// The group of a socket of which no more than its end is known.
    fn group_of_end(&mut self, ended: &Ended, role: Role) -> Group {
        if self.selects(&Event::Ended(*ended)) {
            self.group_by_address(ended.header.netns, &ended.flow, role)
        } else {
            Group::LeftOut
        }
    }

    /// Whether a socket is shown. One of which it is not known is not, and is counted.
    fn selects<'a, S>(&mut self, socket: &'a S) -> bool
    where
        filter::Socket: From<&'a S>,
    {
        if self.settings.selection.here.is_any() {
            return true;
        }
        let verdict = self.settings.selection.here.matches(&filter::Socket::from(socket));
        self.undecided += u64::from(verdict == Verdict::Maybe);
        verdict == Verdict::Yes
    }

    fn slot(&mut self, group: Group) -> u32 {
        if group == Group::LeftOut { LEFT_OUT } else { self.table.slot(group) }
    }

    fn row(&mut self, row: u32) -> &mut Peer {
        if row == LEFT_OUT { &mut self.left_out } else { self.table.row(row) }
    }

    /// Tells the table that a socket of the row is gone, or never was.
    fn offer(&mut self, row: u32) {
        if row != LEFT_OUT {
            self.table.offer(row);
        }
    }

    fn row_with_entry_lost(&self, group: &Group) -> u32 {
        if *group == Group::LeftOut { LEFT_OUT } else { self.table.row_with_entry_lost(group) }
    }

    /// The group of a connection whose owner is not known or does not matter.
    fn group_by_address(&self, netns: u32, flow: &Flow, role: Role) -> Group {
        match self.settings.group_by {
            GroupBy::Peer => Group::peer(netns, role, flow.remote, flow.remote_port),
            GroupBy::Addr => Group::Addr { netns, address: flow.remote },
            GroupBy::Subnet => Group::subnet(netns, flow.remote, self.settings.prefixes),
            GroupBy::Netns => Group::Netns(netns),
            GroupBy::Cgroup | GroupBy::Uid => Group::UnknownOwner,
        }
    }

    /// The rows.
    pub fn table(&self) -> &PeerTable {
        &self.table
    }

    /// The sockets that are not shown, together.
    pub const fn left_out(&self) -> &Peer {
        &self.left_out
    }

    /// Sockets and refusals left out because it is not known whether they match.
    pub const fn undecided(&self) -> u64 {
        self.undecided
    }

    /// The settings it was made with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The sockets followed, by address, in no order.
    pub fn live(&self) -> impl Iterator<Item = (u64, Tracked)> {
        self.live.iter()
    }

    /// Sockets followed now.
    pub fn followed(&self) -> usize {
        self.live.len()
    }

    /// Live sockets that are counted but not followed, by the cap: their lifetimes are sampled.
    pub const fn unfollowed(&self) -> u64 {
        self.unfollowed
    }

    /// Sockets whose end was lost and that are counted as unknown.
    pub const fn healed(&self) -> u64 {
        self.healed
    }

    /// Ends of sockets that were in namespaces nobody could read at the start.
    pub const fn unseen_ends(&self) -> u64 {
        self.unseen_ends
    }

    /// Records that said what another had said before.
    pub const fn duplicates(&self) -> u64 {
        self.duplicates
    }

    /// Both sides of the conservation identity, over the events seen.
    pub fn conservation(&self) -> Conservation {
        let mut sum = self.table.sum().counts();
        sum += &self.left_out.counts();
        let live = self.live.len() as u64 + self.unfollowed;
        Conservation {
            came: sum.present + sum.entered + sum.entry_lost,
            went_or_lives: live + sum.ended_total() + sum.overflow,
        }
    }
}

/// Milliseconds of a timeout; 49 days and more are 49 days.
fn millis(hz: Hz, jiffies: u32) -> u32 {
    u32::try_from(hz.millis(jiffies)).unwrap_or(u32::MAX)
}

/// Adds to a minute's count, which stays at its highest rather than wrap.
fn add(count: &mut u32, more: u64) {
    *count = count.saturating_add(u32::try_from(more).unwrap_or(u32::MAX));
}

/// An entry as a row's history wants it.
fn history_entry(entered: &Entered, path: &EntryPath, overflow: bool) -> Entry {
    Entry {
        mono_ns: entered.mono_ns,
        with_timestamps: path.eligible == Some(true),
        timestamps_unknown: path.eligible.is_none(),
        blocked: path.blocked.is_some() && !overflow,
        autobound: entered.header.flags & entered_flags::AUTOBOUND != 0,
        local: entered.flow.local,
        local_port: entered.flow.local_port,
        remote_port: entered.flow.remote_port,
    }
}
