//! Control groups by their identifier.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::{Path, PathBuf},
};

/// `FILEID_KERNFS`, include/linux/exportfs.h: a handle that is the identifier of a kernfs node
/// (`kernfs_fh_to_dentry()`, fs/kernfs/mount.c; 5.5 on).
const FILEID_KERNFS: i32 = 0xfe;

/// `struct file_handle`, include/linux/fs.h, with a kernfs node's identifier.
#[repr(C)]
struct Handle {
    handle_bytes: u32,
    handle_type: i32,
    id: [u8; 8],
}

/// The path of a control group from `root`, the directory of the root group, without a walk over all
/// of them.
///
/// # Errors
/// It is gone (`ESTALE`), or CAP_DAC_READ_SEARCH is missing (`EPERM`), or the kernel has no such handles.
pub fn path_of(root: &Path, id: u64) -> io::Result<PathBuf> {
    let mount = File::open(root)?;
    let mut handle = Handle { handle_bytes: 8, handle_type: FILEID_KERNFS, id: id.to_ne_bytes() };
    // SAFETY: the handle begins as the kernel's does and has as many bytes behind as it says; the
    // descriptor is open.
    let opened = unsafe {
        libc::open_by_handle_at(
            mount.as_raw_fd(),
            (&raw mut handle).cast(),
            libc::O_PATH | libc::O_CLOEXEC | libc::O_DIRECTORY,
        )
    };
    if opened < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given this descriptor to nobody else.
    let directory = unsafe { OwnedFd::from_raw_fd(opened) };
    let path = fs::read_link(format!("/proc/self/fd/{}", directory.as_raw_fd()))?;
    // One that was removed meanwhile has " (deleted)" behind its name, and no path.
    let gone = || io::Error::from_raw_os_error(libc::ESTALE);
    let relative = path.strip_prefix(root).map_err(|_| gone())?;
    if !path.is_dir() {
        return Err(gone());
    }
    Ok(Path::new("/").join(relative))
}
