//! The read model: what a session knows at one moment. Views see nothing else.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use rustc_hash::FxHashMap;
use twtrace_common::Counter;

use crate::{
    aggregate::Aggregate,
    attached::{self, Backend, FailedWay, ObjectKind, Types},
    audit::Audit,
    diagnose::{Diagnosis, Finding},
    failures::FailedPlaces,
    filter::{Expr, Open, PeerAddress, RowFacts},
    host::facts::HostFacts,
    names::Names,
    needs::Needs,
    owner::{Book, Owner, Owners},
    path::Class,
    peer::{
        Counts, Group, GroupBy, History, LifetimeSummary, Peer, PeerTable, Prefixes,
        minutes::Minute, sum,
    },
    totals::Totals,
    trust::Trust,
    units::Clock,
};

/// Upper bounds of the lifetime histogram shown, milliseconds. 4 s is the kernel's own line for a
/// fast timer, 60 s is 2MSL, and what is above 65 s was armed again.
pub const LIFETIME_BOUNDS_MS: [u64; 12] =
    [500, 1_000, 2_000, 4_000, 8_000, 15_000, 30_000, 45_000, 59_000, 65_000, 90_000, 120_000];

/// Order of the rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum SortKey {
    /// Most entries first.
    #[default]
    Entered,
    /// Most live sockets first.
    Live,
    /// Most ends on the fast path first.
    Fast,
    /// Most ends on the 2MSL path first.
    TwoMsl,
    /// Most blocked first.
    Blocked,
    /// Most refused takeovers first.
    Refused,
    /// Most overflows first.
    Overflow,
    /// By name.
    Peer,
}

/// How the rows are chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowChoice {
    /// Only rows of this peer; the others are summed up.
    pub peer: Option<PeerAddress>,
    /// Only rows that may hold sockets that match; the others are summed up.
    pub filter: Expr,
    /// Rows passed over before the first that is chosen; they are summed up as well.
    pub skip: usize,
    /// Most rows; the others are summed up.
    pub top: Option<usize>,
    /// Order.
    pub sort: SortKey,
    /// Also rows of which only the time before this session is known, and of each row its minutes.
    pub with_past: bool,
    /// A coarser grouping than the one that peers were counted by: their rows are added up.
    pub by: Option<GroupBy>,
}

/// One row.
#[derive(Clone, Debug)]
pub struct Row {
    /// What it stands for.
    pub group: Group,
    /// Cookie of the network namespace it belongs to, if it belongs to one and that is known.
    pub netns_cookie: Option<u64>,
    /// Its counts.
    pub counts: Counts,
    /// Its sockets that live now.
    pub live: u64,
    /// Its lifetimes.
    pub lifetimes: LifetimeSummary,
    /// Ended sockets by lifetime: up to each of [`LIFETIME_BOUNDS_MS`], and above the last.
    pub lifetime_buckets: Vec<u64>,
    /// All these lifetimes together, milliseconds.
    pub lifetime_sum_ms: u64,
    /// Timeout its last TIME_WAIT socket was armed with, milliseconds; 0 when not seen.
    pub scheduled_ms: u64,
    /// The longest such timeout.
    pub scheduled_max_ms: u64,
    /// RTO of its last socket, milliseconds; 0 when not seen.
    pub rto_ms: u64,
    /// The longest RTO.
    pub rto_max_ms: u64,
    /// When timestamps were seen and when not.
    pub history: History,
    /// What happened by the minute, oldest first; empty unless asked for.
    pub minutes: Vec<Minute>,
}

impl Row {
    fn of(peer: &Peer) -> Self {
        let counts = peer.counts();
        Self {
            group: peer.group,
            netns_cookie: None,
            counts,
            live: counts.live(),
            lifetimes: peer.lifetimes.summary(),
            lifetime_buckets: peer.lifetimes.buckets(&LIFETIME_BOUNDS_MS),
            lifetime_sum_ms: peer.lifetimes.sum_ms(),
            scheduled_ms: u64::from(peer.scheduled_ms),
            scheduled_max_ms: u64::from(peer.scheduled_max_ms),
            rto_ms: u64::from(peer.rto_ms),
            rto_max_ms: u64::from(peer.rto_max_ms),
            history: peer.history.clone(),
            minutes: Vec::new(),
        }
    }

