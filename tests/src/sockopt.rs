//! The one socket option that neither std nor rustix knows.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Sets TCP_LINGER2: seconds an orphan may stay in FIN_WAIT2; negative means reset at close.
pub fn set_linger2(socket: impl AsFd, seconds: i32) -> io::Result<()> {
    // SAFETY: the descriptor is open for the length of the borrow, and the value is an int that
    // lives across the call with its true size beside it.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_LINGER2,
            (&raw const seconds).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
