//! Control groups of a scenario: made, joined by a program, and removed.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use ::twtrace::host::cgroup::root;
use anyhow::{Context, Result};

use crate::netns::Netns;
use crate::{expect, twtrace};

static MADE: AtomicU32 = AtomicU32::new(0);

/// A control group, removed when dropped.
pub struct Cgroup {
    directory: PathBuf,
    name: String,
}

impl Cgroup {
    /// Makes one below the root.
    pub fn new() -> Result<Self> {
        let serial = MADE.fetch_add(1, Ordering::Relaxed);
        Self::named(&format!("/twt{}-{serial}", std::process::id()))
    }

    /// Makes one of that name, which begins with a slash.
    pub fn named(name: &str) -> Result<Self> {
        let root = root().context("no control groups are mounted")?;
        let directory = root.join(&name[1..]);
        fs::create_dir(&directory).with_context(|| format!("making {}", directory.display()))?;
        Ok(Self { directory, name: name.to_owned() })
    }

    /// Makes one whose path ends so, below one of its own: others make and remove groups beside it.
    pub fn ending(path: &str) -> Result<Self> {
        let root = root().context("no control groups are mounted")?;
        let serial = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("/twt{}-{serial}{path}", std::process::id());
        let directory = root.join(&name[1..]);
        fs::create_dir_all(&directory)
            .with_context(|| format!("making {}", directory.display()))?;
        Ok(Self { directory, name })
    }

    /// Its directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Its path from the root of the hierarchy.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command whose process joins the group, then becomes what `args` say.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("sh");
        let join = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", self.directory.display());
        command.args(["-c", &join, "sh"]).args(args);
        command
    }

    /// Makes short connections from a program in the group.
    pub fn connect(&self, netns: &Netns, to: SocketAddr, count: u64) -> Result<()> {
        let own = std::env::current_exe()?.display().to_string();
        let (to, count) = (to.to_string(), count.to_string());
        let traffic = ["ip", "netns", "exec", netns.name(), &own, "traffic", &to, &count];
        let output = twtrace::finished(&mut self.command(&traffic))?;
        expect::that(output.status.success(), || twtrace::shown(&output))
    }

    /// Removes it, all of its processes having ended.
    pub fn remove(self) -> Result<()> {
        fs::remove_dir(&self.directory).context("removing a control group")
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // With what was made above it.
        let root = root();
        let own = self.directory.ancestors().take_while(|above| Some(*above) != root);
        for directory in own {
            if fs::remove_dir(directory).is_err() && directory.exists() {
                break;
            }
        }
    }
}
