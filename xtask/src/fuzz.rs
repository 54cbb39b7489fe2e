//! `cargo xtask fuzz`: looks for bytes that break what takes in what strangers wrote.
//!
//! The corpora of `fuzz/corpus/` are what it begins with; what it comes upon is kept apart, in the
//! target directory. What breaks something belongs into the corpus, where an ordinary `cargo test`
//! tries it.

use std::{fs, path::Path, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, bail};

use crate::{
    build,
    process::{self, print, say},
    setup,
    steps::Steps,
};

/// The directory of the targets, and of their corpora.
const DIRECTORY: &str = "fuzz";
/// Longest input: what comes upon something does so in few bytes, and soon.
const LONGEST: &str = "-max_len=16384";
/// Seconds that one input may take; what takes longer is a finding.
const SLOWEST: &str = "-timeout=10";
/// Megabytes that it may take, those of the sanitizer among them.
const LARGEST: &str = "-rss_limit_mb=1024";

/// What is kept from one input to the next is no leak, and looks like one.
const NO_LEAKS: &str = "-detect_leaks=0";

/// What the user asked for.
#[derive(clap::Args)]
pub struct Args {
    /// Only these; all, one after the other, if none is named.
    targets: Vec<String>,
    /// How long each.
    #[arg(long = "for", value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    time: Duration,
}

/// Runs the targets.
pub fn main(args: &Args) -> Result<ExitCode> {
    setup::ensure(setup::Purpose::Fuzz)?;
    let mut steps = Steps::default();
    run(&args.targets, args.time, &mut steps)?;
    say!("in all:\n{}", steps.table().trim_end());
    Ok(if steps.all_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Builds the targets and runs each as a step of its own.
pub fn run(wanted: &[String], time: Duration, steps: &mut Steps) -> Result<()> {
    let all = targets()?;
    if let Some(unknown) = wanted.iter().find(|name| !all.contains(name)) {
        bail!("there is no target {unknown}: there are {}", all.join(", "));
    }
    steps.run("fuzz targets", || process::run(&mut cargo_fuzz("build")));
    for name in all.iter().filter(|name| wanted.is_empty() || wanted.contains(name)) {
        steps.run(&format!("fuzzing: {name}"), || one(name, time));
    }
    Ok(())
}

/// The names of the targets, which are those of the corpora.
fn targets() -> Result<Vec<String>> {
    let corpora = build::workspace().join(DIRECTORY).join("corpus");
    let listed = fs::read_dir(&corpora).with_context(|| format!("{}", corpora.display()))?;
    let names = listed.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names: Vec<String> = names.collect::<Result<_>>()?;
    names.sort();
    Ok(names)
}

fn one(name: &str, time: Duration) -> Result<()> {
    let kept = build::target_dir().join(DIRECTORY).join("kept").join(name);
    let found = build::target_dir().join(DIRECTORY).join("found").join(name);
    for directory in [&kept, &found] {
        fs::create_dir_all(directory).with_context(|| format!("{}", directory.display()))?;
    }
    let seeds = Path::new(DIRECTORY).join("corpus").join(name);
    let ran = process::run(
        cargo_fuzz("run")
            .arg(name)
            // What is new is written to the first; what was there is only read.
            .args([kept.as_path(), &seeds])
            .args(["--", LONGEST, SLOWEST, LARGEST, "-print_final_stats=1", NO_LEAKS])
            .arg(format!("-max_total_time={}", time.as_secs().max(1)))
            .arg(format!("-artifact_prefix={}/", found.display())),
    );
    if ran.is_err() {
        print(&format!(
            "what breaks {name} is in {}; once mended, it belongs into {}",
            found.display(),
            seeds.display()
        ));
    }
    ran
}

/// A command of cargo-fuzz, which wants the nightly compiler whatever compiles all else.
fn cargo_fuzz(word: &str) -> std::process::Command {
    let mut command = std::process::Command::new("cargo");
    command.current_dir(build::workspace());
    // What the cargo that runs this one said of its own toolchain.
    for variable in ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN", "RUSTFLAGS"] {
        command.env_remove(variable);
    }
    command.args([&format!("+{}", setup::NIGHTLY), "fuzz", word, "--fuzz-dir", DIRECTORY]);
    command.arg("--release").arg("--target-dir").arg(build::target_dir().join(DIRECTORY));
    command
}
