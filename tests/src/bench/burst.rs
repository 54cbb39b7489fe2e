//! How large a burst of ends may be: a namespace is deleted with all its sockets at once.

use std::time::Instant;

use anyhow::{Context as _, Result};
use aya::sys::{Stats, enable_stats};
use rustix::process::Signal;
use serde_json::Value;

use super::agent::Agent;
use super::kernel::await_quiet;
use super::load::Site;
use super::{Bench, point};
use crate::wait;

/// Deletes ever larger namespaces under the default ring buffer and looks at what was lost: with
/// the agent reading as it does, and with an agent that is stopped meanwhile, as one that gets no
/// processor: then the buffer has to hold everything.
pub fn run(bench: &Bench) -> Result<()> {
    for &size in bench.size(&[10_000, 50_000, 100_000, 200_000, 400_000][..], &[500]) {
        one(bench, size, "burst", |_, site| site.delete())?;
    }
    // To see when the kernel has gone through them.
    let _statistics = enable_stats(Stats::RunTime).context("BPF_ENABLE_STATS")?;
    for &size in bench.size(&[50_000, 100_000, 200_000][..], &[500]) {
        one(bench, size, "burst stopped", |agent, site| {
            agent.signal(Signal::STOP)?;
            let began = site.delete()?;
            await_quiet(agent)?;
            agent.signal(Signal::CONT)?;
            Ok(began)
        })?;
    }
    Ok(())
}

fn one(
    bench: &Bench,
    size: u32,
    name: &str,
    delete: impl FnOnce(&Agent, Site) -> Result<Instant>,
) -> Result<()> {
    let site = Site::loopback()?;
    let agent = Agent::twtrace(bench, &["--netns", site.client.name(), "--max-live", "524288"])?;
    site.visit(0..size)?;
    let live = site.live()?;
    await_idle(&agent)?;
    let before = agent.cpu_seconds()?;
    let began = delete(&agent, site)?;
    // Quiet means that none lives any more, lost ones included: what is lost is healed with the
    // summary.
    let (cpu, quiet) = await_idle(&agent)?;
    let document: Value = serde_json::from_str(&agent.finish()?)?;
    let total = |key: &str| -> Result<f64> {
        document["totals"][key].as_f64().with_context(|| format!("totals.{key}"))
    };
    let sockets = live as f64;
    point(&format!("{name}/lost"), "", sockets, total("lost")?);
    point(&format!("{name}/ended unseen"), "", sockets, total("unknown")?);
    point(&format!("{name}/live afterwards"), "", sockets, total("live")?);
    let spent = quiet.duration_since(began).as_secs_f64();
    point(&format!("{name}/from deletion to quiet"), "s", sockets, spent);
    point(&format!("{name}/processor"), "s", sockets, cpu - before);
    eprintln!("bench: {name} of {live}: {} lost", total("lost")?);
    Ok(())
}

/// Waits until the agent has no more to do than to look at its timer; answers its processor time
/// and when it had become quiet.
fn await_idle(agent: &Agent) -> Result<(f64, Instant)> {
    let mut before = agent.cpu_seconds()?;
    let (mut calm, mut since) = (0, Instant::now());
    wait::until("the agent to be idle", wait::SOON, || {
        let now = agent.cpu_seconds()?;
        if now - before < 0.000_5 {
            calm += 1;
        } else {
            (calm, since) = (0, Instant::now());
        }
        before = now;
        // A purge of the kernel's begins late and goes in steps.
        Ok((calm > 150).then_some((now, since)))
    })
}
