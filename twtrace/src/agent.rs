//! What the agent knows of itself: the read model beside the summary.

use std::time::SystemTime;

use crate::{
    host::process::Process,
    kernel::{Backend, ObjectKind, ProgramCost, Refusal, Types},
    units::Clock,
};

/// What the owner of the pipeline knows of itself.
#[derive(Clone, Debug)]
pub struct Status {
    /// How the programs are attached.
    pub backend: Backend,
    /// Which programs they are.
    pub object: ObjectKind,
    /// Whether they know where the kernel keeps its fields.
    pub types: Types,
    /// Better ways that did not work, and why.
    pub refused_backends: Vec<Refusal>,
    /// When counting began, `CLOCK_MONOTONIC`.
    pub since_ns: u64,
    /// What gives moments their time of day: the same clock until that is set.
    pub clock: Clock,
    /// What the kernel says of each attached program.
    pub programs: Vec<ProgramCost>,
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
