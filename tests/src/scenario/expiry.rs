//! The 2MSL path: sockets that sit out the whole timeout.

use std::time::Duration;

use anyhow::Result;

use crate::counters::Counters;
use crate::equation::Ledger;
use crate::expect;
use crate::lab::Lab;
use crate::netns::Netns;
use crate::summary::Totals;
use crate::traffic::{Behaviour, Client, Server};
use crate::{topology, wait};

/// 60 s, what the timer wheel adds, and room for a slow machine.
const EXPIRED_BY: Duration = Duration::from_secs(100);
/// The timer wheel never fires early; half a tick is lost in the clocks.
const EARLIEST_MS: u64 = 59_900;
const LATEST_MS: u64 = 70_000;

fn all_expired(netns: &Netns) -> Result<()> {
    wait::until("the sockets to expire", EXPIRED_BY, || {
        Ok((Counters::read(netns)?.live == 0).then_some(()))
    })
}

/// Twenty sockets wait 60 s, and so their lifetimes say.
pub fn expiry_is_two_msl(lab: &Lab) -> Result<()> {
    let net = topology::pair()?;
    let ledger = Ledger::open(&net.client)?;
    let tracer = super::watch(lab, &net.client)?;
    let server = Server::start(&net.server, "10.1.0.2:8080", Behaviour::AnswersEof)?;
    Client::new(&net.client).short_connections(server.addr(), 20)?;
    expect::equal("TIME_WAIT sockets", &20, &ledger.counted()?.live)?;
    all_expired(&net.client)?;

    let want = Totals { entered: 20, two_msl: 20, ..Totals::default() };
    let summary = super::totals_are(tracer, &ledger, want)?;
    let peer = summary.peer(net.client.inum(), "10.1.0.2:8080")?;
    expect::equal("lifetimes counted", &20, &peer.number("/lifetime_ms/count")?)?;
    expect::equal("scheduled", &60_000, &peer.number("/scheduled_ms/max")?)?;
    for quantile in ["p50", "p90", "p99", "max"] {
        let lived = peer.number(&format!("/lifetime_ms/{quantile}"))?;
        expect::that((EARLIEST_MS..LATEST_MS).contains(&lived), || {
            format!("lifetime {quantile} is {lived} ms, not about 60 s")
        })?;
    }
    Ok(())
}

/// Sockets that were there at start end as present ones and belong to no peer's entries.
pub fn a_present_socket_expires(lab: &Lab) -> Result<()> {
    let net = topology::pair()?;
    let server = Server::start(&net.server, "10.1.0.2:8080", Behaviour::AnswersEof)?;
    let client = Client::new(&net.client);
    client.short_connections(server.addr(), 7)?;
    let tracer = super::watch(lab, &net.client)?;
    all_expired(&net.client)?;

    let got = tracer.finish()?.totals()?;
    let want = Totals { present_at_start: 7, two_msl: 7, ..Totals::default() };
    expect::equal("totals", &want, &got)
}
