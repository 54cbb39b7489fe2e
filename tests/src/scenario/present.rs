//! Sockets that are in TIME_WAIT already when tracing begins.

use std::net::SocketAddr;

use anyhow::Result;

use crate::equation::{Ledger, settled};
use crate::lab::Lab;
use crate::summary::Totals;
use crate::topology::{self, SERVER};
use crate::traffic::{Behaviour, Client, Server, abandon};
use crate::{expect, ss, wait};

/// They are counted apart, and so are their ends; entries are only what came later.
pub fn present_at_start(lab: &Lab) -> Result<()> {
    let net = topology::pair()?;
    let answers = Server::start(&net.server, &format!("{SERVER}:8080"), Behaviour::AnswersEof)?;
    let holds = Server::start(&net.server, &format!("{SERVER}:8081"), Behaviour::Holds)?;
    let client = Client::new(&net.client);
    let bound = [40_000, 40_001].map(|port| client.clone().bound_to(&format!("10.1.0.1:{port}")));
    client.short_connections(answers.addr(), 18)?;
    for client in &bound {
        client.short_connections(answers.addr(), 1)?;
    }
    client.open_many(holds.addr(), 5)?.into_iter().try_for_each(abandon)?;
    settled(&net.client, 25)?;
    closed(&net.server, 8080)?;

    let ledger = Ledger::open(&net.client)?;
    let tracer = super::watch(lab, &net.client)?;
    client.short_connections(answers.addr(), 3)?;
    for client in &bound {
        client.short_connections(answers.addr(), 1)?;
    }
    let want =
        Totals { present_at_start: 25, entered: 5, reused: 2, live: 28, ..Totals::default() };
    let summary = super::totals_are(tracer, &ledger, want)?;
    let row = summary.peer(net.client.inum(), "10.1.0.2:8080")?;
    expect::equal("the peer's entries", &5, &row.number("/entered")?)
}

/// Those that a listener accepted on a port of the ephemeral range, from clients whose ports are not in it,
/// are the server's: no port tells, but that somebody listens there.
pub fn accepted_inside_the_range(lab: &Lab) -> Result<()> {
    let net = topology::pair()?;
    topology::ephemeral_ports(&net.server, 32_768, 60_999)?;
    topology::ephemeral_ports(&net.client, 20_000, 29_999)?;
    let closes_first = |addr: &str| Server::start(&net.server, addr, Behaviour::ClosesFirst);
    let servers = [closes_first(&format!("{SERVER}:40000"))?, closes_first("[::]:40001")?];
    for (server, count) in servers.iter().zip([12, 7]) {
        let to = SocketAddr::new(SERVER.parse()?, server.addr().port());
        Client::new(&net.client).close_second(to, count)?;
    }
    settled(&net.server, 19)?;

    let ledger = Ledger::open(&net.server)?;
    let tracer = super::watch(lab, &net.server)?;
    let want = Totals { present_at_start: 19, live: 19, ..Totals::default() };
    let summary = super::totals_are(tracer, &ledger, want)?;
    let rows = summary.peers()?.iter().map(|row| (row["peer"].as_str(), row["role"].as_str()));
    let rows: Vec<_> = rows.collect();
    expect::equal("rows", &vec![(Some("10.1.0.1"), Some("server"))], &rows)
}

/// Those of ports that a client named outside the ephemeral range are the client's, though each by itself
/// looks like one that was accepted: there are several towards one port of the peer. Of a single one that
/// is not known.
pub fn ports_that_a_client_named(lab: &Lab) -> Result<()> {
    let net = topology::pair()?;
    topology::ephemeral_ports(&net.client, 32_768, 60_999)?;
    let server =
        |port: u16| Server::start(&net.server, &format!("{SERVER}:{port}"), Behaviour::AnswersEof);
    let (several, single) = (server(8080)?, server(8081)?);
    let from = |port: u16| Client::new(&net.client).bound_to(&format!("10.1.0.1:{port}"));
    for port in 2000..2009 {
        from(port).short_connections(several.addr(), 1)?;
    }
    from(2009).short_connections(single.addr(), 1)?;
    settled(&net.client, 10)?;

    let ledger = Ledger::open(&net.client)?;
    let tracer = super::watch(lab, &net.client)?;
    let want = Totals { present_at_start: 10, live: 10, ..Totals::default() };
    let summary = super::totals_are(tracer, &ledger, want)?;
    let row = summary.peer(net.client.inum(), "10.1.0.2:8080")?;
    expect::equal("role", &Some("client"), &row.0["role"].as_str())?;
    expect::equal("the client's", &9, &row.number("/present_at_start")?)
}

fn closed(server: &crate::netns::Netns, port: u16) -> Result<()> {
    wait::until("the server's ends to close", wait::SOON, || {
        Ok(ss::sockets(server, port)?.is_empty().then_some(()))
    })
}
