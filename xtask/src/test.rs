//! `cargo xtask test`: everything that has to hold, in one command.

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::{
    bench,
    build::{self, StaticPrograms},
    process::{self, say},
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
            steps.run("benchmarks, once and small", bench::smoke);
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

fn on_host(programs: &StaticPrograms, filter: Option<&str>) -> Result<()> {
    let mut command = process::as_root(&programs.tests)?;
    command
        .args(["--attach", "tracepoint"])
        .args(filter)
        .env(vm::TRACER_VARIABLE, &programs.twtrace)
        .env(setup::python::VARIABLE, setup::python::interpreter())
        .current_dir(build::workspace());
    process::run_visibly(&mut command)
}
