//! Who called.

use std::{borrow::Cow, fmt};

use twtrace_common::{Failed, failed_flags};

/// Who called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Program {
    /// Process, as the initial PID namespace numbers it.
    pub pid: u32,
    /// Name of the thread, padded with zeroes.
    pub comm: [u8; 16],
    /// Owner of the socket.
    pub uid: Option<u32>,
    /// Inode number of the control group that owns the socket.
    pub cgroup: Option<u64>,
    /// Whether it is a thread of the kernel, and the owner of the socket somebody else.
    pub kernel_thread: Option<bool>,
}

impl Program {
    /// Of what the kernel programs noted.
    pub const fn of(pid: u32, comm: [u8; 16], uid: u32, cgroup: u64, flags: u16) -> Self {
        Self {
            pid,
            comm,
            uid: if flags & failed_flags::OWNER_UNKNOWN == 0 { Some(uid) } else { None },
            cgroup: if cgroup == 0 { None } else { Some(cgroup) },
            kernel_thread: if flags & failed_flags::THREAD_UNKNOWN == 0 {
                Some(flags & failed_flags::KERNEL_THREAD != 0)
            } else {
                None
            },
        }
    }

    /// What was noted of it beside names and numbers.
    pub(super) const fn flags(&self) -> u16 {
        let thread = match self.kernel_thread {
            Some(true) => failed_flags::KERNEL_THREAD,
            Some(false) => 0,
            None => failed_flags::THREAD_UNKNOWN,
        };
        thread | if self.uid.is_none() { failed_flags::OWNER_UNKNOWN } else { 0 }
    }

    /// Its name.
    pub fn name(&self) -> Cow<'_, str> {
        comm_text(&self.comm)
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.kernel_thread == Some(true) { "kernel thread " } else { "" };
        write!(f, "{kind}{} (pid {})", self.name(), self.pid)
    }
}

/// A name without the zeroes behind it. Anybody may call himself what he likes.
pub fn comm_text(comm: &[u8; 16]) -> Cow<'_, str> {
    let length = comm.iter().position(|byte| *byte == 0).unwrap_or(comm.len());
    String::from_utf8_lossy(&comm[..length])
}

impl From<&Failed> for Program {
    fn from(failed: &Failed) -> Self {
        Self::of(failed.pid, failed.comm, failed.uid, failed.cgroup, failed.header.flags)
    }
}
