//! How large a burst of ends may be: a namespace is deleted with all its sockets at once.

use std::time::Instant;

use anyhow::{Context as _, Result};
use rustix::process::Signal;

use super::agent::Agent;
use super::load::Site;
use super::{Bench, point};

/// Deletes ever larger namespaces under the default ring buffer and looks at what was lost: with
/// the agent reading as it does, and with an agent that is stopped meanwhile, as one that gets no
/// processor: then the buffer has to hold everything.
pub fn run(bench: &Bench) -> Result<()> {
    for &size in bench.size(&[10_000, 50_000, 100_000, 200_000, 400_000][..], &[500]) {
        one(bench, size, "burst", |_, site| site.delete())?;
    }
    for &size in bench.size(&[50_000, 100_000, 200_000][..], &[500]) {
        one(bench, size, "burst stopped", |agent, site| {
            agent.signal(Signal::STOP)?;
            let began = site.delete_and_see(bench)?;
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
    let agent = Agent::telling(bench, &site.client)?;
    site.visit(0..size)?;
    agent.await_total("entered", size.into())?;
    let sockets = site.live()? as f64;
    let before = agent.cpu_seconds()?;
    let began = delete(&agent, site)?;
    // Lost ones included: that they are gone is found with what it tells.
    agent.await_total("live", 0)?;
    let (spent, cpu) = (began.elapsed().as_secs_f64(), agent.cpu_seconds()?);
    let last = agent.finish()?;
    let document = super::agent::last_document(&last).context("it told nothing")?;
    let total = |key: &str| -> Result<f64> {
        document["totals"][key].as_f64().with_context(|| format!("totals.{key}"))
    };
    point(&format!("{name}/lost"), "", sockets, total("lost")?);
    point(&format!("{name}/ended unseen"), "", sockets, total("unknown")?);
    point(&format!("{name}/live afterwards"), "", sockets, total("live")?);
    point(&format!("{name}/from deletion to quiet"), "s", sockets, spent);
    point(&format!("{name}/processor"), "s", sockets, cpu - before);
    eprintln!("bench: {name} of {sockets}: {} lost", total("lost")?);
    Ok(())
}
