//! What the kernel programs count of each network namespace, to be held against the kernel's own
//! counters.

/// A network namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct NetnsKey {
    /// `net_cookie`, which no other one ever has; 0 when unknown.
    pub cookie: u64,
    /// Inode number.
    pub netns: u32,
    /// Always 0.
    pub reserved: u32,
}

impl NetnsKey {
    /// The namespace with this number and this cookie.
    #[inline(always)]
    pub const fn new(netns: u32, cookie: u64) -> Self {
        Self { cookie, netns, reserved: 0 }
    }
}

/// What is counted of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct NetnsCounts {
    /// Calls of `tcp_time_wait()`, overflows among them where they are seen.
    pub entered: u64,
    /// Those of them for which there was no timewait socket.
    pub overflow: u64,
    /// Ends, whichever socket's.
    pub ended: u64,
    /// Those of them where a `connect()` took the port over.
    pub reused: u64,
    /// Those of them where the timer ran out.
    pub expired: u64,
}

impl NetnsCounts {
    /// Both together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            entered: self.entered + other.entered,
            overflow: self.overflow + other.overflow,
            ended: self.ended + other.ended,
            reused: self.reused + other.reused,
            expired: self.expired + other.expired,
        }
    }

    /// What was counted since `before`, a moment of the same programs.
    #[must_use]
    pub const fn since(self, before: Self) -> Self {
        Self {
            entered: self.entered.saturating_sub(before.entered),
            overflow: self.overflow.saturating_sub(before.overflow),
            ended: self.ended.saturating_sub(before.ended),
            reused: self.reused.saturating_sub(before.reused),
            expired: self.expired.saturating_sub(before.expired),
        }
    }
}

/// [`NetnsKey`] of one CPU, for kernels without per-CPU maps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct PerCpuNetns {
    /// The namespace.
    pub key: NetnsKey,
    /// Number of the CPU.
    pub cpu: u32,
    /// Always 0.
    pub reserved: u32,
}

const _: () = assert!(size_of::<NetnsKey>() == 16, "hidden padding");
const _: () = assert!(size_of::<PerCpuNetns>() == 24, "hidden padding");
