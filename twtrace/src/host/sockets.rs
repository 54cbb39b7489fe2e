//! The TCP sockets of a network namespace, as `net/tcp` and `net/tcp6` list them.
//!
//! Line by line: sock_diag would tell the same, but makes the kernel load a module where it is not
//! loaded, and gives every socket a cookie.

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use super::HostFactError;

/// State of a listening socket, `TCP_LISTEN`.
const LISTEN: &str = "0A";
/// State of a socket that connects, `TCP_SYN_SENT`.
const SYN_SENT: &str = "02";
/// State of a socket that the peer has closed and this end has not, `TCP_CLOSE_WAIT`.
const CLOSE_WAIT: &str = "08";
/// States of a socket that this end has closed and that waits for the peer's ACK: `TCP_FIN_WAIT1`,
/// `TCP_LAST_ACK`, `TCP_CLOSING`.
const UNANSWERED: [&str; 3] = ["04", "09", "0B"];
/// State of one that waits for the peer's FIN, `TCP_FIN_WAIT2`.
const FIN_WAIT2: &str = "05";
/// Inode number of a socket that no program has any more.
const NO_INODE: &str = "0";
/// Beginning of a TIME_WAIT socket's timer, mini-sockets' too: `get_timewait4_sock()`,
/// net/ipv4/tcp_ipv4.c. No other socket has it.
const TIMEWAIT_TIMER: &str = "03:";
/// What timers are told in, whatever the kernel ticks at: `USER_HZ`, include/asm-generic/param.h.
const TIMER_UNIT: Duration = Duration::from_millis(10);

/// One socket: the words of its line.
#[derive(Clone, Copy, Debug)]
pub struct Socket<'a> {
    /// Whether it is one of the IPv6 family, whatever its addresses.
    pub is_v6: bool,
    local: &'a str,
    remote: &'a str,
    state: &'a str,
    timer: &'a str,
    inode: &'a str,
}

/// What is told of a socket in TIME_WAIT, and of a FIN_WAIT2 mini-socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeWait {
    /// Its substate: `TCP_TIME_WAIT` (6) or `TCP_FIN_WAIT2` (5).
    pub state: u8,
    /// Time until its timer is due.
    pub left: Duration,
}

impl<'a> Socket<'a> {
    /// Reads a line: number, local, remote, state, queues, timer, retransmits, user, timeout, inode.
    fn parse(line: &'a str, is_v6: bool) -> Option<Self> {
        let mut words = line.split_ascii_whitespace().skip(1);
        let (local, remote, state) = (words.next()?, words.next()?, words.next()?);
        let timer = words.nth(1)?;
        Some(Self { is_v6, local, remote, state, timer, inode: words.nth(3).unwrap_or("") })
    }

    /// Whether a program listens on it.
    pub fn listens(&self) -> bool {
        self.state == LISTEN
    }

    /// Whether it waits for the answer to its SYN.
    pub fn connects(&self) -> bool {
        self.state == SYN_SENT
    }

    /// Whether the peer has closed it, and the program here has not.
    pub fn is_left_open(&self) -> bool {
        self.state == CLOSE_WAIT
    }

    /// Whether the program here has closed it, and the peer has not acknowledged that. One that is shut
    /// down for sending only is a program's still.
    pub fn is_unanswered(&self) -> bool {
        UNANSWERED.contains(&self.state) && self.inode == NO_INODE
    }

    /// Whether the program here has closed it, and the peer has not closed its end: a full socket in
    /// FIN_WAIT2, as it is while `tcp_fin_timeout` is above 60 s.
    pub fn is_half_closed(&self) -> bool {
        self.state == FIN_WAIT2 && self.inode == NO_INODE && !self.is_in_time_wait()
    }

    /// Whether the program here has shut it down for sending and has it still, and the peer has not
    /// closed its end: FIN_WAIT2, without a timer as long as the program has it.
    pub fn is_shut_down(&self) -> bool {
        self.state == FIN_WAIT2 && self.inode != NO_INODE && !self.is_in_time_wait()
    }

    /// Whether it is in TIME_WAIT, or a FIN_WAIT2 mini-socket.
    pub fn is_in_time_wait(&self) -> bool {
        self.timer.starts_with(TIMEWAIT_TIMER)
    }

    /// What is told of it if it is in TIME_WAIT; `None` also for what cannot be understood.
    pub fn time_wait(&self) -> Option<TimeWait> {
        let left = self.timer.strip_prefix(TIMEWAIT_TIMER)?;
        let left = u32::from_str_radix(left, 16).ok()?;
        let state = u8::from_str_radix(self.state, 16).ok()?;
        Some(TimeWait { state, left: TIMER_UNIT * left })
    }

