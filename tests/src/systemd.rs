//! A systemd of a scenario's own: process 1 of its own PID and mount namespaces, in a control group
//! of its own, with the unit of `packaging/` installed as docs/DAEMON.md says.
//!
//! Network and user namespaces are the machine's, as a daemon of the host has them. Only for
//! virtual machines: systemd raises limits of the kernel it runs on.

use std::fs;
use std::os::unix::{fs::symlink, process::CommandExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context, Result, bail, ensure};
use rustix::mount::{MountFlags, MoveMountFlags, OpenTreeFlags, mount, move_mount, open_tree};
use serde_json::Value;

use crate::cgroup::Cgroup;
use crate::netns::Netns;
use crate::twtrace::{finished, shown};
use crate::{guest, http, wait};

/// The unit as it is delivered.
pub const UNIT: &str = include_str!("../../packaging/twtrace.service");
const SYSUSERS: &str = include_str!("../../packaging/twtrace.sysusers");

/// The word that makes this program prepare the place and become systemd.
pub const WORD: &str = "systemd";

/// systemd itself.
const PROGRAM: &str = "/usr/lib/systemd/systemd";
/// Its units, and the one that keeps what others say.
const UNITS: &str = "/usr/lib/systemd/system";
const JOURNAL: &str = "systemd-journald.service";
/// Controllers that the unit's limits need.
const CONTROLLERS: &str = "+memory +cpu +pids";

/// A running systemd.
pub struct Systemd {
    unshare: Child,
    pid: u32,
    cgroup: Cgroup,
}

impl Systemd {
    /// Starts one and waits until it takes commands.
    pub fn start() -> Result<Self> {
        ensure!(guest::is_here(), "systemd is started in virtual machines alone");
        ensure!(Path::new(PROGRAM).exists(), "there is no systemd in this machine");
        // Names of network namespaces appear in its mount namespace as they are made here, once
        // `ip` has made their directory a mount that is shared.
        Netns::new("first")?.delete()?;
        let root = twtrace::host::cgroup::root().context("no control groups are mounted")?;
        fs::write(root.join("cgroup.subtree_control"), CONTROLLERS).context("controllers")?;
        let cgroup = Cgroup::new()?;
        let itself = std::env::current_exe()?;
        let itself = itself.to_str().context("a path that is text")?;
        let log = fs::File::create(log_of(&cgroup))?;
        let mut unshare = cgroup
            .command(&["unshare", "--mount", "--pid", "--uts", "--ipc", "--fork"])
            .args(["--propagation", "slave", "--mount-proc", "--kill-child", itself, WORD])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let children = format!("/proc/{0}/task/{0}/children", unshare.id());
        let ready = wait::until("systemd to take commands", wait::SOON, || {
            if let Some(status) = unshare.try_wait()? {
                bail!("systemd ended: {status}");
            }
            let pid = fs::read_to_string(&children).unwrap_or_default();
            let Ok(pid) = pid.trim().parse::<u32>() else { return Ok(None) };
            // Not the machine's own, should there be one.
            let private = format!("/proc/{pid}/root/run/systemd/private");
            Ok(Path::new(&private).exists().then_some(pid))
        });
        let pid = ready.with_context(|| fs::read_to_string(log_of(&cgroup)).unwrap_or_default());
        let pid = pid.inspect_err(|_| drop(unshare.kill()))?;
        Ok(Self { unshare, pid, cgroup })
    }