    /// What a kernel that recycles would arm its timer with, milliseconds: 3.5 x the longest RTO.
    pub const fn recycle_ms(&self) -> u64 {
        crate::units::recycle_timeout(self.rto_max_ms)
    }

    /// Whether recycling would be slower than 2MSL, the pitfall of a bad network.
    pub const fn recycle_over_two_msl(&self) -> bool {
        self.recycle_ms() > crate::units::TCP_TIMEWAIT_LEN_MS
    }

    /// The row as a filter looks at it.
    pub fn facts<'a>(&'a self, owners: &'a Owners) -> RowFacts<'a> {
        let owner = row_owner(owners, &self.group);
        RowFacts { group: &self.group, counts: &self.counts, history: &self.history, owner }
    }
}

impl SortKey {
    /// What rows are ordered by, the largest first; equal ones by name.
    pub fn rank(self, counts: &Counts) -> u64 {
        match self {
            Self::Entered => counts.entered,
            Self::Live => counts.live(),
            Self::Fast => counts.class(Class::Fast),
            Self::TwoMsl => counts.class(Class::TwoMsl),
            Self::Blocked => counts.blocked_total(),
            Self::Refused => counts.refused.total(),
            Self::Overflow => counts.overflow,
            Self::Peer => 0,
        }
    }
}

/// What a filter made of the rows.
#[derive(Clone, Debug)]
pub struct RowFilter {
    /// The filter.
    pub filter: Expr,
    /// Rows that may hold sockets that match, shown or not.
    pub rows: u64,
    /// What it leaves open of those shown.
    pub open: Open,
}

/// The rows chosen.
struct Chosen<'a> {
    /// In order.
    rows: Vec<Row>,
    /// All the others.
    others: Vec<&'a Peer>,
    /// What the filter made of them, if there is one.
    filtered: Option<RowFilter>,
}

/// The owner that a row stands for. A namespace that is one's may have sockets of others, so that such a
/// row does not tell.
fn row_owner<'a>(owners: &'a Owners, group: &Group) -> Option<&'a Owner> {
    match group {
        Group::Owner(id) => owners.get(*id),
        _ => None,
    }
}

fn choose<'a>(
    peers: &'a [Peer],
    table: &PeerTable,
    owners: &Owners,
    choice: &RowChoice,
) -> Chosen<'a> {
    let filter = (!choice.filter.is_any()).then_some(&choice.filter);
    let may_match = |peer: &Peer| {
        filter.is_none_or(|filter| {
            let (group, history) = (&peer.group, &peer.history);
            let owner = row_owner(owners, &peer.group);
            filter.may_match_row(RowFacts { group, counts: &peer.counts(), history, owner })
        })
    };
    let wanted = |peer: &Peer| {
        choice.peer.is_none_or(|address| address.matches(&peer.group)) && may_match(peer)
    };
    let known = peers.iter().filter(|peer| choice.with_past || !peer.is_empty());
    let (candidates, mut others): (Vec<&Peer>, Vec<&Peer>) = known.partition(|peer| wanted(peer));
    // Each is compared many times, and its rank is read out of all that was counted.
    let rank = |peer: &Peer| Reverse(choice.sort.rank(&peer.counts()));
    let mut candidates: Vec<_> = candidates.into_iter().map(|peer| (rank(peer), peer)).collect();
    let order = |one: &(Reverse<u64>, &Peer), two: &(Reverse<u64>, &Peer)| {
        one.0.cmp(&two.0).then_with(|| one.1.group.cmp(&two.1.group))
    };
    let first = choice.skip.min(candidates.len());
    let last = first + choice.top.unwrap_or(candidates.len()).min(candidates.len() - first);
    // Of many rows only those shown are put in order.
    if last < candidates.len() {
        candidates.select_nth_unstable_by(last, order);
    }
    candidates[..last].sort_unstable_by(order);
    let row = |(_, peer): &(Reverse<u64>, &Peer)| {
        let minutes = if choice.with_past { table.minutes(peer) } else { Vec::new() };
        Row { minutes, ..Row::of(peer) }
    };
    let rows: Vec<Row> = candidates[first..last].iter().map(row).collect();
    let passed_over = candidates[..first].iter().chain(&candidates[last..]);
    others.extend(passed_over.map(|(_, peer)| peer));
    let filtered = filter.map(|filter| RowFilter {
        filter: filter.clone(),
        rows: candidates.len() as u64,
        open: filter.open_for_rows(rows.iter().map(|row| row.facts(owners))),
    });
    Chosen { rows, others, filtered }
}

