//! A Debian of its own in a directory, without a network and without cargo.

use std::path::Path;

use anyhow::Result;

use crate::process;

/// The release that it is.
const SUITE: &str = "bookworm";

/// The directory, gone with the value.
pub struct Debian(tempfile::TempDir);

impl Debian {
    /// Makes one with these packages beside the essential ones.
    pub fn make(packages: &[&str]) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let mut command = process::as_root("mmdebstrap")?;
        command.args(["--variant=minbase", "--quiet"]);
        command.arg(format!("--include={}", packages.join(",")));
        command.arg(SUITE).arg(directory.path());
        process::run(&mut command)?;
        Ok(Self(directory))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Runs a program inside; answers what it printed.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        let mut command = process::as_root("chroot")?;
        process::output(command.arg(self.path()).args(words))
    }

    /// Whether something is there.
    pub fn has(&self, path: &str) -> bool {
        self.path().join(path.trim_start_matches('/')).exists()
    }
}
