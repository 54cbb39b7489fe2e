//! The kernel side as userspace sees it: the only module that uses aya.
#![allow(unsafe_code, reason = "handing settings over as bytes, and system calls rustix lacks")]

mod attach;
mod btf;
mod hooks;
mod inventory;
mod layout;
mod listing;
mod namespaces;
mod object;
mod old;
mod outlet;
mod perf;
mod preflight;
pub mod rights;
mod selftest;
mod source;
mod symbols;

use std::{fmt, path::PathBuf};

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

pub use attach::{Options, ProgramCost, Refusal, Tracer};
pub use btf::{BtfError, BtfIndex};
pub use inventory::Inventory;
pub use layout::resolve as resolve_layout;
pub use namespaces::{Namespace, Namespaces, find as find_namespace};
pub use object::ObjectKind;
pub use preflight::{give_back_memory, release};
pub use source::{Source, Totals};
pub use symbols::SymbolError;

/// How the kernel programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// BPF trampolines on the kernel's functions: the cheapest.
    Fentry,
    /// kprobes and kretprobes on the same functions.
    Kprobe,
    /// Timer and socket-state tracepoints, where functions cannot be hooked.
    Tracepoint,
}

impl Backend {
    /// From the cheapest and most complete to the last resort.
    pub const PREFERENCE: [Self; 3] = [Self::Fentry, Self::Kprobe, Self::Tracepoint];

    /// Name in output and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fentry => "fentry",
            Self::Kprobe => "kprobe",
            Self::Tracepoint => "tracepoint",
        }
    }

    /// What it cannot see, one clause each.
    pub const fn blind_spots(self) -> &'static [&'static str] {
        match self {
            Self::Fentry | Self::Kprobe => &[],
            Self::Tracepoint => &[
                "refused takeovers",
                "bucket overflow",
                "re-arms that land in the same timer bucket",
            ],
        }
    }

    /// Whether refusals and overflow are seen.
    pub const fn sees_refusals(self) -> bool {
        !matches!(self, Self::Tracepoint)
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether it is known where the kernel keeps its fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Types {
    /// From the kernel's own type information, or from a file that a connection of our own proved
    /// right.
    #[default]
    Known,
    /// From a file that could not be tried out, for want of a loopback interface.
    Unchecked,
    /// Only what is the same in every kernel: the front of a socket.
    Unknown,
}

impl Types {
    /// Name in machine output.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Known => "known",
            Self::Unchecked => "unchecked",
            Self::Unknown => "unknown",
        }
    }

    /// Whether timestamps, RTO, owner and settings are read.
    pub const fn are_known(self) -> bool {
        !matches!(self, Self::Unknown)
    }

    /// What that means for the figures, and what to do, if anything.
    pub const fn advice(self) -> Option<&'static str> {
        match self {
            Self::Known => None,
            Self::Unchecked => Some(
                "the BTF file could not be tried out, because loopback is down here: a file of \
                 another kernel would give wrong figures",
            ),
            Self::Unknown => Some(
                "not known without type information: timestamps, RTO, owner, what blocks the fast \
                 path. Give a BTF file of this kernel with --btf FILE: see docs/OLD-KERNELS.md",
            ),
        }
    }
}

/// What is not seen with these programs attached so.
pub fn blind_spots(backend: Backend, object: ObjectKind, types: Types) -> Vec<&'static str> {
    let mut spots = backend.blind_spots().to_vec();
    spots.extend(object.blind_spots());
    if !types.are_known() {
        spots.push("refused takeovers");
    }
    spots
}

