//! `cargo xtask bench`: what twtrace costs, measured, and the figures of docs/PERFORMANCE.md.
//!
//! The measurements themselves are made by others: `twtrace-tests bench` as root, here and in a
//! virtual machine, and the benchmarks of `twtrace/benches/`. This gathers and tells.

mod lab;
mod plot;
mod report;
mod samples;
mod userspace;

use std::{fs, path::PathBuf, process::ExitCode, time::Instant};

use anyhow::{Context as _, Result, bail};

use crate::{
    build::{self, Programs},
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
    /// The kernel of the virtual machine in which the ways are compared that this host may not
    /// have.
    #[arg(long, value_name = "SERIES", default_value = "6.12")]
    kernel: String,
    /// Only these areas.
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(AREAS))]
    areas: Vec<String>,
}

/// All areas, in the order they are measured.
const AREAS: [&str; 10] = [
    USERSPACE,
    INSTRUCTIONS,
    "start",
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
    let kept = build::target_dir().join("bench.ndjson");
    let mut samples = if args.keep { Samples::load(&kept)? } else { Samples::default() };
    let lab =
        AREAS.into_iter().any(|area| wanted(area) && ![USERSPACE, INSTRUCTIONS].contains(&area));
    let programs = lab.then(build::programs).transpose()?;
    let benchmark = [USERSPACE, INSTRUCTIONS].into_iter().any(wanted);
    let benchmark = benchmark.then(|| build::benchmark("twtrace", "userspace", args.quick));
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
    let args = Args { quick: true, keep: false, kernel: String::new(), areas: Vec::new() };
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
    let benchmark = built.benchmark.as_ref().context("the benchmarks were not built");
    let programs = built.programs.as_ref().context("the programs were not built");
    match area {
        USERSPACE => userspace::criterion(samples, benchmark?, args.quick),
        INSTRUCTIONS => userspace::instructions(samples, benchmark?, args.quick),
        MACHINE => lab::in_machine(samples, programs?, &args.kernel),
        _ => lab::here(samples, programs?, area, args.quick),
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
    let mut command = std::process::Command::new("git");
    command.current_dir(build::workspace());
    let said = process::output(command.args(["describe", "--always", "--dirty", "--abbrev=9"]));
    Some(said.ok()?.trim().to_owned())
}
