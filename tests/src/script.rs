//! A peer that is no TCP stack: each segment it sends is decided by the test.
//!
//! It makes every order of segments possible, and repeatable: FINs that cross, a FIN sent again,
//! a RST at one exact sequence number. It lives in the far namespace of
//! [`crate::topology::scripted`], on a packet socket.

use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketAddrAny, SocketFlags, SocketType,
    recvfrom, sendto, socket_with,
};

use crate::packet::{ACK, FIN, SYN, Segment};
use crate::topology::{SERVER, Scripted};
use crate::traffic::Client;

/// How long the other side's kernel may take for a segment.
const LIMIT: Duration = Duration::from_secs(20);

/// ETH_P_IP, as packet(7) wants it: in network byte order.
const IPV4_FRAMES: u32 = 0x0800_u16.to_be() as u32;

/// One connection with a client whose kernel is real.
#[derive(Debug)]
pub struct Conversation {
    socket: OwnedFd,
    /// The client's link address, learnt from its first packet.
    link: SocketAddrAny,
    /// The last segment that came from the client.
    pub heard: Segment,
    /// Next sequence number of this side.
    pub seq: u32,
    /// Next sequence number expected from the client.
    pub ack: u32,
    /// This side's timestamp clock, if it takes part in timestamps; one tick a segment.
    clock: Option<u32>,
}

/// Lets the client connect to `10.1.0.2:port`, with or without timestamps in the SYN-ACK.
pub fn connect(net: &Scripted, port: u16, timestamps: bool) -> Result<(TcpStream, Conversation)> {
    let socket = net.far.run(|| Ok(packet_socket()?)).context("opening a packet socket")?;
    let to = SocketAddr::new(SERVER.parse()?, port);
    thread::scope(|scope| {
        let client = scope.spawn(|| Client::new(&net.client).open(to));
        let peer = Conversation::accept(socket, port, timestamps)?;
        let stream = client.join().map_err(|_| anyhow!("the client panicked"))??;
        Ok((stream, peer))
    })
}

impl Conversation {
    fn accept(socket: OwnedFd, port: u16, timestamps: bool) -> Result<Self> {
        let wanted = |segment: &Segment| segment.has(SYN) && segment.to.port() == port;
        let (syn, link) = receive(&socket, "a SYN", wanted)?;
        let clock = (timestamps && syn.timestamps.is_some()).then_some(1000);
        let mut peer = Self { socket, link, heard: syn, seq: 5000, ack: syn.seq + 1, clock };
        peer.send(SYN | ACK)?;
        peer.hear("the handshake's ACK", |segment| segment.flags == ACK)?;
        Ok(peer)
    }

    /// Sends a segment without data at the current sequence numbers.
    pub fn send(&mut self, flags: u8) -> Result<()> {
        self.send_at(flags, self.seq, self.ack)?;
        let taken = u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
        self.seq = self.seq.wrapping_add(taken);
        Ok(())
    }

    /// Sends a segment as if this side's timestamp clock stood at its very beginning.
    pub fn send_old(&mut self, flags: u8) -> Result<()> {
        let clock = self.clock.replace(0);
        let sent = self.send_at(flags, self.seq, self.ack);
        self.clock = clock;
        sent
    }

    /// Sends a segment without data at sequence numbers of the test's choice.
    pub fn send_at(&mut self, flags: u8, seq: u32, ack: u32) -> Result<()> {
        if let Some(clock) = &mut self.clock {
            *clock += 1;
        }
        let echo = self.heard.timestamps.map_or(0, |(value, _)| value);
        let segment = Segment {
            from: self.heard.to,
            to: self.heard.from,
            seq,
            ack,
            flags,
            timestamps: self.clock.map(|clock| (clock, echo)),
            data: 0,
        };
        sendto(&self.socket, &segment.encode(), SendFlags::empty(), &self.link)
            .with_context(|| format!("sending {segment:?}"))?;
        Ok(())
    }

    /// Waits for the first segment of this connection that is `wanted`, passing over others.
    ///
    /// A FIN is taken up in the acknowledgement number, but not answered.
    pub fn hear(&mut self, what: &str, wanted: impl Fn(&Segment) -> bool) -> Result<Segment> {
        let (from, to) = (self.heard.from, self.heard.to);
        let (segment, _) = receive(&self.socket, what, |segment| {
            segment.from == from && segment.to == to && wanted(segment)
        })?;
        self.ack = segment.seq.wrapping_add(segment.length());
        self.heard = segment;
        Ok(segment)
    }

    /// Waits for the client's FIN.
    pub fn hear_fin(&mut self) -> Result<()> {
        self.hear("the client's FIN", |segment| segment.has(FIN)).map(drop)
    }

    /// Waits for an ACK of everything that was sent so far.
    pub fn hear_ack(&mut self) -> Result<()> {
        let seq = self.seq;
        self.hear("an ACK of all", |segment| segment.has(ACK) && segment.ack == seq).map(drop)
    }

    /// Answers the client's close as an ordinary peer does; the client is then in TIME_WAIT.
    pub fn close_second(&mut self) -> Result<()> {
        self.hear_fin()?;
        self.send(FIN | ACK)?;
        self.hear_ack()
    }
}

fn packet_socket() -> rustix::io::Result<OwnedFd> {
    let ipv4 = rustix::net::RawProtocol::new(IPV4_FRAMES).map(Protocol::from_raw);
    // A datagram packet socket leaves the link header to the kernel, in both directions.
    let socket = socket_with(AddressFamily::PACKET, SocketType::DGRAM, SocketFlags::CLOEXEC, ipv4)?;
    set_socket_timeout(&socket, Timeout::Recv, Some(LIMIT))?;
    Ok(socket)
}

fn receive(
    socket: &OwnedFd,
    what: &str,
    wanted: impl Fn(&Segment) -> bool,
) -> Result<(Segment, SocketAddrAny)> {
    let deadline = Instant::now() + LIMIT;
    let mut passed_over = Vec::new();
    let mut buffer = [0; 2048];
    while Instant::now() < deadline {
        let (length, _, link) = match recvfrom(socket, &mut buffer[..], RecvFlags::empty()) {
            Ok(received) => received,
            Err(rustix::io::Errno::AGAIN) => break,
            Err(error) => return Err(error).context("reading a packet socket"),
        };
        match (Segment::decode(&buffer[..length]), link) {
            (Some(segment), Some(link)) if wanted(&segment) => return Ok((segment, link)),
            (Some(segment), _) => passed_over.push(segment),
            (None, _) => {}
        }
    }
    bail!("the scripted peer waited in vain for {what}; it heard {passed_over:#?}");
}
