//! Control groups of a scenario: made, joined by a program, and removed.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use twtrace::host::cgroup::root;

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

    /// Removes it, all of its processes having ended.
    pub fn remove(self) -> Result<()> {
        fs::remove_dir(&self.directory).context("removing a control group")
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.directory);
    }
}
