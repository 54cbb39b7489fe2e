//! `cargo xtask setup`: what building and testing need, and how to get it.

pub mod charts;
mod compiler;
mod install;
pub mod python;
mod requirement;

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::{architecture::Architecture, process::say, toolchain};
use requirement::{Requirement, requirements};

/// The toolchain that fuzz targets are built with: they want options that only it takes.
pub const NIGHTLY: &str = "nightly";

/// What the machine is to be able to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Purpose {
    /// Build and run the tracer.
    Run,
    /// Play the story in namespaces, too.
    Lab,
    /// Run the tests that need no virtual machine, too.
    Test,
    /// Run the benchmarks, too.
    Bench,
    /// Run the tests in virtual machines, too.
    Vm,
    /// Run the fuzz targets, too.
    Fuzz,
    /// Make what is released, and none of the tests.
    Dist,
    /// Use what is released as those do that it is for, and none of the tests.
    TryDist,
}

/// What the user asked for.
#[derive(clap::Args)]
pub struct Args {
    /// Only say what is there and what is missing; exit 1 if anything is.
    #[arg(long)]
    check: bool,
    /// Stop at what this needs.
    #[arg(long = "for", value_name = "PURPOSE", default_value = "vm")]
    purpose: Purpose,
}

/// Lists every requirement, then installs what is missing unless only asked to check.
pub fn main(args: &Args) -> Result<ExitCode> {
    let all = look(args.purpose);
    for requirement in &all {
        say!("{requirement}");
    }
    if args.check {
        let ok = all.iter().all(|requirement| requirement.present);
        return Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    ensure(args.purpose)?;
    say!("everything is there");
    Ok(ExitCode::SUCCESS)
}

/// Installs what is missing; says nothing and takes no time when nothing is.
///
/// Runs in rounds, since some needs show only once others are met: which LLVM the linker
/// is built with depends on the compiler that was installed before.
pub fn ensure(purpose: Purpose) -> Result<()> {
    if look(purpose).iter().all(|requirement| requirement.present) {
        return Ok(());
    }
    // What the distribution offers decides about the way to go.
    install::refresh_package_lists()?;
    let mut before: Vec<String> = Vec::new();
    loop {
        let missing: Vec<_> = look(purpose).into_iter().filter(|it| !it.present).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let names: Vec<_> = missing.iter().map(|it| it.name.clone()).collect();
        if names == before {
            bail!("still missing after installing: {}", names.join(", "));
        }
        for requirement in &missing {
            say!("{requirement}");
        }
        install::install(&missing)?;
        before = names;
    }
}

/// Installs what building for another architecture takes: the standard library of the distribution's
/// compiler, a C compiler, and what runs its programs here.
pub fn cross(architecture: Architecture) -> Result<()> {
    if !requirement::for_crossing(architecture, &requirement::Machine).iter().all(|it| it.present) {
        install::add_architecture(architecture)?;
        install::refresh_package_lists()?;
        let missing: Vec<_> = requirement::for_crossing(architecture, &requirement::Machine)
            .into_iter()
            .filter(|it| !it.present)
            .inspect(|it| say!("{it}"))
            .collect();
        install::install(&missing)?;
    }
    Ok(())
}

fn look(purpose: Purpose) -> Vec<Requirement> {
    requirements(purpose, &toolchain::probe(), &requirement::Machine)
}
