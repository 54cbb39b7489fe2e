//! Mini-sockets that wait in FIN_WAIT2 for the peer's FIN.

use anyhow::Result;

use crate::equation::{Ledger, settled};
use crate::expect;
use crate::lab::Lab;
use crate::summary::Totals;
use crate::topology::{self, SERVER};
use crate::traffic::{Behaviour, Client, Server, abandon};

/// The FIN comes: the socket becomes TIME_WAIT without another entry and is armed anew.
pub fn promoted(lab: &Lab) -> Result<()> {
    let net = topology::pair()?;
    let ledger = Ledger::open(&net.client)?;
    let tracer = super::watch(lab, &net.client)?;
    let server = Server::start(&net.server, &format!("{SERVER}:8080"), Behaviour::Holds)?;
    let streams = Client::new(&net.client).open_many(server.addr(), 10)?;
    let held = server.take(10)?;
    streams.into_iter().try_for_each(abandon)?;
    settled(&net.client, 10)?;
    let ports: Vec<_> = held.iter().flat_map(|stream| stream.peer_addr()).collect();
    drop(held);
    for port in ports {
        crate::ss::in_state(&net.client, port.port(), "TIME-WAIT")?;
    }

    let want = Totals { entered: 10, fin_wait2: 10, live: 10, ..Totals::default() };
    let summary = super::totals_are(tracer, &ledger, want)?;
    let row = summary.peer(net.client.inum(), "10.1.0.2:8080")?;
    expect::equal("blocked as FIN_WAIT2", &0, &row.number("/blocked/fin_wait2")?)
}

/// The FIN never comes: the socket ends without ever having been in TIME_WAIT.
pub fn timed_out(lab: &Lab) -> Result<()> {
    let net = topology::pair()?;
    net.client.set("ipv4/tcp_fin_timeout", "2")?;
    // Nothing but FIN_WAIT2 stands in the way of the fast path.
    net.client.set("ipv4/tcp_tw_reuse", "1")?;
    let ledger = Ledger::open(&net.client)?;
    let tracer = super::watch(lab, &net.client)?;
    let server = Server::start(&net.server, &format!("{SERVER}:8080"), Behaviour::Holds)?;
    let streams = Client::new(&net.client).open_many(server.addr(), 10)?;
    let _held = server.take(10)?;
    // Each is a mini-socket when its close() returns.
    streams.into_iter().try_for_each(abandon)?;
    settled(&net.client, 0)?;

    let want = Totals { entered: 10, fin_wait2: 10, fin_wait2_timeout: 10, ..Totals::default() };
    let summary = super::totals_are(tracer, &ledger, want)?;
    let row = summary.peer(net.client.inum(), "10.1.0.2:8080")?;
    expect::equal("blocked as FIN_WAIT2", &10, &row.number("/blocked/fin_wait2")?)
}

/// With `tcp_fin_timeout` over 60 s the orphan stays a full socket for what is above them, and only
/// then becomes a mini-socket, by its keepalive timer, for that long once more.
pub fn by_the_keepalive_timer(lab: &Lab) -> Result<()> {
    let net = topology::pair()?;
    net.client.set("ipv4/tcp_fin_timeout", "62")?;
    let ledger = Ledger::open(&net.client)?;
    let tracer = super::watch(lab, &net.client)?;
    let server = Server::start(&net.server, &format!("{SERVER}:8080"), Behaviour::Holds)?;
    let streams = Client::new(&net.client).open_many(server.addr(), 10)?;
    let _held = server.take(10)?;
    streams.into_iter().try_for_each(abandon)?;
    settled(&net.client, 10)?;
    settled(&net.client, 0)?;

    let want = Totals { entered: 10, fin_wait2: 10, fin_wait2_timeout: 10, ..Totals::default() };
    super::totals_are(tracer, &ledger, want).map(drop)
}
