//! `cargo xtask fleet`: what many hosts cost Prometheus.

use std::process::ExitCode;

use anyhow::Result;

use crate::{
    build::{self, Programs},
    process, setup, vm,
};

/// What the user asked for.
#[derive(clap::Args)]
pub struct Args {
    /// Hosts to simulate, each with the page of a daemon.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    hosts: usize,
    /// How long they are scraped.
    #[arg(long, value_name = "N", default_value_t = 6.0)]
    minutes: f64,
}

/// Runs it; figures are on stdout, one a line.
pub fn main(args: &Args) -> Result<ExitCode> {
    setup::ensure(setup::Purpose::Test)?;
    simulate(&build::programs()?, args)?;
    Ok(ExitCode::SUCCESS)
}

/// The step of `cargo xtask test --all`: few hosts, for no longer than it takes to scrape each.
pub fn small(programs: &Programs) -> Result<()> {
    simulate(programs, &Args { hosts: 50, minutes: 0.5 })
}

fn simulate(programs: &Programs, args: &Args) -> Result<()> {
    let mut command = process::as_root(&programs.tests)?;
    command
        .args(["fleet", "--hosts", &args.hosts.to_string()])
        .args(["--minutes", &args.minutes.to_string()])
        .env(vm::TRACER_VARIABLE, &programs.twtrace)
        .current_dir(build::workspace());
    process::run_visibly(&mut command)
}
