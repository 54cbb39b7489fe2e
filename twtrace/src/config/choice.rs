//! What there is to choose from.

use clap::ValueEnum;

use crate::attached::{Backend, ObjectKind};

/// How to attach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Attach {
    /// The first of the others that works.
    Auto,
    /// BPF trampolines.
    Fentry,
    /// kprobes.
    Kprobe,
    /// Timer and socket tracepoints.
    Tracepoint,
}

impl Attach {
    /// The only way to try, if the user named one.
    pub const fn only(self) -> Option<Backend> {
        match self {
            Self::Auto => None,
            Self::Fentry => Some(Backend::Fentry),
            Self::Kprobe => Some(Backend::Kprobe),
            Self::Tracepoint => Some(Backend::Tracepoint),
        }
    }
}

/// Which kernel programs to load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WhichObject {
    /// By what the kernel can do.
    Auto,
    /// For kernels with ring buffers and type information, 5.8 on.
    Ringbuf,
    /// For kernels from 4.4 on.
    Perf,
}

impl WhichObject {
    /// The only object to load, if the user named one.
    pub const fn only(self) -> Option<ObjectKind> {
        match self {
            Self::Auto => None,
            Self::Ringbuf => Some(ObjectKind::RingBuf),
            Self::Perf => Some(ObjectKind::Perf),
        }
    }
}
