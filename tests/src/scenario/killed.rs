//! TIME_WAIT assassination, and the sysctl against it.

use std::net::Shutdown;

use anyhow::Result;

use crate::equation::{Ledger, settled};
use crate::lab::Lab;
use crate::packet::{ACK, FIN, RST};
use crate::script::{self, Conversation};
use crate::summary::Totals;
use crate::topology::{self, SERVER, Scripted};
use crate::traffic::{Behaviour, Client, Server};
use crate::{expect, ss};

/// Takes one connection into TIME_WAIT.
fn time_wait(net: &Scripted, port: u16) -> Result<(u16, Conversation)> {
    let (stream, mut peer) = script::connect(net, port, true)?;
    stream.shutdown(Shutdown::Write)?;
    peer.close_second()?;
    Ok((stream.local_addr().map_or(peer.heard.from.port(), |addr| addr.port()), peer))
}

/// Makes one connection a FIN_WAIT2 mini-socket.
fn mini(net: &Scripted, port: u16) -> Result<Conversation> {
    let (stream, mut peer) = script::connect(net, port, true)?;
    drop(stream);
    peer.hear_fin()?;
    peer.send(ACK)?;
    ss::in_state(&net.client, peer.heard.from.port(), "FIN-WAIT-2")?;
    settled(&net.client, 1)?;
    Ok(peer)
}

/// A RST at the right sequence number ends TIME_WAIT, unless `tcp_rfc1337` is on.
pub fn by_rst_unless_rfc1337(lab: &Lab) -> Result<()> {
    let net = topology::scripted()?;
    let ledger = Ledger::open(&net.client)?;
    let tracer = super::watch(lab, &net.client)?;
    net.client.set("ipv4/tcp_rfc1337", "0")?;
    let (_, mut peer) = time_wait(&net, 8080)?;
    peer.send(RST)?;
    settled(&net.client, 0)?;

    net.client.set("ipv4/tcp_rfc1337", "1")?;
    let (_, mut peer) = time_wait(&net, 8081)?;
    peer.send(RST)?;
    // The old FIN is answered only if the socket is still there, and after the RST.
    peer.send_at(FIN | ACK, peer.seq.wrapping_sub(1), peer.ack)?;
    peer.hear_ack()?;
    expect::equal("TIME_WAIT sockets", &1, &ledger.counted()?.live)?;

    let want = Totals { entered: 2, killed: 1, live: 1, ..Totals::default() };
    let summary = super::totals_are(tracer, &ledger, want)?;
    let killed = summary.peer(net.client.inum(), "10.1.0.2:8080")?.totals()?.killed;
    expect::equal("killed with rfc1337 off", &1, &killed)?;
    let killed = summary.peer(net.client.inum(), "10.1.0.2:8081")?.totals()?.killed;
    expect::equal("killed with rfc1337 on", &0, &killed)
}

/// A FIN_WAIT2 mini-socket is killed by a RST whatever the sysctl says.
pub fn mini_socket(lab: &Lab) -> Result<()> {
    let net = topology::scripted()?;
    let ledger = Ledger::open(&net.client)?;
    let tracer = super::watch(lab, &net.client)?;
    for (port, rfc1337) in [(8080, "0"), (8081, "1")] {
        net.client.set("ipv4/tcp_rfc1337", rfc1337)?;
        let mut peer = mini(&net, port)?;
        peer.send(RST)?;
        settled(&net.client, 0)?;
    }
    let want = Totals { entered: 2, fin_wait2: 2, killed: 2, ..Totals::default() };
    super::totals_are(tracer, &ledger, want).map(drop)
}

/// `ss -K` ends TIME_WAIT sockets where the kernel lets it (6.0 and later, with
/// CONFIG_INET_DIAG_DESTROY); where it does not they live on, and are said to.
pub fn by_an_administrator(lab: &Lab) -> Result<()> {
    let net = topology::pair()?;
    let ledger = Ledger::open(&net.client)?;
    let tracer = super::watch(lab, &net.client)?;
    let server = Server::start(&net.server, &format!("{SERVER}:8080"), Behaviour::AnswersEof)?;
    Client::new(&net.client).short_connections(server.addr(), 10)?;
    settled(&net.client, 10)?;
    net.client.exec(&["ss", "-K", "-tan", "state", "time-wait", "dport = :8080"])?;
    // The dump that finds them ends before `ss` does, and destroying is part of it.
    let live = ledger.counted()?.live;
    expect::that(live == 0 || live == 10, || format!("ss -K left {live} of 10 sockets"))?;

    let want = Totals { entered: 10, aborted: 10 - live, live, ..Totals::default() };
    super::totals_are(tracer, &ledger, want).map(drop)
}
