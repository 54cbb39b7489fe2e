//! `cargo xtask run`: from a fresh machine to a running tracer.

use std::{
    ffi::OsString,
    os::unix::process::CommandExt as _,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result};

use crate::{build, process, setup};

/// What the user asked for.
#[derive(clap::Args)]
pub struct Args {
    /// Build with optimisations (the default).
    #[arg(long, conflicts_with = "debug")]
    release: bool,
    /// Build without optimisations.
    #[arg(long)]
    debug: bool,
    /// Arguments of twtrace, such as `watch --for 30s`.
    #[arg(last = true)]
    args: Vec<OsString>,
}

/// Installs, builds, and becomes the tracer: signals and the exit code are its own.
pub fn main(args: &Args) -> Result<ExitCode> {
    setup::ensure(setup::Purpose::Run)?;
    let program = build::Tree::here().tracer(args.debug)?;
    let mut command: Command = process::as_root(&program)?;
    let error = command.args(&args.args).exec();
    Err(error).with_context(|| format!("cannot run {}", program.display()))
}
