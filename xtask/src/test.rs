//! `cargo xtask test`: everything that has to hold, in one command.

use std::{
    ffi::OsStr,
    io::{BufRead as _, BufReader},
    process::{ExitCode, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    bench,
    build::{self, StaticPrograms},
    process::{self, say},
    progress::{self, Ongoing},
    setup,
    steps::Steps,
    vm,
};

/// What the user asked for.
#[derive(clap::Args)]
pub struct Args {
    /// Leave out the virtual machines.
    #[arg(long)]
    quick: bool,
    /// Only tests whose name contains this.
    filter: Option<String>,
}

/// Runs every step, the later ones too where they do not depend on one that failed.
pub fn main(args: &Args) -> Result<ExitCode> {
    let purpose = if args.quick { setup::Purpose::Test } else { setup::Purpose::Vm };
    let filter = args.filter.as_deref();
    let mut steps = Steps::default();
    if steps.run("setup", || setup::ensure(purpose)).is_none() {
        bail!("the set-up is incomplete");
    }
    steps.run("format", || process::run(build::cargo().args(["fmt", "--all", "--check"])));
    steps.run("lints of user space", lint_user_space);
    steps.run("lints of the kernel programs", lint_kernel_programs);
    steps.run("unit and documentation tests", || {
        process::run_visibly(build::cargo().args(["test", "--no-fail-fast"]).args(filter))
    });
    if let Some(programs) = steps.run("static programs", build::static_programs) {
        steps.run("scenarios on this host, tracepoint backend", || on_host(&programs, filter));
        if filter.is_none() {
            steps.run("benchmarks, quickly", bench::smoke);
        }
        if !args.quick {
            steps.run("scenarios in virtual machines", || vm::matrix(&programs, filter));
        }
    } else {
        steps.skip("scenarios on this host, tracepoint backend");
        if !args.quick {
            steps.skip("scenarios in virtual machines");
        }
    }
    say!("in all:\n{}", steps.table().trim_end());
    Ok(if steps.all_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn lint_user_space() -> Result<()> {
    let mut command = build::cargo();
    command
        .args(["clippy", "--workspace", "--exclude", "twtrace-ebpf", "--all-targets"])
        .args(["--", "-D", "warnings"]);
    process::run(&mut command)
}

/// Lints the programs as if they were the host's: no BPF compiler comes with clippy.
fn lint_kernel_programs() -> Result<()> {
    let mut command = build::cargo();
    command
        .args(["clippy", "--package", "twtrace-ebpf", "--bins", "--", "-D", "warnings"])
        .env("RUSTC_BOOTSTRAP", "aya_ebpf")
        // Without std there is nothing to unwind with.
        .env("CARGO_PROFILE_DEV_PANIC", "abort");
    process::run(&mut command)
}

/// Most scenarios that are run a second time; if more fail, something is wrong.
const SECOND_CHANCES: usize = 8;

/// Runs the scenarios here. On two processors they can spoil each other's timing, so those that
/// fail are run once more, one at a time: what fails alone as well has failed, and both results are
/// printed.
fn on_host(programs: &StaticPrograms, filter: Option<&str>) -> Result<()> {
    let arguments = filter.map(OsStr::new);
    let failed = scenarios(programs, arguments.as_slice())?;
    if failed.is_empty() {
        return Ok(());
    }
    if failed.len() > SECOND_CHANCES {
        bail!("{} scenarios failed", failed.len());
    }
    say!("once more, one at a time: {}", failed.join(", "));
    let names = failed.join(",");
    let alone = ["--test-threads", "1", "--only", &names].map(OsStr::new);
    match scenarios(programs, &alone)?.as_slice() {
        [] => Ok(()),
        failed => bail!("failed alone as well: {}", failed.join(", ")),
    }
}

/// Runs scenarios, printing what they print; answers those that failed.
fn scenarios(programs: &StaticPrograms, arguments: &[&OsStr]) -> Result<Vec<String>> {
    let mut command = process::as_root(&programs.tests)?;
    command
        .args(["--attach", "tracepoint"])
        .args(arguments)
        .env(vm::TRACER_VARIABLE, &programs.twtrace)
        .env(setup::python::VARIABLE, setup::python::interpreter())
        .current_dir(build::workspace())
        .stdout(Stdio::piped());
    say!("$ {}", process::line(&command));
    let mut child = command.spawn().context("cannot run the scenarios")?;
    let stdout = child.stdout.take().context("the scenarios' output was asked for")?;
    let mut failed = Vec::new();
    let ongoing = Ongoing::begin("scenarios on this host");
    let (mut done, mut planned) = (0, 0);
    for line in BufReader::new(stdout).lines() {
        let line = line.context("reading what the scenarios print")?;
        progress::above(|| println!("{line}"));
        match line.split_whitespace().collect::<Vec<_>>().as_slice() {
            ["running", count, _] => planned = count.parse().unwrap_or(0),
            ["test", name, "...", word] => {
                done += 1;
                if *word == "FAILED" {
                    failed.push((*name).to_owned());
                }
            }
            _ => {}
        }
        ongoing.tell(&format!("{done} of {planned}, {} failed", failed.len()));
    }
    drop(ongoing);
    let status = child.wait().context("waiting for the scenarios")?;
    if !status.success() && failed.is_empty() {
        bail!("the scenarios ended with {status}");
    }
    Ok(failed)
}