/// What the rules made of a moment.
#[derive(Clone, Debug)]
pub struct Examined {
    /// Findings and margins.
    pub diagnosis: Diagnosis,
    /// The facts of the host they rest on.
    pub facts: HostFacts,
    /// The moment.
    pub clock: Clock,
}

/// Everything a view may show.
#[derive(Clone, Debug)]
pub struct Summary {
    /// How the programs are attached.
    pub backend: Backend,
    /// Which of the two objects of kernel programs runs.
    pub object: ObjectKind,
    /// Whether they know where the kernel keeps its fields; without, whatever only the full socket
    /// knows is unknown.
    pub types: Types,
    /// Better ways that did not work, and why.
    pub refused_backends: Vec<FailedWay>,
    /// Whether refused `bind()` calls are seen.
    pub sees_binds: bool,
    /// Time since the session was ready.
    pub elapsed: Duration,
    /// Whether ends are followed; without, whatever is about ends or live sockets is unknown.
    pub follow_ends: bool,
    /// What rows stand for.
    pub group_by: GroupBy,
    /// Whether rows have the `bind()` calls that failed as well.
    pub rows_have_binds: bool,
    /// Which sockets are shown.
    pub selection: Expr,
    /// All rows together, with the kernel side's exact totals where it keeps them of just these
    /// sockets: not when part of the filter is decided in userspace.
    pub totals: Row,
    /// The chosen rows, in order.
    pub rows: Vec<Row>,
    /// What the filter they were chosen by leaves open, if there was one.
    pub row_filter: Option<RowFilter>,
    /// The rest, and how many rows that is; the peers that found no place are one.
    pub other: Option<(u64, Row)>,
    /// Rows in all.
    pub peers: u64,
    /// Rows that gave their place away.
    pub peers_evicted: u64,
    /// Events of peers for which no row was free; they are counted in `other`.
    pub peers_folded: u64,
    /// How far all this can be trusted.
    pub trust: Trust,
    /// What the kernel itself counted, against what its programs did; `None` where that cannot be
    /// compared.
    pub audit: Option<Audit>,
    /// Names of network namespaces, by inode number.
    pub netns_names: HashMap<u32, String>,
    /// Names of control groups, by identifier.
    pub cgroup_names: HashMap<u64, String>,
    /// Whose sockets are.
    pub owners: Book,
    /// Names of the peers shown, where somebody wants to see them.
    pub peer_names: Option<Names>,
    /// Calls that failed, by place and program; `None` where nobody looked.
    pub failed: Option<FailedPlaces>,
    /// Findings; `None` unless rows stand for peers and ends are followed.
    pub examined: Option<Examined>,
}

/// What a summary is made from beside the aggregate.
#[derive(Clone, Debug)]
pub struct Context {
    /// How the programs are attached.
    pub backend: Backend,
    /// Which of the two objects of kernel programs runs.
    pub object: ObjectKind,
    /// Whether they know where the kernel keeps its fields; without, whatever only the full socket
    /// knows is unknown.
    pub types: Types,
    /// Better ways that did not work, and why.
    pub refused_backends: Vec<FailedWay>,
    /// Whether refused `bind()` calls are seen.
    pub sees_binds: bool,
    /// Time since the session was ready.
    pub elapsed: Duration,
    /// The kernel side's exact totals.
    pub totals: Totals,
    /// Program runs the kernel skipped.
    pub skipped: u64,
    /// What the kernel itself counted, against what its programs did.
    pub audit: Option<Audit>,
    /// Records that could not be decoded.
    pub undecodable: u64,
    /// Names of network namespaces, by inode number.
    pub netns_names: HashMap<u32, String>,
    /// Names of control groups, by identifier.
    pub cgroup_names: HashMap<u64, String>,
}

