//! What is left out to bound cost never changes the counts.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use rustix::process::Signal;

use crate::counters::Counters;
use crate::expect;
use crate::lab::Lab;
use crate::summary::{Entries, Peer, Summary, Totals};
use crate::topology::{self, SERVER};
use crate::traffic::{Behaviour, Client, Server, abandon};
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
    client.open_many(holds.addr(), 10)?.into_iter().try_for_each(abandon)?;
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

/// Sockets that are there at the start, and as many that enter later, end while nobody reads the
/// buffer, which is full: they are missed, and found not to live any more.
///
/// On one processor: each may have a buffer of its own.
pub fn lost_events_are_found_missing(lab: &Lab) -> Result<()> {
    const SOCKETS: u16 = 200;
    const FILLING: usize = 9000;
    let net = topology::pair()?;
    // By its memory a small machine has fewer, and what overflows is no entry through tracepoints.
    net.client.set("ipv4/tcp_max_tw_buckets", "100000")?;
    let addr = format!("{SERVER}:8080");
    let server =
        super::on_processor(0, || Server::start(&net.server, &addr, Behaviour::AnswersEof))?;
    let client = Client::new(&net.client);
    let ports = 20_000..20_000 + 2 * SOCKETS;
    let connect = |port| {
        let bound = client.clone().bound_to(&format!("10.1.0.1:{port}"));
        bound.short_connections(server.addr(), 1)
    };
    ports.clone().take(SOCKETS.into()).try_for_each(connect)?;
    let only = ["--netns", net.client.name()];
    let tracer = Tracer::watch_with_smallest_buffer(lab, &only)?;
    ports.clone().skip(SOCKETS.into()).try_for_each(connect)?;

    tracer.signal(Signal::STOP)?;
    let made = super::on_processor(0, || {
        client.short_connections(server.addr(), FILLING)?;
        // Each takes the port of one that is there, which is its end.
        ports.clone().try_for_each(connect)
    });
    tracer.signal(Signal::CONT)?;
    made?;
    let summary = tracer.finish_report()?;
    let (totals, trust) = (Totals::of(&summary["totals"])?, &summary["trust"]);
    let sockets = u64::from(SOCKETS);
    expect::equal("present at the start", &sockets, &totals.present_at_start)?;
    let entered = sockets + FILLING as u64 + 2 * sockets;
    expect::equal("entered, as the kernel side counts", &entered, &totals.entered)?;
    expect::equal("ends", &(2 * sockets), &(totals.reused + totals.unknown))?;
    expect::that(totals.unknown > 0, || format!("no end was lost: {trust:#}"))?;
    expect::equal("ends found missing", &Some(totals.unknown), &trust["healed"].as_u64())?;
    // Of a lost entry it is not known whether it lives; here all do.
    let lost = trust["lost_sockets"].as_u64().context("lost_sockets")?;
    let lives = Counters::read(&net.client)?.live;
    expect::equal("live, with those whose entry was lost", &lives, &(totals.live + lost))
}
