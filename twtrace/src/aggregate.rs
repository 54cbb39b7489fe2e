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

mod unfollowed;

use twtrace_common::{Ended, Entered, Failure, FailureKey, Flow, Kind, PortChoice, RefusalKey};
use twtrace_common::{TCP_FIN_WAIT2, TCP_TIME_WAIT, ended_flags, entered_flags};

use crate::{
    event::{Event, Role, owner_is_known},
    failures::{Cause, Failures, Program},
    filter::{self, Selection, Verdict},
    owner::{Book, Known, Owned},
    path::{self, Block, EntryPath, Outcome},
    peer::{
        Cookies, Counts, Group, GroupBy, Netns, Past, Peer, PeerTable, Prefixes, Refused,
        entry::{Entry, SpaceKey},
        minutes::{Memory, Minute},
        spaces::{Hold, NO_SPACE},
    },
    track::{Due, EndResult, EnterResult, Holding, LiveSockets, Tracked},
    units::{Hz, TCP_TIMEWAIT_LEN_MS},
};
use unfollowed::Unfollowed;

/// How events are grouped and how much is kept.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which sockets are shown.
    pub selection: Selection,
    /// What rows stand for.
    pub group_by: GroupBy,
    /// Whether it is to be had by owner as well; twice as much is gathered.
    pub also_by_owner: bool,
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
            also_by_owner: false,
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
    /// Which namespace has which number.
    cookies: Cookies,
    /// Whose sockets are.
    owners: Book,
    /// The sockets that are not.
    left_out: Peer,
    /// Ends and refusals left out because it is not known whether their sockets match.
    undecided: u64,
    /// Calls that failed.
    failures: Failures,
    live: LiveSockets,
    /// Sockets that are counted as live but not followed, by the cap.
    unfollowed: Unfollowed,
    /// Ends healed: sockets whose end was lost and that are counted as unknown.
    healed: u64,
    /// Ends of sockets that nobody saw enter and that were not there at the start, in namespaces
    /// that could not be read then.
    unseen_ends: u64,
    /// Records that said what another had said before.
    duplicates: u64,
    /// Whether a `connect()` that chose its port was seen to take a FIN_WAIT2 mini-socket's.
    fin_wait2_taken: bool,
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
            cookies: Cookies::default(),
            owners: Book::default(),
            left_out: Peer::new(Group::LeftOut),
            undecided: 0,
            failures: Failures::default(),
            unfollowed: Unfollowed::default(),
            healed: 0,
            unseen_ends: 0,
            duplicates: 0,
            fin_wait2_taken: false,
            began_ns: 0,
            ready_ns: 0,
        }
    }

    /// Changes how much is remembered; what is too much now is forgotten.
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

    /// Takes note of whose something is. What comes of it from now on is counted so.
    pub fn own(&mut self, owned: &Owned) {
        let rows = self.table.rows();
        let used = rows.iter().filter_map(|row| match row.group {
            Group::Owner(id) => Some(id),
            _ => None,
        });
        self.owners.tell(owned, || used.collect());
    }

    /// Whose sockets are.
    pub const fn owners(&self) -> &Book {
        &self.owners
    }

    /// Folds one event in. False if it is of a socket left out, or tells nothing new.
    pub fn apply(&mut self, event: &Event) -> bool {
        let row = match event {
            Event::Entered(entered) | Event::Present(entered) => self.enter(event, entered),
            Event::Ended(ended) => self.end(event, ended),
            // Counted by the kernel side, of which this is a sample: see `fail`.
            Event::Failed(_) => {
                let socket = filter::Socket::from(event);
                return self.verdict(socket) == Verdict::Yes;
            }
        };
        row.is_some_and(|row| row != LEFT_OUT)
    }

    /// Answers the row that an entry was counted in, if it was.
    fn enter(&mut self, event: &Event, entered: &Entered) -> Option<u32> {
        let (role, present) = (event.role(), matches!(event, Event::Present(_)));
        let path = path::at_entry(entered, role);
        let hold = hold(entered, &path);
        // A socket that was there was allocated, whatever its record says.
        let overflow = !present && entered.header.flags & entered_flags::OVERFLOW != 0;
        // Where no bucket was left there is no socket that could hold the port.
        let entry = history_entry(entered, role, &path, overflow);
        let arrival = Arrival { event, entered, role, hold, space: &entry.space };
        let Settled { row, followed, lives } =
            self.settle(&arrival, if overflow { None } else { Some(present) })?;

        let hz = self.settings.hz;
        let peer = self.row(row);
        peer.last_ns = peer.last_ns.max(entered.mono_ns);
        let space = followed.unwrap_or_else(|| peer.history.space_of(&entry.space));
        if present {
            peer.tally.count().present += 1;
            peer.history.present(space, &Entry { mono_ns: began_ns(hz, entered), ..entry });
        } else {
            peer.history.enter(space, &entry);
        }
        if followed.is_some() {
            peer.history.live(space, hold);
        }
        if present {
            return Some(row);
        }
        let bound = matches!(entry.space.chosen, PortChoice::Bind | PortChoice::Program);
        let told = entered.header.flags & entered_flags::NEGOTIATED_UNKNOWN == 0;
        peer.tally.count().bound += u32::from(bound && told);
        count_entry(peer.tally.count(), entered, &path, overflow);
        note_timers(peer, hz, entered);
        if !lives {
            self.offer(row);
        }
        if let Some(minute) = self.minute(row, entered.mono_ns) {
            add(&mut minute.entered, 1);
            add(&mut minute.without_timestamps, u64::from(path.timestamps == Some(false)));
            add(&mut minute.blocked, u64::from(path.blocked.is_some()));
            add(&mut minute.overflow, u64::from(overflow));
        }
        Some(row)
    }

    /// Finds the row of a socket and follows it there. `present` says whether it was there at the
    /// start; it is `None` where no socket came of the entry. Answers nothing if it was told twice.
    fn settle(&mut self, arrival: &Arrival<'_>, present: Option<bool>) -> Option<Settled> {
        let Arrival { event, entered, role, hold, space } = *arrival;
        let flag = |flag: u16| entered.header.flags & flag != 0;
        let follows = flag(entered_flags::FOLLOWED) && !flag(entered_flags::UNTRACKED);
        let Some(present) = present else {
            let row = self.row_of_entry(event, entered, role);
            return Some(Settled { row, followed: None, lives: false });
        };
        if !follows {
            let row = if self.settings.follow_ends {
                // Its end will not tell more than both ends of the connection.
                let role = Role::of(&entered.flow, PortChoice::Unknown).0;
                let row = self.row_of_unfollowed(event, entered, role);
                self.unfollowed.enter(row, entered.header.netns);
                row
            } else {
                self.row_of_entry(event, entered, role)
            };
            return Some(Settled { row, followed: None, lives: true });
        }
        let row = self.row_of_entry(event, entered, role);
        let entered_ns =
            if present && !flag(entered_flags::ENTRY_KNOWN) { 0 } else { entered.mono_ns };
        let (port, due) = (entered.flow.local_port, self.due(entered));
        let space = self.row(row).history.space_of(space);
        let holding = Holding { space, hold, port, due };
        let tracked = Tracked { entered_ns, row, netns: entered.header.netns, holding };
        match self.live.enter(entered.tw, tracked) {
            EnterResult::Followed => Some(Settled { row, followed: Some(space), lives: true }),
            EnterResult::Displaced(before) => {
                self.heal(before);
                Some(Settled { row, followed: Some(space), lives: true })
            }
            EnterResult::AlreadyEnded(group) => {
                // The end was booked as that of a lost entry, which turned up after all: it
                // belongs in the row where the end is.
                self.offer(row);
                let row = self.row_with_entry_lost(&group);
                self.row(row).tally.found_entry();
                Some(Settled { row, followed: None, lives: false })
            }
            EnterResult::Duplicate => {
                self.duplicates += 1;
                self.offer(row);
                None
            }
            EnterResult::Full => {
                self.offer(row);
                let row = self.row_of_unfollowed(event, entered, role);
                self.unfollowed.enter(row, entered.header.netns);
                Some(Settled { row, followed: None, lives: true })
            }
        }
    }

    /// Answers the row that an end was counted in, if it was.
    fn end(&mut self, event: &Event, ended: &Ended) -> Option<u32> {
        let outcome = path::at_end(ended, self.settings.recycle_exists, self.settings.hz);
        let mut holding = Holding { space: NO_SPACE, ..Holding::default() };
        // Whether a reason was counted at its entry that nobody remembers.
        let mut judged = false;
        let row = if ended.header.flags & ended_flags::UNTRACKED != 0 {
            if ended.mono_ns < self.ready_ns {
                return None;
            }
            judged = true;
            let Some(row) = self.unfollow(event, ended) else {
                self.unseen_ends += 1;
                return None;
            };
            row
        } else {
            match self.live.end(ended.tw, ended.entered_ns) {
                EndResult::Known(socket) => {
                    holding = socket.holding;
                    socket.row
                }
                EndResult::Displaced(before) => {
                    self.heal(before);
                    self.orphan(event, ended)
                }
                // Beyond our own cap, though the kernel side followed it.
                EndResult::Orphan if let Some(row) = self.unfollow(event, ended) => {
                    judged = true;
                    row
                }
                EndResult::Orphan if (1..self.began_ns).contains(&ended.entered_ns) => {
                    self.unseen_ends += 1;
                    return None;
                }
                EndResult::Orphan => self.orphan(event, ended),
                EndResult::Duplicate => {
                    self.duplicates += 1;
                    return None;
                }
            }
        };

        let hz = self.settings.hz;
        let bound = ended.header.flags & ended_flags::BOUND != 0;
        self.fin_wait2_taken |=
            outcome == Outcome::Reused && ended.header.state == TCP_FIN_WAIT2 && !bound;
        // One reason for each socket; and none of a kernel that was seen to take such sockets over.
        let judged = judged || holding.hold.is(Hold::BLOCKED) || self.fin_wait2_taken;
        let peer = self.row(row);
        peer.last_ns = peer.last_ns.max(ended.mono_ns);
        let counts = peer.tally.count();
        counts.ended[outcome as usize] += 1;
        counts.promoted += u32::from(ended.header.flags & ended_flags::PROMOTED != 0);
        if ended.header.state == TCP_FIN_WAIT2 && !judged {
            counts.blocked[Block::FinWait2 as usize] += 1;
        }
        peer.tally.add_rearms(ended.rearms);
        let when = Some((ended.mono_ns, outcome.is_early()));
        peer.history.end(holding.space, holding.hold, when);
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
        // Of a socket that was there at the start only what was left of its timer is known.
        let armed_here = !flag(ended_flags::PRESENT) || ended.rearms > 0;
        if ended.last_armed != 0 && armed_here && ended.header.state == TCP_TIME_WAIT {
            peer.scheduled_ms = millis(hz, ended.last_armed);
            peer.scheduled_max_ms = peer.scheduled_max_ms.max(peer.scheduled_ms);
        }
        self.offer(row);
        if let Some(minute) = self.minute(row, ended.mono_ns) {
            add(minute.ended(outcome.class()), 1);
        }
        Some(row)
    }

    /// Books the end of a socket whose entry event was lost: it did enter.
    fn orphan(&mut self, event: &Event, ended: &Ended) -> u32 {
        let group = self.group_of_end(event, ended);
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
        peer.history.end(socket.holding.space, socket.holding.hold, None);
        self.offer(socket.row);
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

    /// Takes note that in a namespace not more than so many sockets live that are not followed: the
    /// others ended unseen.
    pub fn heal_unfollowed(&mut self, netns: u32, most: u64) {
        for (row, gone) in self.unfollowed.rebase(netns, most) {
            self.healed += gone;
            self.row(row).tally.edit(|counts| counts.ended[Outcome::Unknown as usize] += gone);
            self.offer(row);
        }
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
            GroupBy::Addr => Group::Addr { netns: key.netns.into(), address: key.remote },
            GroupBy::Subnet => Group::subnet(key.netns, key.remote, self.settings.prefixes),
            GroupBy::Netns => Group::Netns(key.netns.into()),
            GroupBy::Owner => owner_group(self.owners.read().of_netns(key.netns, 0)),
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

    /// Adds failed calls of one place, cause and program.
    pub fn fail(&mut self, counted: &(FailureKey, Failure)) {
        let (key, failure) = counted;
        let selected = self.selects(counted);
        if selected {
            self.failures.take(key, failure);
        }
        let Some(cause) = Cause::of(key.result) else { return };
        let (netns, connect) = (key.netns, cause != Cause::AddressInUse);
        let program =
            Program::of(key.pid, failure.comm, failure.uid, failure.cgroup, failure.flags);
        let group = match self.settings.group_by {
            _ if !selected => Group::LeftOut,
            GroupBy::Netns => Group::Netns(netns.into()),
            GroupBy::Uid => program.uid.map_or(Group::UnknownOwner, Group::Uid),
            GroupBy::Cgroup => program.cgroup.map_or(Group::UnknownOwner, Group::Cgroup),
            GroupBy::Owner => owner_group(self.owners.read().of(program.cgroup, netns, 0)),
            // A bind() has no peer.
            _ if !connect => return,
            GroupBy::Peer => Group::peer(netns, Role::Client, key.remote, key.remote_port),
            GroupBy::Addr => Group::Addr { netns: netns.into(), address: key.remote },
            GroupBy::Subnet => Group::subnet(netns, key.remote, self.settings.prefixes),
        };
        let row = self.slot(group);
        let peer = self.row(row);
        peer.tally.edit(|counts| counts.failed.by_cause[cause as usize] += failure.count);
        peer.last_ns = peer.last_ns.max(failure.last_ns);
        self.offer(row);
    }

    /// Remembers failed calls of before this session: they are in no row.
    pub fn recall_failure(&mut self, counted: &(FailureKey, Failure)) {
        if self.selects(counted) {
            self.failures.recall(&counted.0, &counted.1);
        }
    }

    /// The calls that failed.
    pub const fn failures(&self) -> &Failures {
        &self.failures
    }

    /// When a socket's timer runs out, as far as its entry tells.
    fn due(&self, entered: &Entered) -> Due {
        let header = &entered.header;
        let entry_known = header.flags & entered_flags::ENTRY_KNOWN != 0;
        let left_ms = match entered.armed {
            0 if header.kind != Kind::Present as u8 || entry_known => TCP_TIMEWAIT_LEN_MS,
            _ => left_ms(self.settings.hz, entered),
        };
        Due::at(entered.mono_ns.saturating_add(left_ms * 1_000_000))
    }

    /// The minute of a row that is shown.
    fn minute(&mut self, row: u32, mono_ns: u64) -> Option<&mut Minute> {
        (row != LEFT_OUT).then(|| self.table.minute(row, mono_ns))
    }

    fn row_of_entry(&mut self, event: &Event, entered: &Entered, role: Role) -> u32 {
        let owner_known = owner_is_known(entered);
        let selected = self.selects(event);
        let netns = self.namespace(entered.header.netns, entered.netns_cookie);
        let group = match self.settings.group_by {
            _ if !selected => Group::LeftOut,
            GroupBy::Cgroup if owner_known => Group::Cgroup(entered.cgroup),
            GroupBy::Uid if owner_known => Group::Uid(entered.uid),
            GroupBy::Owner if owner_known => {
                let (inum, cookie) = (entered.header.netns, entered.netns_cookie);
                owner_group(self.owners.read().of(Some(entered.cgroup), inum, cookie))
            }
            _ => self.group_by_address(netns, &entered.flow, role),
        };
        self.slot(group)
    }

    /// The row of an entry whose end will tell the ends of the connection, and not whose it was.
    fn row_of_unfollowed(&mut self, event: &Event, entered: &Entered, role: Role) -> u32 {
        let selected = self.selects(event);
        let netns = self.namespace(entered.header.netns, entered.netns_cookie);
        let group = self.group_by_address(netns, &entered.flow, role);
        self.slot(if selected { group } else { Group::LeftOut })
    }

    /// The row that the end of a socket not followed is counted in; `None` if there is no such socket.
    fn unfollow(&mut self, event: &Event, ended: &Ended) -> Option<u32> {
        if self.unfollowed.total() == 0 {
            return None;
        }
        let row = match self.group_of_end(event, ended) {
            Group::LeftOut => Some(LEFT_OUT),
            group => self.table.find_row(&group),
        };
        self.unfollowed.end(row, ended.header.netns)
    }

    /// The group of a socket of which no more than its end is known.
    fn group_of_end(&mut self, event: &Event, ended: &Ended) -> Group {
        if self.selects(event) {
            let netns = self.namespace(ended.header.netns, ended.netns_cookie);
            self.group_by_address(netns, &ended.flow, event.role())
        } else {
            Group::LeftOut
        }
    }

    /// Whether a socket is shown. One of which it is not known is not, and is counted.
    fn selects<'a, S>(&mut self, socket: &'a S) -> bool
    where
        filter::Socket<'static>: From<&'a S>,
    {
        if self.settings.selection.here.is_any() {
            return true;
        }
        let verdict = self.verdict(filter::Socket::from(socket));
        self.undecided += u64::from(verdict == Verdict::Maybe);
        verdict == Verdict::Yes
    }

    /// Whether a socket matches the part of the filter that is decided here.
    fn verdict(&self, socket: filter::Socket<'static>) -> Verdict {
        let here = &self.settings.selection.here;
        if !here.asks_owner() {
            return here.matches(&socket);
        }
        let (cgroup, inum, cookie) = socket.place();
        let owners = self.owners.read();
        here.matches(&socket.owned(owners.of(cgroup, inum, cookie).map(|known| &*known.owner)))
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
    fn group_by_address(&self, netns: Netns, flow: &Flow, role: Role) -> Group {
        match self.settings.group_by {
            GroupBy::Peer => Group::peer(netns, role, flow.remote, flow.remote_port),
            GroupBy::Addr => Group::Addr { netns, address: flow.remote },
            GroupBy::Subnet => Group::subnet(netns, flow.remote, self.settings.prefixes),
            GroupBy::Netns => Group::Netns(netns),
            GroupBy::Owner => {
                let owners = self.owners.read();
                owner_group(netns.current().and_then(|inum| owners.of_netns(inum, 0)))
            }
            GroupBy::Cgroup | GroupBy::Uid => Group::UnknownOwner,
        }
    }

    /// The namespace with that number and cookie. Of one that is seen to be another than the one
    /// that had the number before nothing is known yet.
    pub fn namespace(&mut self, inum: u32, cookie: u64) -> Netns {
        let (netns, gone) = self.cookies.of(inum, cookie);
        if let Some(gone) = gone {
            self.table.retire(gone);
            self.live.retire(gone);
            self.failures.retire(inum);
        }
        netns
    }

    /// The cookie of a namespace, if it is known.
    pub fn cookie(&self, netns: Netns) -> Option<u64> {
        self.cookies.get(netns)
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

    /// Whether a `connect()` that chose its port was seen to take a FIN_WAIT2 mini-socket's.
    pub const fn fin_wait2_taken(&self) -> bool {
        self.fin_wait2_taken
    }

    /// The sockets followed.
    pub const fn sockets(&self) -> &LiveSockets {
        &self.live
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
        self.unfollowed.total()
    }

    /// How many of those there were ever.
    pub const fn unfollowed_ever(&self) -> u64 {
        self.unfollowed.entered()
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
        let live = self.live.len() as u64 + self.unfollowed.total();
        Conservation {
            came: sum.present + sum.entered + sum.entry_lost,
            went_or_lives: live + sum.ended_total() + sum.overflow,
        }
    }
}

/// The row of an owner.
fn owner_group(known: Option<&Known>) -> Group {
    known.map_or(Group::UnknownOwner, |known| Group::Owner(known.id))
}

/// What is left of a timer, milliseconds: 0 of one that is overdue.
pub fn left_ms(hz: Hz, entered: &Entered) -> u64 {
    i32::try_from(entered.armed).map_or(0, |armed| hz.millis(armed.unsigned_abs()))
}

/// What a socket is to others that want its port.
fn hold(entered: &Entered, path: &EntryPath) -> Hold {
    let reuseaddr = entered.header.flags & entered_flags::REUSEADDR != 0;
    Hold::default()
        .with(Hold::ELIGIBLE, path.eligible == Some(true))
        .with(Hold::ALLOWED, path.allowed == Some(true))
        .with(Hold::UNKNOWN, path.allowed.is_none())
        .with(Hold::FIN_WAIT2, entered.header.state == TCP_FIN_WAIT2)
        .with(Hold::REUSEADDR, reuseaddr)
        .with(Hold::BLOCKED, path.blocked.is_some())
}

/// Milliseconds of a timeout; 49 days and more are 49 days.
fn millis(hz: Hz, jiffies: u32) -> u32 {
    u32::try_from(hz.millis(jiffies)).unwrap_or(u32::MAX)
}

/// Adds to a minute's count, which stays at its highest rather than wrap.
fn add(count: &mut u32, more: u64) {
    *count = count.saturating_add(u32::try_from(more).unwrap_or(u32::MAX));
}

/// Where the port of a socket is scarce. Of one whose full socket was not seen its bucket tells
/// whether `connect()` chose the port, and nothing who did if not: a client's is taken for one of
/// `bind(address, 0)`, which is what holds most. So is one that `bind()` of any address was made for.
pub fn space(entered: &Entered, role: Role) -> SpaceKey {
    let flag = |flag: u16| entered.header.flags & flag != 0;
    let known = !flag(entered_flags::TIMESTAMPS_UNKNOWN);
    let bound =
        flag(entered_flags::NOT_CONNECT) || known && flag(entered_flags::NEGOTIATED_UNKNOWN);
    let chosen = match PortChoice::from_u8(entered.chosen) {
        PortChoice::Unknown if role == Role::Server => PortChoice::Accepted,
        PortChoice::Bind if role == Role::Server => PortChoice::Accepted,
        PortChoice::Unknown if bound => PortChoice::Bind,
        PortChoice::Unknown => PortChoice::Connect,
        chosen => chosen,
    };
    let range = match chosen {
        PortChoice::Accepted => (entered.flow.local_port, entered.flow.local_port),
        _ if flag(entered_flags::OWN_RANGE) => (entered.flow.port_low, entered.flow.port_high),
        _ => (0, 0),
    };
    SpaceKey { local: entered.flow.local, chosen, range }
}

/// An entry on its way into a row.
#[derive(Clone, Copy)]
struct Arrival<'a> {
    event: &'a Event,
    entered: &'a Entered,
    role: Role,
    hold: Hold,
    space: &'a SpaceKey,
}

/// Where an entry was put.
struct Settled {
    /// Its row.
    row: u32,
    /// The number of the space in which it holds its port, if its socket is followed.
    followed: Option<u8>,
    /// A socket came of it that has not ended.
    lives: bool,
}

/// When a socket that was there entered, as far as its timer tells.
pub fn began_ns(hz: Hz, entered: &Entered) -> u64 {
    if entered.header.flags & entered_flags::ENTRY_KNOWN != 0 {
        return entered.mono_ns;
    }
    let left_ns = left_ms(hz, entered) * 1_000_000;
    entered.mono_ns.saturating_sub((TCP_TIMEWAIT_LEN_MS * 1_000_000).saturating_sub(left_ns))
}

/// Counts an entry, and what is known of it then.
fn count_entry(counts: &mut Counts<u32>, entered: &Entered, path: &EntryPath, overflow: bool) {
    counts.entered += 1;
    counts.fin_wait2 += u32::from(entered.header.state == TCP_FIN_WAIT2);
    counts.with_timestamps += u32::from(path.timestamps == Some(true));
    counts.without_timestamps += u32::from(path.timestamps == Some(false));
    counts.eligible += u32::from(path.eligible == Some(true));
    counts.allowed += u32::from(path.allowed == Some(true));
    counts.overflow += u32::from(overflow);
    if let Some(block) = path.blocked {
        counts.blocked[block as usize] += 1;
    }
}

/// Notes the connection's timeout and what its timer was armed with, if they were seen.
fn note_timers(peer: &mut Peer, hz: Hz, entered: &Entered) {
    if entered.rto != 0 {
        peer.rto_ms = millis(hz, entered.rto);
        peer.rto_max_ms = peer.rto_max_ms.max(peer.rto_ms);
    }
    if entered.armed != 0 && entered.header.state == TCP_TIME_WAIT {
        peer.scheduled_ms = millis(hz, entered.armed);
        peer.scheduled_max_ms = peer.scheduled_max_ms.max(peer.scheduled_ms);
    }
}

/// An entry as a row's history wants it. Of a socket that was there at the start the settings are those
/// of the start, and not those that it was made with.
fn history_entry(entered: &Entered, role: Role, path: &EntryPath, overflow: bool) -> Entry {
    let known = entered.header.kind != Kind::Present as u8
        || entered.header.flags & entered_flags::ENTRY_KNOWN != 0;
    let blocked_by = |block| known && path.blocked == Some(block);
    Entry {
        not_from_peer: blocked_by(Block::NoPeerTimestamps),
        not_offered: blocked_by(Block::TimestampsOff),
        mono_ns: entered.mono_ns,
        with_timestamps: path.timestamps == Some(true),
        timestamps_unknown: path.timestamps.is_none(),
        blocked: path.blocked.is_some() && !overflow,
        fin_wait2: entered.header.state == TCP_FIN_WAIT2 && !overflow,
        autobound: entered.chosen == PortChoice::Connect as u8,
        space: space(entered, role),
        local_port: entered.flow.local_port,
        remote_port: entered.flow.remote_port,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use twtrace_common::{Flow, Header};

    #[test]
    fn what_neither_connect_nor_a_named_address_or_port_tells_was_bound_where_the_kernel_would_say()
    {
        let chosen = |flags, (local_port, remote_port)| {
            let flow = Flow { local_port, remote_port, ..Flow::default() };
            let header = Header { flags, ..Header::default() };
            let entered = Entered { header, flow, ..Entered::default() };
            let role = Role::of(&flow, PortChoice::Unknown).0;
            space(&entered, role).chosen
        };
        let client = (40_000, 443);
        assert_eq!(chosen(entered_flags::NOT_CONNECT, client), PortChoice::Bind);
        assert_eq!(chosen(0, client), PortChoice::Connect, "on kernels that do not say");
        let server = (40_000, 50_000);
        assert_eq!(chosen(entered_flags::NOT_CONNECT, server), PortChoice::Accepted);
    }
}
