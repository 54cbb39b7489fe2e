//! The scenarios on this host, without a virtual machine.

use std::{
    path::Path,
    process::{Command, ExitStatus},
};

use anyhow::{Context as _, Result};

use crate::{
    build::{self, Programs},
    events,
    process::{self, print, say},
    progress::Ongoing,
    report::{End, Progress, Tally},
    setup, vm,
};

/// What the scenarios call the kernel that is here.
pub const HOST: &str = "host";

/// Runs them, printing each as it ends.
pub fn on_host(programs: &Programs, filter: Option<&str>) -> Result<Tally> {
    let mut command = process::as_root(&programs.tests)?;
    command
        .args(["--format", "json", "--kernel", HOST])
        .args(filter)
        .env(vm::TRACER_VARIABLE, &programs.twtrace)
        .env(setup::python::VARIABLE, setup::python::interpreter())
        .current_dir(build::workspace());
    say!("$ {}", process::line(&command));
    let ongoing = Ongoing::begin("scenarios on this host");
    let mut progress = Progress::new(HOST);
    let status = follow(&mut command, |line| {
        if let Some(line) = progress.take(&events::parse(line)) {
            print(&line);
        }
        ongoing.tell(&progress.how_far());
    })?;
    drop(ongoing);
    let end = status.code().map_or(End::Died(status), End::Exit);
    let (tally, line) = progress.finish(&end, &[] as &[&Path]);
    if let Some(line) = line {
        print(&line);
    }
    Ok(tally)
}

/// Runs a command and hands over each line that it writes.
fn follow(command: &mut Command, mut take: impl FnMut(&str)) -> Result<ExitStatus> {
    let (mut child, lines) = process::piped(command)?;
    for line in lines {
        take(&line);
    }
    child.wait().context("waiting for the scenarios")
}
