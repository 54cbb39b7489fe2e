//! Two commits measured in turns, so that what else the machine does meets both.

use std::{path::Path, process::ExitCode};

use anyhow::{Context as _, Result, bail};

use super::{
    Built, INSTRUCTIONS, MACHINE, USERSPACE, git,
    report::{change, middle, table},
    samples::{Samples, ratios},
};
use crate::{
    build::{self, Programs, Tree},
    process::{self, say},
};

/// What is measured of a commit unless areas are named: what takes seconds a turn.
const USUAL: [&str; 4] = [INSTRUCTIONS, "start", "idle", "kernel"];

/// Measures the checkout and another commit, area by area, each time one right after the other and in
/// alternating order, and prints what has changed by how much.
///
/// # Errors
/// There is no such commit, it does not build, or a measurement failed.
pub fn main(commit: &str, areas: &[String], turns: usize) -> Result<ExitCode> {
    let areas: Vec<&str> = match areas {
        [] => USUAL.to_vec(),
        areas => areas.iter().map(String::as_str).collect(),
    };
    if let Some(area) = areas.iter().find(|area| [MACHINE, USERSPACE].contains(area)) {
        bail!("{area} cannot be measured in turns; instructions and kernel can");
    }
    let other = Checkout::of(commit)?;
    let needs_benchmark = areas.contains(&INSTRUCTIONS);
    let benchmark = |tree: &Tree| {
        let built = needs_benchmark.then(|| tree.benchmark("twtrace", "userspace", false));
        built.transpose()
    };
    let here = Tree::here();
    let programs = here.programs()?;
    let before = Built {
        // The scenarios measure; those of today know how.
        programs: Some(Programs {
            twtrace: other.tree.tracer(false)?,
            tests: programs.tests.clone(),
        }),
        benchmark: benchmark(&other.tree)?,
    };
    let after = Built { benchmark: benchmark(&here)?, programs: Some(programs) };
    let (mut then, mut now) = (Samples::default(), Samples::default());
    for turn in 0..turns {
        for area in &areas {
            say!("turn {} of {turns}: {area}", turn + 1);
            let one = |built: &Built, all: &mut Samples| -> Result<()> {
                let mut measured = Samples::default();
                super::measure_here(area, &mut measured, built, false)?;
                all.add_medians(&measured);
                Ok(())
            };
            if turn % 2 == 0 {
                one(&before, &mut then)?;
                one(&after, &mut now)?;
            } else {
                one(&after, &mut now)?;
                one(&before, &mut then)?;
            }
        }
    }
    println!("{}", told(&then, &now, &other.name));
    Ok(ExitCode::SUCCESS)
}

/// A line for each figure that both have.
fn told(then: &Samples, now: &Samples, commit: &str) -> String {
    let lines = now.all().filter_map(|(name, figure)| {
        let before = then.get(name)?;
        let value = |it| format!("{} {}", middle(it), figure.unit).trim_end().to_owned();
        Some(vec![name.to_owned(), value(before), value(figure), change(ratios(figure, before))])
    });
    table(&["", commit, "here", "change"], lines.collect())
}

/// A commit laid out beside the workspace, as long as it is needed.
struct Checkout {
    name: String,
    tree: Tree,
}

impl Checkout {
    fn of(commit: &str) -> Result<Self> {
        let word = format!("{commit}^{{commit}}");
        let name = process::output(git().args(["rev-parse", "--short=9", "--verify", &word]))
            .with_context(|| format!("there is no commit {commit}"))?
            .trim()
            .to_owned();
        let top = build::target_dir().join("against").join(&name);
        // One that was left by a run that was killed is laid out anew.
        remove(&top);
        process::run(git().args(["worktree", "add", "--quiet", "--detach"]).arg(&top).arg(&name))?;
        let target = build::target_dir().join("against").join("target");
        Ok(Self { name, tree: Tree::at(top, target) })
    }
}

impl Drop for Checkout {
    fn drop(&mut self) {
        remove(self.tree.top());
    }
}

/// Takes a checkout away, if it is there.
fn remove(top: &Path) {
    if top.exists()
        && let Err(error) = process::output(git().args(["worktree", "remove", "--force"]).arg(top))
    {
        say!("{} is left behind: {error:#}", top.display());
    }
}
