//! `cargo xtask bench`: what twtrace costs, measured, and the figures of docs/PERFORMANCE.md.
//!
//! The measurements themselves are made by others: `twtrace-tests bench` as root, here and in a
//! virtual machine, and the benchmarks of `twtrace/benches/`. This gathers and tells.

mod lab;
mod plot;
mod report;
mod samples;
mod userspace;

use std::{fs, process::ExitCode, time::Instant};

use anyhow::{Context as _, Result};

use crate::{build, process::say, setup};
use samples::Samples;

/// What the user asked for.
#[derive(clap::Args)]
pub struct Args {
    /// Do everything once and small: shows that it works, says nothing of what it costs.
    #[arg(long)]
    quick: bool,
    /// The kernel of the virtual machine in which the ways are compared that this host may not
    /// have; `none` leaves it out. Quick runs leave it out.
    #[arg(long, value_name = "SERIES", default_value = "6.12")]
    kernel: String,
    /// Only these areas: userspace, instructions, start, kernel, endtoend, snapshot, burst, growth.
    areas: Vec<String>,
}

/// No virtual machine.
const NO_MACHINE: &str = "none";

/// Areas measured by benchmarks that need no privilege, beside those of the lab.
const UNPRIVILEGED: [&str; 2] = ["userspace", "instructions"];

/// Measures, prints the tables, and writes the documents' figures if everything was measured.
pub fn main(args: &Args) -> Result<ExitCode> {
    let started = Instant::now();
    let wanted = |area: &str| args.areas.is_empty() || args.areas.iter().any(|it| it == area);
    let machine = wanted("kernel") && !args.quick && args.kernel != NO_MACHINE;
    setup::ensure(if machine { setup::Purpose::Vm } else { setup::Purpose::Bench })?;
    let mut samples = Samples::default();
    if wanted("userspace") {
        userspace::criterion(&mut samples, args.quick)?;
    }
    if wanted("instructions") {
        userspace::instructions(&mut samples, args.quick)?;
    }
    let areas: Vec<&str> = args.areas.iter().map(String::as_str).collect();
    let areas: Vec<&str> = areas.into_iter().filter(|area| !UNPRIVILEGED.contains(area)).collect();
    if args.areas.is_empty() || !areas.is_empty() {
        let programs = build::static_programs()?;
        lab::here(&mut samples, &programs, &areas, args.quick)?;
        if machine {
            lab::in_machine(&mut samples, &programs, &args.kernel)?;
        }
    }
    let complete = args.areas.is_empty() && !args.quick;
    let docs = if complete {
        build::workspace().join("docs")
    } else {
        // A partial run shows what the documents would look like, and leaves them alone.
        let copy = build::target_dir().join("bench");
        fs::create_dir_all(&copy)?;
        fs::copy(build::workspace().join("docs").join(report::PAGE), copy.join(report::PAGE))
            .context("copying the page")?;
        copy
    };
    samples.save(&build::target_dir().join("bench.ndjson"))?;
    let text = report::write(&samples, &docs)?;
    plot::write(&samples, &docs)?;
    println!("{text}");
    say!("written to {}, after {:.0} s", docs.display(), started.elapsed().as_secs_f64());
    Ok(ExitCode::SUCCESS)
}
