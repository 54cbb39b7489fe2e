//! Closes that leave no TIME_WAIT socket, however much they look like one.

use std::net::{Shutdown, TcpStream};

use anyhow::{Context, Result};

use crate::equation::Ledger;
use crate::lab::Lab;
use crate::netns::Netns;
use crate::packet::{ACK, FIN, RST};
use crate::sockopt::set_linger2;
use crate::summary::Totals;
use crate::traffic::{Behaviour, Client, Server, close_first, reset};
use crate::{expect, script, ss, topology, wait};

/// Resets, aborts and passive closes: only the one ordinary close at the end is an entry.
pub fn reset_is_not_an_entry(lab: &Lab) -> Result<()> {
    let net = topology::pair()?;
    let ledger = Ledger::open(&net.client)?;
    let tracer = super::watch(lab, &net.client)?;
    let holds = Server::start(&net.server, "10.1.0.2:8080", Behaviour::Holds)?;
    let greets = Server::start(&net.server, "10.1.0.2:8081", Behaviour::Greets)?;
    let answers = Server::start(&net.server, "10.1.0.2:8082", Behaviour::AnswersEof)?;
    let closes = Server::start(&net.server, "10.1.0.2:8083", Behaviour::ClosesFirst)?;
    let client = Client::new(&net.client);

    // Aborted by this side while established.
    let stream = client.open(holds.addr())?;
    reset(stream)?;
    holds.take(1)?;

    // Reset by the peer in FIN_WAIT2: the state goes to CLOSE exactly as on an entry.
    let (stream, held) = half_closed(&net.client, &client, &holds)?;
    let port = stream.local_addr()?.port();
    reset(held)?;
    gone(&net.client, port)?;
    drop(stream);

    // Aborted by this side in FIN_WAIT2: the state changes before the socket's error is set.
    let (stream, held) = half_closed(&net.client, &client, &holds)?;
    reset(stream)?;
    drop(held);

    // Closed in FIN_WAIT2 with TCP_LINGER2 below zero: a reset instead of a mini-socket.
    let (stream, held) = half_closed(&net.client, &client, &holds)?;
    set_linger2(&stream, -1)?;
    drop(stream);
    drop(held);

    // Closed with data unread, which the kernel answers with a reset.
    let stream = client.open(greets.addr())?;
    stream.peek(&mut [0]).context("waiting for data")?;
    drop(stream);

    // Refused by the peer: never established.
    let nobody = "10.1.0.2:9".parse()?;
    expect::that(client.open(nobody).is_err(), || "connected to a closed port".to_owned())?;

    // The peer closes first: LAST_ACK, and no TIME_WAIT on this side.
    client.close_second(closes.addr(), 3)?;

    let lone = client.open(answers.addr())?;
    let lone_port = lone.local_addr()?.port();
    close_first(lone)?;
    ss::in_state(&net.client, lone_port, "TIME-WAIT")?;
    let want = Totals { entered: 1, live: 1, ..Totals::default() };
    super::totals_are(tracer, &ledger, want).map(drop)
}

/// Resets that meet FIN_WAIT1 and CLOSING, which only a scripted peer can hold still.
pub fn reset_while_closing_is_not_an_entry(lab: &Lab) -> Result<()> {
    let net = topology::scripted()?;
    let ledger = Ledger::open(&net.client)?;
    let tracer = super::watch(lab, &net.client)?;

    // Aborted by this side with its FIN not yet acknowledged.
    let (stream, mut peer) = script::connect(&net, 8080, true)?;
    stream.shutdown(Shutdown::Write)?;
    peer.hear_fin()?;
    reset(stream)?;

    // Reset by the peer with this side's FIN not yet acknowledged.
    let (stream, mut peer) = script::connect(&net, 8081, true)?;
    let port = stream.local_addr()?.port();
    stream.shutdown(Shutdown::Write)?;
    peer.hear_fin()?;
    peer.send(RST | ACK)?;
    gone(&net.client, port)?;

    // Reset by the peer in CLOSING: from there, too, CLOSE is where an entry leads.
    let (stream, mut peer) = script::connect(&net, 8082, true)?;
    let port = stream.local_addr()?.port();
    stream.shutdown(Shutdown::Write)?;
    peer.hear_fin()?;
    let unacknowledged = peer.ack.wrapping_sub(1);
    peer.send_at(FIN | ACK, peer.seq, unacknowledged)?;
    peer.seq += 1;
    ss::in_state(&net.client, port, "CLOSING")?;
    peer.send(RST | ACK)?;
    gone(&net.client, port)?;

    let (stream, mut peer) = script::connect(&net, 8083, true)?;
    stream.shutdown(Shutdown::Write)?;
    peer.close_second()?;
    let want = Totals { entered: 1, live: 1, ..Totals::default() };
    super::totals_are(tracer, &ledger, want).map(drop)
}

/// A connection whose client end is a full socket in FIN_WAIT2.
fn half_closed(netns: &Netns, client: &Client, server: &Server) -> Result<(TcpStream, TcpStream)> {
    let stream = client.open(server.addr())?;
    let held = server.take(1)?.remove(0);
    stream.shutdown(Shutdown::Write)?;
    ss::in_state(netns, stream.local_addr()?.port(), "FIN-WAIT-2")?;
    Ok((stream, held))
}

/// Waits until no socket has the local port `port`.
fn gone(netns: &Netns, port: u16) -> Result<()> {
    wait::until(&format!("port {port} to be free"), wait::SOON, || {
        Ok(ss::sockets(netns, port)?.is_empty().then_some(()))
    })
}
