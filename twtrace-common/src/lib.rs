//! What both sides of the kernel boundary compile: records, settings and counters of twtrace.
//!
//! This crate is `no_std`, has no dependencies and no features, so that the kernel programs and
//! the userspace program cannot disagree about a byte.
#![no_std]

mod config;
mod counter;
mod event;
mod failed;
mod handover;
mod layout;
mod live;
mod netns;

pub use config::{CallerRange, CidrFilter, Config, Filter, MAX_CALLERS, MAX_CIDRS};
pub use counter::Counter;
pub use event::{
    Decode, EndReason, Ended, Entered, Flow, Header, Kind, PerCpuRefusal, PortChoice, RefusalKey,
    RefusalReason, Refusals, ended_flags, entered_flags,
};
pub use failed::{CallResult, Failed, Failure, FailureKey, PerCpuFailure, failed_flags};
pub use handover::{Cpu, Handover};
pub use layout::{Field, FieldSource, Layout, NET_BYTES};
pub use live::{FlowKey, Live};
pub use netns::{NetnsCounts, NetnsKey, PerCpuNetns};

/// Version of the wire records; raised whenever a byte of [`Entered`] or [`Ended`] changes meaning.
pub const ABI: u32 = 2;

/// `TCP_SYN_SENT`, include/net/tcp_states.h; like all of these unchanged since Linux 2.6.
pub const TCP_SYN_SENT: u8 = 2;
/// `TCP_FIN_WAIT1`.
pub const TCP_FIN_WAIT1: u8 = 4;
/// `TCP_FIN_WAIT2`.
pub const TCP_FIN_WAIT2: u8 = 5;
/// `TCP_TIME_WAIT`.
pub const TCP_TIME_WAIT: u8 = 6;
/// `TCP_CLOSE`.
pub const TCP_CLOSE: u8 = 7;
/// `TCP_LISTEN`.
pub const TCP_LISTEN: u8 = 10;
/// `TCP_CLOSING`.
pub const TCP_CLOSING: u8 = 11;
/// `AF_INET`, include/linux/socket.h.
pub const AF_INET: u16 = 2;
/// `AF_INET6`, include/linux/socket.h.
pub const AF_INET6: u16 = 10;
