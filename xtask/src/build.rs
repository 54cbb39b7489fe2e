//! Building the workspace's programs and finding where cargo put them.

use std::{
    io::BufReader,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use anyhow::{Context as _, Result, bail};
use cargo_metadata::Message;

use crate::{
    architecture::Architecture,
    process::{self, say},
    toolchain::DEBIAN_TOOLCHAIN,
};

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

/// What users, scenarios and benchmarks run: built one way, so that it is built once.
pub struct Programs {
    /// The tracer.
    pub twtrace: PathBuf,
    /// The scenarios, which are also a virtual machine's init.
    pub tests: PathBuf,
}

/// Builds the tracer and the scenarios of this checkout.
pub fn programs() -> Result<Programs> {
    Tree::here().programs()
}

/// Builds both for an architecture.
pub fn programs_for(architecture: Architecture) -> Result<Programs> {
    if architecture == Architecture::here() {
        return programs();
    }
    let mut command = foreign_cargo("build", architecture);
    command.args(["--release", "--package", "twtrace", "--package", "twtrace-tests"]);
    let [twtrace, tests] = executables(&mut command, ["twtrace", "twtrace-tests"])?;
    Ok(Programs { twtrace, tests })
}

/// A cargo command for static programs of another architecture than this machine's: by the distribution's
/// compiler, which comes with the standard library of others, into a directory of its own.
pub fn foreign_cargo(word: &str, architecture: Architecture) -> Command {
    let mut command = Command::new("rustup");
    command.current_dir(workspace()).args(["run", DEBIAN_TOOLCHAIN, "cargo", word]);
    command.args(["--target", &architecture.target(), "--target-dir"]);
    command.arg(target_dir().join("foreign"));
    command.env("RUSTFLAGS", STATIC);
    cross(&mut command, architecture);
    command
}

/// Has cargo find what compiles C and links for another architecture, and what runs its programs here.
pub fn cross(command: &mut Command, architecture: Architecture) {
    let compiler = architecture.gnu("gcc");
    let target = architecture.target().replace('-', "_");
    command.env(format!("CC_{target}"), &compiler);
    let of_target = |what: &str| format!("CARGO_TARGET_{}_{what}", target.to_uppercase());
    command.env(of_target("LINKER"), &compiler);
    if let Some(emulator) = architecture.emulator() {
        command.env(of_target("RUNNER"), emulator);
    }
}

/// The packages that tests are run of: the kernel programs are none for this machine.
pub const TESTED: &[&str] = &["--workspace", "--exclude", "twtrace-ebpf"];

/// What makes programs static.
const STATIC: &str = "-C target-feature=+crt-static";

/// Sources, and where what is built of them goes.
pub struct Tree {
    top: PathBuf,
    /// Where cargo puts it by itself, if `None`.
    target: Option<PathBuf>,
}

impl Tree {
    /// This checkout.
    pub fn here() -> Self {
        Self { top: workspace().to_owned(), target: None }
    }

    /// Another one.
    pub fn at(top: PathBuf, target: PathBuf) -> Self {
        Self { top, target: Some(target) }
    }

    /// Its top directory.
    pub fn top(&self) -> &Path {
        &self.top
    }

    /// Builds the tracer and the scenarios.
    pub fn programs(&self) -> Result<Programs> {
        let mut command = self.static_cargo("build");
        command.args(["--package", "twtrace", "--package", "twtrace-tests"]);
        let [twtrace, tests] = executables(&mut command, ["twtrace", "twtrace-tests"])?;
        Ok(Programs { twtrace, tests })
    }

    /// Builds the tracer: as above, or quickly and without optimisations.
    pub fn tracer(&self, debug: bool) -> Result<PathBuf> {
        let mut command = if debug { self.cargo("build") } else { self.static_cargo("build") };
        let [twtrace] = executables(command.args(["--package", "twtrace"]), ["twtrace"])?;
        Ok(twtrace)
    }

    /// Builds a package's benchmarks of that name and gives back their program: of the same build as
    /// the programs, or, where nothing is to be measured, as the tests are built.
    pub fn benchmark(&self, package: &str, name: &str, debug: bool) -> Result<PathBuf> {
        let mut command = if debug { self.cargo("test") } else { self.static_cargo("bench") };
        // What is chosen decides which features a dependency has, and with others it is built again.
        if debug {
            command.args(TESTED)
        } else {
            command.args(["--package", package])
        };
        command.args(["--bench", name, "--no-run"]);
        let [program] = executables(&mut command, [name])?;
        Ok(program)
    }

    fn cargo(&self, word: &str) -> Command {
        let mut command = cargo();
        command.current_dir(&self.top).arg(word);
        if let Some(target) = &self.target {
            command.env("CARGO_TARGET_DIR", target);
        }
        command
    }

    /// A cargo command for optimised programs that need nothing of the system they run on, as a virtual
    /// machine has it.
    fn static_cargo(&self, word: &str) -> Command {
        let mut command = self.cargo(word);
        if word == "build" {
            command.arg("--release");
        }
        // Naming the target keeps the flags off build scripts.
        let target = Architecture::here().target();
        command.args(["--target", &target]).env("RUSTFLAGS", STATIC);
        command
    }
}

/// Runs a cargo build and picks the programs of these names from its messages.
pub fn executables<const N: usize>(
    command: &mut Command,
    names: [&str; N],
) -> Result<[PathBuf; N]> {
    say!("$ {}", process::line(command));
    let mut child = command
        .arg("--message-format=json-render-diagnostics")
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run cargo")?;
    let stdout = child.stdout.take().context("cargo's stdout was asked for")?;
    let mut found = names.map(|_| None);
    for message in Message::parse_stream(BufReader::new(stdout)) {
        if let Message::CompilerArtifact(artifact) = message.context("cargo's messages")?
            && let Some(at) = names.iter().position(|name| artifact.target.name == *name)
            && let Some(path) = artifact.executable
        {
            found[at] = Some(path.into_std_path_buf());
        }
    }
    if !child.wait()?.success() {
        bail!("{} does not build", names.join(" and "));
    }
    match found.into_iter().collect::<Option<Vec<_>>>().map(TryInto::try_into) {
        Some(Ok(programs)) => Ok(programs),
        _ => bail!("cargo named no program for {}", names.join(" and ")),
    }
}
