//! A tracing program while it is measured: what it costs, by what the kernel says of it.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use aya::programs::loaded_programs;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::Bench;
use crate::netns::Netns;
use crate::wait;

/// Other tools parse the kernel's types when they start, which takes them seconds.
const START: Duration = Duration::from_secs(60);

/// Time between two documents of an agent that tells.
const TOLD_EVERY: &str = "250ms";

/// A running program that traces. It is ended when dropped.
pub struct Agent {
    /// What it is called.
    name: String,
    child: Child,
    directory: tempfile::TempDir,
}

impl Agent {
    /// Starts `twtrace watch -o json` with more arguments and waits until it watches.
    pub fn twtrace(bench: &Bench, args: &[&str]) -> Result<Self> {
        Self::watching(bench, &[&["-o", "json"], args].concat())
    }

    /// Starts `twtrace watch` with these arguments and waits until it does.
    pub fn watching(bench: &Bench, args: &[&str]) -> Result<Self> {
        let mut command = Command::new(&bench.lab.twtrace);
        command.arg("watch").args(bench.lab.attach()).args(args);
        let mut agent = Self::spawn("twtrace", &mut command)?;
        wait::until("twtrace to watch", START, || {
            agent.is_alive()?;
            Ok(agent.said("stderr")?.contains("twtrace: watching").then_some(()))
        })?;
        Ok(agent)
    }

    /// Starts a `twtrace watch` of one namespace that tells its totals while it goes on.
    pub fn telling(bench: &Bench, netns: &Netns) -> Result<Self> {
        let often = ["-o", "ndjson", "--interval", TOLD_EVERY, "--top", "1"];
        let all = ["--netns", netns.name(), "--max-live", "524288"];
        Self::watching(bench, &[&often[..], &all].concat())
    }

    /// Waits until it tells this of its totals.
    pub fn await_total(&self, key: &str, count: u64) -> Result<()> {
        wait::until(&format!("twtrace to tell of {count} {key}"), wait::SOON, || {
            let said = self.said("stdout")?;
            let told = last_document(&said).and_then(|it| it["totals"][key].as_u64());
            Ok((told == Some(count)).then_some(()))
        })
    }

    /// Starts another tool, with a tracefs of its own where the machine has none mounted, and
    /// waits until its programs are in the kernel and no more come.
    pub fn other(words: &[&str]) -> Result<Self> {
        let mut command = Command::new("unshare");
        let mount = "mount -t tracefs tracefs /sys/kernel/tracing; exec \"$@\"";
        command.args(["--mount", "sh", "-c", mount, "sh"]).args(words);
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        // bpftrace leaves out what does not fit into its maps, 4,096 keys unless told.
        command.env("BPFTRACE_MAP_KEYS_MAX", "524288");
        let mut agent = Self::spawn(words[0], &mut command)?;
        let mut before = 0;
        let mut unchanged = 0;
        wait::until(&format!("{} to trace", words[0]), START, || {
            agent.is_alive()?;
            let now = agent.descriptors()?.len();
            unchanged =
                if now == before && !agent.programs()?.is_empty() { unchanged + 1 } else { 0 };
            before = now;
            // Half a second without another descriptor: everything is attached.
            Ok((unchanged > 50).then_some(()))
        })?;
        Ok(agent)
    }

