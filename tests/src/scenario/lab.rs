//! The lab that readers play on their own machines.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::expect;
use crate::lab::Lab;
use crate::netns;
use crate::wait;

/// It plays twice in a row, the second time held and then interrupted, and nothing of it is left.
pub fn twice_in_a_row(lab: &Lab) -> Result<()> {
    let said = play(lab, &[])?;
    // What it is played for: with timestamps all connect, without them a thousand ports are soon
    // used up.
    let failed: Vec<u64> = said.lines().filter_map(failed).collect();
    expect::that(matches!(failed[..], [0, 1500..=3000]), || format!("not the story:\n{said}"))?;
    expect::that(said.contains("TW001 CRITICAL"), || format!("no finding:\n{said}"))?;
    play(lab, &["--hold"]).map(drop)
}

/// Connections that a line says failed.
fn failed(line: &str) -> Option<u64> {
    let (_, rest) = line.strip_prefix("lab: ")?.split_once(" connected, ")?;
    rest.split_once(" failed")?.0.parse().ok()
}

/// Plays it, interrupting it once it says how that is done; gives what it said.
fn play(lab: &Lab, args: &[&str]) -> Result<String> {
    let output = tempfile::NamedTempFile::new()?;
    let mut child = Command::new(std::env::current_exe()?)
        .args(["lab", "--twtrace"])
        .arg(&lab.twtrace)
        .args(args)
        .stdin(Stdio::null())
        .stdout(fs::File::options().append(true).open(output.path())?)
        .stderr(fs::File::options().append(true).open(output.path())?)
        .spawn()
        .context("starting the lab")?;
    let said = || Ok::<_, anyhow::Error>(fs::read_to_string(output.path())?);
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("process id")?;
    let mut interrupted = false;
    let status = wait::until("the lab to end", 3 * wait::SOON, || {
        if !interrupted && said()?.contains("Ctrl-C ends it") {
            interrupted = true;
            kill_process(pid, Signal::INT).context("interrupting the lab")?;
        }
        Ok(child.try_wait()?)
    });
    if status.is_err() {
        child.kill()?;
        child.wait()?;
    }
    let status = status.with_context(|| said().unwrap_or_default())?;
    let said = said()?;
    expect::that(status.success(), || format!("{status}:\n{said}"))?;
    let names = netns::run("ip", &["netns", "list"])?;
    let names = String::from_utf8_lossy(&names.stdout).into_owned();
    let left = names.contains(&format!("twt{}-", child.id()));
    expect::that(!left, || format!("namespaces of {} are left:\n{names}", child.id()))?;
    Ok(said)
}
