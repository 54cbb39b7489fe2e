//! Starting qemu, watching it, and ending it when it hangs.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::RecvTimeoutError,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::accel::Accel;
use crate::{
    architecture::Architecture,
    events::{self, Event},
    process,
    report::End,
};

/// How often the watchdogs look while nothing is said.
const TICK: Duration = Duration::from_millis(250);

/// How long a machine that fell silent has for its kernel's last words.
const LAST_WORDS: Duration = Duration::from_secs(30);

/// A virtual machine about to be started.
pub struct Machine<'a> {
    /// The boot image.
    pub image: &'a Path,
    /// Its processors'.
    pub architecture: Architecture,
    /// The initramfs.
    pub initramfs: &'a Path,
    /// How instructions are run.
    pub accel: Accel,
    /// Where the logs go.
    pub dir: &'a Path,
    /// Processors of the machine.
    pub processors: u8,
}

/// How long a machine may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Without a word on either console.
    pub silence: Duration,
    /// From start to end.
    pub total: Duration,
}

/// The kernel's command line. A busy host may emulate the timer too late for the kernel's own test
/// of it at boot, which it need not make. An interrupt that nothing but [`Machine::question`] makes
/// has it say where it is.
/// An Arm machine has one serial port, which guest and kernel share.
const fn kernel_line(architecture: Architecture) -> &'static str {
    match architecture {
        Architecture::X86_64 => "console=ttyS0 panic=-1 quiet no_timer_check unknown_nmi_panic",
        Architecture::Aarch64 => "console=ttyAMA0 panic=-1 quiet TWTRACE_PORT=/dev/ttyAMA0",
    }
}

impl Machine<'_> {
    /// The kernel's own messages, kept after the run.
    pub fn console_log(&self) -> PathBuf {
        self.dir.join("console.log")
    }

    /// All that the guest's init and the scenarios wrote, kept after the run.
    pub fn results_log(&self) -> PathBuf {
        self.dir.join("results.log")
    }

    /// Runs the scenarios inside and hands over each event.
    ///
    /// The kernel talks on the first serial port and the scenarios on the second, so that
    /// neither breaks the other's lines.
    pub fn run(&self, limits: Limits, mut on_event: impl FnMut(&Event)) -> Result<End> {
        let console_log = self.console_log();
        File::create(&console_log)
            .with_context(|| format!("cannot create {}", console_log.display()))?;
        let mut results = File::create(self.results_log())?;
        let mut command = self.command();
        command
            .args(self.accel.own_clock())
            .args(["-display", "none", "-monitor"])
            .arg(format!("unix:{},server=on,wait=off", self.monitor().display()));
        if self.architecture == Architecture::X86_64 {
            command.arg("-serial").arg(format!("file:{}", console_log.display()));
        }
        command.args(["-serial", "stdio"]).stdin(Stdio::null());
        let (child, lines) = process::piped(&mut command)?;
        let mut child = Reaper(child);

        let started = Instant::now();
        let mut heard = Instant::now();
        let mut said = 0;
        let mut exit = None;
        let end = loop {
            match lines.recv_timeout(TICK) {
                Ok(line) => {
                    heard = Instant::now();
                    writeln!(results, "{line}")?;
                    let event = events::parse(&line);
                    if let Event::Exit(code) = event {
                        exit = Some(code);
                    }
                    on_event(&event);
                }
                Err(RecvTimeoutError::Disconnected) => break self.end_of(child.0.wait()?, exit),
                Err(RecvTimeoutError::Timeout) => {}
            }
            let size = console_log.metadata().map_or(0, |it| it.len());
            if size != said {
                (said, heard) = (size, Instant::now());
            }
            if heard.elapsed() > limits.silence {
                let silent = heard.elapsed();
                if let Err(error) = self.question(&mut child.0, &mut results) {
                    writeln!(results, "where it was cannot be told: {error:#}")?;
                }
                break End::Silent(silent);
            }
            if started.elapsed() > limits.total {
                break End::TooLong(started.elapsed());
            }
        };
        Ok(end)
    }

    /// Has a machine that fell silent say where its processors are, and its kernel what it did there.
    fn question(&self, machine: &mut Child, results: &mut File) -> Result<()> {
        let mut monitor = UnixStream::connect(self.monitor()).context("qemu's monitor")?;
        monitor.set_read_timeout(Some(LAST_WORDS))?;
        monitor.write_all(b"info registers -a\nnmi\n")?;
        let asked = Instant::now();
        let mut answer = BufReader::new(monitor);
        let mut line = Vec::new();
        // It ends with the machine, which ends with the kernel's panic.
        while asked.elapsed() < LAST_WORDS && answer.read_until(b'\n', &mut line)? > 0 {
            let text = String::from_utf8_lossy(&line);
            if ["CPU#", "RIP="].iter().any(|word| text.contains(word)) {
                writeln!(results, "{}", text.trim_end())?;
            }
            line.clear();
        }
        while asked.elapsed() < LAST_WORDS && machine.try_wait()?.is_none() {
            thread::sleep(TICK);
        }
        Ok(())
    }

    /// Where qemu takes commands.
    fn monitor(&self) -> PathBuf {
        self.dir.join("monitor")
    }

    /// Runs the machine with its console on this terminal.
    pub fn interact(&self) -> Result<ExitStatus> {
        let mut command = self.command();
        // With qemu's monitor behind it, which knows Ctrl-A X.
        command.args(["-display", "none", "-serial", "mon:stdio"]);
        command.status().with_context(|| format!("cannot run {}", self.architecture.machine()))
    }

    fn command(&self) -> Command {
        // qemu must not outlive an xtask that is killed: a hanging guest takes a processor.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--", self.architecture.machine()])
            .args(self.architecture.board())
            .args(self.accel.options(self.architecture))
            .args(["-m", "2048", "-no-reboot", "-nodefaults", "-smp"])
            .arg(self.processors.to_string())
            .arg("-kernel")
            .arg(self.image)
            .arg("-initrd")
            .arg(self.initramfs)
            .args(["-append", kernel_line(self.architecture)]);
        command
    }

    fn end_of(&self, status: ExitStatus, exit: Option<i32>) -> End {
        if let Some(code) = exit {
            return End::Exit(code);
        }
        let log = fs::read(self.console_log()).unwrap_or_default();
        match events::find_panic(&String::from_utf8_lossy(&log)) {
            Some(line) => End::Panic(line.to_owned()),
            None => End::Died(status),
        }
    }
}

/// A child that is killed when nobody waits for it any more.
struct Reaper(Child);

impl Drop for Reaper {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
