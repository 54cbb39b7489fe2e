//! Memory and processor time against peers, live sockets and the rate of events.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::agent::Agent;
use super::load::Site;
use super::{Bench, point};

/// Bytes of a MiB.
const MIB: f64 = 1_048_576.0;

/// Draws the three curves.
pub fn run(bench: &Bench) -> Result<()> {
    peers(bench)?;
    live(bench)?;
    rate(bench)
}

/// One connection to each of ever more peers; the table holds 65,536 of them.
fn peers(bench: &Bench) -> Result<()> {
    let steps: &[u32] = bench
        .size(&[10, 100, 1_000, 10_000, 30_000, 65_536, 100_000, 300_000, 1_000_000], &[10, 100]);
    let site = Site::loopback()?;
    let agent = Agent::twtrace(bench, &["--netns", site.client.name()])?;
    let (mut before, mut used) = (0, agent.cpu_seconds()?);
    for &peers in steps {
        site.visit(before..peers)?;
        let now = agent.cpu_seconds()?;
        let each = (now - used) / f64::from(peers - before) * 1e6;
        point("growth/peers/memory", "MiB", f64::from(peers), agent.resident()? / MIB);
        point("growth/peers/processor a connection", "µs", f64::from(peers), each);
        eprintln!("bench: {peers} peers");
        (before, used) = (peers, now);
    }
    Ok(())
}

/// Ever more sockets that live; 262,144 of them are followed.
fn live(bench: &Bench) -> Result<()> {
    let steps: &[u32] =
        bench.size(&[0, 50_000, 100_000, 200_000, 262_144, 350_000, 500_000], &[0, 200]);
    let site = Site::loopback()?;
    let agent = Agent::twtrace(bench, &["--netns", site.client.name()])?;
    let mut before = 0;
    for &sockets in steps {
        // Few peers, so that only the sockets grow; each has ports enough for its share.
        for peer in 0..16 {
            let share = ((sockets - before) as usize).div_ceil(16);
            let to = (std::net::Ipv4Addr::new(10, 255, 0, peer), 8080).into();
            crate::traffic::Client::new(&site.client).short_connections(to, share)?;
        }
        let sockets_now = site.live()? as f64;
        point("growth/live sockets/memory", "MiB", sockets_now, agent.resident()? / MIB);
        point("growth/live sockets/maps", "MiB", sockets_now, agent.map_bytes()? / MIB);
        eprintln!("bench: {sockets_now} live sockets");
        before = sockets;
    }
    Ok(())
}

/// Ever more connections a second.
fn rate(bench: &Bench) -> Result<()> {
    let time = bench.size(Duration::from_secs(3), Duration::from_millis(200));
    let steps: &[u32] = bench.size(&[0, 500, 1_000, 2_000, 4_000, 8_000], &[0, 100]);
    for &rate in steps {
        let site = Site::loopback()?;
        let agent = Agent::twtrace(bench, &["--netns", site.client.name()])?;
        let (started, before) = (Instant::now(), agent.cpu_seconds()?);
        let done = site.at_rate(rate, time)?;
        let spent = started.elapsed().as_secs_f64();
        let share = (agent.cpu_seconds()? - before) / spent * 100.0;
        point("growth/rate/processor", "%", done as f64 / spent, share);
        eprintln!("bench: {:.0} connections a second", done as f64 / spent);
    }
    Ok(())
}
