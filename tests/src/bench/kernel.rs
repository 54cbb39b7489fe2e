//! What the programs cost in the kernel, by the kernel's own statistics of each.

use anyhow::{Context as _, Result, bail};
use aya::sys::{Stats, enable_stats};

use super::agent::Agent;
use super::load::Site;
use super::tools::Tool;
use super::{Bench, note, sample};
use crate::lab::Object;

/// Runs the same connections under each tool, in turn.
pub fn run(bench: &Bench) -> Result<()> {
    // In effect while the descriptor is open.
    let _statistics = enable_stats(Stats::RunTime).context("BPF_ENABLE_STATS")?;
    for tool in Tool::ALL.into_iter().chain([Tool::Empty]) {
        if bench.quick && !tool.is_ours() {
            // End to end each of them is started, and counts.
            continue;
        }
        if !tool.is_here() {
            note(&format!("{} is not on this machine", tool.name()));
            continue;
        }
        for round in 0..bench.size(3, 1) {
            let agent = tool.start(bench).with_context(|| format!("starting {}", tool.name()))?;
            match agent.map_or(Ok(()), |agent| measure(bench, agent, tool, round == 0)) {
                Ok(()) => {}
                // What is compared with need not be as sound as what is compared.
                Err(error) if !tool.is_ours() => note(&format!("{}: {error:#}", tool.name())),
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// A number of connections whose sockets end with their namespace.
fn measure(bench: &Bench, agent: Agent, tool: Tool, first: bool) -> Result<()> {
    let count = bench.connections.unwrap_or_else(|| bench.size(20_000, 200));
    let prefix = format!("kernel/{}", label(bench, tool));
    let (before, cpu) = (agent.programs()?, agent.cpu_seconds()?);
    let site = Site::loopback()?;
    site.connections_per_second(count)?;
    site.delete_and_see(bench)?;
    let mut whole = 0;
    for (name, program) in agent.programs()? {
        let earlier = before.get(&name).copied().unwrap_or_default();
        let (ns, runs) = (program.run_ns - earlier.run_ns, program.runs - earlier.runs);
        whole += ns;
        if runs > 0 {
            sample(&format!("{prefix}/{name}/each run"), "ns", ns as f64 / runs as f64);
            let each = runs as f64 / count as f64;
            sample(&format!("{prefix}/{name}/runs a connection"), "", each);
        }
        if first && program.verified > 0 {
            let verified = program.verified as f64;
            sample(&format!("{prefix}/{name}/instructions verified"), "", verified);
        }
    }
    sample(&format!("{prefix}/all/each connection"), "ns", whole as f64 / count as f64);
    let used = (agent.cpu_seconds()? - cpu) / count as f64 * 1e6;
    sample(&format!("{prefix}/all/agent's processor time"), "s a million", used);
    let counted = tool.counted(&agent.finish()?)? as f64;
    if counted == 0.0 && tool != Tool::Empty {
        bail!("{} counted none of {count} connections", tool.name());
    }
    sample(&format!("{prefix}/all/counted a connection"), "", counted / count as f64);
    Ok(())
}

/// The tool, and for twtrace the way it is attached.
fn label(bench: &Bench, tool: Tool) -> String {
    let backend = bench.lab.backend.name();
    let way = match bench.lab.object {
        Object::RingBuf => backend.to_owned(),
        Object::Perf => format!("{backend}-perf"),
    };
    match tool {
        Tool::Twtrace => format!("twtrace, {way}"),
        Tool::NoEnds => format!("twtrace, {way} --no-ends"),
        other => other.name().to_owned(),
    }
}