    /// This end and the other; IPv4 addresses are such, not v4-mapped. `None` for what cannot be
    /// understood.
    pub fn ends(&self) -> Option<(SocketAddr, SocketAddr)> {
        Some((address(self.local)?, address(self.remote)?))
    }
}

/// An address and a port in hexadecimal: the address as 32-bit words in this machine's byte order,
/// the port as a number.
fn address(text: &str) -> Option<SocketAddr> {
    let (words, port) = text.split_once(':')?;
    let word = |at: usize| {
        let word = u32::from_str_radix(words.get(at * 8..at * 8 + 8)?, 16).ok()?;
        Some(u32::from_be_bytes(word.to_ne_bytes()))
    };
    let ip = match words.len() {
        8 => IpAddr::V4(Ipv4Addr::from_bits(word(0)?)),
        32 => {
            let bits = (0..4).try_fold(0_u128, |bits, at| Some(bits << 32 | u128::from(word(at)?)));
            IpAddr::V6(Ipv6Addr::from_bits(bits?)).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

/// Shows each socket of both families below `net_root` (`/proc/thread-self/net`); `show` answers
/// `None` if it cannot be understood.
///
/// Time grows with the namespace's sockets, some 2 us each; memory does not.
///
/// # Errors
/// [`HostFactError`]. A kernel without IPv6 has no `tcp6`, which is none.
pub fn read(
    net_root: &Path,
    mut show: impl FnMut(Socket<'_>) -> Option<()>,
) -> Result<(), HostFactError> {
    read_file(&net_root.join("tcp"), |line| show(Socket::parse(line, false)?))?;
    read_file(&net_root.join("tcp6"), |line| show(Socket::parse(line, true)?))
}

fn read_file(path: &Path, mut show: impl FnMut(&str) -> Option<()>) -> Result<(), HostFactError> {
    let unreadable = |source| HostFactError::Unreadable { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(unreadable(error)),
    };
    let mut file = BufReader::with_capacity(1 << 16, file);
    let mut line = String::new();
    file.read_line(&mut line).map_err(unreadable)?;
    loop {
        line.clear();
        if file.read_line(&mut line).map_err(unreadable)? == 0 {
            return Ok(());
        }
        show(&line).ok_or_else(|| HostFactError::malformed(path, &line, "a line of a socket"))?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A mini-socket as Linux 6.18 printed it on a little-endian machine.
    #[cfg(target_endian = "little")]
    #[test]
    fn a_timewait_socket_is_told_with_its_substate_and_what_is_left_of_its_timer() {
        let line = "   3: 0100000A:4E23 0200000A:1F90 05 00000000:00000000 03:00001637 00000000 0";
        let socket = Socket::parse(line, false).unwrap();
        assert!(socket.is_in_time_wait() && !socket.listens());
        let left = Duration::from_millis(56_870);
        assert_eq!(socket.time_wait(), Some(TimeWait { state: 5, left }));
        let ends = ("10.0.0.1:20003".parse().unwrap(), "10.0.0.2:8080".parse().unwrap());
        assert_eq!(socket.ends(), Some(ends));
    }

    #[test]
    fn an_open_connection_is_in_no_time_wait() {
        let line = "0: 0100000A:4E20 0200000A:1F90 05 0:0 02:00000F00 0 0";
        let socket = Socket::parse(line, false).unwrap();
        assert_eq!((socket.is_in_time_wait(), socket.time_wait()), (false, None));
    }

    #[test]
    fn what_a_program_closed_is_told_from_what_it_only_shut_down_and_from_what_it_left_open() {
        let told = |state: &str, inode: u32| {
            let line = format!("0: 0100000A:4E20 0200000A:1F90 {state} 0:0 02:0 0 0 0 {inode} 1");
            let socket = Socket::parse(&line, false).unwrap();
            [
                socket.is_unanswered(),
                socket.is_half_closed(),
                socket.is_shut_down(),
                socket.is_left_open(),
            ]
        };
        const NONE: [bool; 4] = [false; 4];
        for state in ["04", "09", "0B"] {
            assert_eq!(told(state, 0), [true, false, false, false]);
            assert_eq!(told(state, 9), NONE);
        }
        assert_eq!(told("05", 0), [false, true, false, false]);
        assert_eq!(told("05", 9), [false, false, true, false]);
        assert_eq!((told("08", 9), told("01", 9)), ([false, false, false, true], NONE));
    }
}
