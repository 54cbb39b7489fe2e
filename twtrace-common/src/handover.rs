//! What kernel programs keep of one CPU.

use crate::Counter;

/// What passes between programs on one CPU with softirqs off.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Handover {
    /// Timewait socket that was armed last (before Linux 6.11).
    pub armed_tw: u64,
    /// What it was armed with, jiffies.
    pub armed: u64,
    /// Timewait socket inside `tcp_timewait_state_process()`, 0 if none.
    pub processing: u64,
    /// Its substate when it went in.
    pub processing_state: u64,
    /// What `tw_timer_handler()` was called with last: within the socket whose time is up.
    pub expiring: u64,
    /// Timewait socket whose end was announced last, for those not followed.
    pub marked: u64,
    /// The `EndReason` announced.
    pub marked_reason: u64,
    /// Timewait socket inside `tcp_twsk_unique()` (kprobe only).
    pub unique_tw: u64,
    /// Whether that `connect()` came with its port bound beforehand.
    pub unique_bound: u64,
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
