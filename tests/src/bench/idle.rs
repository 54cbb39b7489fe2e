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
    let (began, before) = (Instant::now(), Taken::by(agent)?);
    wait::pass(bench.size(Duration::from_secs(10), Duration::from_secs(1)));
    let (seconds, after) = (began.elapsed().as_secs_f64(), Taken::by(agent)?);
    let millis = (after.nanoseconds - before.nanoseconds) as f64 / 1e6 / seconds;
    sample(&format!("idle/{name}/processor"), "ms/s", millis);
    let switches = (after.switches - before.switches) as f64 / seconds;
    sample(&format!("idle/{name}/wake-ups"), "a second", switches);
    sample(&format!("idle/{name}/resident"), "MiB", agent.resident()? / f64::from(1 << 20));
    Ok(())
}

/// What the threads of an agent have taken so far.
struct Taken {
    /// Processor time.
    nanoseconds: u64,
    /// Times one of them was given a processor, having waited for something.
    switches: u64,
}

impl Taken {
    fn by(agent: &Agent) -> Result<Self> {
        let mut taken = Self { nanoseconds: 0, switches: 0 };
        for thread in fs::read_dir(agent.proc("task"))? {
            let thread = thread?.path();
            let time = fs::read_to_string(thread.join("schedstat"))?;
            let time = time.split_ascii_whitespace().next().context("schedstat")?;
            taken.nanoseconds += time.parse::<u64>()?;
            let status = fs::read_to_string(thread.join("status"))?;
            let count = status.lines().find_map(|it| it.strip_prefix("voluntary_ctxt_switches:"));
            taken.switches += count.context("voluntary_ctxt_switches")?.trim().parse::<u64>()?;
        }
        Ok(taken)
    }
}
