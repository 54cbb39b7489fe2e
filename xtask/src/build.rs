//! Building the workspace's programs and finding where cargo put them.

use std::{
    io::BufReader,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use anyhow::{Context as _, Result, bail};
use cargo_metadata::Message;

use crate::process::{self, say};

/// The target of the static binaries; naming it keeps their flags off build scripts.
const STATIC_TARGET: &str = "x86_64-unknown-linux-gnu";

/// The workspace's top directory: of the checkout that cargo was run in, since several may share
/// one target directory; without cargo, of the one this program was built in.
pub fn workspace() -> &'static Path {
    static OWN: OnceLock<PathBuf> = OnceLock::new();
    let own = OWN.get_or_init(|| {
        let of_run = std::env::var_os("CARGO_MANIFEST_DIR");
        of_run.map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from)
    });
    own.parent().expect("xtask lies one level below the workspace's top")
}

/// Where cargo puts what it builds here.
pub fn target_dir() -> PathBuf {
    let chosen = std::env::var_os("CARGO_TARGET_DIR");
    chosen.map_or_else(|| workspace().join("target"), |dir| workspace().join(dir))
}

/// A cargo command in the workspace.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace());
    command
}

/// Builds one package and gives back its program.
pub fn program(package: &str, release: bool) -> Result<PathBuf> {
    let mut command = cargo();
    command.args(["build", "--package", package]);
    if release {
        command.arg("--release");
    }
    executable(&mut command, package)
}

/// Programs that need nothing of the system they run on.
pub struct StaticPrograms {
    /// The tracer.
    pub twtrace: PathBuf,
    /// The scenarios, which are also a virtual machine's init.
    pub tests: PathBuf,
}

/// Builds the tracer and the scenarios as static programs, in a target directory of their own.
pub fn static_programs() -> Result<StaticPrograms> {
    let build = |package: &str| {
        let mut command = cargo();
        command.args(["build", "--release", "--package", package]);
        executable(in_static_target(&mut command), package)
    };
    Ok(StaticPrograms { twtrace: build("twtrace")?, tests: build("twtrace-tests")? })
}

/// Builds a package's benchmarks of that name and gives back their program: of the same build as
/// the static programs, or, where nothing is to be measured, as the tests are built.
pub fn benchmark(package: &str, name: &str, debug: bool) -> Result<PathBuf> {
    let mut command = cargo();
    command.args([if debug { "test" } else { "bench" }, "--package", package]);
    command.args(["--bench", name, "--no-run"]);
    executable(if debug { &mut command } else { in_static_target(&mut command) }, name)
}

fn in_static_target(command: &mut Command) -> &mut Command {
    command
        .args(["--target", STATIC_TARGET, "--target-dir"])
        .arg(target_dir().join("vm"))
        // Line tables would triple what a virtual machine has to unpack.
        .env("RUSTFLAGS", "-C target-feature=+crt-static -C strip=debuginfo")
}

/// Runs a cargo build and picks the program of that name from its messages.
fn executable(command: &mut Command, name: &str) -> Result<PathBuf> {
    say!("$ {}", process::line(command));
    let mut child = command
        .arg("--message-format=json-render-diagnostics")
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run cargo")?;
    let stdout = child.stdout.take().context("cargo's stdout was asked for")?;
    let mut found = None;
    for message in Message::parse_stream(BufReader::new(stdout)) {
        if let Message::CompilerArtifact(artifact) = message.context("cargo's messages")?
            && artifact.target.name == name
            && let Some(path) = artifact.executable
        {
            found = Some(path.into_std_path_buf());
        }
    }
    if !child.wait()?.success() {
        bail!("{name} does not build");
    }
    found.with_context(|| format!("cargo named no program for {name}"))
}
