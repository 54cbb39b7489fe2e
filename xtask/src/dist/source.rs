//! What is released: a checkout, its version and its commit.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use cargo_metadata::MetadataCommand;

use crate::{architecture::Architecture, process};

/// A checkout of the project.
#[derive(Clone)]
pub struct Source {
    /// Where it is.
    pub directory: PathBuf,
    /// What it is built for.
    pub architecture: Architecture,
    /// The project's version.
    pub version: String,
    /// The commit, with a word behind it if files differ.
    pub commit: String,
    /// Whether files differ from the commit.
    pub is_modified: bool,
    /// When the commit was made, seconds since 1970: the time of everything made of it.
    pub time: u64,
}

impl Source {
    /// The checkout in a directory, to be built for an architecture.
    pub fn here(directory: &Path, architecture: Architecture) -> Result<Self> {
        let git = |words: &[&str]| {
            process::output(Command::new("git").current_dir(directory).args(words))
                .context("a release says of which commit it is, so it is made in a git checkout")
        };
        let is_modified = !git(&["status", "--porcelain"])?.trim().is_empty();
        let commit = git(&["rev-parse", "HEAD"])?.trim().to_owned();
        let commit = if is_modified { format!("{commit}, modified") } else { commit };
        let time = git(&["log", "-1", "--format=%ct"])?.trim().parse().context("a time")?;
        let metadata = MetadataCommand::new().current_dir(directory).no_deps().exec()?;
        let package = metadata.packages.iter().find(|package| package.name.as_str() == "twtrace");
        let version = package.context("the package twtrace")?.version.to_string();
        let directory = directory.to_owned();
        Ok(Self { directory, architecture, version, commit, is_modified, time })
    }

    /// The same commit in another directory.
    pub fn clone_into(&self, directory: &Path) -> Result<Self> {
        process::run(
            Command::new("git").args(["clone", "--quiet"]).arg(&self.directory).arg(directory),
        )?;
        process::run(Command::new("git").current_dir(directory).args([
            "checkout",
            "--quiet",
            &self.commit,
        ]))?;
        Self::here(directory, self.architecture)
    }

    /// What the archive, and the directory in it, is called.
    pub fn name(&self) -> String {
        format!("twtrace-{}-{}-linux", self.version, self.architecture)
    }

    /// A command that makes something of it, and knows no other time than the commit's.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.directory).env("SOURCE_DATE_EPOCH", self.time.to_string());
        command
    }
}
