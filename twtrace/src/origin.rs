//! What a session is of: where its inputs come from, and the inputs.

use std::collections::HashMap;

use twtrace_common::{ABI, Failure, FailureKey, RefusalKey};

use crate::{
    attached::{Backend, FailedWay, ObjectKind, Types},
    audit::Audit,
    event::Batch,
    filter::Selection,
    host::facts::HostFacts,
    owner::Owned,
    peer::{Past, Refused},
    totals::Totals,
    units::{Clock, Hz},
};

/// Where a feed comes from; told once, before the first input.
#[derive(Clone, Debug)]
pub struct Origin {
    /// Version of the wire records.
    pub abi: u32,
    /// Version of the program that read them from the kernel.
    pub program: String,
    /// Name of the host they come from (`uname -n`).
    pub host: String,
    /// `uname -r` of the kernel they come from.
    pub kernel: String,
    /// That kernel's boot: `CLOCK_MONOTONIC` times compare within one boot only.
    pub boot_id: String,
    /// When it began: what entered before and is not told of at first stays unknown.
    pub clock: Clock,
    /// Its tick rate.
    pub hz: Hz,
    /// Whether it has `tcp_tw_recycle`.
    pub recycle_exists: bool,
    /// How the programs are attached.
    pub backend: Backend,
    /// Which of the two objects of kernel programs runs.
    pub object: ObjectKind,
    /// Whether they know where the kernel keeps its fields.
    pub types: Types,
    /// Better ways that did not work.
    pub refused: Vec<FailedWay>,
    /// Whether programs of the root control group show refused `bind()` calls, where functions do not.
    pub binds_by_cgroup: bool,
    /// Whether ends are followed.
    pub follow_ends: bool,
    /// Whether failed calls are counted: not in recordings of before there was such a thing.
    pub counts_failures: bool,
    /// Which sockets are meant, and what of it the records do not know yet.
    pub selection: Selection,
    /// Names of network namespaces at the start, by inode number.
    pub netns_names: HashMap<u32, String>,
    /// Names of control groups at the start, by identifier; empty where nobody asked for them.
    pub cgroup_names: HashMap<u64, String>,
    /// Totals before the first input: a feed that begins in the middle of another counts from
    /// here.
    pub totals_before: Totals,
    /// Program runs skipped before the first input.
    pub skipped_before: u64,
    /// What was compared before the first input.
    pub audit_before: Option<Audit>,
}

/// One thing to take in. Inputs have an order, and each is taken in whole.
#[derive(Clone, Debug)]
pub enum Input {
    /// Whose control groups and network namespaces are, found out once, before the first record that
    /// tells of them.
    Owners(Vec<Owned>),
    /// Wire records of the kernel programs.
    Records(Batch),
    /// Takeovers refused since the last of these, by peer.
    Refusals(Vec<(RefusalKey, Refused)>),
    /// Calls that failed since the last of these, by place, cause and program.
    Failures(Vec<(FailureKey, Failure)>),
    /// Calls that failed before this session: they are told of, and not among its counts.
    FailuresBefore(Vec<(FailureKey, Failure)>),
    /// Sockets that are gone without having been seen to end, by address and time of entry.
    Vanished(Vec<(u64, u64)>),
    /// Of namespaces, by inode number, how many sockets live at most that are not followed.
    Unfollowed(Vec<(u32, u64)>),
    /// What was known of peers before this session.
    Past(Vec<Past>),
    /// The sockets present at the start have all been read, at this time of `CLOCK_MONOTONIC`,
    /// nanoseconds.
    Ready(u64),
    /// What a summary of this moment needs beside the events.
    Moment(Box<Moment>),
}

/// The facts of one moment. All events before it have been taken in.
#[derive(Clone, Debug)]
pub struct Moment {
    /// The moment.
    pub clock: Clock,
    /// The kernel side's exact totals.
    pub totals: Totals,
    /// Program runs the kernel skipped.
    pub skipped: u64,
    /// What the kernel itself counted, against what its programs did; `None` where that cannot be
    /// compared.
    pub audit: Option<Audit>,
    /// The host's facts; `None` where no rule will be applied to them.
    pub facts: Option<HostFacts>,
    /// Names of network namespaces, by inode number.
    pub netns_names: HashMap<u32, String>,
    /// Names of control groups, by identifier; empty where nobody asked for them.
    pub cgroup_names: HashMap<u64, String>,
}

impl Origin {
    /// One of records as this program knows them, of every socket and its end, with nothing counted,
    /// refused or named before; host, kernel and boot have no name.
    pub fn bare(backend: Backend, clock: Clock, hz: Hz) -> Self {
        Self {
            abi: ABI,
            program: env!("CARGO_PKG_VERSION").into(),
            host: String::new(),
            kernel: String::new(),
            boot_id: String::new(),
            clock,
            hz,
            recycle_exists: false,
            backend,
            object: ObjectKind::default(),
            types: Types::default(),
            refused: Vec::new(),
            binds_by_cgroup: false,
            follow_ends: true,
            counts_failures: true,
            selection: Selection::default(),
            netns_names: HashMap::new(),
            cgroup_names: HashMap::new(),
            totals_before: Totals::default(),
            skipped_before: 0,
            audit_before: None,
        }
    }

    /// Whether refused `bind()` calls are seen.
    pub const fn sees_binds(&self) -> bool {
        self.counts_failures && (self.backend.sees_refusals() || self.binds_by_cgroup)
    }

    /// The origin of a feed that begins while the session runs, for a client that comes later: totals
    /// counted so far are what it starts from, and names are those of `moment`, the first it will get.
    #[must_use]
    pub fn begun_again(&self, clock: Clock, totals_before: Totals, moment: &Moment) -> Self {
        Self {
            clock,
            totals_before,
            skipped_before: moment.skipped,
            audit_before: moment.audit.clone(),
            netns_names: moment.netns_names.clone(),
            cgroup_names: moment.cgroup_names.clone(),
            ..self.clone()
        }
    }
}

impl Moment {
    /// A moment of which nothing but the time is told.
    pub fn bare(clock: Clock) -> Self {
        Self {
            clock,
            totals: Totals::default(),
            skipped: 0,
            audit: None,
            facts: None,
            netns_names: HashMap::new(),
            cgroup_names: HashMap::new(),
        }
    }
}

/// What a session will want to know of each moment beside the counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// The host's facts, for findings.
    pub facts: bool,
    /// Names of control groups.
    pub cgroup_names: bool,
}
