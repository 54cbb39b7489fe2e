//! Ports that run out, each in another way: when they will, foretold while half of them are left.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::net::{bind, connect};

use super::diagnosis::{diagnose, foretold, now, report_amid, seconds};
use crate::lab::Lab;
use crate::sockopt::set_local_port_range;
use crate::topology::{self, SERVER, ephemeral_ports};
use crate::traffic::{Behaviour, Server, abandon, close_first, stream_socket};
use crate::{expect, wait};

/// Ports that there are.
const PORTS: u16 = 600;
/// Connections a second, at most.
const RATE: u32 = 40;
/// Time in which they have to be gone, so that none comes back before.
const IN_TIME: Duration = Duration::from_secs(55);

/// One way for ports to run out.
struct Kind {
    name: &'static str,
    behaviour: Behaviour,
    /// Makes a socket ready before it connects.
    prepare: fn(&OwnedFd) -> io::Result<()>,
    /// What is done with a connection; what is given back is kept.
    then: fn(TcpStream) -> Result<Option<TcpStream>>,
    /// The setting of `tcp_tw_reuse`.
    reuse: &'static str,
}

const KINDS: [Kind; 5] = [
    Kind {
        name: "connect",
        behaviour: Behaviour::AnswersEof,
        prepare: |_| Ok(()),
        then: closed,
        reuse: "0",
    },
    Kind {
        name: "bound",
        behaviour: Behaviour::AnswersEof,
        prepare: |socket| Ok(bind(socket, &SocketAddr::from(([10, 1, 0, 1], 0)))?),
        then: closed,
        reuse: "1",
    },
    Kind {
        name: "own range",
        behaviour: Behaviour::AnswersEof,
        prepare: |socket| set_local_port_range(socket, 20_000, 20_000 + PORTS - 1),
        then: closed,
        reuse: "0",
    },
    Kind {
        name: "FIN_WAIT2",
        behaviour: Behaviour::Holds,
        prepare: |_| Ok(()),
        then: |stream| {
            abandon(stream)?;
            Ok(None)
        },
        reuse: "0",
    },
    Kind {
        name: "open",
        behaviour: Behaviour::Holds,
        prepare: |_| Ok(()),
        then: |stream| Ok(Some(stream)),
        reuse: "1",
    },
];

fn closed(stream: TcpStream) -> Result<Option<TcpStream>> {
    close_first(stream).map(|()| None)
}

/// All kinds at once, each in namespaces of its own.
pub fn at_half_way(lab: &Lab) -> Result<()> {
    super::until_as_meant(|| {
        thread::scope(|scope| {
            let played: Vec<_> = KINDS.iter().map(|kind| scope.spawn(|| play(lab, kind))).collect();
            let mut all = Some(());
            for (kind, played) in KINDS.iter().zip(played) {
                let played =
                    played.join().map_err(|_| anyhow::anyhow!("{} panicked", kind.name))?;
                all = all.and(played.context(kind.name)?);
            }
            Ok(all)
        })
    })
}

/// Nothing if the machine is too slow to use the ports up before the first of them come back.
fn play(lab: &Lab, kind: &Kind) -> Result<Option<()>> {
    let net = topology::pair()?;
    ephemeral_ports(&net.client, 20_000, 20_000 + PORTS - 1)?;
    net.client.set("ipv4/tcp_tw_reuse", kind.reuse)?;
    let server = Server::start(&net.server, &format!("{SERVER}:8080"), kind.behaviour)?;
    if net.client.run(|| Ok((kind.prepare)(&stream_socket(server.addr())?)?)).is_err() {
        // Kernels up to 6.2 have no range of the socket.
        return Ok(Some(()));
    }
    let tracer = diagnose(lab, &net.client)?;
    let (half, reached) = mpsc::channel();
    let traffic = || net.client.run(|| until_refused(kind, server.addr(), &half));
    let reached = || reached.recv_timeout(wait::SOON).context("half of the ports");
    let (report, moments) = report_amid(tracer, traffic, reached)?;
    let Some(moments) = moments else { return Ok(None) };
    let ports = &report["margins"]["namespaces"][0]["ports"];
    let predicted = ports["seconds_to_exhaustion"].as_f64();
    let predicted = predicted.with_context(|| format!("no forecast in {report:#}"))?;
    expect::equal("usable", &Some(PORTS.into()), &ports["usable"].as_u64())?;
    let failed = *moments.last().context("no connection")?;
    foretold(kind.name, &moments, seconds(&report["at"])?, predicted, failed).map(Some)
}

/// Connects at [`RATE`] until a call fails; gives the moment of each, that of the failure last.
fn until_refused(kind: &Kind, to: SocketAddr, half: &mpsc::Sender<()>) -> Result<Option<Vec<f64>>> {
    let started = Instant::now();
    let (mut moments, mut kept) = (Vec::new(), Vec::new());
    loop {
        if started.elapsed() >= IN_TIME {
            return Ok(None);
        }
        let began = Instant::now();
        moments.push(now()?);
        let socket = stream_socket(to)?;
        let made = (kind.prepare)(&socket).and_then(|()| Ok(connect(&socket, &to)?));
        match made.map_err(|error| error.kind()) {
            Ok(()) => kept.extend((kind.then)(TcpStream::from(socket))?),
            Err(io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse) => break,
            Err(other) => anyhow::bail!("connecting to {to}: {other}"),
        }
        if moments.len() == usize::from(PORTS) / 2 {
            // Whoever waits for it may have given up.
            let _ = half.send(());
        }
        wait::pass((Duration::from_secs(1) / RATE).saturating_sub(began.elapsed()));
    }
    Ok(Some(moments))
}
