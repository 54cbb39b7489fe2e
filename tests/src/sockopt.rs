//! Socket options that neither std nor rustix knows.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// `IP_LOCAL_PORT_RANGE`, include/uapi/linux/in.h, since 6.3.
const IP_LOCAL_PORT_RANGE: libc::c_int = 51;

/// Sets TCP_LINGER2: seconds an orphan may stay in FIN_WAIT2; negative means reset at close.
pub fn set_linger2(socket: impl AsFd, seconds: i32) -> io::Result<()> {
    set(socket, libc::IPPROTO_TCP, libc::TCP_LINGER2, seconds)
}

/// Sets IP_BIND_ADDRESS_NO_PORT: a bind() of port 0 binds the address alone.
pub fn set_bind_address_no_port(socket: impl AsFd) -> io::Result<()> {
    set(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)
}

/// Sets IP_LOCAL_PORT_RANGE: the ports that connect() may choose for this socket.
pub fn set_local_port_range(socket: impl AsFd, low: u16, high: u16) -> io::Result<()> {
    let range = u32::from(high) << 16 | u32::from(low);
    set(socket, libc::IPPROTO_IP, IP_LOCAL_PORT_RANGE, range.cast_signed())
}

fn set(socket: impl AsFd, level: libc::c_int, name: libc::c_int, value: i32) -> io::Result<()> {
    // SAFETY: the descriptor is open for the length of the borrow, and the value is an int that
    // lives across the call with its true size beside it.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `SO_NETNS_COOKIE`, include/uapi/asm-generic/socket.h.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// The cookie of a socket's network namespace; `None` before Linux 5.14.
pub fn netns_cookie(socket: impl AsFd) -> Option<u64> {
    get(socket, libc::SOL_SOCKET, SO_NETNS_COOKIE).ok()
}

/// The state of a TCP socket, the first byte of `struct tcp_info`.
pub fn tcp_state(socket: impl AsFd) -> io::Result<u8> {
    get(socket, libc::IPPROTO_TCP, libc::TCP_INFO).map(|[state]: [u8; 1]| state)
}

/// What any bytes may be.
trait Plain: Copy + Default {}
impl Plain for u64 {}
impl Plain for [u8; 1] {}

/// Reads an option, or as much of its beginning as there is room for.
fn get<T: Plain>(socket: impl AsFd, level: libc::c_int, name: libc::c_int) -> io::Result<T> {
    let mut value = T::default();
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the descriptor is open for the length of the borrow, there is room for as many bytes
    // as said, and whatever bytes are written there make a value.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            (&raw mut value).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}
