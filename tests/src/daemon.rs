//! A running `twtrace daemon`, as root or as somebody with few capabilities.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use caps::{CapSet, Capability, CapsHashSet};
use rustix::process::{Gid, Pid, Resource, Rlimit, Signal, Uid, kill_process, setrlimit};
use serde_json::Value;

use crate::http;
use crate::lab::Lab;
use crate::twtrace::START;
use crate::wait;

/// An unprivileged user and group.
pub const NOBODY: u32 = 65_534;

/// Smaller maps than the defaults, as for sessions.
const SIZES: [&str; 4] = ["--max-live", "16384", "--buffer", "2MiB"];

/// A daemon that answers.
pub struct Daemon {
    child: Child,
    directory: Arc<tempfile::TempDir>,
}

impl Daemon {
    /// Starts one as root and waits until it answers.
    pub fn start(lab: &Lab, args: &[&str]) -> Result<Self> {
        let all = [&SIZES[..], args].concat();
        Self::starting(lab, &all, directory()?, &|command| Ok(command.spawn()?))
    }

    /// Starts one as root with the default sizes of everything that the arguments do not size.
    pub fn sized(lab: &Lab, args: &[&str]) -> Result<Self> {
        Self::starting(lab, args, directory()?, &|command| Ok(command.spawn()?))
    }

    /// Starts one where another was: same socket, same state.
    pub fn after(lab: &Lab, other: &Self) -> Result<Self> {
        Self::starting(lab, &SIZES, Arc::clone(&other.directory), &|command| Ok(command.spawn()?))
    }

    /// Starts one as nobody with these capabilities and no others.
    pub fn with_capabilities(lab: &Lab, kept: &[Capability], args: &[&str]) -> Result<Self> {
        // What LimitMEMLOCK= does for the unit: kernels before 5.11 charge maps to it. Where root
        // may not, the kernel is newer.
        let unlimited = Rlimit { current: None, maximum: None };
        let _ = setrlimit(Resource::Memlock, unlimited);
        let kept: CapsHashSet = kept.iter().copied().collect();
        let all = [&SIZES[..], args].concat();
        let directory = directory()?;
        std::os::unix::fs::chown(directory.path(), Some(NOBODY), Some(NOBODY))?;
        Self::starting(lab, &all, directory, &|command| as_nobody(&kept, || Ok(command.spawn()?)))
    }

    fn starting(
        lab: &Lab,
        args: &[&str],
        directory: Arc<tempfile::TempDir>,
        spawn: &(dyn Fn(&mut Command) -> Result<Child> + Sync),
    ) -> Result<Self> {
        let at = directory.path();
        let program = at.join("twtrace");
        if !program.exists() {
            lab.copy_to(&program)?;
        }
        let log = fs::File::options().create(true).append(true).open(at.join("log"))?;
        let mut command = Command::new(&program);
        command
            .arg("daemon")
            .args(lab.attach())
            .args(["--socket", &text(&at.join("socket"))?, "--lock-file", &text(&at.join("lock"))?])
            .args(args)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        if !args.contains(&"--state-file") {
            command.args(["--state-file", &text(&at.join("state"))?]);
        }
        let child = spawn(&mut command).context("starting the daemon")?;
        let mut daemon = Self { child, directory };
        wait::until("the daemon to answer", START, || daemon.is_ready())
            .map_err(|error| daemon.told(error))?;
        Ok(daemon)
    }

    fn is_ready(&mut self) -> Result<Option<()>> {
        if let Some(status) = self.child.try_wait()? {
            bail!("the daemon ended before it answered: {status}");
        }
        Ok(http::local(&self.socket(), "/healthz").is_ok().then_some(()))
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    /// Its state file.
    pub fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Asks it, and again while the host is too busy for it to answer.
    pub fn ask(&self, target: &str) -> Result<Value> {
        let answer = wait::until(&format!("an answer to {target}"), wait::SOON, || {
            match http::document(&self.socket(), target) {
                Err(error) if error.is::<http::Busy>() => Ok(None),
                answer => answer.map(Some),
            }
        });
        answer.map_err(|error| self.told(error))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.context("process id")?, signal).context("signalling the daemon")
    }

    /// Ends it without a word.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Stops it as systemd does.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        let status = wait::until("the daemon to end", wait::SOON, || Ok(self.child.try_wait()?));
        status.map_err(|error| self.told(error))
    }

    /// An error with what the daemon logged.
    pub fn told(&self, error: anyhow::Error) -> anyhow::Error {
        error.context(format!("the daemon's log:\n{}\n---", self.log()))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // After a failed assertion it still runs; after stop() both calls do nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A directory of root's that everybody may look into.
fn directory() -> Result<Arc<tempfile::TempDir>> {
    let directory = tempfile::tempdir()?;
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755))?;
    Ok(Arc::new(directory))
}

fn text(path: &Path) -> Result<String> {
    Ok(path.to_str().context("a path that is text")?.to_owned())
}

/// Runs a job as nobody with these capabilities and no others, which programs it starts inherit.
///
/// User and capabilities are a thread's to the kernel: a thread that ends afterwards is enough.
pub fn as_nobody<T: Send>(kept: &CapsHashSet, job: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
            rustix::thread::set_keep_capabilities(true)?;
            for capability in caps::all().difference(kept) {
                // Those that this kernel does not know are in no set of its.
                let _ = caps::drop(None, CapSet::Bounding, *capability);
            }
            rustix::thread::set_thread_groups(&[])?;
            rustix::thread::set_thread_res_gid(gid, gid, gid)?;
            rustix::thread::set_thread_res_uid(uid, uid, uid)?;
            caps::set(None, CapSet::Effective, &CapsHashSet::new())?;
            for set in [CapSet::Permitted, CapSet::Inheritable, CapSet::Ambient] {
                caps::set(None, set, kept).with_context(|| format!("{set:?} capabilities"))?;
            }
            job()
        });
        thread.join().map_err(|_| anyhow::anyhow!("the thread that became nobody failed"))?
    })
}
