//! What kernel programs keep of one CPU.

use crate::Counter;

/// What passes between programs on one CPU with softirqs off. Each part names the socket or the timer it
/// is about: where tasks switch in between all the same (PREEMPT_RT) it is another one's by then, and
/// the second program does without.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Handover {
    /// Timewait socket that was armed last (before Linux 6.11).
    pub armed_tw: u64,
    /// What it was armed with, jiffies.
    pub armed: u64,
    /// Timewait socket inside `tcp_timewait_state_process()`, 0 if none.
    pub processing: u64,
    /// What `tw_timer_handler()` was called with last: within the socket whose time is up.
    pub expiring: u64,
    /// Timewait socket whose end was announced last, for those not followed.
    pub marked: u64,
    /// The `EndReason` announced.
    pub marked_reason: u64,
    /// Timer that was cancelled in order to be set again, with interrupts off in between
    /// (tracepoints only).
    pub setting: u64,
    /// Whether it is only moved to another CPU.
    pub moving: u64,
    /// Socket whose `connect()` is to choose a port, the last one that began here (tracepoints only;
    /// written with softirqs on, and with `task` by nothing else).
    pub connecting: u64,
    /// Task that called it.
    pub task: u64,
    /// `net_cookie` of the network namespace that was last seen to be deleted here (tracepoints only).
    pub purging: u64,
}

/// What belongs to one CPU, for kernels without per-CPU maps.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Cpu {
    /// Exact totals, by [`Counter`].
    pub totals: [u64; Counter::COUNT as usize],
    /// What passes between programs.
    pub handover: Handover,
}

impl Default for Cpu {
    fn default() -> Self {
        Self { totals: [0; Counter::COUNT as usize], handover: Handover::default() }
    }
}
