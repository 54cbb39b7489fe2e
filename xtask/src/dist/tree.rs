//! What is in an archive, where a host has it: below `/usr`, or below `/usr/local` by `cp -r`.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};

use super::{licences, program::Program, sbom, source::Source};
use crate::process;

/// Shells, and where each looks for what completes command lines.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "share/bash-completion/completions/twtrace"),
    ("zsh", "share/zsh/site-functions/_twtrace"),
    ("fish", "share/fish/vendor_completions.d/twtrace.fish"),
];

/// Files of the project, and where they go.
const FILES: [(&str, &str); 12] = [
    ("packaging/twtrace.service", "lib/systemd/system/twtrace.service"),
    ("packaging/twtrace.sysusers", "lib/sysusers.d/twtrace.conf"),
    ("packaging/twtrace-tracepoint.conf", "share/doc/twtrace/twtrace-tracepoint.conf"),
    ("packaging/twtrace-listen.conf", "share/doc/twtrace/twtrace-listen.conf"),
    ("packaging/twtrace-kprobe-events.conf", "share/doc/twtrace/twtrace-kprobe-events.conf"),
    ("packaging/prometheus/twtrace.rules.yaml", "share/doc/twtrace/twtrace.rules.yaml"),
    ("packaging/grafana/twtrace.json", "share/doc/twtrace/grafana-dashboard.json"),
    ("README.md", "share/doc/twtrace/README.md"),
    ("docs/DAEMON.md", "share/doc/twtrace/DAEMON.md"),
    ("LICENSE-MIT", "share/doc/twtrace/LICENSE-MIT"),
    ("LICENSE-APACHE", "share/doc/twtrace/LICENSE-APACHE"),
    ("twtrace-ebpf/LICENSE-GPL2", "share/doc/twtrace/LICENSE-GPL2"),
];

/// Puts everything in its place.
pub fn lay_out(source: &Source, program: &Program, tree: &Path) -> Result<()> {
    let place = |relative: &str| -> Result<_> {
        let path = tree.join(relative);
        fs::create_dir_all(path.parent().context("a file is in a directory")?)?;
        Ok(path)
    };
    let twtrace = place("bin/twtrace")?;
    fs::copy(&program.file, &twtrace).context("the program")?;
    fs::set_permissions(&twtrace, fs::Permissions::from_mode(0o755))?;
    for (from, to) in FILES {
        let to = place(to)?;
        fs::copy(source.directory.join(from), &to).with_context(|| from.to_owned())?;
        fs::set_permissions(&to, fs::Permissions::from_mode(0o644))?;
    }
    let run = || match source.architecture.emulator() {
        Some(emulator) => {
            let mut command = Command::new(emulator);
            command.arg(&twtrace);
            command
        }
        None => Command::new(&twtrace),
    };
    let said = |words: &[&str]| process::output(run().args(words).stdin(Stdio::null()));
    for (shell, to) in COMPLETIONS {
        fs::write(place(to)?, said(&["completions", shell])?)?;
    }
    fs::write(place("share/doc/twtrace/twtrace.toml")?, said(&["config", "--print-default"])?)?;
    let man = place("share/man/man1/twtrace.1")?;
    process::run(run().arg("man").arg(man.parent().context("a directory")?))?;
    fs::write(place("share/doc/twtrace/THIRD-PARTY.txt")?, licences::of_others(source)?)?;
    fs::write(place("share/doc/twtrace/twtrace.cdx.json")?, sbom::of(source)?)?;
    Ok(())
}
