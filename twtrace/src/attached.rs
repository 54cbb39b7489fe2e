//! How the kernel programs are attached, and what they cannot see so.

use std::{fmt, path::PathBuf};

use serde::{Deserialize, Serialize};

/// How the kernel programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// BPF trampolines on the kernel's functions: the cheapest.
    Fentry,
    /// kprobes and kretprobes on the same functions, and states of sockets.
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

/// Where the positions of the kernel's fields are to be taken from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TypesFrom {
    /// The kernel itself.
    #[default]
    Kernel,
    /// Nowhere: to do without.
    Nowhere,
    /// A BTF file made for it.
    File(PathBuf),
}

/// Which object runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ObjectKind {
    /// For kernels with ring buffers, 5.8 on.
    #[default]
    RingBuf,
    /// For kernels from 4.4 on: perf buffers and kprobes.
    Perf,
}

impl ObjectKind {
    /// Name in output and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RingBuf => "ringbuf",
            Self::Perf => "perf",
        }
    }

    /// What it cannot see, one clause each.
    pub const fn blind_spots(self) -> &'static [&'static str] {
        match self {
            Self::RingBuf => &[],
            Self::Perf => &["timestamps of sockets present at the start"],
        }
    }
}

/// A way that was tried and did not work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedWay {
    /// The way.
    pub backend: Backend,
    /// What the kernel said, in one line.
    pub reason: String,
}

/// What an attached program has cost so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgramCost {
    /// Its name in the object.
    pub name: &'static str,
    /// Times it ran and nanoseconds it took; `None` while `kernel.bpf_stats_enabled` is 0.
    pub runs: Option<(u64, u64)>,
}

/// What is not seen with these programs attached so; refused `bind()` calls among it if they are looked for
/// and missed.
pub fn blind_spots(
    backend: Backend,
    object: ObjectKind,
    types: Types,
    misses_binds: bool,
) -> Vec<&'static str> {
    let mut spots = backend.blind_spots().to_vec();
    if misses_binds {
        spots.push("refused bind()");
    }
    spots.extend(object.blind_spots());
    if !types.are_known() {
        spots.push("refused takeovers");
    }
    spots
}
