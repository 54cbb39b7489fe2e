//! Running other programs.

use std::{
    ffi::OsStr,
    io::{self, BufRead as _, BufReader, IsTerminal as _},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
};

use anyhow::{Context as _, Result, bail};

use crate::{log, progress, toolchain};

/// Prints one line of xtask's own to stderr.
macro_rules! say {
    ($($word:tt)*) => {
        $crate::process::print_aside(&format!("xtask: {}", format_args!($($word)*)))
    };
}
pub(crate) use say;

/// Prints to stderr, and keeps it.
pub fn print_aside(line: &str) {
    progress::above(|| eprintln!("{line}"));
    log::keep(line);
}

/// Prints a result to stdout, and keeps it.
pub fn print(line: &str) {
    progress::above(|| println!("{line}"));
    log::keep(line);
}

/// Runs a command to its end with its output on stderr; fails unless it succeeds.
pub fn run(command: &mut Command) -> Result<()> {
    if log::is_kept() {
        return run_and_keep(command, print_aside);
    }
    command.stdout(stderr()?);
    run_visibly(command)
}

/// Like [`run`], but leaves the command's stdout alone: for test runners.
pub fn run_visibly(command: &mut Command) -> Result<()> {
    if log::is_kept() {
        return run_and_keep(command, print);
    }
    say!("$ {}", line(command));
    let status = command.status().with_context(|| format!("cannot run {}", name(command)))?;
    succeeded(command, status)
}

/// The same with both outputs on one, and kept.
fn run_and_keep(command: &mut Command, print: impl Fn(&str)) -> Result<()> {
    say!("$ {}", line(command));
    if io::stderr().is_terminal() {
        command.env("CARGO_TERM_COLOR", "always");
    }
    let (mut child, lines) = piped(command)?;
    for line in lines {
        print(&line);
    }
    let status = child.wait().with_context(|| format!("waiting for {}", name(command)))?;
    succeeded(command, status)
}

fn succeeded(command: &Command, status: ExitStatus) -> Result<()> {
    if !status.success() {
        bail!("{} failed ({status})", name(command));
    }
    Ok(())
}

/// Starts a command; the lines are those of its stdout and stderr, until both end.
pub fn piped(command: &mut Command) -> Result<(Child, mpsc::Receiver<String>)> {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", name(command)))?;
    let lines = lines_of(&mut child);
    Ok((child, lines))
}

fn lines_of(child: &mut Child) -> mpsc::Receiver<String> {
    let (send, receive) = mpsc::channel();
    let pipes: [Option<Box<dyn std::io::Read + Send>>; 2] = [
        child.stdout.take().map(|pipe| Box::new(pipe) as _),
        child.stderr.take().map(|pipe| Box::new(pipe) as _),
    ];
    for pipe in pipes.into_iter().flatten() {
        let send = send.clone();
        thread::spawn(move || {
            for line in BufReader::new(pipe).split(b'\n') {
                let Ok(line) = line else { break };
                let text = String::from_utf8_lossy(&line);
                if send.send(text.trim_end_matches('\r').to_owned()).is_err() {
                    break;
                }
            }
        });
    }
    receive
}

/// What keeps apt from showing how far it is where that would only fill a log.
pub fn quiet() -> Option<&'static str> {
    (!io::stderr().is_terminal()).then_some("-q")
}

/// Runs a command and gives back what it printed; its stderr is part of the error.
pub fn output(command: &mut Command) -> Result<String> {
    let done = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", name(command)))?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        bail!("{} failed ({}): {}", line(command), done.status, said.trim());
    }
    String::from_utf8(done.stdout).with_context(|| format!("{} printed no UTF-8", name(command)))
}

/// This process's stderr, to give to a child as its stdout.
pub fn stderr() -> Result<Stdio> {
    let fd = io::stderr().as_fd().try_clone_to_owned().context("cannot duplicate stderr")?;
    Ok(fd.into())
}

/// Finds a program on PATH or in the directories that only root has there.
pub fn find(program: &str) -> Option<PathBuf> {
    toolchain::find_on_path(program).or_else(|| {
        ["/usr/sbin", "/sbin"]
            .iter()
            .map(|dir| Path::new(dir).join(program))
            .find(|path| path.is_file())
    })
}

/// Whether this process may do everything.
pub fn is_root() -> bool {
    // Owned by the user whose process it describes; spares a dependency for one number.
    std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

/// A command that runs as root: through sudo where this process is not root.
pub fn as_root(program: impl AsRef<OsStr>) -> Result<Command> {
    if is_root() {
        return Ok(Command::new(program));
    }
    if find("sudo").is_none() {
        bail!("{} has to run as root, and there is no sudo", program.as_ref().display());
    }
    let mut command = Command::new("sudo");
    command.arg("-E").arg("--").arg(program);
    Ok(command)
}

fn name(command: &Command) -> String {
    command.get_program().display().to_string()
}

/// The command as one would type it, for reading rather than for pasting.
pub fn line(command: &Command) -> String {
    let words = command.get_args().map(|word| format!(" {}", word.display()));
    name(command) + &words.collect::<String>()
}
