//! The benchmarks of `twtrace/benches/`: times by criterion, instructions by callgrind.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::SystemTime,
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::samples::Samples;
use crate::{
    build,
    process::{self, say},
};

/// Workloads of `twtrace/benches/`, with the events of one playing.
const WORKLOADS: [(&str, f64); 6] = [
    ("100 peers", 131_072.0),
    ("1,000 peers", 131_072.0),
    ("65,536 peers", 262_144.0),
    ("flood, ending", 524_288.0),
    ("flood, staying", 524_288.0),
    ("whose sockets they are", 131_072.0),
];

/// Runs the benchmarks; a quick run plays each once and has no times.
pub fn criterion(samples: &mut Samples, program: &Path, quick: bool) -> Result<()> {
    let started = SystemTime::now();
    let mut command = Command::new(program);
    command.env("CRITERION_HOME", home()).current_dir(build::workspace());
    if quick {
        return process::run(command.args(["--bench", "--test"]));
    }
    process::run(command.args(["--bench", "--warm-up-time", "0.5", "--measurement-time", "2"]))?;
    for (name, element_ns) in results(&home(), started)? {
        samples.add(&format!("userspace/{name}"), "ns an event or row", None, element_ns);
    }
    Ok(())
}

fn home() -> PathBuf {
    build::target_dir().join("criterion")
}

/// Nanoseconds an element of every benchmark that has run since, by its name.
fn results(home: &Path, since: SystemTime) -> Result<BTreeMap<String, f64>> {
    let mut results = BTreeMap::new();
    for group in fs::read_dir(home).context("criterion's results")? {
        for bench in fs::read_dir(group?.path()).into_iter().flatten() {
            let new = bench?.path().join("new");
            let file = new.join("estimates.json");
            if fs::metadata(&file).and_then(|it| it.modified()).is_ok_and(|time| time >= since) {
                let (name, nanoseconds) = result(&new)
                    .with_context(|| format!("criterion's results in {}", new.display()))?;
                results.insert(name, nanoseconds);
            }
        }
    }
    Ok(results)
}

fn result(dir: &Path) -> Result<(String, f64)> {
    let read = |name: &str| -> Result<Value> {
        Ok(serde_json::from_str(&fs::read_to_string(dir.join(name))?)?)
    };
    let (estimates, benchmark) = (read("estimates.json")?, read("benchmark.json")?);
    let median = estimates["median"]["point_estimate"].as_f64().context("median")?;
    let elements = benchmark["throughput"]["Elements"].as_f64().context("throughput")?;
    let name = benchmark["full_id"].as_str().context("full_id")?;
    Ok((name.to_owned(), median / elements))
}

/// Counts the instructions of an event: the difference of two runs that differ in length alone. A
/// quick run makes one of one workload, and has no difference.
pub fn instructions(samples: &mut Samples, program: &Path, quick: bool) -> Result<()> {
    if quick {
        return collected(program, WORKLOADS[0].0, 0).map(drop);
    }
    for (name, events) in WORKLOADS {
        let (once, twice) = (collected(program, name, 0)?, collected(program, name, 1)?);
        let each = (twice - once) / events;
        say!("{name}: {each:.0} instructions an event");
        samples.add(&format!("instructions/{name}"), "instructions an event", None, each);
    }
    Ok(())
}

/// Instructions of a whole run.
fn collected(program: &Path, workload: &str, times: u32) -> Result<f64> {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(program).args([
        "instructions",
        workload,
        &times.to_string(),
    ]);
    let done = command.output().context("cannot run valgrind")?;
    let said = String::from_utf8_lossy(&done.stderr);
    let line = said.lines().find_map(|line| line.split_once("Collected : "));
    line.and_then(|(_, number)| number.trim().parse().ok())
        .with_context(|| format!("{} said:\n{said}", process::line(&command)))
}
