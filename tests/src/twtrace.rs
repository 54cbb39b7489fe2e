//! A running `twtrace`: started, awaited until it watches, stopped, its answer read.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempPath;

use crate::daemon::Daemon;
use crate::evidence;
use crate::lab::Lab;
use crate::summary::Summary;
use crate::wait;

/// Printed to standard error once the programs are attached and the sockets at start are read.
const READY: &str = "twtrace: watching";

/// Reading type information and loading programs is slow under software emulation.
pub const START: Duration = Duration::from_secs(120);

/// Smaller maps than the defaults: scenarios run side by side in machines of little memory, and
/// none has that many sockets.
pub const SMALL: [&str; 4] = ["--max-live", "16384", "--buffer", "2"];

/// A `twtrace` that watches for a scenario, and keeps a recording of what it takes in: each answer
/// is compared with that of the recording.
pub struct Tracer {
    lab: Lab,
    /// What it was asked, but for what only watching a kernel takes.
    question: Vec<String>,
    recording: TempPath,
    running: Running,
}

impl Tracer {
    /// Starts `twtrace watch -o json` with more arguments and waits until it watches.
    pub fn watch(lab: &Lab, args: &[&str]) -> Result<Self> {
        Self::start(lab, "2", &[&["watch", "-o", "json"], args].concat())
    }

    /// The same, with the smallest buffer.
    pub fn watch_with_smallest_buffer(lab: &Lab, args: &[&str]) -> Result<Self> {
        Self::start(lab, "1", &[&["watch", "-o", "json"], args].concat())
    }

    /// Starts `twtrace diagnose` or `explain` with more arguments and waits until it watches; it
    /// goes on until it is stopped.
    pub fn report(lab: &Lab, verb: &str, args: &[&str]) -> Result<Self> {
        Self::start(lab, "1", &[&[verb, "-o", "json", "--for", "1h"], args].concat())
    }

    /// Starts `twtrace watch --events -o ndjson` with more arguments and waits until it watches.
    pub fn events(lab: &Lab, args: &[&str]) -> Result<Self> {
        Self::start(lab, "2", &[&["watch", "--events", "-o", "ndjson"], args].concat())
    }

    fn start(lab: &Lab, buffer: &str, question: &[&str]) -> Result<Self> {
        let question = [question, &["--max-live", "16384"]].concat();
        let recording = tempfile::NamedTempFile::new()?.into_temp_path();
        let kept = recording.to_str().context("the recording's path")?;
        let more = ["--buffer", buffer, "--record", kept];
        let running = Running::start(lab, &[&question[..], &more].concat())?;
        let question = question.into_iter().map(str::to_owned).collect();
        Ok(Self { lab: lab.clone(), question, recording, running })
    }

    /// Stops it as Ctrl-C does and gives its final document.
    pub fn finish(self) -> Result<Summary> {
        let backend = self.lab.backend.name();
        let (text, stderr) = self.stop()?;
        Summary::parse(&text, backend)
            .with_context(|| format!("twtrace's document:\n{text}\nits standard error:\n{stderr}"))
    }

    /// Stops it as Ctrl-C does and gives its report.
    pub fn finish_report(self) -> Result<Value> {
        let (text, stderr) = self.stop()?;
        serde_json::from_str(&text)
            .with_context(|| format!("not JSON:\n{text}\nstandard error:\n{stderr}"))
    }

    /// Stops it as Ctrl-C does and gives the events it printed.
    pub fn finish_events(self) -> Result<Vec<Value>> {
        let (text, stderr) = self.stop()?;
        text.lines()
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()
            .with_context(|| format!("not NDJSON:\n{text}\nstandard error:\n{stderr}"))
    }

    /// Waits until `enough` is said of the events printed so far.
    pub fn await_events(&self, what: &str, enough: impl Fn(&[Value]) -> bool) -> Result<()> {
        wait::until(what, wait::SOON, || {
            let lines = self.running.stdout.lines();
            let events: Vec<_> =
                lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
            Ok(enough(&events).then_some(()))
        })
        .map_err(|error| self.running.told(error))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.running.signal(signal)
    }

    fn stop(self) -> Result<(String, String)> {
        let (stdout, stderr) = self.running.stop()?;
        let question: Vec<&str> = self.question.iter().map(String::as_str).collect();
        replays_as(&self.lab, &question, &self.recording, &stdout)
            .with_context(|| stderr.clone())?;
        Ok((stdout, stderr))
    }
}

/// Asked the same, a recording has to give the same answer to the last byte.
fn replays_as(lab: &Lab, question: &[&str], recording: &Path, live: &str) -> Result<()> {
    let output = finished(command(lab).args(question).arg("--replay").arg(recording))?;
    let replayed = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() || replayed.trim_end() != live.trim_end() {
        let shown = shown(&output);
        bail!("the replay differs from the live answer:\n{live}\n{shown}");
    }
    Ok(())
}

