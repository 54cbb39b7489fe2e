//! One line an event.

use anyhow::Result;
use serde_json::Value;

use crate::lab::Lab;
use crate::summary::Totals;
use crate::traffic::{Behaviour, Client, Server};
use crate::twtrace::Tracer;
use crate::{expect, topology, wait};

fn count(events: &[Value], kind: &str) -> u64 {
    events.iter().filter(|event| event["event"] == kind).count() as u64
}

/// `--events -o ndjson` tells of what was there, what came and what went, in order of time.
pub fn events_ndjson(lab: &Lab) -> Result<()> {
    let net = topology::pair()?;
    let server = Server::start(&net.server, "10.1.0.2:8080", Behaviour::AnswersEof)?;
    let client = Client::new(&net.client);
    client.short_connections(server.addr(), 2)?;
    let tracer = Tracer::events(lab, &["--netns", net.client.name()])?;
    let bound = client.clone().bound_to("10.1.0.1:40000");
    for round in 0..3 {
        if round > 0 {
            closed(&net.server)?;
        }
        bound.short_connections(server.addr(), 1)?;
    }
    tracer.await_events("2 ends", |events| count(events, "ended") >= 2)?;
    let events = tracer.finish_events()?;

    let got = Totals {
        present_at_start: count(&events, "present"),
        entered: count(&events, "entered"),
        reused: events.iter().filter(|event| event["reason"] == "reused").count() as u64,
        ..Totals::default()
    };
    let want = Totals { present_at_start: 2, entered: 3, reused: 2, ..Totals::default() };
    expect::equal("events", &want, &got)?;
    for event in &events {
        expect::equal("remote", &"10.1.0.2:8080", &event["remote"].as_str().unwrap_or_default())?;
        expect::equal("netns", &Some(net.client.inum()), &event["netns"].as_u64())?;
        if event["event"] == "entered" {
            let local = event["local"].as_str().unwrap_or_default();
            expect::equal("local", &"10.1.0.1:40000", &local)?;
        }
    }
    let times: Vec<_> = events.iter().map(|event| event["mono_ns"].as_u64()).collect();
    let traced: Vec<_> = times[2..].to_vec();
    expect::that(traced.is_sorted(), || format!("not in order of time: {times:?}"))
}

/// Waits until the server has no connection left: before, its end would refuse the same port.
fn closed(server: &crate::netns::Netns) -> Result<()> {
    wait::until("the server's end to close", wait::SOON, || {
        Ok(crate::ss::sockets(server, 8080)?.is_empty().then_some(()))
    })
}
