//! Starting qemu, watching it, and ending it when it hangs.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{
    accel::Accel,
    console::{self, Event},
};

/// How often the watchdogs look while nothing is said.
const TICK: Duration = Duration::from_millis(250);

/// A virtual machine about to be started.
pub struct Machine<'a> {
    /// The boot image.
    pub image: &'a Path,
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

/// How a machine's run ended.
#[derive(Debug)]
pub enum End {
    /// The guest reported the scenarios' exit code and powered off.
    Exit(i32),
    /// The kernel gave up, with this line.
    Panic(String),
    /// Nothing was said for too long.
    Silent(Duration),
    /// It took too long in all.
    TooLong(Duration),
    /// qemu ended before the guest reported.
    Died(ExitStatus),
}

/// The kernel's command line. A busy host may emulate the timer too late for the kernel's own test
/// of it at boot, which it need not make.
const KERNEL_LINE: &str = "console=ttyS0 panic=-1 quiet no_timer_check";

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
        let mut command = self.command(KERNEL_LINE);
        command
            .args(["-display", "none", "-monitor", "none"])
            .arg("-serial")
            .arg(format!("file:{}", console_log.display()))
            .args(["-serial", "stdio"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = Reaper(command.spawn().context("cannot run qemu-system-x86_64")?);
        let lines = lines_of(&mut child.0);

        let started = Instant::now();
        let mut heard = Instant::now();
        let mut said = 0;
        let mut exit = None;
        let end = loop {
            match lines.recv_timeout(TICK) {
                Ok(line) => {
                    heard = Instant::now();
                    writeln!(results, "{line}")?;
                    let event = console::parse(&line);
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
                break End::Silent(heard.elapsed());
            }
            if started.elapsed() > limits.total {
                break End::TooLong(started.elapsed());
            }
        };
        Ok(end)
    }

    /// Runs the machine with its console on this terminal.
    pub fn interact(&self) -> Result<ExitStatus> {
        let mut command = self.command(KERNEL_LINE);
        // With qemu's monitor behind it, which knows Ctrl-A X.
        command.args(["-display", "none", "-serial", "mon:stdio"]);
        command.status().context("cannot run qemu-system-x86_64")
    }

    fn command(&self, kernel_line: &str) -> Command {
        // qemu must not outlive an xtask that is killed: a hanging guest takes a processor.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--", "qemu-system-x86_64"])
            .args(self.accel.options())
            .args(["-m", "2048", "-no-reboot", "-nodefaults", "-smp"])
            .arg(self.processors.to_string())
            .arg("-kernel")
            .arg(self.image)
            .arg("-initrd")
            .arg(self.initramfs)
            .args(["-append", kernel_line]);
        command
    }

    fn end_of(&self, status: ExitStatus, exit: Option<i32>) -> End {
        if let Some(code) = exit {
            return End::Exit(code);
        }
        let log = fs::read(self.console_log()).unwrap_or_default();
        match console::find_panic(&String::from_utf8_lossy(&log)) {
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

/// Lines of a child's stdout and stderr, until both end.
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
