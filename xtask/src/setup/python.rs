//! A Python of our own, with the query engines that read what twtrace exports, the maker of packages,
//! and what drives a browser and looks at what it shows.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use crate::{build, process};

/// What the tests ask for this Python by.
pub const VARIABLE: &str = "TWTRACE_PYTHON";

/// What is installed; a later major version may do it otherwise.
const PACKAGES: [&str; 6] = [
    "duckdb<3",
    // ClickHouse without what reads from clouds.
    "chdb-core-lite<27",
    "nfpm<3",
    "playwright<2",
    "axe-playwright-python<1",
    "pillow<14",
];

/// Where it is.
pub fn place() -> PathBuf {
    build::target_dir().join("python")
}

/// The interpreter.
pub fn interpreter() -> PathBuf {
    place().join("bin/python")
}

/// A program that comes with what is installed.
pub fn program(name: &str) -> PathBuf {
    place().join("bin").join(name)
}

/// A file that is there once all is installed.
pub fn mark() -> PathBuf {
    place().join("twtrace-ready-4")
}

/// Makes a virtual environment and installs into it, from wherever this machine's pip installs.
pub fn install() -> Result<()> {
    process::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(place()))?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    process::run(Command::new(interpreter()).args(pip).args(PACKAGES))?;
    fs::write(mark(), PACKAGES.join("\n")).with_context(|| format!("{}", mark().display()))
}
