//! Ports that a connect looked at and could not take over.

use anyhow::Result;

use crate::equation::Ledger;
use crate::expect;
use crate::lab::Lab;
use crate::summary::{Peer, Totals};
use crate::topology::{self, ROUTED, SERVER, ephemeral_ports};
use crate::traffic::{Behaviour, Client, Outcome, Server};

/// Ports that the client may use; each failing connect looks at all of them.
const PORTS: u64 = 50;
/// Connects that fail.
const FAILING: u64 = 20;

/// All reasons but `reason` are 0, and that one counts at least every look of a failing connect.
///
/// It is no exact number: a connect that succeeds passes over some ports first, from a start
/// that the kernel picks at random.
fn only(row: Peer, reason: &str) -> Result<()> {
    for other in ["no_timestamps", "reuse_off", "loopback_only", "fin_wait2", "too_young"] {
        let refused = row.number(&format!("/refused/{other}"))?;
        let fits = if other == reason { refused >= FAILING * PORTS } else { refused == 0 };
        expect::that(fits, || format!("refused.{other} is {refused}, {reason} was due: {row:#?}"))?;
    }
    Ok(())
}

/// The stripped path refuses each port for want of timestamps, until EADDRNOTAVAIL.
pub fn behind_a_stripping_router(lab: &Lab) -> Result<()> {
    let net = topology::routed()?;
    topology::strip_timestamps(&net.router)?;
    net.client.set("ipv4/tcp_tw_reuse", "1")?;
    ephemeral_ports(&net.client, 20_000, 20_049)?;
    let server = Server::start(&net.behind, &format!("{ROUTED}:8080"), Behaviour::AnswersEof)?;
    let ledger = Ledger::open(&net.client)?;
    let tracer = super::watch(lab, &net.client)?;
    exhaust(&Client::new(&net.client), &server)?;

    let want = Totals { entered: PORTS, live: PORTS, ..Totals::default() };
    let summary = super::totals_are(tracer, &ledger, want)?;
    only(summary.peer(net.client.inum(), "10.2.0.2:8080")?, "no_timestamps")
}

/// The sysctl's two ways to refuse, and the age where it can be set.
pub fn for_each_reason(lab: &Lab) -> Result<()> {
    let net = topology::pair()?;
    let ours = &net.client;
    ephemeral_ports(ours, 20_000, 20_049)?;
    let tracer = super::watch(lab, ours)?;
    let client = Client::new(ours);
    let serve =
        |port| Server::start(&net.server, &format!("{SERVER}:{port}"), Behaviour::AnswersEof);
    ours.set("ipv4/tcp_tw_reuse", "0")?;
    exhaust(&client, &serve(8080)?)?;
    ours.set("ipv4/tcp_tw_reuse", "2")?;
    exhaust(&client, &serve(8081)?)?;
    // 6.14 and later; before, the age is fixed at about a second, too short to rely on.
    let delay = ours.set("ipv4/tcp_tw_reuse_delay", "60000").is_ok();
    if delay {
        ours.set("ipv4/tcp_tw_reuse", "1")?;
        exhaust(&client, &serve(8082)?)?;
    }
    let summary = tracer.finish()?;
    only(summary.peer(ours.inum(), "10.1.0.2:8080")?, "reuse_off")?;
    only(summary.peer(ours.inum(), "10.1.0.2:8081")?, "loopback_only")?;
    if delay {
        only(summary.peer(ours.inum(), "10.1.0.2:8082")?, "too_young")?;
    }
    Ok(())
}

fn exhaust(client: &Client, server: &Server) -> Result<()> {
    let outcome = client.try_connections(server.addr(), (PORTS + FAILING) as usize)?;
    let want = Outcome { connected: PORTS, no_port: FAILING };
    expect::equal("connections", &want, &outcome)
}
