//! `cargo xtask lab`: the story that twtrace is for, on the reader's own machine.

use std::{os::unix::process::CommandExt as _, process::ExitCode};

use anyhow::{Context as _, Result};

use crate::{build, process, setup};

/// What the user asked for.
#[derive(clap::Args)]
pub struct Args {
    /// Go on with the traffic in the end, to be watched from another terminal.
    #[arg(long)]
    hold: bool,
}

/// Builds the tracer and the scenarios, and becomes the scenario runner's lab.
pub fn main(args: &Args) -> Result<ExitCode> {
    setup::ensure(setup::Purpose::Lab)?;
    let twtrace = build::program("twtrace", true)?;
    let tests = build::program("twtrace-tests", true)?;
    let mut command = process::as_root(&tests)?;
    command.arg("lab").arg("--twtrace").arg(twtrace);
    if args.hold {
        command.arg("--hold");
    }
    let error = command.exec();
    Err(error).with_context(|| format!("cannot run {}", tests.display()))
}
