//! How large a burst of ends may be: a namespace is deleted with all its sockets at once.

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::agent::Agent;
use super::load::Site;
use super::{Bench, point};
use crate::wait;

/// Deletes ever larger namespaces under the default ring buffer and looks at what was lost.
pub fn run(bench: &Bench) -> Result<()> {
    let sizes: &[u32] = bench.size(&[10_000, 25_000, 50_000, 100_000, 200_000, 400_000], &[500]);
    for &size in sizes {
        let site = Site::loopback()?;
        let agent = Agent::twtrace(bench, &["--max-live", "524288"])?;
        site.visit(0..size)?;
        let live = site.live()?;
        let began = site.delete()?;
        // The last end has been seen when none lives any more, lost ones included: what is lost
        // is healed with the summary.
        let cpu = await_idle(&agent)?;
        let spent = began.elapsed().as_secs_f64();
        let document: Value = serde_json::from_str(&agent.finish()?)?;
        let total = |key: &str| -> Result<f64> {
            document["totals"][key].as_f64().with_context(|| format!("totals.{key}"))
        };
        let sockets = live as f64;
        point("burst/lost", "", sockets, total("lost")?);
        point("burst/ended unseen", "", sockets, total("unknown")?);
        point("burst/live afterwards", "", sockets, total("live")?);
        point("burst/from deletion to quiet", "s", sockets, spent);
        point("burst/processor", "s", sockets, cpu);
        eprintln!("bench: burst of {live}: {} lost", total("lost")?);
    }
    Ok(())
}

/// Waits until the agent has no more to do than to look at its timer; answers its processor time.
fn await_idle(agent: &Agent) -> Result<f64> {
    let mut before = agent.cpu_seconds()?;
    let mut calm = 0;
    wait::until("the burst to be over", wait::SOON, || {
        let now = agent.cpu_seconds()?;
        calm = if now - before < 0.000_5 { calm + 1 } else { 0 };
        before = now;
        // A purge of the kernel's begins late and goes in steps.
        Ok((calm > 150).then_some(now))
    })
}
