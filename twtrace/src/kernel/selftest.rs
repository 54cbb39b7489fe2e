//! One connection of our own over loopback, of which everything is known: what the programs say of
//! it shows whether they read the right places.
//!
//! It closes into a FIN_WAIT2 mini-socket that a RST ends at once, so that it leaves nothing in
//! TIME_WAIT behind.

use std::{
    io::{self, Read as _},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    thread,
    time::{Duration, Instant, SystemTime},
};

use rustix::net::sockopt::set_socket_linger;
use twtrace_common::{
    Config, Decode, EndReason, Ended, Entered, Filter, Kind, NET_BYTES, PortChoice, TCP_FIN_WAIT2,
    entered_flags,
};

use super::{listing, monotonic_ns, platform::Perf};
use crate::units::Hz;

/// Longest wait for the kernel's side of the connection, and for what the programs say.
const PATIENCE: Duration = Duration::from_secs(2);
/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(2);
/// `TCPI_OPT_TIMESTAMPS`, include/uapi/linux/tcp.h.
const TIMESTAMPS_NEGOTIATED: u8 = 1;

/// A connection to ourselves.
pub struct Trial {
    client: TcpStream,
    server: TcpStream,
    local: SocketAddr,
    remote: SocketAddr,
    begun: Clocks,
}

/// What is known of it otherwise.
pub struct Truth {
    begun: Clocks,
    local: SocketAddr,
    remote: SocketAddr,
    netns: Option<u32>,
    timestamps: bool,
    rto_us: u32,
}

impl Trial {
    /// Connects.
    ///
    /// # Errors
    /// Loopback is down in this namespace.
    pub fn connect() -> io::Result<Self> {
        let begun = Clocks::now();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let remote = listener.local_addr()?;
        let client = TcpStream::connect_timeout(&remote, PATIENCE)?;
        let (server, local) = listener.accept()?;
        if local != client.local_addr()? {
            return Err(io::Error::other("somebody else connected"));
        }
        client.set_read_timeout(Some(PATIENCE))?;
        // A tcp_fin_timeout above 60 s would keep the full socket instead of a mini-socket.
        set_linger2(&client, 5)?;
        // One that is dropped before its end leaves nothing in TIME_WAIT.
        set_socket_linger(&client, Some(Duration::ZERO))?;
        server.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { client, server, local, remote, begun })
    }

    /// Lets only this connection pass.
    pub fn filter(&self) -> Filter {
        Filter {
            remote_port: self.remote.port(),
            local_port: self.local.port(),
            ..Filter::default()
        }
    }

    /// Inode number of this thread's network namespace.
    pub fn netns(&self) -> Option<u32> {
        let file = std::fs::metadata("/proc/thread-self/ns/net").ok()?;
        u32::try_from(file.ino()).ok()
    }

    /// Closes: the client first, which becomes a mini-socket, then the server with a RST.
    ///
    /// # Errors
    /// The kernel did not go along within the time allowed.
    pub fn end(mut self) -> io::Result<Truth> {
        self.client.shutdown(Shutdown::Write)?;
        self.server.read_exact(&mut [0]).err();
        let started = Instant::now();
        let mut info = tcp_info(&self.client)?;
        // The state, not the time: on a busy machine the other end's ACK may take a while.
        while info.tcpi_state != TCP_FIN_WAIT2 {
            if started.elapsed() > PATIENCE {
                return Err(io::Error::other("the connection does not reach FIN_WAIT2"));
            }
            thread::sleep(PAUSE);
            info = tcp_info(&self.client)?;
        }
        let truth = Truth {
            begun: self.begun,
            local: self.local,
            remote: self.remote,
            netns: self.netns(),
            timestamps: info.tcpi_options & TIMESTAMPS_NEGOTIATED != 0,
            rto_us: info.tcpi_rto,
        };
        set_socket_linger(&self.client, None)?;
        drop(self.client);
        set_socket_linger(&self.server, Some(Duration::ZERO))?;
        drop(self.server);
        Ok(truth)
    }
}

/// Sets `TCP_LINGER2`: seconds in FIN_WAIT2 after the close.
fn set_linger2(socket: &TcpStream, seconds: libc::c_int) -> io::Result<()> {
    // SAFETY: the value is as long as said and outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_LINGER2,
            (&raw const seconds).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What the kernel says of a socket.
fn tcp_info(socket: &TcpStream) -> io::Result<libc::tcp_info> {
    // SAFETY: integers only; all zero is a valid value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the buffer is as long as said and outlives the call. Older kernels fill less of it.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut len,
        )
    };
    if result == 0 { Ok(info) } else { Err(io::Error::last_os_error()) }
}

/// The first thing the programs say, if it is the beginning of a namespace.
pub fn first_bytes(platform: &mut Perf) -> Option<Vec<u8>> {
    let mut found = None;
    wait_until(|| {
        platform.read_raw(|bytes| {
            found = found.take().or_else(|| bytes.get(..NET_BYTES).map(<[u8]>::to_vec));
        });
        found.is_some()
    });
    found
}

/// What a trial came to, if not to agreement.
pub enum Unproved {
    /// Something was not seen, which happens when the kernel skips a program; another trial may
    /// tell more.
    Unseen(String),
    /// Something else was read than is known.
    Differs(String),
}

