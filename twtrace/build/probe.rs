//! Looking at a machine's compilers: what `toolchain` decides about.

use std::{
    env, fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::{Facts, Route, State, bpf_target, find_on_path};

/// The oldest compiler that accepts the workspace.
const MIN_RUST: &str = env!("CARGO_PKG_RUST_VERSION");

/// Gathers the facts; runs rustup once, and each compiler that could serve twice.
pub fn probe() -> Facts {
    let linker = find_on_path("bpf-linker");
    let Some(list) = stdout_of(Command::new("rustup").args(["toolchain", "list", "-v"])) else {
        return Facts { rustup: false, linker, upstream: State::Absent, debian: State::Absent };
    };
    let state = |route: Route| match sysroot(&list, route.rustup_name()) {
        None => State::Absent,
        Some(root) if !has_core(route, &root) => State::NoCore,
        Some(root) => compiler_state(&root, linker.as_deref()),
    };
    let (upstream, debian) = (state(Route::Upstream), state(Route::Debian));
    Facts { rustup: true, upstream, debian, linker }
}

/// Finds a toolchain's directory in the output of `rustup toolchain list -v`.
///
/// A line is `NAME[-HOST] [(active, default)] DIRECTORY`.
fn sysroot(list: &str, name: &str) -> Option<PathBuf> {
    list.lines().find_map(|line| {
        let rest = line.strip_prefix(name)?;
        // `nightly-2026-01-01-x86_64-…` is another toolchain than `nightly`.
        let host_or_end = rest.strip_prefix('-').unwrap_or(rest);
        if host_or_end.starts_with(|c: char| c.is_ascii_digit()) {
            return None;
        }
        rest.find(" /").or_else(|| rest.find("\t/")).map(|at| PathBuf::from(rest[at + 1..].trim()))
    })
}

/// Whether a compiler has something to take `core` for the BPF target from.
fn has_core(route: Route, sysroot: &Path) -> bool {
    let rustlib = sysroot.join("lib/rustlib");
    match route {
        Route::Upstream => rustlib.join("src/rust/library/core/src/lib.rs").is_file(),
        Route::Debian => fs::read_dir(rustlib.join(bpf_target()).join("lib")).is_ok_and(|files| {
            files.flatten().any(|file| file.file_name().as_encoded_bytes().starts_with(b"libcore-"))
        }),
    }
}

/// Tries the compiler, and the linker on what it emits.
fn compiler_state(sysroot: &Path, linker: Option<&Path>) -> State {
    let rustc = sysroot.join("bin/rustc");
    let version = stdout_of(Command::new(&rustc).arg("-vV")).unwrap_or_default();
    let (Some(release), Some(llvm)) = (release(&version), llvm_major(&version)) else {
        return State::Unfit(format!("{} does not tell its version", rustc.display()));
    };
    if older(release, MIN_RUST) {
        return State::Unfit(format!("its rustc is {release}, at least {MIN_RUST} is needed"));
    }
    match linker {
        None => State::NoLinker { llvm },
        Some(linker) => match try_link(&rustc, linker) {
            Ok(()) => State::Ready { release: release.to_owned(), rustc },
            Err(why) => State::LinkerRefuses { llvm, why: why.to_string() },
        },
    }
}

/// The compiler's release in what `rustc -vV` prints, such as `1.96.0`.
fn release(version: &str) -> Option<&str> {
    version.lines().find_map(|line| line.strip_prefix("release: "))
}

/// The major version of LLVM in what `rustc -vV` prints, such as 22.
fn llvm_major(version: &str) -> Option<u32> {
    let llvm = version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    llvm.split('.').next()?.parse().ok()
}

/// Whether one version is older than another, by major and minor number.
fn older(release: &str, minimum: &str) -> bool {
    let key = |text: &str| -> Vec<u32> {
        text.split(['.', '-']).take(2).map_while(|part| part.parse().ok()).collect()
    };
    key(release) < key(minimum)
}

/// Links one empty function: LLVM reads bitcode of its own and of older versions only.
///
/// The bitcode is made for the host, whose `core` every compiler has; what the linker has
/// to be able to read does not depend on the target.
fn try_link(rustc: &Path, linker: &Path) -> io::Result<()> {
    let scratch = env::temp_dir().join(format!("twtrace-link-probe-{}", std::process::id()));
    fs::create_dir_all(&scratch)?;
    let outcome = link_in(&scratch, rustc, linker);
    // Scratch that stays behind does no harm, and the verdict is worth more.
    let _ = fs::remove_dir_all(&scratch);
    outcome
}

fn link_in(scratch: &Path, rustc: &Path, linker: &Path) -> io::Result<()> {
    let source = "#![no_std]\n#[unsafe(no_mangle)] pub extern \"C\" fn probe() {}\n";
    let bitcode = scratch.join("probe.bc");
    let mut compile = Command::new(rustc);
    compile
        .args(["--edition=2024", "--crate-name=probe", "--crate-type=lib", "-Cpanic=abort"])
        .args(["--emit=llvm-bc", "-o"])
        .arg(&bitcode)
        .arg("-");
    must_succeed(compile, source)?;
    let mut link = Command::new(linker);
    link.args(["--target=bpfel", "--emit=llvm-bc", "--export=probe", "-o"])
        .arg(scratch.join("linked.bc"))
        .arg(&bitcode);
    must_succeed(link, "")
}

/// Runs a command with that input; the error is the last line it printed.
fn must_succeed(mut command: Command, input: &str) -> io::Result<()> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| {
            let program = command.get_program().display();
            io::Error::other(format!("cannot run {program}: {error}"))
        })?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let done = child.wait_with_output()?;
    if done.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    let last = said.lines().rfind(|line| !line.trim().is_empty());
    Err(io::Error::other(last.unwrap_or("it failed without a word").to_owned()))
}

/// What a command printed, if it ran and succeeded.
fn stdout_of(command: &mut Command) -> Option<String> {
    let done = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    done.status.success().then(|| String::from_utf8_lossy(&done.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dated_nightly_is_not_the_nightly() {
        let list = "stable-x86_64-unknown-linux-gnu (active, default) /r/stable\n\
                    nightly-2026-01-01-x86_64-unknown-linux-gnu /r/dated\n\
                    nightly-x86_64-unknown-linux-gnu /r/nightly\n\
                    debian /usr\n";
        assert_eq!(sysroot(list, "nightly"), Some("/r/nightly".into()));
        assert_eq!(sysroot(list, "stable"), Some("/r/stable".into()));
        assert_eq!(sysroot(list, "debian"), Some("/usr".into()));
        assert_eq!(sysroot(list, "beta"), None);
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(older("1.85.0", "1.95"));
        assert!(!older("1.100.0-nightly", "1.95"));
        assert!(!older("1.95.0", "1.95"));
    }

    #[test]
    fn the_llvm_version_is_read_from_the_compiler() {
        assert_eq!(llvm_major("release: 1.96.0\nLLVM version: 22.1.8\n"), Some(22));
        assert_eq!(llvm_major("release: 1.96.0\n"), None);
    }
}
