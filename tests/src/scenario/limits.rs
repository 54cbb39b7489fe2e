//! What is left out to bound cost never changes the counts.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use crate::expect;
use crate::lab::Lab;
use crate::summary::{Entries, Peer, Summary};
use crate::topology::{self, SERVER};
use crate::traffic::{Behaviour, Client, Server};
use crate::twtrace::Tracer;

fn rows(summary: &Summary) -> Result<BTreeMap<String, Entries>> {
    let row = |row| {
        let peer = Peer(row).0["peer"].as_str().context("a row without peer")?;
        Ok((peer.to_owned(), Peer(row).entries()?))
    };
    summary.peers()?.iter().map(row).collect()
}

/// `--no-ends` says nothing of ends and the same of entries.
pub fn no_ends_counts_the_same(lab: &Lab) -> Result<()> {
    let net = topology::pair()?;
    let full = super::watch(lab, &net.client)?;
    let lean = Tracer::watch(lab, &["--netns", net.client.name(), "--no-ends"])?;
    let ipv4 = Server::start(&net.server, "10.1.0.2:8080", Behaviour::AnswersEof)?;
    let ipv6 = Server::start(&net.server, "[fd01::2]:8081", Behaviour::AnswersEof)?;
    let holds = Server::start(&net.server, "10.1.0.2:8082", Behaviour::Holds)?;
    let client = Client::new(&net.client);
    client.short_connections(ipv4.addr(), 30)?;
    client.short_connections(ipv6.addr(), 20)?;
    drop(client.open_many(holds.addr(), 10)?);
    crate::equation::settled(&net.client, 60)?;

    let (full, lean) = (full.finish()?, lean.finish()?);
    let want = BTreeMap::from([
        ("10.1.0.2:8080".to_owned(), Entries::with("client", 30)),
        ("[fd01::2]:8081".to_owned(), Entries::with("client", 20)),
        ("10.1.0.2:8082".to_owned(), Entries::with("client", 10)),
    ]);
    expect::equal("rows with ends", &want, &rows(&full)?)?;
    expect::equal("rows without ends", &want, &rows(&lean)?)?;
    expect::equal("mini-sockets", &10, &lean.number("/totals/fin_wait2")?)?;
    for pointer in ["/totals/live", "/totals/two_msl", "/totals/killed"] {
        let value = lean.at(pointer)?;
        expect::that(value.is_null(), || format!("{pointer} is {value} with --no-ends"))?;
    }
    Ok(())
}

/// Peers beyond `--max-peers` lose their rows, not their counts.
pub fn cap_of_peers_folds_into_other(lab: &Lab) -> Result<()> {
    const CAP: usize = 4;
    let net = topology::pair()?;
    let tracer = Tracer::watch(lab, &["--netns", net.client.name(), "--max-peers", "4"])?;
    for extra in 0..10 {
        let addr = format!("{SERVER}:{}", 8080 + extra);
        let server = Server::start(&net.server, &addr, Behaviour::AnswersEof)?;
        Client::new(&net.client).short_connections(server.addr(), 1 + extra)?;
    }
    let summary = tracer.finish()?;
    expect::equal("totals.entered", &55, &summary.totals()?.entered)?;
    let rows = rows(&summary)?;
    expect::that(rows.len() <= CAP, || format!("{} rows under a cap of {CAP}", rows.len()))?;
    let in_rows: u64 = rows.values().map(|row| row.entered).sum();
    let in_other = summary.number("/other/entered")?;
    expect::equal("entered in rows and other", &55, &(in_rows + in_other))?;
    expect::that(in_other > 0, || "nothing was folded into other".to_owned())?;
    // All rows live on, so that none gave its place away.
    expect::equal("events without a row", &in_other, &summary.number("/peers_folded")?)
}
