//! The bundle for reports of faults.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use rustix::process::Signal;
use serde_json::Value;

use crate::daemon::{Daemon, NOBODY};
use crate::equation::settled;
use crate::lab::Lab;
use crate::traffic::{Behaviour, Client, Server};
use crate::twtrace::{self, Running};
use crate::{expect, topology};

/// Unpacks a bundle; answers its files by name.
fn unpacked(file: &Path, into: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let tar = Command::new("tar").arg("-xf").arg(file).arg("-C").arg(into).output()?;
    expect::that(tar.status.success(), || twtrace::shown(&tar))?;
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(into.join("twtrace-support"))? {
        let entry = entry?;
        let name = entry.file_name().into_string().ok().context("a name that is text")?;
        files.insert(name, fs::read(entry.path())?);
    }
    Ok(files)
}

/// What is in a file of the bundle, as text.
fn text(files: &BTreeMap<String, Vec<u8>>, name: &str) -> Result<String> {
    let listed = || files.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    let bytes = files.get(name).with_context(|| format!("{name} is not among {}", listed()))?;
    Ok(String::from_utf8_lossy(bytes).into_owned())
}

/// Beside a daemon it has what both say, how this one attached and why not better, and a recording that
/// replays to what was counted; nobody else may read it.
pub fn bundles_what_a_report_needs(lab: &Lab) -> Result<()> {
    let net = topology::pair()?;
    let server = Server::start(&net.server, "10.1.0.2:8080", Behaviour::AnswersEof)?;
    let daemon = Daemon::start(lab, &["--netns", net.client.name()])?;
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("bundle.tar.gz");
    let socket = daemon.socket();
    let socket = socket.to_str().context("a path")?;
    let name = file.to_str().context("a path")?;
    let netns = ["--netns", net.client.name(), "--socket", socket, "--for", "1h"];
    let support = Running::start(lab, &[&["support", name][..], &netns, &twtrace::SMALL].concat())?;
    Client::new(&net.client).short_connections(server.addr(), 30)?;
    settled(&net.client, 30)?;
    support.signal(Signal::INT)?;
    let (status, listed, said) = support.ended()?;
    expect::equal("exit status", &Some(0), &status.code())?;
    expect::that(said.contains("nothing was sent"), || said.clone())?;
    expect::equal(
        "mode of the file",
        &0o600,
        &(fs::metadata(&file)?.permissions().mode() & 0o777),
    )?;

    let files = unpacked(&file, directory.path())?;
    expect::equal("contents", &listed.trim(), &text(&files, "CONTENTS.txt")?.trim())?;
    for name in files.keys().filter(|name| *name != "CONTENTS.txt") {
        expect::that(listed.contains(&format!("  {name} ")), || format!("{name}: {listed}"))?;
    }
    let summary: Value = serde_json::from_str(&text(&files, "summary.json")?)?;
    expect::equal("entered", &Some(30), &summary["totals"]["entered"].as_u64())?;
    expect::that(summary["totals"]["audit"].is_object(), || format!("no audit: {summary:#}"))?;
    expect::equal("backend", &Some(lab.backend.name()), &summary["backend"].as_str())?;
    let status: Value = serde_json::from_str(&text(&files, "daemon-status.json")?)?;
    expect::equal("the daemon", &Some(u64::from(daemon.pid())), &status["pid"].as_u64())?;
    for (name, word) in [
        ("answer.txt", "10.1.0.2:8080"),
        ("daemon-metrics.txt", "twtrace_entered_total"),
        ("host.txt", "/sys/kernel/btf/vmlinux: there, "),
        ("host.txt", "CapEff:"),
        ("log.txt", "DEBUG"),
        ("log.txt", "watching through"),
        ("version.txt", "kernel programs: ringbuf"),
    ] {
        let told = text(&files, name)?;
        expect::that(told.contains(word), || format!("{name} does not say {word}:\n{told}"))?;
    }
    let recording = directory.path().join("twtrace-support/recording.twtrace");
    let recording = recording.to_str().context("a path")?;
    let replayed = twtrace::run(lab, &["watch", "--replay", recording, "-o", "json"])?;
    let replayed: Value = serde_json::from_slice(&replayed.stdout)?;
    expect::equal("entered in the recording", &summary["totals"], &replayed["totals"])
}

/// That it could not attach is in the bundle, and the reason; usage errors leave no file.
pub fn without_rights_says_why(lab: &Lab) -> Result<()> {
    let directory = tempfile::tempdir()?;
    fs::set_permissions(directory.path(), Permissions::from_mode(0o777))?;
    let program = directory.path().join("twtrace");
    lab.copy_to(&program)?;
    let file = directory.path().join("bundle.tar.gz");
    let mut command = Command::new(&program);
    command.arg("support").arg(&file).args(["--daemon", "never"]);
    command.uid(NOBODY).gid(NOBODY).current_dir("/");
    let output = twtrace::finished(&mut command)?;
    expect::equal("exit status", &Some(0), &output.status.code())?;
    let files = unpacked(&file, directory.path())?;
    let contents = text(&files, "CONTENTS.txt")?;
    expect::that(contents.contains("recording.twtrace: twtrace needs"), || contents.clone())?;
    expect::that(!files.contains_key("summary.json"), || contents.clone())?;
    let log = text(&files, "log.txt")?;
    expect::that(log.contains("CAP_BPF") || log.contains("CAP_SYS_ADMIN"), || log.clone())?;

    let never = directory.path().join("never.tar.gz");
    let never = never.to_str().context("a path")?;
    let refused = twtrace::run(lab, &["support", never, "--replay", "/dev/null"])?;
    expect::equal("exit status of a usage error", &Some(2), &refused.status.code())?;
    expect::that(!Path::new(never).exists(), || "a file was left behind".to_owned())
}
