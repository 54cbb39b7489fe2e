//! What the comparison with the kernel's own counters takes, by the number of network namespaces.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::agent::Agent;
use super::{Bench, point};
use crate::netns::Netns;
use crate::wait;

/// Time between two looks.
const LOOKS: &str = "1s";
/// Ticks a second that the kernel tells processor times in (`USER_HZ`).
const TICKS: f64 = 100.0;

/// Watches idle namespaces, with and without comparing, and takes the difference. Where only some
/// sockets are meant there is nothing to compare.
pub fn run(bench: &Bench) -> Result<()> {
    let mut namespaces = Vec::new();
    for count in [1, 16, 64, 256] {
        if bench.quick && count > 1 {
            break;
        }
        while namespaces.len() < count as usize {
            namespaces.push(Netns::new("audit")?);
        }
        let share = watch(bench, &[])? - watch(bench, &["dport", "1"])?;
        point("audit/share of a core", "%", f64::from(count), share * 100.0);
    }
    Ok(())
}

/// The share of a core that an agent takes which finds out nothing but its counts.
fn watch(bench: &Bench, filter: &[&str]) -> Result<f64> {
    let counts = ["--by", "netns", "-o", "ndjson", "--interval", LOOKS];
    let agent = Agent::watching(bench, &[&counts[..], filter].concat())?;
    let (began, before) = (Instant::now(), processor_seconds(&agent)?);
    wait::pass(bench.size(Duration::from_secs(40), Duration::from_secs(1)));
    let used = processor_seconds(&agent)? - before;
    let share = used / began.elapsed().as_secs_f64();
    agent.finish()?;
    Ok(share)
}

/// Processor time of a program, of threads that have ended as well.
fn processor_seconds(agent: &Agent) -> Result<f64> {
    let stat = fs::read_to_string(agent.proc("stat"))?;
    // Behind the name, which may hold anything, the 12th and 13th are user and system time.
    let (_, behind) = stat.rsplit_once(')').context("stat")?;
    let times = behind.split_ascii_whitespace().skip(11).take(2);
    let ticks = times.map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(ticks as f64 / TICKS)
}
