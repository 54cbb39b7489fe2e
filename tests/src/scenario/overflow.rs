//! More entries than the kernel will keep sockets for.

use anyhow::Result;

use crate::equation::Ledger;
use crate::expect;
use crate::lab::Lab;
use crate::summary::Totals;
use crate::topology::{self, SERVER};
use crate::traffic::{Behaviour, Client, Server};

/// 80 entries with `tcp_max_tw_buckets=50`: the last 30 leave no socket, and have a peer.
pub fn overflow_of_buckets(lab: &Lab) -> Result<()> {
    let net = topology::pair()?;
    net.client.set("ipv4/tcp_max_tw_buckets", "50")?;
    let ledger = Ledger::open(&net.client)?;
    let tracer = super::watch(lab, &net.client)?;
    let serve =
        |port| Server::start(&net.server, &format!("{SERVER}:{port}"), Behaviour::AnswersEof);
    let client = Client::new(&net.client);
    client.short_connections(serve(8080)?.addr(), 40)?;
    client.short_connections(serve(8081)?.addr(), 40)?;

    let want = Totals { entered: 80, overflow: 30, live: 50, ..Totals::default() };
    let summary = super::totals_are(tracer, &ledger, want)?;
    let overflow = |peer| Ok(summary.peer(net.client.inum(), peer)?.totals()?.overflow);
    let got: Result<Vec<u64>> =
        ["10.1.0.2:8080", "10.1.0.2:8081"].into_iter().map(overflow).collect();
    expect::equal("overflow by peer", &vec![0, 30], &got?)
}
