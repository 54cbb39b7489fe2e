//! The kernel side as userspace sees it: the only module that uses aya.
#![allow(unsafe_code, reason = "handing settings over as bytes, and system calls rustix lacks")]

mod attach;
mod binds;
mod btf;
mod cgroup;
mod clock;
mod events;
mod failures;
mod hooks;
mod inventory;
mod kprobes;
mod layout;
mod listing;
mod maps;
mod namespaces;
mod object;
mod options;
mod perf;
mod platform;
mod preflight;
mod programs;
pub mod rights;
mod ringbuf;
mod root;
mod selftest;
mod source;
mod symbols;
mod waiting;
mod walks;

use std::path::{Path, PathBuf};

pub use attach::Tracer;
pub use btf::{BtfError, BtfIndex};
pub use cgroup::path_of as cgroup_path;
pub use clock::monotonic_ns;
pub use inventory::Inventory;
pub use layout::resolve as resolve_layout;
pub use maps::watch;
pub use namespaces::{
    Namespace, Namespaces, Visitor, cookie as netns_cookie, find as find_namespace,
    find_known as find_known_namespace,
};
pub use object::bytes as object_bytes;
pub use options::Options;
pub use preflight::{give_back_memory, release};
pub use root::enter as enter_root;
pub use source::{Followed, SocketNames, Source};
pub use symbols::SymbolError;

use crate::attached::{Backend, FailedWay};

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
    #[error("{}", no_btf(.path))]
    NoBtf {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The user wants no type information to be read.
    #[error(
        "--btf none leaves the kernel's types out, and only the programs of --object perf do without"
    )]
    TypesLeftOut,
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
         RLIMIT_MEMLOCK, all of a user's together, which is {limit} and could not be raised: run \
         with CAP_SYS_RESOURCE, after `ulimit -l unlimited`, or in a unit with LimitMEMLOCK=infinity"
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
    NothingAttached(Vec<FailedWay>),
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

/// Why there are no types where they were looked for, and what to do.
fn no_btf(path: &Path) -> String {
    let shown = path.display();
    if path == Path::new(object::VMLINUX) {
        format!(
            "no kernel type information at {shown}: this kernel was built without \
             CONFIG_DEBUG_INFO_BTF; name a BTF file made for it with --btf FILE"
        )
    } else {
        format!("there is no file {shown}: --btf takes a BTF file made for exactly this kernel")
    }
}

/// One line for each way that was tried.
fn nothing_attached(tried: &[FailedWay]) -> String {
    let mut text = String::from("no way to attach to the kernel worked:");
    for refusal in tried {
        text.push_str(&format!("\n  {}: {}", refusal.backend, refusal.reason));
    }
    text
}
