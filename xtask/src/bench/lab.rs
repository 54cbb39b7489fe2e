//! Runs the measurements that need root: `twtrace-tests bench`, here and in a virtual machine.

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::samples::Samples;
use crate::{
    build::{self, Programs},
    process::{self, say},
    vm,
};

/// Measures one area on this host, through the way that twtrace takes here by itself.
pub fn here(samples: &mut Samples, programs: &Programs, area: &str, quick: bool) -> Result<()> {
    let way = way_here(programs)?;
    let mut command = process::as_root(&programs.tests)?;
    command
        .args(["bench", area, "--attach", &way])
        .args(quick.then_some("--quick"))
        .env(vm::TRACER_VARIABLE, &programs.twtrace)
        .current_dir(build::workspace())
        .stdout(Stdio::piped());
    say!("$ {}", process::line(&command));
    let mut child = command.spawn().context("cannot run the measurements")?;
    let stdout = child.stdout.take().context("its stdout was asked for")?;
    for line in BufReader::new(stdout).lines() {
        samples.take(&line?, "")?;
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("the measurements failed ({status})");
    }
    Ok(())
}

/// The way twtrace attaches here.
fn way_here(programs: &Programs) -> Result<String> {
    let mut command = process::as_root(&programs.twtrace)?;
    let said = process::output(command.args(["watch", "-o", "json", "--for", "1ms"]))?;
    let document: Value = serde_json::from_str(&said).context("twtrace's document")?;
    Ok(document["backend"].as_str().context("no backend in twtrace's document")?.to_owned())
}

/// Measures the programs of both function backends, and those for old kernels, in a virtual
/// machine: slow under emulation, hence fewer connections, but in the same proportion.
pub fn in_machine(samples: &mut Samples, programs: &Programs, series: &str) -> Result<()> {
    let words = "bench kernel --attach fentry,kprobe --object ringbuf,perf --connections 5000";
    let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
    let lines = vm::say_lines(series, programs, &words, Duration::from_secs(60))?;
    let prefix = format!("machine {series}/");
    for line in lines.iter().filter(|line| !line.contains("is not on this machine")) {
        samples.take(line, &prefix)?;
    }
    if samples.below(&format!("machine {series}")).next().is_none() {
        bail!("no figure came out of the virtual machine:\n{}", lines.join("\n"));
    }
    Ok(())
}