    fn spawn(name: &str, command: &mut Command) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let file = |name: &str| File::create(directory.path().join(name));
        let child = command
            .stdin(Stdio::null())
            .stdout(file("stdout")?)
            .stderr(file("stderr")?)
            .spawn()
            .with_context(|| format!("{name} could not be started"))?;
        Ok(Self { name: name.to_owned(), child, directory })
    }

    fn is_alive(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("it ended at once ({status}): {}", self.said("stderr")?);
        }
        Ok(())
    }

    /// What it has written to `stdout` or `stderr`.
    pub fn said(&self, name: &str) -> Result<String> {
        let bytes = fs::read(self.directory.path().join(name))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Ends it as Ctrl-C does and gives back what it wrote to stdout.
    pub fn finish(mut self) -> Result<String> {
        self.signal(Signal::INT)?;
        let what = format!("{} to end after SIGINT", self.name);
        wait::until(&what, START, || Ok(self.child.try_wait()?))?;
        self.said("stdout")
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        Ok(kill_process(pid.context("process id")?, signal)?)
    }

    /// What the kernel tells of it under this name.
    pub fn proc(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}", self.child.id())).join(name)
    }

    /// Processor time it has used, user and system together, seconds.
    pub fn cpu_seconds(&self) -> Result<f64> {
        cpu_seconds(self.child.id())
    }

    /// Memory of its own that is resident, bytes.
    pub fn resident(&self) -> Result<f64> {
        let status = fs::read_to_string(self.proc("status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        Ok(kib.context("VmRSS")? as f64 * 1024.0)
    }

    /// What the kernel says of each descriptor.
    fn descriptors(&self) -> Result<Vec<HashMap<String, String>>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(self.proc("fdinfo"))? {
            // One that was closed meanwhile is none.
            let Ok(text) = fs::read_to_string(entry?.path()) else { continue };
            let pairs = text.lines().filter_map(|line| line.split_once(':'));
            all.push(pairs.map(|(key, value)| (key.to_owned(), value.trim().to_owned())).collect());
        }
        Ok(all)
    }

    /// Kernel memory of its maps, bytes.
    pub fn map_bytes(&self) -> Result<f64> {
        let maps = self.descriptors()?.into_iter().filter(|info| info.contains_key("map_id"));
        let by_id: BTreeMap<_, _> = maps
            .filter_map(|info| Some((info["map_id"].clone(), info.get("memlock")?.clone())))
            .collect();
        Ok(by_id.values().filter_map(|bytes| bytes.parse::<f64>().ok()).sum())
    }

    /// Its programs in the kernel, by name, and what the kernel has counted of each.
    pub fn programs(&self) -> Result<BTreeMap<String, Program>> {
        let descriptors = self.descriptors()?;
        let number = |info: &HashMap<String, String>, key: &str| -> u64 {
            info.get(key).and_then(|value| value.parse().ok()).unwrap_or(0)
        };
        let points: HashMap<u64, String> = descriptors
            .iter()
            .filter_map(|info| Some((number(info, "prog_id"), info.get("tp_name")?.clone())))
            .collect();
        let names: HashMap<u64, String> = loaded_programs()
            .filter_map(Result::ok)
            .filter_map(|info| Some((info.id().into(), info.name_as_str()?.to_owned())))
            .collect();
        let programs = descriptors.iter().filter(|info| info.contains_key("prog_jited"));
        Ok(programs
            .map(|info| {
                let id = number(info, "prog_id");
                let name = points.get(&id).or_else(|| names.get(&id));
                let program = Program {
                    run_ns: number(info, "run_time_ns"),
                    runs: number(info, "run_cnt"),
                    verified: number(info, "verified_insns"),
                };
                (name.cloned().unwrap_or_else(|| id.to_string()), program)
            })
            .collect())
    }
}

/// The last whole document among lines of them.
pub fn last_document(lines: &str) -> Option<Value> {
    lines.lines().rev().find_map(|line| serde_json::from_str(line).ok())
}

/// Processor time that a process's threads, those there now, have used, user and system together,
/// seconds.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let mut all = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may have ended since it was listed.
        let Ok(stat) = fs::read_to_string(thread?.path().join("schedstat")) else { continue };
        let nanoseconds = stat.split(' ').next().and_then(|word| word.parse::<u64>().ok());
        all += nanoseconds.context("schedstat")?;
    }
    Ok(all as f64 / 1e9)
}

impl Drop for Agent {
    fn drop(&mut self) {
        // After finish() both do nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the kernel counts of a program while its statistics are on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Program {
    /// Nanoseconds in it.
    pub run_ns: u64,
    /// Times it ran.
    pub runs: u64,
    /// Instructions that the verifier walked through.
    pub verified: u64,
}
