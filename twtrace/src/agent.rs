//! What the agent knows of itself: the read model beside the summary.

use std::{collections::HashMap, time::SystemTime};

use crate::{
    attached::{Backend, FailedWay, ObjectKind, ProgramCost, Types},
    audit::Audit,
    host::process::Process,
    units::Clock,
};

/// What the owner of the pipeline knows of itself.
#[derive(Clone, Debug)]
pub struct Status {
    /// How the programs are attached.
    pub backend: Backend,
    /// Which of the two objects of kernel programs runs.
    pub object: ObjectKind,
    /// Whether they know where the kernel keeps its fields.
    pub types: Types,
    /// Better ways that did not work, and why.
    pub refused_backends: Vec<FailedWay>,
    /// Whether refused `bind()` calls are seen.
    pub sees_binds: bool,
    /// When counting began, `CLOCK_MONOTONIC`.
    pub since_ns: u64,
    /// What gives moments their time of day: the same clock until that is set.
    pub clock: Clock,
    /// What the kernel says of each attached program.
    pub programs: Vec<ProgramCost>,
    /// What the kernel itself counted, against what its programs did, at the last look; `None` where
    /// that cannot be compared.
    pub audit: Option<Audit>,
    /// Names of network namespaces then, by inode number.
    pub netns_names: HashMap<u32, String>,
    /// What cannot be done for want of a right, one sentence each.
    pub limits: Vec<String>,
    /// Keys of the configuration that wait for a restart.
    pub restart_needed: Vec<&'static str>,
    /// When the state file was last written; `None` if never.
    pub state_saved: Option<SystemTime>,
    /// Why it could not be written the last time.
    pub state_fault: Option<String>,
}

impl Status {
    /// One that began at a time, of programs for ring buffers that know the kernel's types, with
    /// nothing told besides.
    pub fn bare(backend: Backend, clock: Clock) -> Self {
        Self {
            backend,
            object: ObjectKind::RingBuf,
            types: Types::Known,
            refused_backends: Vec::new(),
            sees_binds: backend.sees_refusals(),
            since_ns: clock.mono_ns,
            clock,
            programs: Vec::new(),
            audit: None,
            netns_names: HashMap::new(),
            limits: Vec::new(),
            restart_needed: Vec::new(),
            state_saved: None,
            state_fault: None,
        }
    }

    /// When counting began.
    pub fn since(&self) -> SystemTime {
        self.clock.wall(self.since_ns)
    }
}

/// Who asked so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clients {
    /// Connections now.
    pub connected: u64,
    /// Requests answered.
    pub requests: u64,
    /// Connections refused, all places being taken.
    pub refused: u64,
    /// Readers of a stream that were dropped because they did not keep up.
    pub dropped: u64,
}

/// All of it.
#[derive(Clone, Debug)]
pub struct Agent {
    /// The owner of the pipeline.
    pub status: Status,
    /// The process.
    pub process: Process,
    /// The clients of the API.
    pub clients: Clients,
}
