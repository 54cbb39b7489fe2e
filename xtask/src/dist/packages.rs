//! Packages for Debian and for RPM, by nfpm: both from one description (`packaging/nfpm.yaml`), in
//! a second, without either's own tools.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{program::ARCHITECTURE, source::Source};
use crate::{
    process::{self, print},
    setup::python,
};

/// What Debian, and nfpm for both, call an architecture.
fn architecture() -> &'static str {
    match ARCHITECTURE {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Makes both of what is laid out.
pub fn make(source: &Source, tree: &Path, place: &Path) -> Result<Vec<PathBuf>> {
    let names = [
        ("deb", format!("twtrace_{}-1_{}.deb", source.version, architecture())),
        ("rpm", format!("twtrace-{}-1.{ARCHITECTURE}.rpm", source.version)),
    ];
    let mut made = Vec::new();
    for (packager, name) in names {
        let path = place.join(name);
        let nfpm = python::program("nfpm");
        let mut command = source.command(nfpm.to_str().context("a path that is text")?);
        command
            .args(["package", "--config", "packaging/nfpm.yaml", "--packager", packager])
            .arg("--target")
            .arg(&path)
            .env("TREE", tree)
            .env("VERSION", &source.version)
            .env("ARCH", architecture());
        process::run(&mut command)?;
        made.push(path);
    }
    Ok(made)
}

/// The release that it is.
const SUITE: &str = "bookworm";

/// A Debian of its own in a directory, without a network and without cargo.
struct Debian(tempfile::TempDir);

impl Debian {
    fn make() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let mut command = process::as_root("mmdebstrap")?;
        command.args(["--variant=minbase", "--include=systemd", "--quiet"]);
        command.arg(SUITE).arg(directory.path());
        process::run(&mut command)?;
        Ok(Self(directory))
    }

    fn run(&self, words: &[&str]) -> Result<String> {
        let mut command = process::as_root("chroot")?;
        process::output(command.arg(self.0.path()).args(words))
    }

    fn has(&self, path: &str) -> bool {
        self.0.path().join(path.trim_start_matches('/')).exists()
    }
}

/// Installs the Debian package where nobody ever saw cargo, upgrades it, removes and purges it.
pub fn install(place: &Path) -> Result<()> {
    let package = fs::read_dir(place)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("a package for Debian")?;
    let debian = Debian::make()?;
    fs::copy(&package, debian.0.path().join("twtrace.deb"))?;
    debian.run(&["dpkg", "--install", "/twtrace.deb"])?;
    let version = debian.run(&["twtrace", "--version"])?;
    ensure!(version.contains("commit: "), "{version}");
    ensure!(debian.run(&["getent", "passwd", "twtrace"])?.contains(":twtrace daemon:"), "no user");
    ensure!(
        !debian.has("/etc/systemd/system/multi-user.target.wants/twtrace.service"),
        "the unit is enabled by the package alone"
    );
    debian.run(&["systemd-analyze", "verify", "/usr/lib/systemd/system/twtrace.service"])?;
    let checked = debian.run(&["twtrace", "daemon", "--check-config"])?;
    let settings = debian.0.path().join("etc/twtrace/twtrace.toml");
    fs::write(&settings, "max_peers = 77\n")?;
    let state = debian.0.path().join("var/lib/twtrace");
    fs::create_dir_all(&state)?;
    fs::write(state.join("state"), "kept")?;
    debian.run(&["dpkg", "--install", "/twtrace.deb"])?;
    ensure!(fs::read_to_string(&settings)? == "max_peers = 77\n", "settings did not survive");
    debian.run(&["dpkg", "--remove", "twtrace"])?;
    ensure!(!debian.has("/usr/bin/twtrace"), "the program stays");
    ensure!(settings.exists() && state.join("state").exists(), "a removal is no purge");
    debian.run(&["dpkg", "--purge", "twtrace"])?;
    for path in ["/etc/twtrace", "/var/lib/twtrace", "/usr/share/doc/twtrace"] {
        if debian.has(path) {
            bail!("{path} stays after a purge");
        }
    }
    print(&format!("installed, upgraded, removed and purged: {} {checked}", version.trim()));
    Ok(())
}
