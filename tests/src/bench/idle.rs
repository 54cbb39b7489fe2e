//! What a session costs that has nothing to see.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::agent::Agent;
use super::tools::Tool;
use super::{Bench, sample};
use crate::netns::Netns;
use crate::wait;

/// Time after the start in which a tool comes to rest.
const REST: Duration = Duration::from_secs(3);

/// Watches a namespace in which nothing happens, and beside it lets the other tools see nothing.
pub fn run(bench: &Bench) -> Result<()> {
    let netns = Netns::new("idle")?;
    let own = ["-o", "json", "--netns", netns.name()];
    for _ in 0..bench.size(3, 1) {
        rest(bench, "twtrace", &Agent::watching(bench, &own)?)?;
        // A quick look need not wait seconds for another tool to start.
        if !bench.quick && Tool::Bpftrace.is_here() {
            let agent = Tool::Bpftrace.start(bench)?.context("bpftrace does something")?;
            rest(bench, Tool::Bpftrace.name(), &agent)?;
        }
    }
    Ok(())
}

/// What an agent takes each second while nothing happens.
fn rest(bench: &Bench, name: &str, agent: &Agent) -> Result<()> {
    wait::pass(bench.size(REST, Duration::ZERO));
    let (began, used, woken) = (Instant::now(), agent.cpu_seconds()?, wake_ups(agent)?);
    wait::pass(bench.size(Duration::from_secs(10), Duration::from_secs(1)));
    let seconds = began.elapsed().as_secs_f64();
    let millis = (agent.cpu_seconds()? - used) * 1e3 / seconds;
    sample(&format!("idle/{name}/processor"), "ms/s", millis);
    let woken = wake_ups(agent)?.saturating_sub(woken) as f64 / seconds;
    sample(&format!("idle/{name}/wake-ups"), "a second", woken);
    sample(&format!("idle/{name}/resident"), "MiB", agent.resident()? / f64::from(1 << 20));
    Ok(())
}

/// Times one of its threads, those there now, was given a processor, having waited for something.
fn wake_ups(agent: &Agent) -> Result<u64> {
    let mut all = 0;
    for thread in fs::read_dir(agent.proc("task"))? {
        // A thread may have ended since it was listed.
        let Ok(status) = fs::read_to_string(thread?.path().join("status")) else { continue };
        let count = status.lines().find_map(|it| it.strip_prefix("voluntary_ctxt_switches:"));
        all += count.context("voluntary_ctxt_switches")?.trim().parse::<u64>()?;
    }
    Ok(all)
}