/// Runs a `twtrace watch -o json` of this lab that ends by itself, for what `ending` says: gives
/// its document, which its recording gave as well.
pub fn watch_to_its_end(lab: &Lab, args: &[&str], ending: &[&str]) -> Result<Summary> {
    let recording = tempfile::NamedTempFile::new()?.into_temp_path();
    let kept = recording.to_str().context("the recording's path")?;
    // The buffer is no matter of a replay's; how many sockets are followed is.
    let (follows, buffer) = SMALL.split_at(2);
    let question = [&["watch", "-o", "json"], follows, args].concat();
    let live = [&question[..], &lab.attach(), buffer, &["--record", kept], ending];
    let output = run(lab, &live.concat())?;
    if !output.status.success() {
        bail!("{}", shown(&output));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    // The whole recording is what the session took in, whatever ended it.
    replays_as(lab, &question, &recording, &text).with_context(|| shown(&output))?;
    Summary::parse(&text, lab.backend.name()).with_context(|| shown(&output))
}

/// A `twtrace` process that watches.
pub struct Running {
    child: Child,
    stdout: Collected,
    stderr: Collected,
}

impl Running {
    /// Starts `twtrace` with these arguments and the backend, and waits until it watches.
    pub fn start(lab: &Lab, args: &[&str]) -> Result<Self> {
        Self::spawn(lab, &[args, &lab.attach()].concat())
    }

    /// Starts `twtrace VERB -o json` with more arguments, to ask a daemon, and waits until it
    /// watches.
    pub fn asking(lab: &Lab, daemon: &Daemon, verb: &str, args: &[&str]) -> Result<Self> {
        let socket = daemon.socket().display().to_string();
        let asks = [verb, "-o", "json", "--daemon", "always", "--socket", &socket];
        Self::spawn(lab, &[&asks[..], args].concat())
    }

    fn spawn(lab: &Lab, args: &[&str]) -> Result<Self> {
        let mut child = command(lab)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("{} could not be started", lab.twtrace.display()))?;
        let stdout = Collected::from(child.stdout.take().context("no standard output")?);
        let stderr = Collected::from(child.stderr.take().context("no standard error")?);
        let mut running = Self { child, stdout, stderr };
        wait::until("twtrace to watch", START, || running.is_ready())
            .map_err(|error| running.told(error))?;
        Ok(running)
    }

    fn is_ready(&mut self) -> Result<Option<()>> {
        if self.stderr.lines().iter().any(|line| line.starts_with(READY)) {
            return Ok(Some(()));
        }
        match self.child.try_wait()? {
            Some(status) => bail!("twtrace ended before it watched: {status}"),
            None => Ok(None),
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.context("process id")?, signal).context("signalling twtrace")
    }

    /// Stops it as Ctrl-C does; gives what it wrote to both its outputs.
    pub fn stop(self) -> Result<(String, String)> {
        self.signal(Signal::INT)?;
        let (status, stdout, stderr) = self.ended()?;
        if !status.success() {
            bail!("twtrace ended with {status} after SIGINT\nits standard error:\n{stderr}");
        }
        Ok((stdout, stderr))
    }

    /// Waits for its end; gives how it ended and what it wrote to both its outputs.
    pub fn ended(mut self) -> Result<(ExitStatus, String, String)> {
        let status = wait::until("twtrace to end", wait::SOON, || self.has_ended())
            .map_err(|error| self.told(error))?;
        Ok((status, self.stdout.finish(), self.stderr.finish()))
    }

    /// How it ended, if it has.
    pub fn has_ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    fn told(&self, error: anyhow::Error) -> anyhow::Error {
        let stderr = self.stderr.lines().join("\n");
        error.context(format!("twtrace's standard error:\n{stderr}\n---"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // After a failed assertion it still runs; after its end both calls do nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
        evidence::keep("twtrace's answer", self.stdout.finish());
        evidence::keep("its standard error", self.stderr.finish());
    }
}

/// Runs `twtrace` with exactly these arguments to its end.
pub fn run(lab: &Lab, args: &[&str]) -> Result<Output> {
    let output = finished(command(lab).args(args))?;
    evidence::keep(format!("twtrace {}", args.join(" ")), shown(&output));
    Ok(output)
}

/// Runs a program to its end; one that does not end is killed, and that is an error.
pub fn finished(command: &mut Command) -> Result<Output> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{:?} could not be started", command.get_program()))?;
    let mut stdout = Collected::from(child.stdout.take().context("no standard output")?);
    let mut stderr = Collected::from(child.stderr.take().context("no standard error")?);
    let ended = wait::until("the program to end", START, || Ok(child.try_wait()?));
    if ended.is_err() {
        child.kill()?;
        child.wait()?;
    }
    let (stdout, stderr) = (stdout.finish(), stderr.finish());
    let status = ended.with_context(|| format!("{command:?} said:\n{stdout}\n{stderr}\n---"))?;
    Ok(Output { status, stdout: stdout.into(), stderr: stderr.into() })
}

/// Shows how a finished `twtrace` ended, for messages.
pub fn shown(output: &Output) -> String {
    let mut text = format!("{}\n", output.status);
    for (name, bytes) in [("stdout", &output.stdout), ("stderr", &output.stderr)] {
        let _ = writeln!(text, "--- {name}\n{}", String::from_utf8_lossy(bytes).trim_end());
    }
    text + "---"
}

fn command(lab: &Lab) -> Command {
    Command::new(&lab.twtrace)
}

/// The lines of a pipe, read by a thread as they come.
#[derive(Debug)]
struct Collected {
    lines: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Collected {
    fn from(pipe: impl Read + Send + 'static) -> Self {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let reader = {
            let lines = Arc::clone(&lines);
            thread::spawn(move || {
                for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                    lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
                }
            })
        };
        Self { lines, reader: Some(reader) }
    }

    fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn finish(&mut self) -> String {
        // The reader ends with the pipe, which the process has closed by ending.
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
    }
}
