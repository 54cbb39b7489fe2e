//! `cargo xtask bench`: what twtrace costs, measured, and the figures of docs/PERFORMANCE.md.
//!
//! The measurements themselves are made by others: `twtrace-tests bench` as root, here and in a
//! virtual machine, and the benchmarks of `twtrace/benches/`. This gathers and tells.

mod against;
mod lab;
mod plot;
mod report;
mod samples;
mod userspace;

use std::{
    fs,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    build::{self, Programs, Tree},
    process::{self, say},
    setup,
    steps::Steps,
};
use samples::Samples;

/// What the user asked for.
#[derive(clap::Args)]
pub struct Args {
    /// Do everything once and small: shows that it works, says nothing of what it costs.
    #[arg(long)]
    quick: bool,
    /// Keep what the last run measured of the other areas, and write the documents' figures.
    #[arg(long, conflicts_with = "quick", requires = "areas")]
    keep: bool,
    /// Measure this commit and the checkout in turns instead, and print what has changed.
    #[arg(long, value_name = "COMMIT", conflicts_with_all = ["quick", "keep"])]
    against: Option<String>,
    /// How often, against a commit: from six on it is said how sure a change is.
    #[arg(long, value_name = "NUMBER", default_value = "7", requires = "against")]
    turns: NonZeroUsize,
    /// The kernel of the virtual machine in which the ways are compared that this host may not
    /// have.
    #[arg(long, value_name = "SERIES", default_value = "6.12")]
    kernel: String,
    /// Only these areas.
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(AREAS))]
    areas: Vec<String>,
}

/// All areas, in the order they are measured.
const AREAS: [&str; 11] = [
    USERSPACE,
    INSTRUCTIONS,
    "start",
    "idle",
    "kernel",
    MACHINE,
    "endtoend",
    "snapshot",
    "burst",
    "growth",
    "audit",
];

/// The benchmarks of `twtrace/benches/`, by criterion. They need no privilege.
const USERSPACE: &str = "userspace";
/// The event path under callgrind, without privilege as well.
const INSTRUCTIONS: &str = "instructions";
/// The area `kernel` in a virtual machine.
const MACHINE: &str = "machine";

/// Measures and prints the tables; writes the documents' figures if everything was measured.
pub fn main(args: &Args) -> Result<ExitCode> {
    let wanted = |area: &str| match args.areas.as_slice() {
        // Booting shows nothing that the scenarios do not, and takes longest.
        [] => !args.quick || area != MACHINE,
        areas => areas.iter().any(|it| it == area),
    };
    setup::ensure(if wanted(MACHINE) { setup::Purpose::Vm } else { setup::Purpose::Bench })?;
    if let Some(commit) = &args.against {
        return against::main(commit, &args.areas, args.turns.get());
    }
    let kept = build::target_dir().join("bench.ndjson");
    let mut samples = if args.keep { Samples::load(&kept)? } else { Samples::default() };
    let lab =
        AREAS.into_iter().any(|area| wanted(area) && ![USERSPACE, INSTRUCTIONS].contains(&area));
    let programs = lab.then(build::programs).transpose()?;
    let benchmark = [USERSPACE, INSTRUCTIONS].into_iter().any(wanted);
    let benchmark = benchmark.then(|| Tree::here().benchmark("twtrace", "userspace", args.quick));
    let built = Built { programs, benchmark: benchmark.transpose()? };
    let mut steps = Steps::default();
    for area in AREAS.into_iter().filter(|area| wanted(area)) {
        // An area that fails leaves nothing behind, and the others what they measured.
        let mut measured = Samples::default();
        let began = Instant::now();
        let load = report::load_average();
        if steps.run(area, || measure(area, &mut measured, &built, args)).is_some() {
            measured.add(&format!("run/{area}/load before"), "", None, load);
            measured.add(&format!("run/{area}/took"), "s", None, began.elapsed().as_secs_f64());
            samples.replace(area, measured);
        }
    }
    let whole = !args.quick && (args.areas.is_empty() || args.keep);
    let has = |area: &str| samples.get(&format!("run/{area}/took")).is_some();
    let docs = if whole && AREAS.into_iter().all(has) {
        build::workspace().join("docs")
    } else {
        draft()?
    };
    samples.save(&if whole { kept } else { docs.join("bench.ndjson") })?;
    let text = report::write(&samples, &docs)?;
    plot::write(&samples, &docs)?;
    if !args.quick {
        println!("{text}");
    }
    say!("page and pictures are in {}", docs.display());
    say!("in all:\n{}", steps.table().trim_end());
    Ok(if steps.all_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The step of `cargo xtask test`: every benchmark works.
pub fn smoke() -> Result<()> {
    let args = Args {
        quick: true,
        keep: false,
        against: None,
        turns: NonZeroUsize::MIN,
        kernel: String::new(),
        areas: Vec::new(),
    };
    if main(&args)? != ExitCode::SUCCESS {
        bail!("a benchmark does not work");
    }
    Ok(())
}

/// What is measured.
struct Built {
    programs: Option<Programs>,
    benchmark: Option<PathBuf>,
}

fn measure(area: &str, samples: &mut Samples, built: &Built, args: &Args) -> Result<()> {
    if area == MACHINE {
        return lab::in_machine(samples, built.programs()?, &args.kernel);
    }
    measure_here(area, samples, built, args.quick)
}

/// Measures an area that needs no virtual machine.
fn measure_here(area: &str, samples: &mut Samples, built: &Built, quick: bool) -> Result<()> {
    match area {
        USERSPACE => userspace::criterion(samples, built.benchmark()?, quick),
        INSTRUCTIONS => userspace::instructions(samples, built.benchmark()?, quick),
        _ => lab::here(samples, built.programs()?, area, quick),
    }
}

impl Built {
    fn programs(&self) -> Result<&Programs> {
        self.programs.as_ref().context("the programs were not built")
    }

    fn benchmark(&self) -> Result<&Path> {
        self.benchmark.as_deref().context("the benchmarks were not built")
    }
}

/// Where page and pictures go that are not fit for the documents: beside copies of the pages.
fn draft() -> Result<PathBuf> {
    let draft = build::target_dir().join("bench");
    fs::create_dir_all(draft.join(plot::DIRECTORY))?;
    for page in report::PAGES {
        fs::copy(build::workspace().join("docs").join(page), draft.join(page))
            .with_context(|| format!("copying {page}"))?;
    }
    Ok(draft)
}

/// The commit that is measured, with a mark if files differ from it.
fn commit() -> Option<String> {
    let said = process::output(git().args(["describe", "--always", "--dirty", "--abbrev=9"]));
    Some(said.ok()?.trim().to_owned())
}

/// A git command in the workspace.
fn git() -> Command {
    let mut command = Command::new("git");
    command.current_dir(build::workspace());
    command
}
