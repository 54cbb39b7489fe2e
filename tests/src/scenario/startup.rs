//! What a user is told when tracing cannot start.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

use anyhow::Result;

use crate::lab::Lab;
use crate::{expect, twtrace};

/// An unprivileged user, by the name of nobody on most systems.
const NOBODY: u32 = 65_534;

fn fails(output: &Output, code: i32, words: &[&str]) -> Result<()> {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let told = words.iter().any(|word| stderr.contains(word));
    expect::that(output.status.code() == Some(code) && told, || {
        let shown = twtrace::shown(output);
        format!("expected exit code {code} and one of {words:?} on standard error, got {shown}")
    })?;
    expect::that(!stderr.contains("panicked") && output.stdout.is_empty(), || {
        format!("a panic, or output on stdout: {}", twtrace::shown(output))
    })
}

/// Without root it says which privilege is missing.
pub fn without_root(lab: &Lab) -> Result<()> {
    let directory = tempfile::tempdir()?;
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755))?;
    let program = directory.path().join("twtrace");
    lab.copy_to(&program)?;
    let mut command = Command::new(&program);
    command.args(["watch", "--for", "1s"]).args(lab.attach());
    let output = twtrace::finished(command.uid(NOBODY).gid(NOBODY).current_dir("/"))?;
    fails(&output, 1, &["root", "CAP_BPF", "CAP_SYS_ADMIN"])?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    expect::equal("lines on standard error", &1, &stderr.trim_end().lines().count())
}

/// A BTF file that is not there is named.
pub fn missing_btf_is_named(lab: &Lab) -> Result<()> {
    let (attach, object) = (lab.backend.name(), lab.object.name());
    let how = ["--attach", attach, "--object", object, "--btf", "/nonexistent/vmlinux"];
    let args = [&["watch", "--for", "1s"], &how[..]].concat();
    fails(&twtrace::run(lab, &args)?, 1, &["/nonexistent/vmlinux"])
}

/// Flags that do not exist, and values that do not parse, are usage errors.
pub fn wrong_flags_are_a_usage_error(lab: &Lab) -> Result<()> {
    for (args, named) in [
        (&["watch", "--no-such-flag"][..], "--no-such-flag"),
        (&["watch", "--port", "70000"], "70000"),
        (&["watch", "--peer", "10.1.0.0/33"], "10.1.0.0/33"),
        (&["watch", "--for", "soon"], "soon"),
        (&["watch", "--attach", "magic"], "magic"),
        (&["watch", "dst", "10.1.0.0/16", "dport", "=", "44x"], "expected a port"),
    ] {
        fails(&twtrace::run(lab, args)?, 2, &[named])?;
    }
    Ok(())
}