/// Ends the connection and compares.
pub fn run(
    trial: Trial,
    platform: &mut Perf,
    config: &Config,
    follows_ends: bool,
) -> Result<(), Unproved> {
    let unseen = |what: &str| Unproved::Unseen(what.to_owned());
    let truth =
        trial.end().map_err(|error| Unproved::Unseen(format!("its end failed: {error}")))?;
    let mut entered = None;
    let mut ended = None;
    wait_until(|| {
        platform.read_raw(|bytes| match bytes.first() {
            Some(kind) if *kind == Kind::Entered as u8 => {
                entered = entered.or(Entered::from_bytes(bytes));
            }
            Some(kind) if *kind == Kind::Ended as u8 => ended = ended.or(Ended::from_bytes(bytes)),
            _ => {}
        });
        let ends = follows_ends && !entered.is_some_and(overflowed);
        entered.is_some() && (ended.is_some() || !ends)
    });
    let entered = entered.ok_or_else(|| unseen("the entry was not seen"))?;
    truth.compare(&entered, config).map_err(Unproved::Differs)?;
    match ended {
        Some(ended) => compare_end(&entered, &ended).map_err(Unproved::Differs),
        // With the buckets full there is no socket that could end.
        None if !follows_ends || overflowed(entered) => Ok(()),
        None => Err(unseen("the end was not seen")),
    }
}

fn overflowed(entered: Entered) -> bool {
    entered.header.flags & entered_flags::OVERFLOW != 0
}

fn wait_until(mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() && started.elapsed() < PATIENCE {
        thread::sleep(PAUSE);
    }
}

/// Fails with a sentence unless the two are equal.
fn equal<T: PartialEq + std::fmt::Debug>(what: &str, want: T, got: T) -> Result<(), String> {
    if want == got { Ok(()) } else { Err(format!("{what} is {want:?}, and {got:?} was read")) }
}

impl Truth {
    fn compare(&self, entered: &Entered, config: &Config) -> Result<(), String> {
        let flow = &entered.flow;
        let flag = |flag: u16| entered.header.flags & flag != 0;
        let knows = |flag: u16| config.unknown & flag == 0;
        let end = |address, port| SocketAddr::new(crate::event::ip(address), port);
        equal("the local end", self.local, end(flow.local, flow.local_port))?;
        equal("the remote end", self.remote, end(flow.remote, flow.remote_port))?;
        equal("the state", TCP_FIN_WAIT2, entered.header.state)?;
        if config.layout.net_inum.exists() {
            equal("the network namespace", self.netns.unwrap_or(0), entered.header.netns)?;
        }
        if knows(entered_flags::TIMESTAMPS_UNKNOWN) {
            let (negotiated, stamp) = (flag(entered_flags::TSTAMP_OK), entered.ts_recent_stamp);
            equal("the use of timestamps", self.timestamps, negotiated)?;
            equal("the use of timestamps", self.timestamps, stamp != 0)?;
            if self.timestamps && !self.begun.until_now(stamp) {
                return Err(format!(
                    "the last timestamp came after it began, and {stamp} s was read"
                ));
            }
        }
        if config.layout.icsk_rto.exists() {
            let tick_us = 1_000_000 / Hz::of_running_kernel().ticks();
            let read_us = u64::from(entered.rto) * u64::from(tick_us);
            // Both are whole ticks, but for what the division rounds; other times that the kernel
            // keeps beside it are one tick apart.
            if read_us.abs_diff(self.rto_us.into()) > u64::from(tick_us / 2) {
                return Err(format!("the RTO is {} us, and {read_us} us was read", self.rto_us));
            }
        }
        if config.layout.ip_local_ports.exists() {
            let range = listing::port_range().unwrap_or_default();
            equal("the port range", range, (flow.port_low, flow.port_high))?;
        }
        if config.layout.tb_fastreuse.exists() && config.layout.sk_max_ack_backlog.exists() {
            let choice = PortChoice::from_u8(entered.chosen);
            equal("who chose the port", PortChoice::Connect, choice)?;
        }
        if knows(entered_flags::SETTINGS_UNKNOWN) {
            let sysctl = |name: &str| {
                let text = std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).ok()?;
                text.trim().parse::<u8>().ok()
            };
            for (name, read) in
                [("tcp_tw_reuse", entered.tcp_tw_reuse), ("tcp_timestamps", entered.tcp_timestamps)]
            {
                equal(name, sysctl(name).unwrap_or(read), read)?;
            }
        }
        if knows(entered_flags::OWNER_UNKNOWN) && owns_all_users() {
            equal("the owner", rustix::process::geteuid().as_raw(), entered.uid)?;
        }
        Ok(())
    }
}

/// The clocks that the kernel stamps a connection by, whole seconds.
#[derive(Clone, Copy)]
struct Clocks {
    since_boot: i64,
    day: i64,
}

impl Clocks {
    fn now() -> Self {
        let day = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self {
            since_boot: i64::try_from(monotonic_ns() / 1_000_000_000).unwrap_or(0),
            day: i64::try_from(day.as_secs()).unwrap_or(0),
        }
    }

    /// Whether a stamp is of the time from then on, however slow the machine is: of the clock that
    /// counts from the boot (Linux 4.19 on), or of the time of day.
    fn until_now(self, stamp: i64) -> bool {
        // The kernel's seconds are those of its last tick; the time of day may be set meanwhile.
        const SLACK_S: i64 = 5;
        let now = Self::now();
        let within = |from: i64, to: i64| (from - SLACK_S..=to + SLACK_S).contains(&stamp);
        within(self.since_boot, now.since_boot) || within(self.day, now.day)
    }
}

/// Whether user ids are the kernel's own: not in a user namespace.
fn owns_all_users() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

fn compare_end(entered: &Entered, ended: &Ended) -> Result<(), String> {
    equal("the remote end", entered.flow.remote, ended.flow.remote)?;
    equal("the socket", (entered.tw, entered.mono_ns), (ended.tw, ended.entered_ns))?;
    equal("the state at its end", TCP_FIN_WAIT2, ended.header.state)?;
    equal("the reason of its end", EndReason::Killed as u8, ended.reason)
}
