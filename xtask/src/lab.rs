//! `cargo xtask lab`: the story that twtrace is for, on the reader's own machine.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result};

use crate::{
    build::{self, Programs},
    page, process, setup,
};

/// What the user asked for.
#[derive(clap::Args)]
pub struct Args {
    /// Go on with the traffic in the end, to be watched from another terminal.
    #[arg(long)]
    hold: bool,
    /// Instead, take the pictures in README.md anew: of the full screen, and of a report by a browser.
    #[arg(long, conflicts_with = "hold")]
    picture: bool,
}

/// Builds the tracer and the scenarios, and becomes the scenario runner's lab.
pub fn main(args: &Args) -> Result<ExitCode> {
    setup::ensure(if args.picture { setup::Purpose::Test } else { setup::Purpose::Lab })?;
    let programs = build::programs()?;
    let mut command = process::as_root(&programs.tests)?;
    command.arg("lab").arg("--twtrace").arg(&programs.twtrace);
    if args.picture {
        picture(command)?;
        return picture_of_a_report(&programs);
    }
    if args.hold {
        command.arg("--hold");
    }
    let error = command.exec();
    Err(error).with_context(|| format!("cannot run {}", programs.tests.display()))
}

/// Has the lab look at itself for a while, and puts what it saw into the README.
fn picture(mut lab: Command) -> Result<()> {
    let seen = tempfile::NamedTempFile::new()?;
    process::run(lab.arg("--picture").arg(seen.path()))?;
    let readme = build::workspace().join("README.md");
    let page = fs::read_to_string(&readme).context("reading README.md")?;
    let text = format!("```text\n{}\n```\n", fs::read_to_string(seen.path())?.trim_end());
    fs::write(&readme, page::fill(&page, "picture", &text)?).context("writing README.md")
}

/// Has the scenario that opens reports in a browser keep what it saw of the lab's.
fn picture_of_a_report(programs: &Programs) -> Result<ExitCode> {
    let mut scenario = process::as_root(&programs.tests)?;
    scenario
        .arg("report_in_a_browser")
        .arg("--twtrace")
        .arg(&programs.twtrace)
        .env(setup::python::VARIABLE, setup::python::interpreter())
        .env("TWTRACE_PICTURE", build::workspace().join("docs/report.png"));
    process::run(&mut scenario)?;
    Ok(ExitCode::SUCCESS)
}
