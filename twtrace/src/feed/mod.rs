//! What flows into a pipeline, wherever it comes from: the kernel programs, a recording, or a
//! daemon that has the kernel programs.
//!
//! A session is the fold of its inputs ([`Core`]), and nothing else: whoever keeps the inputs can
//! have the same answer again.

mod core;
mod kernel;
mod open;
mod stream;

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use twtrace_common::{ABI, RefusalKey};

pub use self::{
    core::{Core, NoMoment},
    kernel::{KernelFeed, boot_id, monotonic_ns, now},
    stream::{Pace, StreamEnd, StreamFeed},
};
use crate::{
    event::Batch,
    filter::Selection,
    host::facts::HostFacts,
    kernel::{Backend, ObjectKind, Refusal, Totals, Types},
    peer::{Past, Refused},
    units::{Clock, Hz},
};

/// Where a feed comes from; told once, before the first input.
#[derive(Clone, Debug, Serialize, Deserialize)]
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
    /// Which programs they are.
    #[serde(default)]
    pub object: ObjectKind,
    /// Whether they know where the kernel keeps its fields.
    #[serde(default)]
    pub types: Types,
    /// Better ways that did not work.
    pub refused: Vec<Refusal>,
    /// Whether ends are followed.
    pub follow_ends: bool,
    /// Which sockets are meant, and what of it the records do not know yet.
    #[serde(default)]
    pub selection: Selection,
    /// Names of network namespaces at the start, by inode number.
    #[serde(default)]
    pub netns_names: HashMap<u32, String>,
    /// Names of control groups at the start, by identifier; empty where nobody asked for them.
    #[serde(default)]
    pub cgroup_names: HashMap<u64, String>,
    /// Totals before the first input: a feed that begins in the middle of another counts from
    /// here.
    #[serde(default)]
    pub totals_before: Totals,
    /// Program runs skipped before the first input.
    #[serde(default)]
    pub skipped_before: u64,
}

/// One thing to take in. Inputs have an order, and each is taken in whole.
#[derive(Clone, Debug)]
pub enum Input {
    /// Wire records of the kernel programs.
    Records(Batch),
    /// Takeovers refused since the last of these, by peer.
    Refusals(Vec<(RefusalKey, Refused)>),
    /// Sockets that are gone without having been seen to end, by address and time of entry.
    Vanished(Vec<(u64, u64)>),
    /// What was known of peers before this session.
    Past(Vec<Past>),
    /// The sockets present at the start have all been read, at this time of `CLOCK_MONOTONIC`,
    /// nanoseconds.
    Ready(u64),
    /// What a summary of this moment needs beside the events.
    Moment(Box<Moment>),
}

/// The facts of one moment. All events before it have been taken in.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Moment {
    /// The moment.
    pub clock: Clock,
    /// The kernel side's exact totals.
    pub totals: Totals,
    /// Program runs the kernel skipped.
    pub skipped: u64,
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
            follow_ends: true,
            selection: Selection::default(),
            netns_names: HashMap::new(),
            cgroup_names: HashMap::new(),
            totals_before: Totals::default(),
            skipped_before: 0,
        }
    }

    /// The same in the middle: what was counted until now is not told again, and names are those
    /// of `moment`, the first that will be told.
    #[must_use]
    pub fn begun_again(&self, clock: Clock, totals_before: Totals, moment: &Moment) -> Self {
        Self {
            clock,
            totals_before,
            skipped_before: moment.skipped,
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