    /// A file as it is inside.
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.pid))
    }

    /// Runs a program inside, to its end.
    pub fn run(&self, words: &[&str]) -> Result<Output> {
        let pid = self.pid.to_string();
        finished(Command::new("nsenter").args(["--mount", "--pid", "--target", &pid]).args(words))
    }

    /// `systemctl`, which has to succeed; gives what it printed.
    pub fn ctl(&self, words: &[&str]) -> Result<String> {
        let output = self.run(&[&["systemctl", "--no-pager"], words].concat())?;
        if !output.status.success() {
            bail!("systemctl {}: {}\n{}", words.join(" "), shown(&output), self.journal());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// A property of the unit.
    pub fn property(&self, name: &str) -> Result<String> {
        self.ctl(&["show", "--value", "--property", name, "twtrace"])
    }

    /// Waits until a property of the unit is so.
    pub fn await_property(&self, name: &str, value: &str) -> Result<()> {
        wait::until(&format!("{name} to be {value}"), wait::SOON, || {
            Ok((self.property(name)? == value).then_some(()))
        })
        .with_context(|| self.journal())
    }

    /// The unit's main process, by its number in the machine.
    pub fn main(&self) -> Result<u32> {
        let group = self.property("ControlGroup")?;
        let root = twtrace::host::cgroup::root().context("no control groups are mounted")?;
        let list = root.join(group.trim_start_matches('/')).join("cgroup.procs");
        let list = fs::read_to_string(&list).with_context(|| list.display().to_string())?;
        let pids: Vec<_> = list.split_whitespace().collect();
        match pids[..] {
            [one] => Ok(one.parse()?),
            _ => bail!("the unit has {} processes: {pids:?}", pids.len()),
        }
    }

    /// What the journal has of the unit.
    pub fn journal(&self) -> String {
        let words = ["journalctl", "--no-pager", "--output=short-monotonic"];
        match self.run(&words) {
            Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
            Err(error) => format!("no journal: {error:#}"),
        }
    }

    /// Waits until the journal has said something so many times.
    pub fn await_journal(&self, what: &str, times: usize) -> Result<()> {
        wait::until(&format!("the journal to say {what:?}"), wait::SOON, || {
            Ok((self.journal().matches(what).count() >= times).then_some(()))
        })
        .with_context(|| self.journal())
    }

    /// Asks the daemon.
    pub fn ask(&self, target: &str) -> Result<Value> {
        http::document(&self.path("/run/twtrace/twtrace.sock"), target)
            .with_context(|| self.journal())
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        // Not by the end of its namespaces: killed so on Linux 6.1, it left the kernel in a state in
        // which no daemon finished attaching any more.
        let _ = self.run(&["systemctl", "stop", "twtrace"]);
        // The first process of a PID namespace takes all others with it.
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
        let _ = fs::remove_file(log_of(&self.cgroup));
    }
}

/// What systemd says before there is a journal.
fn log_of(cgroup: &Cgroup) -> PathBuf {
    std::env::temp_dir().join(format!("systemd{}", cgroup.name().replace('/', "-")))
}

/// Makes the files of a host out of those of the machine, then becomes systemd. Runs as the first
/// process of its namespaces.
pub fn become_it() -> Result<std::process::ExitCode> {
    ensure!(std::process::id() == 1 && guest::is_here(), "this is for scenarios alone");
    let names = open_tree(
        rustix::fs::CWD,
        "/run/netns",
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
    )
    .context("/run/netns")?;
    let etc: Vec<_> = ["passwd", "group", "hosts"]
        .into_iter()
        .map(|name| Ok((name, fs::read(Path::new("/etc").join(name))?)))
        .collect::<Result<_>>()?;
    for place in ["/run", "/etc", "/var", "/tmp"] {
        mount("tmpfs", place, "tmpfs", MountFlags::empty(), c"mode=0755").context(place)?;
    }
    fs::create_dir("/run/netns")?;
    move_mount(&names, "", rustix::fs::CWD, "/run/netns", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .context("moving /run/netns")?;
    for (name, data) in etc {
        fs::write(Path::new("/etc").join(name), data)?;
    }
    for directory in
        ["/etc/twtrace", "/etc/systemd/system", "/etc/sysusers.d", "/var/tmp", "/var/lib"]
    {
        fs::create_dir_all(directory)?;
    }
    // The one service that a host always has.
    let wanted = Path::new("/etc/systemd/system/sysinit.target.wants");
    fs::create_dir(wanted)?;
    symlink(Path::new(UNITS).join(JOURNAL), wanted.join(JOURNAL))?;
    fs::write("/etc/sysusers.d/twtrace.conf", SYSUSERS)?;
    fs::write("/etc/systemd/system/twtrace.service", UNIT)?;
    let made = Command::new("systemd-sysusers").status().context("systemd-sysusers")?;
    ensure!(made.success(), "systemd-sysusers: {made}");
    let unit = ["--unit=multi-user.target", "--show-status=no"];
    Err(Command::new(PROGRAM).args(unit).env("container", "twtrace-tests").exec()).context(PROGRAM)
}
