//! Developer commands of twtrace: `cargo xtask COMMAND`.
//!
//! One file per command. What they have to say goes to stderr; stdout belongs to the
//! program being run, and to test results.

mod architecture;
mod bench;
mod build;
mod dist;
mod events;
mod fleet;
mod fuzz;
mod lab;
mod log;
mod page;
mod process;
mod progress;
mod report;
mod run;
mod scenarios;
mod setup;
mod soak;
mod steps;
mod test;
mod vm;

#[path = "../../twtrace/build/toolchain.rs"]
#[allow(dead_code, reason = "the build script uses the rest")]
mod toolchain;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Sets up, runs and tests twtrace.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what is missing to build, run and test.
    Setup(setup::Args),
    /// Build twtrace and run it with the privileges it needs.
    Run(run::Args),
    /// Play the story that twtrace is for, in network namespaces of this machine.
    Lab(lab::Args),
    /// Check formatting and lints, run all tests, on the host and in virtual machines.
    Test(test::Args),
    /// Run the scenarios in virtual machines with other kernels, or get a prompt in one.
    Vm(vm::Args),
    /// Measure what twtrace costs, and write the figures of docs/PERFORMANCE.md.
    Bench(bench::Args),
    /// Make what is released: archives and packages.
    Dist(dist::Args),
    /// Look for bytes that break what takes in what strangers wrote.
    Fuzz(fuzz::Args),
    /// Count at the machine's limit for minutes or hours, and hold the counts against the kernel's.
    Soak(soak::Args),
    /// Have a Prometheus scrape many hosts, simulated, and tell what that takes.
    Fleet(fleet::Args),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Setup(args) => setup::main(&args),
        Command::Run(args) => run::main(&args),
        Command::Lab(args) => lab::main(&args),
        Command::Test(args) => test::main(&args),
        Command::Vm(args) => vm::main(&args),
        Command::Bench(args) => bench::main(&args),
        Command::Dist(args) => dist::main(&args),
        Command::Fuzz(args) => fuzz::main(&args),
        Command::Soak(args) => soak::main(&args),
        Command::Fleet(args) => fleet::main(&args),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
