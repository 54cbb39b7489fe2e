//! `cargo xtask test`: everything that has to hold, in one command.

use std::{
    process::ExitCode,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use crate::{
    architecture::Architecture,
    bench, build, dist, fleet, fuzz, log,
    process::{self, print, say},
    report::Tally,
    scenarios, setup,
    steps::Steps,
    vm,
};

/// How long each fuzz target is run with all.
const FUZZING: Duration = Duration::from_secs(60);

/// The step of the virtual machines, the first of which is begun with the benchmarks.
const MACHINES: &str = "scenarios in virtual machines, the rest";

/// What the property tests draw their cases from, so that the answer is about the change at hand.
/// `--all` and `cargo test` draw other ones each time.
const PROPERTIES_SEED: &str = "20261126";

/// What the user asked for.
#[derive(clap::Args)]
pub struct Args {
    /// Leave out the virtual machines.
    #[arg(long, conflicts_with = "all")]
    quick: bool,
    /// Run every scenario on every kernel, not only what covers them.
    #[arg(long)]
    all: bool,
    /// Only tests whose name contains this.
    filter: Option<String>,
}

/// Runs every step, the later ones too where they do not depend on one that failed.
pub fn main(args: &Args) -> Result<ExitCode> {
    let purpose = match args {
        Args { quick: true, .. } => setup::Purpose::Test,
        Args { all: true, .. } => setup::Purpose::Fuzz,
        _ => setup::Purpose::Vm,
    };
    let extent = if args.all { vm::Extent::All } else { vm::Extent::Covering };
    let filter = args.filter.as_deref();
    let log = log::begin()?;
    let mut steps = Steps::default();
    let mut all = Tally::default();
    if steps.run("setup", || setup::ensure(purpose)).is_none() {
        bail!("the set-up is incomplete");
    }
    let programs = thread::scope(|scope| {
        // Into directories of their own: what the steps before leave idle, this build takes.
        let programs = scope.spawn(build::programs);
        steps.run("format", || process::run(build::cargo().args(["fmt", "--all", "--check"])));
        steps.run("lints of user space", lint_user_space);
        steps.run("lints of the kernel programs", lint_kernel_programs);
        steps.run("unit and documentation tests", || {
            let mut tests = build::cargo();
            tests.arg("test").args(build::TESTED).arg("--no-fail-fast");
            if !args.all {
                tests.env("PROPTEST_RNG_SEED", PROPERTIES_SEED);
            }
            process::run_visibly(tests.args(filter))
        });
        steps.run("static programs, begun with the format", || finished(programs.join()))
    });
    if let Some(programs) = programs {
        steps.run("scenarios on this host", || {
            let began = Instant::now();
            let tally = scenarios::on_host(&programs, filter)?;
            print(&tally.closing(began.elapsed()));
            judged(tally, &mut all)
        });
        let (working, other_work) = mpsc::channel();
        thread::scope(|scope| {
            // The benchmarks leave half of the processors idle, and are not judged by time.
            let machines = (!args.quick)
                .then(|| scope.spawn(|| vm::matrix(&programs, extent, filter, other_work)));
            if filter.is_none() {
                steps.run("benchmarks, quickly", bench::smoke);
            }
            drop(working);
            if let Some(machines) = machines {
                steps.run(MACHINES, || judged(finished(machines.join())?, &mut all));
            }
        });
        if args.all && filter.is_none() {
            steps.run("core scenarios with PREEMPT_RT", || {
                judged(vm::realtime(&programs)?, &mut all)
            });
            steps.run("a small fleet before Prometheus", || fleet::small(&programs));
        }
    } else {
        steps.skip("scenarios on this host");
        if !args.quick {
            steps.skip(MACHINES);
        }
    }
    if args.all && filter.is_none() {
        fuzz::run(&[], FUZZING, &mut steps)?;
        steps.run("unit tests on 64-bit Arm", unit_tests_on_arm);
        steps.run("core scenarios on 64-bit Arm", || judged(vm::arm()?, &mut all));
        steps.run("what is released, made and used", dist::everything);
    }
    say!("the slowest scenarios:\n{}", all.slowest().trim_end());
    say!("in all:\n{}", steps.table().trim_end());
    if !all.failed.is_empty() {
        say!("what failed:\n{}", all.reasons().trim_end());
    }
    say!("all of this is in {}", log.display());
    Ok(if steps.all_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What a thread came to that was begun before the step that waits for it.
fn finished<T>(joined: thread::Result<Result<T>>) -> Result<T> {
    joined.unwrap_or_else(|_| bail!("the thread that began it panicked"))
}

/// Adds results to all, and fails if any did.
fn judged(tally: Tally, all: &mut Tally) -> Result<()> {
    let failed = tally.failed.len();
    all.add(tally);
    if failed > 0 {
        bail!("{failed} failed; what each said is above");
    }
    Ok(())
}

/// What asks a network namespace for its kind (`NS_GET_NSTYPE`), which the emulator cannot: the scenarios on
/// a kernel of that architecture do.
const BEYOND_THE_EMULATOR: [&str; 2] = [
    "this_process_s_namespace_is_among_those_found",
    "after_a_boot_minutes_keep_their_time_of_day_and_moments_are_forgotten",
];

/// What needs no kernel of that architecture, with its processor emulated.
fn unit_tests_on_arm() -> Result<()> {
    setup::cross(Architecture::Aarch64)?;
    let mut tests = build::foreign_cargo("test", Architecture::Aarch64);
    tests.args(["--package", "twtrace", "--package", "twtrace-common", "--lib", "--no-fail-fast"]);
    tests.arg("--").args(BEYOND_THE_EMULATOR.iter().flat_map(|name| ["--skip", name]));
    process::run_visibly(&mut tests)
}

fn lint_user_space() -> Result<()> {
    let mut command = build::cargo();
    command.arg("clippy").args(build::TESTED).args(["--all-targets", "--", "-D", "warnings"]);
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
