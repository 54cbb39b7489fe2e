//! The kernel side as userspace sees it: the only module that uses aya.
#![allow(unsafe_code, reason = "handing settings over as bytes, and system calls rustix lacks")]

mod attach;
mod btf;
mod hooks;
mod inventory;
mod layout;
mod namespaces;
mod object;
mod preflight;
pub mod rights;
mod source;
mod symbols;

use std::{fmt, path::PathBuf};

use serde::{Deserialize, Serialize};

pub use attach::{Options, ProgramCost, Refusal, Tracer};
pub use btf::{BtfError, BtfIndex};
pub use inventory::Inventory;
pub use layout::resolve as resolve_layout;
pub use namespaces::{Namespace, Namespaces, find as find_namespace};
pub use preflight::release;
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
        "kernel {release} has no BPF ring buffer; twtrace needs Linux 5.8 or a distribution \
         kernel that carries it back (such as RHEL 8.5)"
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