/// Why the kernel programs are not running; each message names what is wrong and what to do.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The process may not load BPF programs.
    #[error(
        "twtrace needs {missing} to load its kernel programs: run it as root (sudo twtrace …), \
         or give the binary these capabilities"
    )]
    Privilege {
        /// The capabilities that are missing, in words.
        missing: String,
    },
    /// The running kernel publishes no type information.
    #[error(
        "no kernel type information at {path}: this kernel was built without \
         CONFIG_DEBUG_INFO_BTF; name a BTF file made for it with --btf FILE"
    )]
    NoBtf {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The type information is damaged or lacks a field twtrace needs.
    #[error("the type information in {path} does not fit: {source}")]
    BadBtf {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: BtfError,
    },
    /// Reading kernel memory is forbidden.
    #[error(
        "kernel lockdown is in confidentiality mode, which forbids reading kernel memory: \
         twtrace cannot work on this host (see {path})"
    )]
    Lockdown {
        /// The file that says so.
        path: PathBuf,
    },
    /// The kernel lacks the ring buffer.
    #[error(
        "kernel {release} has no BPF ring buffer, which needs Linux 5.8 or a distribution kernel \
         that carries it back (such as RHEL 8.5); --object perf does without"
    )]
    TooOld {
        /// `uname -r`.
        release: String,
    },
    /// The kernel has no memory for a map.
    #[error(
        "the kernel has no memory for twtrace's map {map}: make it smaller with --max-live or \
         --buffer, or see the memory limit of this control group"
    )]
    NoMemory {
        /// Name of the map.
        map: String,
    },
    /// The kernel charges maps to a limit that could not be raised.
    #[error(
        "the kernel refused twtrace's map {map}: before Linux 5.11 maps are charged to \
         RLIMIT_MEMLOCK, which is {limit} and could not be raised: run with CAP_SYS_RESOURCE or \
         after `ulimit -l unlimited`, or make the map smaller with --max-live"
    )]
    MemoryLimit {
        /// Name of the map.
        map: String,
        /// The limit, in words.
        limit: String,
    },
    /// The type information is of another kernel.
    #[error(
        "{path} is not of this kernel: {what}. Give a BTF file made for exactly this kernel, or none"
    )]
    WrongTypes {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        what: String,
    },
    /// The front of a socket is not where it is in every kernel known.
    #[error(
        "this kernel lays out its sockets as none that is known: of a connection that twtrace \
         made to itself, {0}. Give a BTF file made for this kernel with --btf FILE"
    )]
    UnknownLayout(String),
    /// The namespace's number cannot be read, so that it cannot be singled out.
    #[error("--netns needs type information on this kernel: give a BTF file with --btf FILE")]
    NoNamespaceNumber,
    /// The object for old kernels has kprobes only.
    #[error("--object perf attaches with kprobes only, not through {0}")]
    KprobesOnly(Backend),
    /// A map or the object could not be set up.
    #[error("the kernel refused twtrace's maps: {0}")]
    Object(String),
    /// Every way failed.
    #[error("{}", nothing_attached(.0))]
    NothingAttached(Vec<Refusal>),
    /// The sockets present at the start could not be read.
    #[error("cannot read the sockets already in TIME_WAIT: {0}")]
    Inventory(String),
    /// A namespace the user named does not exist.
    #[error(
        "no network namespace {name}: give a name from `ip netns`, an inode number, or a path \
         such as /proc/PID/ns/net"
    )]
    NoNamespace {
        /// What the user typed.
        name: String,
    },
    /// A ring buffer or map is missing from the object: a build fault.
    #[error("the embedded kernel object has no {0}")]
    Incomplete(&'static str),
    /// Watching the ring buffer failed.
    #[error("cannot wait on the ring buffer: {0}")]
    Ring(#[source] std::io::Error),
}

/// One line for each way that was tried.
fn nothing_attached(tried: &[Refusal]) -> String {
    let mut text = String::from("no way to attach to the kernel worked:");
    for refusal in tried {
        text.push_str(&format!("\n  {}: {}", refusal.backend, refusal.reason));
    }
    text
}

/// `CLOCK_MONOTONIC` now, nanoseconds: the clock of the kernel programs.
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}
