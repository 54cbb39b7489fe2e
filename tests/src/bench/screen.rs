//! What the full screen costs in a real terminal, beside a session that shows nothing.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::agent::cpu_seconds;
use super::load::Site;
use super::{Bench, sample};
use crate::terminal::Terminal;
use crate::topology;
use crate::traffic::{Client, close_first};
use crate::wait;

/// Connections a second: each is an entry and, since it takes a port over, an end.
const RATE: u32 = 2_500;
/// Peers, more than fit on the screen.
const PEERS: u32 = 500;
/// Ports for each of them: 4 s of connections, so that one is always old enough to be taken over.
const PORTS: u16 = 20;

/// Looks at 5,000 events a second: on no screen, on a usual one, and on a large one.
pub fn run(bench: &Bench) -> Result<()> {
    let site = Site::loopback()?;
    topology::ephemeral_ports(&site.client, 20_000, 19_999 + PORTS)?;
    site.client.set("ipv4/tcp_tw_reuse", "1")?;
    let netns = site.client.name();
    for _ in 0..bench.size(3, 1) {
        let shows_nothing = ["--netns", netns, "-o", "json", ">/dev/null"];
        let terminal = Terminal::watch(&bench.lab, &shows_nothing)?;
        terminal.shows("that it watches", |screen| screen.contains("twtrace: watching"))?;
        share(bench, &site, &terminal, "nothing shown")?;
        for (columns, lines) in [(80, 24), (200, 50)] {
            let terminal = Terminal::watch(&bench.lab, &["--netns", netns])?;
            terminal.resize(columns, lines)?;
            terminal.shows("what it counts", |screen| screen.contains(" lost"))?;
            share(bench, &site, &terminal, &format!("{columns}x{lines}"))?;
        }
    }
    Ok(())
}

/// Makes connections and tells what share of a processor was used meanwhile.
fn share(bench: &Bench, site: &Site, terminal: &Terminal, name: &str) -> Result<()> {
    let pid = terminal.child()?;
    let time = bench.size(Duration::from_secs(12), Duration::from_millis(300));
    // Until ports are taken over, a connection is one event only.
    connect(site, time / 2)?;
    let (started, before) = (Instant::now(), cpu_seconds(pid)?);
    let done = connect(site, time)?;
    let spent = started.elapsed().as_secs_f64();
    let share = (cpu_seconds(pid)? - before) / spent * 100.0;
    sample(&format!("screen/{name}"), "%", share);
    sample(&format!("screen/{name}/connections"), "/s", done as f64 / spent);
    Ok(())
}

/// Connections to one peer after the other at a steady rate; answers how many.
fn connect(site: &Site, time: Duration) -> Result<u32> {
    let client = Client::new(&site.client);
    site.client.run(|| {
        let started = Instant::now();
        let mut done = 0;
        while started.elapsed() < time {
            let due = (started.elapsed().as_secs_f64() * f64::from(RATE)) as u32;
            while done < due {
                let to = Ipv4Addr::from_bits(0x0a00_0001 + done % PEERS);
                close_first(client.dial((to, 8080).into()).context("connecting to a peer")?)?;
                done += 1;
            }
            wait::pass(Duration::from_millis(5));
        }
        Ok(done)
    })
}
