//! Real TCP connections between namespaces, with control over which end closes first.
//!
//! Everything here waits for what the other end did, so that who enters TIME_WAIT, and in which
//! state, is the same on every run:
//!
//! - [`close_first`] shuts its sending side and reads to the end before the descriptor goes. The
//!   socket is a full one when the peer's FIN comes: it enters as TIME_WAIT.
//! - [`abandon`] closes the descriptor after its FIN was acknowledged, while the peer holds back its own: the socket enters as a
//!   FIN_WAIT2 mini-socket, and becomes TIME_WAIT when the peer is released.

use std::io::{self, Read};
use std::net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, ipproto, socket_with};

use crate::netns::Netns;
use crate::wait;

pub use crate::server::{Behaviour, Server};

/// No single step of a connection may take longer, so that a broken network fails and not hangs.
const STEP: Duration = Duration::from_secs(30);

/// `TCP_FIN_WAIT2`, include/net/tcp_states.h.
const FIN_WAIT2: u8 = 5;

/// EADDRNOTAVAIL, which connect() gives when no local port can be used.
const NO_PORT: io::ErrorKind = io::ErrorKind::AddrNotAvailable;

/// Opens connections in one namespace.
#[derive(Clone, Debug)]
pub struct Client<'a> {
    netns: &'a Netns,
    from: Option<SocketAddr>,
    mapped: bool,
}

/// How a series of connections went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Connections that came about and were closed.
    pub connected: u64,
    /// Attempts that failed for want of a local port.
    pub no_port: u64,
}

impl<'a> Client<'a> {
    /// A client that lets the kernel choose address and port.
    pub fn new(netns: &'a Netns) -> Self {
        Self { netns, from: None, mapped: false }
    }

    /// Binds to an address and port first, with SO_REUSEADDR.
    pub fn bound_to(mut self, from: &str) -> Self {
        self.from = Some(from.parse().expect("addresses in tests are literals"));
        self
    }

    /// Uses an IPv6 socket towards IPv4 addresses.
    pub fn mapped(mut self) -> Self {
        self.mapped = true;
        self
    }

    /// Opens one connection.
    pub fn open(&self, to: SocketAddr) -> Result<TcpStream> {
        self.netns.run(|| self.dial(to).with_context(|| format!("connecting to {to}")))
    }

    /// Opens `count` connections one after the other and keeps them all.
    pub fn open_many(&self, to: SocketAddr, count: usize) -> Result<Vec<TcpStream>> {
        self.netns.run(|| {
            let dial = |_| self.dial(to).with_context(|| format!("connecting to {to}"));
            (0..count).map(dial).collect()
        })
    }

    /// Opens connections one after the other until no local port is left, and keeps them all.
    pub fn open_until_refused(&self, to: SocketAddr) -> Result<Vec<TcpStream>> {
        self.netns.run(|| {
            let mut streams = Vec::new();
            loop {
                match self.dial(to) {
                    Ok(stream) => streams.push(stream),
                    Err(error) if error.kind() == NO_PORT => return Ok(streams),
                    Err(error) => return Err(error).context(format!("connecting to {to}")),
                }
            }
        })
    }

    /// Opens and closes `attempts` connections one after the other, this side first.
    ///
    /// A want of ports is counted; any other failure ends the series.
    pub fn try_connections(&self, to: SocketAddr, attempts: usize) -> Result<Outcome> {
        self.netns.run(|| {
            let mut outcome = Outcome::default();
            for _ in 0..attempts {
                match self.short_connection(to)? {
                    true => outcome.connected += 1,
                    false => outcome.no_port += 1,
                }
            }
            Ok(outcome)
        })
    }

    /// Opens and closes one connection, this side first, from a thread that is already in the right
    /// namespace; false for want of a port.
    pub fn short_connection(&self, to: SocketAddr) -> Result<bool> {
        match self.dial(to) {
            Ok(stream) => close_first(stream).map(|()| true),
            Err(error) if error.kind() == NO_PORT => Ok(false),
            Err(error) => Err(error).context(format!("connecting to {to}")),
        }
    }

    /// Runs `work` on a thread in the client's namespace.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.netns.run(work)
    }

    /// Opens and closes exactly `count` connections, this side first.
    pub fn short_connections(&self, to: SocketAddr, count: usize) -> Result<()> {
        let outcome = self.try_connections(to, count)?;
        if outcome.connected != count as u64 {
            bail!("{count} connections to {to} were wanted: {outcome:?}");
        }
        Ok(())
    }

    /// Opens `count` connections and closes each after the server has closed it.
    pub fn close_second(&self, to: SocketAddr, count: usize) -> Result<()> {
        self.netns.run(|| {
            for _ in 0..count {
                read_to_end(&self.dial(to).with_context(|| format!("connecting to {to}"))?)?;
            }
            Ok(())
        })
    }

    /// Opens one connection from a thread that is already in the right namespace.
    pub fn dial(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let to = if self.mapped { as_mapped(to) } else { to };
        let socket = stream_socket(to)?;
        if let Some(from) = self.from {
            sockopt::set_socket_reuseaddr(&socket, true)?;
            bind(&socket, &from)?;
        }
        connect(&socket, &to)?;
        Ok(TcpStream::from(socket))
    }
}

/// Makes a TCP socket for `addr` whose every step has a time limit.
pub fn stream_socket(addr: SocketAddr) -> io::Result<OwnedFd> {
    let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let tcp = Some(ipproto::TCP);
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, tcp)?;
    // The send limit also bounds connect().
    sockopt::set_socket_timeout(&socket, Timeout::Send, Some(STEP))?;
    sockopt::set_socket_timeout(&socket, Timeout::Recv, Some(STEP))?;
    Ok(socket)
}

/// Closes this side first and waits for the peer's FIN; the socket is then in TIME_WAIT.
pub fn close_first(stream: TcpStream) -> Result<()> {
    stream.shutdown(Shutdown::Write).context("sending FIN")?;
    read_to_end(&stream)
}

/// Closes the descriptor once the peer has acknowledged the FIN; with a peer that holds its own back
/// this leaves a mini-socket.
///
/// Closed before, it may leave none: an acknowledgement that another processor receives while
/// close() has the socket still locked is looked at when it lets go of it, and `tcp_rcv_state_process`
/// then keeps the orphan a full socket for `tcp_fin_timeout`.
pub fn abandon(stream: TcpStream) -> Result<()> {
    shut_down(&stream)
}

/// Closes this side until the peer has acknowledged that, and keeps the descriptor.
pub fn shut_down(stream: &TcpStream) -> Result<()> {
    stream.shutdown(Shutdown::Write).context("sending FIN")?;
    wait::until("the FIN to be acknowledged", wait::SOON, || {
        let state = crate::sockopt::tcp_state(stream).context("TCP_INFO")?;
        Ok((state == FIN_WAIT2).then_some(()))
    })
}

/// Closes with a reset instead of a FIN.
pub fn reset(stream: TcpStream) -> Result<()> {
    sockopt::set_socket_linger(stream.as_fd(), Some(Duration::ZERO)).context("SO_LINGER")?;
    drop(stream);
    Ok(())
}

/// Reads until the peer has closed.
pub fn read_to_end(mut stream: &TcpStream) -> Result<()> {
    let mut buffer = [0; 512];
    while stream.read(&mut buffer).context("waiting for the peer's FIN")? > 0 {}
    Ok(())
}

fn as_mapped(addr: SocketAddr) -> SocketAddr {
    let ip: Ipv6Addr = match addr.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    SocketAddr::new(ip.into(), addr.port())
}
