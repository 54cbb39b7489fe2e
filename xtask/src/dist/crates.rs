//! The crates, as a registry has them.

use std::{fs, io::BufReader, path::Path, process::Stdio};

use anyhow::{Context as _, Result, ensure};
use cargo_metadata::Message;

use super::source::Source;
use crate::process::{self, print};

/// Those that are published, in that order; the kernel programs' is within the last, compiled.
const CRATES: [&str; 2] = ["twtrace-common", "twtrace"];

/// The two objects of kernel programs.
const OBJECTS: [&str; 2] = ["twtrace-ringbuf", "twtrace-perf"];

/// What the crate has them in, where its build script looks; gone with the value.
struct Prebuilt<'a>(&'a Path);

impl Drop for Prebuilt<'_> {
    fn drop(&mut self) {
        // Left behind, it is ignored by git and by the build of a checkout.
        let _ = fs::remove_dir_all(self.0);
    }
}

/// Packages the crates, builds each from its package alone, and does all that publishing does but
/// the publishing.
pub fn dry_run(source: &Source) -> Result<()> {
    let place = source.directory.join("twtrace/prebuilt");
    let _prebuilt = Prebuilt(&place);
    compile(source, &place)?;
    let mut publish = source.command("cargo");
    publish.args(["publish", "--dry-run", "--locked"]);
    // What is compiled is in no commit.
    publish.arg("--allow-dirty");
    publish.args(CRATES.iter().flat_map(|name| ["--package", name]));
    process::run(&mut publish)?;
    print(&format!("as for a registry, packaged and built: {}", CRATES.join(", ")));
    Ok(())
}

/// Puts the kernel programs, compiled, where the package takes them from.
fn compile(source: &Source, place: &Path) -> Result<()> {
    let mut command = source.command("cargo");
    command
        .args(["check", "--locked", "--package", "twtrace"])
        .arg("--message-format=json-render-diagnostics")
        .stdout(Stdio::piped());
    let mut child = command.spawn().context("cannot run cargo")?;
    let stdout = child.stdout.take().context("cargo's stdout was asked for")?;
    let mut made = None;
    for message in Message::parse_stream(BufReader::new(stdout)) {
        if let Message::BuildScriptExecuted(script) = message.context("cargo's messages")? {
            let told = |name: &str| {
                let value = script.env.iter().find(|(variable, _)| variable == name);
                value.map(|(_, value)| value.clone())
            };
            made = made.or_else(|| Some((script.out_dir.clone(), told("TWTRACE_BPF_TOOLCHAIN")?)));
        }
    }
    ensure!(child.wait()?.success(), "twtrace does not build");
    let (out, by) = made.context("cargo named no build script of twtrace")?;
    fs::create_dir_all(place)?;
    for name in OBJECTS {
        fs::copy(out.join(name), place.join(name)).with_context(|| name.to_owned())?;
    }
    fs::write(place.join("built-by"), by)?;
    fs::write(place.join("commit"), &source.commit)?;
    Ok(())
}
