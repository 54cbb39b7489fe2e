//! Short connections a second, with nothing, with twtrace, and with other tools.

use anyhow::{Context as _, Result};

use super::load::Site;
use super::tools::Tool;
use super::{Bench, note, sample};

/// A network, and whose client opens the connections.
type Scene = (&'static str, fn() -> Result<Site>, fn(&Site, usize) -> Result<f64>);

const SCENES: [Scene; 3] = [
    ("loopback", Site::loopback, Site::connections_per_second),
    ("veth", Site::veth, Site::connections_per_second),
    ("veth, ab", Site::http, Site::requests_per_second),
];

/// Measures every tool beside nothing, in pairs and in turn, so that what changes on the machine
/// meanwhile meets both. A quick run has every tool and every scene, but not each with each.
pub fn run(bench: &Bench) -> Result<()> {
    for tool in Tool::ALL.into_iter().filter(|tool| !tool.is_here()) {
        note(&format!("{} is not on this machine", tool.name()));
    }
    for (at, (scene, make, open)) in SCENES.into_iter().enumerate() {
        let tools = Tool::ALL.into_iter().enumerate();
        let tools = tools.filter(|(turn, _)| !bench.quick || turn % SCENES.len() == at);
        let tools: Vec<_> = tools.map(|(_, tool)| tool).filter(|tool| tool.is_here()).collect();
        for round in 0..bench.size(9, 1) {
            for &tool in &tools {
                let order = if round % 2 == 0 { [Tool::None, tool] } else { [tool, Tool::None] };
                for which in order {
                    let count = bench.size(15_000, 100);
                    let with = if which == tool { "with" } else { "without" };
                    let name = format!("endtoend/{scene}/{}/{with}", tool.name());
                    let _agent = which.start(bench)?;
                    let site = make()?;
                    let rate = open(&site, count).with_context(|| name.clone())?;
                    sample(&name, "/s", rate);
                    site.delete()?;
                }
            }
            eprintln!("bench: {scene}, round {}", round + 1);
        }
    }
    Ok(())
}
