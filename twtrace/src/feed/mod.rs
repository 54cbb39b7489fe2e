//! What flows into a pipeline, wherever it comes from: the kernel programs, a recording, or a
//! daemon that has the kernel programs.
//!
//! A session is the fold of its inputs ([`Core`]), and nothing else: whoever keeps the inputs can
//! have the same answer again.

mod adoption;
mod auditor;
pub mod beside;
mod core;
mod crowds;
mod gathering;
pub mod healing;
mod kernel;
mod nat;
mod open;
mod opening;
pub mod owners;
pub mod walk;

pub use self::{
    core::{Core, NoMoment},
    gathering::DRAIN_INTERVAL,
    kernel::{KernelFeed, boot_id, monotonic_ns, now},
    opening::Opening,
};
