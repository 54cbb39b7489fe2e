//! The host's files seen from a container that has them mounted somewhere.

use std::{fs::File, io, os::fd::AsFd, path::Path};

use rustix::{
    process::chroot,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

/// Makes `root`, where the host's root is mounted, this process's own, so that everything is found there:
/// procfs, the kernel's types, control groups, names of network namespaces, the logs of pods. The working
/// directory stays where it was: files named without a slash in front are the container's. To be called
/// before there are threads.
///
/// # Errors
/// There is no procfs of this process below it, or CAP_SYS_CHROOT is missing.
pub fn enter(root: &Path) -> io::Result<()> {
    if !root.join("proc/self").exists() {
        let why = "has no proc/self: mount the host's root with what is mounted in it, and share \
                   the host's process numbers (hostPID)";
        return Err(io::Error::new(io::ErrorKind::NotFound, why));
    }
    chroot(root)?;
    // Groups of processes are told from the root of the reader's own cgroup namespace. Where the first
    // process's may not be entered, they begin with steps up, which are left out.
    let entered = File::open("/proc/1/ns/cgroup").and_then(|namespace| {
        let kind = LinkNameSpaceType::ControlGroup;
        Ok(move_into_link_name_space(namespace.as_fd(), Some(kind))?)
    });
    if let Err(error) = entered {
        tracing::debug!(%error, "the host's cgroup namespace was not entered");
    }
    Ok(())
}
