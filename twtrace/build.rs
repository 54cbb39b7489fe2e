//! Compiles the kernel programs, or takes those of the release, and leaves them in `OUT_DIR` under their binaries' names.

use std::{
    env,
    error::Error,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use aya_build::{Package, Toolchain};

#[path = "build/slim.rs"]
mod slim;
#[path = "build/toolchain.rs"]
#[allow(dead_code, reason = "xtask uses the rest")]
mod toolchain;

use toolchain::Route;

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    let workspace = workspace()?;
    let made = if workspace.join("twtrace-ebpf/Cargo.toml").exists() {
        compile(&out, &workspace)?
    } else {
        take(Path::new(PREBUILT), &out)?
    };
    println!("cargo::rustc-env=TWTRACE_BPF_TOOLCHAIN={}", made.by);
    for (name, variable) in [("ringbuf", "TWTRACE_RINGBUF"), ("perf", "TWTRACE_PERF")] {
        println!(
            "cargo::rustc-env={variable}={}",
            slim::name(&out.join(format!("twtrace-{name}")))?
        );
    }
    println!("cargo::rustc-env={COMMIT}={}", made.commit);
    Ok(())
}

/// How the kernel programs were made.
struct Made {
    /// By which compiler.
    by: String,
    /// Of which commit.
    commit: String,
}

/// Where a crate from a registry, which is without the source of the kernel programs, has what it
/// compiles to: those of the release of the same commit (`cargo xtask dist --crates`).
const PREBUILT: &str = "prebuilt";

/// The two objects of kernel programs.
const OBJECTS: [&str; 2] = ["twtrace-ringbuf", "twtrace-perf"];

/// Takes what was compiled for the release.
fn take(prebuilt: &Path, out: &Path) -> Result<Made, Box<dyn Error>> {
    println!("cargo::rerun-if-changed={PREBUILT}");
    if !prebuilt.is_dir() {
        return Err("neither the kernel programs' source is here nor what it compiles to".into());
    }
    for name in OBJECTS {
        fs::copy(prebuilt.join(name), out.join(name))?;
    }
    let told = |name| fs::read_to_string(prebuilt.join(name));
    Ok(Made { by: told("built-by")?, commit: told("commit")? })
}

/// Compiles the kernel programs.
fn compile(out: &Path, workspace: &Path) -> Result<Made, Box<dyn Error>> {
    let choice = toolchain::choose().map_err(|missing| {
        // Cargo prints the error in Debug form only; a warning keeps its line breaks.
        missing.to_string().lines().for_each(|line| println!("cargo::warning={line}"));
        "the kernel programs cannot be compiled; see the warnings"
    })?;
    for program in &choice.programs {
        println!("cargo::rerun-if-changed={}", program.display());
    }
    // aya-build watches the programs' own directory; this is the other one they include.
    for shared in ["twtrace-common", "Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", workspace.join(shared).display());
    }

    // aya-build prints all that the inner cargo says as warnings; leave what is one.
    // SAFETY: this process has no other thread yet.
    unsafe { env::set_var("CARGO_TERM_QUIET", "true") };
    // Compiled in parts, as who builds incrementally has it, the programs need more stack than there is.
    // SAFETY: this process has no other thread yet.
    unsafe { env::set_var("CARGO_INCREMENTAL", "0") };
    if choice.route == Route::Debian {
        // A crate's name, not 1: aya-ebpf may use its one unstable feature, and aya-build
        // does not ask for -Z build-std, which needs the source of `core`.
        // SAFETY: this process has no other thread yet.
        unsafe { env::set_var("RUSTC_BOOTSTRAP", "aya_ebpf") };
    }
    // SAFETY: this process has no other thread yet.
    unsafe { env::set_var("RUSTC_WRAPPER", wrapper(out, workspace)?) };
    let root = workspace.join("twtrace-ebpf");
    let root_dir = root.to_str().ok_or("the workspace's path is not UTF-8")?;
    let package = Package { name: "twtrace-ebpf", root_dir, ..Package::default() };
    aya_build::build_ebpf([package], Toolchain::Custom(choice.route.rustup_name())).inspect_err(
        |_| println!("cargo::warning=the kernel programs were built with: {choice}"),
    )?;
    for name in OBJECTS {
        slim::slim(&out.join(name))?;
    }
    // Whoever makes a release says of which commit; others rebuild with every commit for nothing.
    println!("cargo::rerun-if-env-changed={COMMIT}");
    let commit = env::var(COMMIT).unwrap_or_else(|_| "not told".to_owned());
    Ok(Made { by: choice.to_string(), commit })
}

/// Where the commit is said.
const COMMIT: &str = "TWTRACE_COMMIT";

/// A compiler of kernel programs that are the same wherever they are compiled: the kernel is told the
/// names of their source files.
fn wrapper(out: &Path, workspace: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let path = out.join("rustc");
    let cargo = env::var("CARGO_HOME").or_else(|_| Ok(env::var("HOME")? + "/.cargo"));
    let cargo: String = cargo.map_err(|_: env::VarError| "there is no HOME")?;
    let workspace = workspace.display();
    let script = format!(
        "#!/bin/sh\nexec \"$@\" '--remap-path-prefix={workspace}=/twtrace' \
         '--remap-path-prefix={cargo}=/cargo'\n"
    );
    fs::write(&path, script)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

fn workspace() -> Result<PathBuf, Box<dyn Error>> {
    let manifest_dir = env::var_os("CARGO_MANIFEST_DIR").ok_or("cargo sets CARGO_MANIFEST_DIR")?;
    let parent = Path::new(&manifest_dir).parent();
    Ok(parent.ok_or("the package has no parent directory")?.to_owned())
}
