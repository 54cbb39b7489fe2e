//! Facts of the host that the kernel programs do not send.

pub mod cgroup;