impl Context {
    /// One in which nothing was counted, refused or named, of programs for ring buffers that know the
    /// kernel's types.
    pub fn bare(backend: Backend) -> Self {
        Self {
            backend,
            object: ObjectKind::RingBuf,
            types: Types::Known,
            refused_backends: Vec::new(),
            sees_binds: backend.sees_refusals(),
            elapsed: Duration::ZERO,
            totals: Totals::default(),
            skipped: 0,
            audit: None,
            undecodable: 0,
            netns_names: HashMap::new(),
            cgroup_names: HashMap::new(),
        }
    }
}

/// Puts the kernel side's exact totals in the place of what was seen of the same sockets. Answers
/// how many sockets were not seen: those whose events were lost.
///
/// The kernel's totals are a moment older than what was seen, hence the larger counts.
fn adopt(counts: &mut Counts, kernel: &Totals) -> u64 {
    let seen = counts.came();
    let entered = sum([counts.entered, counts.entry_lost]);
    counts.entered = kernel.of(Counter::Entered).max(entered);
    counts.fin_wait2 = kernel.of(Counter::EnteredFinWait2).max(counts.fin_wait2);
    counts.overflow = kernel.of(Counter::Overflow).max(counts.overflow);
    counts.present = kernel.of(Counter::Present).max(counts.present);
    let busy = kernel.of(Counter::PortBusy);
    let failed = [
        kernel.of(Counter::ConnectsFailed).saturating_sub(busy),
        busy,
        kernel.of(Counter::AddressInUse),
    ];
    for (count, all) in counts.failed.by_cause.iter_mut().zip(failed) {
        *count = all.max(*count);
    }
    sum([counts.present, counts.entered]).saturating_sub(seen)
}

/// Adds up rows that stand for peers. Others do not tell enough and stay as they are.
fn fold(peers: &[Peer], by: GroupBy, prefixes: Prefixes) -> Vec<Peer> {
    let mut sums: FxHashMap<Group, Peer> = FxHashMap::default();
    for peer in peers {
        let group = peer.group.coarser(by, prefixes).unwrap_or(peer.group);
        sums.entry(group).or_insert_with(|| Peer::new(group)).absorb(peer);
    }
    sums.into_values().collect()
}

impl Summary {
    /// Takes the summary of a moment.
    pub fn new(aggregate: &Aggregate, choice: &RowChoice, context: Context) -> Self {
        let settings = aggregate.settings();
        debug_assert!(
            !settings.follow_ends || aggregate.conservation().holds(),
            "a socket appeared or vanished: {:?}",
            aggregate.conservation()
        );
        let table = aggregate.table();
        let mut totals = Row::of(&table.sum());
        totals.counts.failed = aggregate.failures().counts();
        let kernel = &context.totals;
        let (lost_sockets, undecided) = if settings.selection.here.is_any() {
            (adopt(&mut totals.counts, kernel), 0)
        } else {
            // Of a lost entry nobody knows whether it matches, so the kernel's totals only tell
            // how many there are.
            let mut all = totals.counts;
            all += &aggregate.left_out().counts();
            totals.counts.entered += totals.counts.entry_lost;
            (0, aggregate.undecided() + adopt(&mut all, kernel))
        };

        let counts = &totals.counts;
        let gone = sum([counts.overflow, counts.ended_total(), lost_sockets]);
        totals.live = sum([counts.present, counts.entered]).saturating_sub(gone);

        let folded = choice.by.map(|by| fold(table.rows(), by, settings.prefixes));
        let all = folded.as_deref().unwrap_or(table.rows());
        let Chosen { mut rows, others: hidden, filtered } =
            choose(all, table, &aggregate.owners().read(), choice);
        for row in &mut rows {
            row.netns_cookie = row.group.namespace().and_then(|netns| aggregate.cookie(netns));
        }
        let peers = (rows.len() + hidden.len()) as u64;
        let mut other = table.other().clone();
        hidden.iter().for_each(|peer| other.absorb(peer));
        let none = Peer::is_empty(&other);
        Self {
            backend: context.backend,
            object: context.object,
            types: context.types,
            refused_backends: context.refused_backends,
            sees_binds: context.sees_binds,
            elapsed: context.elapsed,
            follow_ends: settings.follow_ends,
            group_by: choice.by.unwrap_or(settings.group_by),
            rows_have_binds: settings.group_by.counts_binds(),
            selection: settings.selection.whole.clone(),
            rows,
            row_filter: filtered,
            other: (!none).then(|| (hidden.len() as u64, Row::of(&other))),
            peers,
            peers_evicted: table.evicted(),
            peers_folded: table.folded(),
            trust: Trust {
                kernel: context.totals,
                lost_sockets,
                undecided,
                missing: context.audit.as_ref().map_or(0, |audit| audit.total().entries.missing),
                unaudited: context.audit.as_ref().map_or(0, |audit| audit.unaudited),
                skipped: context.skipped,
                healed: aggregate.healed(),
                unfollowed: aggregate.unfollowed(),
                unseen_ends: aggregate.unseen_ends(),
                undecodable: context.undecodable,
            },
            audit: context.audit,
            totals,
            netns_names: context.netns_names,
            cgroup_names: context.cgroup_names,
            owners: aggregate.owners().clone(),
            peer_names: None,
            failed: None,
            examined: None,
        }
    }

