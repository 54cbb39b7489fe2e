//! `cargo xtask soak`: minutes or hours at the machine's limit, on this host or in a virtual machine.

use std::{process::ExitCode, time::Duration};

use anyhow::Result;

use crate::{build, process, setup, vm};

/// What the user asked for.
#[derive(clap::Args)]
pub struct Args {
    /// How long; several hundred for a night.
    #[arg(long, value_name = "N", default_value_t = 3.0)]
    minutes: f64,
    /// Ways to attach, one after the other, with commas between.
    #[arg(long, value_name = "LIST", default_value = "tracepoint")]
    attach: String,
    /// Kernel programs to load, likewise.
    #[arg(long, value_name = "LIST", default_value = "ringbuf")]
    object: String,
    /// In a virtual machine with this kernel, which has the ways that this host may not have.
    #[arg(long, value_name = "SERIES")]
    kernel: Option<String>,
}

/// Runs it; what is wrong is on stderr.
pub fn main(args: &Args) -> Result<ExitCode> {
    let vm = args.kernel.is_some();
    setup::ensure(if vm { setup::Purpose::Vm } else { setup::Purpose::Bench })?;
    let programs = build::programs()?;
    let minutes = args.minutes.to_string();
    let words = ["soak", "--minutes", &minutes, "--attach", &args.attach, "--object", &args.object];
    if let Some(series) = &args.kernel {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        // A round is finished, and the agent's answer awaited.
        let each = Duration::from_secs_f64(args.minutes * 60.0) + Duration::from_secs(60);
        let ways = args.attach.split(',').count() * args.object.split(',').count();
        let work = each * u32::try_from(ways)?;
        vm::say_lines(series, &programs, &words, work)?.iter().for_each(|line| println!("{line}"));
        return Ok(ExitCode::SUCCESS);
    }
    let mut command = process::as_root(&programs.tests)?;
    command.args(words).env(vm::TRACER_VARIABLE, &programs.twtrace);
    let status = command.current_dir(build::workspace()).status()?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
