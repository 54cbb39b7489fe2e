//! Sockets that go with their namespace.

use anyhow::{Context, Result};

use crate::lab::Lab;
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