    /// What is not seen this way, one clause each.
    pub fn blind_spots(&self) -> Vec<&'static str> {
        let misses_binds = self.failed.is_some() && !self.sees_binds;
        attached::blind_spots(self.backend, self.object, self.types, misses_binds)
    }

    /// What this session has, of all that figures need.
    pub const fn known(&self) -> Needs {
        Needs::NOTHING
            .with(Needs::ENDS, self.follow_ends)
            .with(Needs::TYPES, self.types.are_known())
            .with(Needs::FUNCTIONS, self.backend.sees_refusals())
            .with(Needs::FAILURES, self.failed.is_some())
            .with(Needs::BINDS, self.failed.is_some() && self.sees_binds)
            .with(Needs::AUDIT, self.audit.is_some())
    }

    /// The same for figures of rows.
    pub const fn known_of_rows(&self) -> Needs {
        self.known().with(Needs::NO_PEERS, self.rows_have_binds)
    }

    /// A row's name for people and programs.
    pub fn label(&self, group: &Group) -> String {
        match group {
            Group::Cgroup(id) => {
                self.cgroup_names.get(id).cloned().unwrap_or_else(|| group.to_string())
            }
            Group::Netns(netns) => match netns.current() {
                Some(inum) => self.namespace(inum),
                None => netns.to_string(),
            },
            Group::Owner(id) => {
                let owners = self.owners.read();
                owners.get(*id).map_or_else(|| group.to_string(), |owner| owner.name.clone())
            }
            Group::Uid(uid) => uid.to_string(),
            _ => group.to_string(),
        }
    }

    /// The name of a row's peer, where names are wanted and one is known. It is text of others.
    pub fn peer_name(&self, group: &Group) -> Option<&str> {
        self.peer_names.as_ref()?.of_group(group)
    }

    /// The peer of a finding as far as it is one, and its name.
    pub fn named_peer(&self, finding: &Finding) -> Option<(PeerAddress, &str)> {
        let peer = finding.peer.as_deref()?.parse().ok()?;
        Some((peer, self.peer_names.as_ref()?.of(&peer)?))
    }

    /// The peers that a view shows: those of findings, then those of rows in their order.
    pub fn peers_shown(&self) -> Vec<PeerAddress> {
        let findings = self.examined.iter().flat_map(|examined| &examined.diagnosis.findings);
        let of_findings = findings.filter_map(|finding| finding.peer.as_deref()?.parse().ok());
        let of_rows = self.rows.iter().filter_map(|row| PeerAddress::of(&row.group));
        let mut seen = HashSet::new();
        of_findings.chain(of_rows).filter(|peer| seen.insert(*peer)).collect()
    }

    /// Whose a row is: the owner it stands for, or the one whose its namespace is, with all that was in it
    /// when that was looked at.
    pub fn owner(&self, group: &Group) -> Option<Arc<Owner>> {
        let owners = self.owners.read();
        match group {
            Group::Owner(id) => owners.shared(*id),
            _ => {
                let inum = group.namespace()?.current()?;
                owners.of_netns(inum, 0).map(|known| Arc::clone(&known.owner))
            }
        }
    }

    /// A network namespace for people: its name and number, or its number.
    pub fn namespace(&self, inum: u32) -> String {
        match self.netns_names.get(&inum) {
            Some(name) => format!("{name} ({inum})"),
            None => inum.to_string(),
        }
    }
}
