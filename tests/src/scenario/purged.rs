//! Sockets that go with their namespace.

use anyhow::{Context, Result};

use crate::lab::Lab;
use crate::netns::Netns;
use crate::summary::Totals;
use crate::topology::{self, Pair, SERVER};
use crate::traffic::{Behaviour, Client, Server};
use crate::twtrace::Tracer;
use crate::{equation, expect};

/// Deleting the namespace ends its TIME_WAIT sockets at once, and with them its own counters.
pub fn purged_with_its_namespace(lab: &Lab) -> Result<()> {
    let Pair { client, server } = topology::pair()?;
    let inum = client.inum();
    let serving = Server::start(&server, &format!("{SERVER}:8080"), Behaviour::AnswersEof)?;
    let tracer = super::watch(lab, &client)?;
    // Namespaces are torn down behind the caller's back; the events tell when it is done.
    let events = Tracer::events(lab, &["--netns", client.name()])?;
    Client::new(&client).short_connections(serving.addr(), 10)?;
    equation::settled(&client, 10)?;
    client.delete()?;
    events.await_events("10 ends", |events| {
        events.iter().filter(|event| event["event"] == "ended").count() >= 10
    })?;

    let summary = tracer.finish()?;
    let want = Totals { entered: 10, purged: 10, ..Totals::default() };
    expect::equal("totals", &want, &summary.totals()?)?;
    let row = summary.peer(inum, "10.1.0.2:8080").context("the row outlives the namespace")?;
    expect::equal("the peer's counts", &want, &row.totals()?)
}

/// The next namespace has the number of the one before, and rows and counters of its own.
pub fn a_number_that_comes_back_is_another_namespace(lab: &Lab) -> Result<()> {
    super::until_as_meant(|| {
        let first = Netns::new("first")?;
        let (inum, cookie) = (first.inum(), first.cookie()?);
        let number = inum.to_string();
        let tracer = Tracer::watch(lab, &["--netns", &number])?;
        let events = Tracer::events(lab, &["--netns", &number])?;
        let connect = |netns: &Netns, count| {
            let serving = Server::start(netns, "127.0.0.1:8080", Behaviour::AnswersEof)?;
            Client::new(netns).short_connections(serving.addr(), count)
        };
        connect(&first, 4)?;
        first.delete()?;
        events.await_events("4 ends", |events| {
            events.iter().filter(|event| event["event"] == "ended").count() >= 4
        })?;
        // The lowest free number is given out, and the first one's is free a moment later.
        let mut others = Vec::new();
        let second = loop {
            let next = Netns::new("second")?;
            if next.inum() == inum {
                break next;
            }
            others.push(next);
            if others.len() == 32 {
                return Ok(None);
            }
        };
        connect(&second, 3)?;
        let summary = tracer.finish()?;
        let rows = summary.peers()?.iter().map(|row| {
            let of = |key: &str| row[key].as_u64();
            (of("netns"), of("netns_cookie"), of("entered"))
        });
        let mut rows: Vec<_> = rows.collect();
        rows.sort();
        let inum = Some(inum);
        // Cookies are given out by processor: the later one need not be the larger.
        let mut want = match (cookie, second.cookie()?) {
            (None, _) | (_, None) => vec![(inum, None, Some(7))],
            (first, second) => vec![(inum, first, Some(4)), (inum, second, Some(3))],
        };
        want.sort();
        expect::equal("rows: number, cookie, entered", &want, &rows)?;
        Ok(Some(()))
    })
}
