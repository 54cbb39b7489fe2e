//! The list of what the program is made of, for those who have to keep one: CycloneDX.

use std::fs;

use anyhow::{Context as _, Result};

use super::source::Source;
use crate::process;

/// The list, by cargo-cyclonedx.
pub fn of(source: &Source) -> Result<String> {
    // Without the directory the list has it in its names.
    let name = "twtrace.cdx";
    let target = source.architecture.target();
    let mut command = source.command("cargo");
    command
        .args(["cyclonedx", "--format", "json", "--spec-version", "1.5"])
        .args(["--manifest-path", "twtrace/Cargo.toml", "--target", &target])
        .args(["--no-build-deps", "--override-filename", name]);
    process::run(&mut command)?;
    // It writes one for each package of the workspace.
    let mut list = None;
    for entry in fs::read_dir(&source.directory)? {
        let directory = entry?.path();
        let path = directory.join(format!("{name}.json"));
        if path.exists() {
            let text = fs::read_to_string(&path)?;
            fs::remove_file(&path)?;
            list = list.or_else(|| directory.ends_with("twtrace").then_some(text));
        }
    }
    let list = list.context("cargo-cyclonedx wrote no list of twtrace")?;
    // Where the sources were is nobody's business.
    Ok(list.replace(&format!("{}/", source.directory.display()), "/twtrace/"))
}
