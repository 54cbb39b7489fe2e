//! A server that closes first, and a client that comes back with the same port.

use anyhow::Result;

use crate::equation::{Ledger, settled};
use crate::lab::Lab;
use crate::summary::{Entries, Totals};
use crate::topology::{self, CLIENT, SERVER};
use crate::traffic::{Behaviour, Client, Server};
use crate::{expect, ss, wait};

/// Its SYN is newer than the TIME_WAIT socket and replaces it.
pub fn replaced_by_a_syn(lab: &Lab) -> Result<()> {
    let net = topology::pair()?;
    let server = Server::start(&net.server, &format!("{SERVER}:8080"), Behaviour::ClosesFirst)?;
    let ledger = Ledger::open(&net.server)?;
    let tracer = super::watch(lab, &net.server)?;
    let client = Client::new(&net.client).bound_to(&format!("{CLIENT}:40000"));
    for _ in 0..4 {
        client.close_second(server.addr(), 1)?;
        settled(&net.server, 1)?;
        wait::until("the client's end to close", wait::SOON, || {
            Ok(ss::sockets(&net.client, 40_000)?.is_empty().then_some(()))
        })?;
    }
    let want = Totals { entered: 4, replaced: 3, live: 1, ..Totals::default() };
    let summary = super::totals_are(tracer, &ledger, want)?;
    let row = summary.peer(net.server.inum(), CLIENT)?;
    expect::equal("the peer's entries", &Entries::with("server", 4), &row.entries()?)?;
    expect::equal("the peer's counts", &want, &row.totals()?)
}
