//! The program that is released: static, small, and the same wherever it is built.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::source::Source;
use crate::{architecture::Architecture, build, process, toolchain::DEBIAN_TOOLCHAIN};

/// Most bytes: it is copied onto hosts in a hurry.
const LARGEST: u64 = 12 << 20;

/// What was built.
pub struct Program {
    /// Without symbols.
    pub file: PathBuf,
    /// The symbols alone, which a debugger finds by the program's build id.
    pub symbols: PathBuf,
}

/// Builds it of a checkout, in that checkout's own target directory.
pub fn build(source: &Source) -> Result<Program> {
    let target = source.architecture.target();
    let targets = source.directory.join("target");
    let mut command = source.command("cargo");
    if source.architecture != Architecture::here() {
        command = source.command("rustup");
        // The distribution's compiler comes with the standard library of other architectures.
        command.args(["run", DEBIAN_TOOLCHAIN, "cargo"]);
        build::cross(&mut command, source.architecture);
    }
    command
        .args(["build", "--locked", "--profile", "dist", "--package", "twtrace"])
        .args(["--target", &target, "--target-dir"])
        .arg(&targets)
        .env("RUSTFLAGS", rust_flags(&source.directory)?)
        .env("CFLAGS", c_flags(&source.directory)?)
        .env("TWTRACE_COMMIT", &source.commit);
    let [built] = build::executables(&mut command, ["twtrace"])?;
    let (file, symbols) = (built.with_extension("stripped"), built.with_extension("debug"));
    let objcopy = |words: &[&str], from: &Path, to: &Path| {
        process::run(Command::new(source.architecture.gnu("objcopy")).args(words).arg(from).arg(to))
    };
    objcopy(&["--only-keep-debug", "--compress-debug-sections"], &built, &symbols)?;
    objcopy(&["--strip-all", "--remove-section=.comment"], &built, &file)?;
    let size = fs::metadata(&file)?.len();
    if size > LARGEST {
        bail!("the program has {size} bytes, which is more than {LARGEST}");
    }
    Ok(Program { file, symbols })
}

/// Names that stand for directories of this machine: the sources', and those of what they need.
fn names(sources: &Path) -> Result<[(PathBuf, &'static str); 2]> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")));
    let cargo = home.context("there is neither CARGO_HOME nor HOME")?;
    Ok([(sources.to_owned(), "/twtrace"), (cargo, "/cargo")])
}

fn rust_flags(sources: &Path) -> Result<String> {
    let mut flags = "-C target-feature=+crt-static".to_owned();
    for (directory, name) in names(sources)? {
        flags.push_str(&format!(" --remap-path-prefix={}={name}", directory.display()));
    }
    Ok(flags)
}

fn c_flags(sources: &Path) -> Result<String> {
    let flags = names(sources)?
        .map(|(directory, name)| format!("-ffile-prefix-map={}={name}", directory.display()));
    Ok(flags.join(" "))
}
