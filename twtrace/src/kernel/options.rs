//! What a caller may choose of the kernel side.

use twtrace_common::Filter;

use crate::attached::{Backend, ObjectKind, TypesFrom};

/// How to attach and what to report.
#[derive(Clone, Debug)]
pub struct Options {
    /// The only object to load; `None` takes the one for ring buffers where the kernel has them.
    pub object: Option<ObjectKind>,
    /// The only way to try; `None` tries all.
    pub attach: Option<Backend>,
    /// Whether ends are followed.
    pub follow_ends: bool,
    /// Which sockets are reported.
    pub filter: Filter,
    /// Type information that offsets are taken from.
    pub btf: TypesFrom,
    /// Most sockets followed at once.
    pub max_live: u32,
    /// Size of the ring buffer, bytes; rounded up to a power of two by the loader.
    pub ring_bytes: u32,
}
