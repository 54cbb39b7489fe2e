//! The fast path of today's kernels: an outgoing connect takes a TIME_WAIT port over.

use std::time::Duration;

use anyhow::Result;

use crate::equation::Ledger;
use crate::lab::Lab;
use crate::netns::Netns;
use crate::summary::Totals;
use crate::topology::{self, CLIENT, SERVER, ephemeral_ports};
use crate::traffic::{Behaviour, Client, Server};
use crate::{expect, ss, wait};

/// Ports that the client may use; the second half of the connections must take them over.
const PORTS: u64 = 50;

/// Older than a second: the age at which an unbound connect may take a port over.
const OLD_ENOUGH: Duration = Duration::from_millis(1500);

/// With `tcp_tw_reuse=1` towards another host.
pub fn by_an_ephemeral_connect(lab: &Lab) -> Result<()> {
    let net = topology::pair()?;
    net.client.set("ipv4/tcp_tw_reuse", "1")?;
    let server = Server::start(&net.server, &format!("{SERVER}:8080"), Behaviour::AnswersEof)?;
    twice_through_all_ports(lab, &net.client, &server)
}

/// On loopback the default, 2, is enough.
pub fn on_loopback_by_default(lab: &Lab) -> Result<()> {
    let netns = Netns::new("lo")?;
    expect::equal("default tcp_tw_reuse", &"2".to_owned(), &netns.get("ipv4/tcp_tw_reuse")?)?;
    let server = Server::start(&netns, "127.0.0.1:8080", Behaviour::AnswersEof)?;
    twice_through_all_ports(lab, &netns, &server)
}

fn twice_through_all_ports(lab: &Lab, netns: &Netns, server: &Server) -> Result<()> {
    ephemeral_ports(netns, 20_000, 20_049)?;
    let ledger = Ledger::open(netns)?;
    let tracer = super::watch(lab, netns)?;
    let client = Client::new(netns);
    client.short_connections(server.addr(), 50)?;
    wait::pass(OLD_ENOUGH);
    client.short_connections(server.addr(), 50)?;

    // A round that takes over a second reuses some of its own ports: the kernel counts how many.
    let reused = ledger.counted()?.tw_recycled;
    expect::that((PORTS..2 * PORTS).contains(&reused), || format!("TWRecycled +{reused}"))?;
    let want = Totals { entered: 2 * PORTS, reused, live: 2 * PORTS - reused, ..Totals::default() };
    let summary = super::totals_are(tracer, &ledger, want)?;
    let row = summary.peer(netns.inum(), &server.addr().to_string())?;
    expect::equal("the peer's counts", &want, &row.totals()?)?;
    expect::equal("lifetimes counted", &reused, &row.number("/lifetime_ms/count")?)?;
    let longest = row.number("/lifetime_ms/max")?;
    expect::that((1_000..60_000).contains(&longest), || {
        format!("the longest lifetime of a reused socket is {longest} ms")
    })
}

/// A connect from a socket that was bound beforehand asks neither the sysctl nor the age.
pub fn by_a_bound_connect(lab: &Lab) -> Result<()> {
    let net = topology::pair()?;
    net.client.set("ipv4/tcp_tw_reuse", "0")?;
    let server = Server::start(&net.server, &format!("{SERVER}:8080"), Behaviour::AnswersEof)?;
    let ledger = Ledger::open(&net.client)?;
    let tracer = super::watch(lab, &net.client)?;
    let client = Client::new(&net.client).bound_to(&format!("{CLIENT}:40000"));
    for _ in 0..4 {
        client.short_connections(server.addr(), 1)?;
        wait::until("the server's end to close", wait::SOON, || {
            Ok(ss::sockets(&net.server, 8080)?.is_empty().then_some(()))
        })?;
    }
    let want = Totals { entered: 4, reused: 3, live: 1, ..Totals::default() };
    super::totals_are(tracer, &ledger, want).map(drop)
}
