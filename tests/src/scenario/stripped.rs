//! The story the program is for: a router that strips timestamps closes the fast path.

use std::time::Duration;

use anyhow::Result;

use crate::equation::Ledger;
use crate::expect;
use crate::lab::Lab;
use crate::summary::{Entries, Totals};
use crate::topology::{self, ROUTED, SERVER};
use crate::traffic::{Behaviour, Client, Outcome, Server};
use crate::wait;

/// Ports that the client may use; with all of them in TIME_WAIT connect() has none.
///
/// A connect looks at most of the ports before it finds its own. With a probe on each look, and
/// under software emulation, the story's 1,000 would take longer than the 60 s that they wait.
fn ports(lab: &Lab) -> u64 {
    if lab.backend.sees_functions() { 200 } else { 1000 }
}

/// Attempts once the stripped path has no port left.
const BEYOND: u64 = 100;

/// The same client, sysctls and ports: one peer is eligible, the other blocked.
pub fn stripped_timestamps_story(lab: &Lab) -> Result<()> {
    let ports = ports(lab);
    let net = topology::routed()?;
    let stripper = topology::strip_timestamps(&net.router)?;
    eprintln!("timestamps are stripped by {stripper}");
    net.client.set("ipv4/tcp_tw_reuse", "1")?;
    topology::ephemeral_ports(&net.client, 20_000, 19_999 + ports as u16)?;
    let direct = Server::start(&net.direct, &format!("{SERVER}:8080"), Behaviour::AnswersEof)?;
    let behind = Server::start(&net.behind, &format!("{ROUTED}:8080"), Behaviour::AnswersEof)?;

    let ledger = Ledger::open(&net.client)?;
    let tracer = super::watch(lab, &net.client)?;
    let client = Client::new(&net.client);
    for round in 0..3 {
        if round > 0 {
            // Older than a second: the age at which a port may be taken over.
            wait::pass(Duration::from_millis(1500));
        }
        client.short_connections(direct.addr(), ports as usize)?;
    }
    let stripped = client.try_connections(behind.addr(), (ports + BEYOND) as usize)?;
    let want = Outcome { connected: ports, no_port: BEYOND };
    expect::equal("connections through the stripping router", &want, &stripped)?;

    // A round that takes over a second reuses some of its own ports: the kernel counts how many.
    let reused = ledger.counted()?.tw_recycled;
    expect::that((2 * ports..3 * ports).contains(&reused), || format!("TWRecycled +{reused}"))?;
    let want = Totals { entered: 4 * ports, live: 4 * ports - reused, reused, ..Totals::default() };
    let summary = super::totals_are(tracer, &ledger, want)?;
    let netns = net.client.inum();
    let row = summary.peer(netns, "10.1.0.2:8080")?;
    expect::equal("direct peer", &Entries::with("client", 3 * ports), &row.entries()?)?;
    expect::equal("eligible, direct", &(3 * ports), &row.number("/eligible")?)?;
    expect::equal("allowed, direct", &(3 * ports), &row.number("/allowed")?)?;
    expect::equal("blocked, direct", &0, &row.number("/blocked/no_peer_timestamps")?)?;
    expect::equal("reused, direct", &reused, &row.totals()?.reused)?;
    let row = summary.peer(netns, "10.2.0.2:8080")?;
    expect::equal("stripped peer", &Entries::without("client", ports), &row.entries()?)?;
    expect::equal("eligible, stripped", &0, &row.number("/eligible")?)?;
    expect::equal("allowed, stripped", &0, &row.number("/allowed")?)?;
    expect::equal("blocked, stripped", &ports, &row.number("/blocked/no_peer_timestamps")?)?;
    expect::equal("reused, stripped", &0, &row.totals()?.reused)
}
