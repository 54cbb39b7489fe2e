//! Packages for Debian and for RPM, by nfpm: both from one description (`packaging/nfpm.yaml`), in
//! a second, without either's own tools.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail, ensure};
use flate2::{Compression, write::GzEncoder};

use super::{debian::Debian, source::Source};
use crate::{
    process::{self, print},
    setup::python,
};

/// Makes both of what is laid out.
pub fn make(source: &Source, tree: &Path, place: &Path) -> Result<Vec<PathBuf>> {
    let names = [
        ("deb", format!("twtrace_{}-1_{}.deb", source.version, source.architecture.debian())),
        ("rpm", format!("twtrace-{}-1.{}.rpm", source.version, source.architecture)),
    ];
    let packed = tempfile::tempdir()?;
    let config = describe(source, tree, packed.path())?;
    let mut made = Vec::new();
    for (packager, name) in names {
        let path = place.join(name);
        let nfpm = python::program("nfpm");
        let mut command = source.command(nfpm.to_str().context("a path that is text")?);
        command
            .args(["package", "--packager", packager, "--config"])
            .arg(&config)
            .arg("--target")
            .arg(&path)
            .env("TREE", tree)
            .env("PACKED", packed.path())
            .env("VERSION", &source.version)
            .env("ARCH", source.architecture.debian());
        process::run(&mut command)?;
        made.push(path);
    }
    Ok(made)
}

/// Puts into a directory what packages have in another form than the archive, with the description
/// of both; answers where that is.
fn describe(source: &Source, tree: &Path, packed: &Path) -> Result<PathBuf> {
    let pages = packed.join("man1");
    fs::create_dir(&pages)?;
    let mut documentation = String::new();
    let mut document = |from: &Path, to: &str| -> Result<()> {
        let name = from.file_name().context("a file")?.to_string_lossy();
        let entry = format!(
            "\n  - {{src: {}, dst: {to}/{name}, packager: rpm, type: doc, file_info: {{mode: 0644}}}}",
            from.display()
        );
        documentation.push_str(&entry);
        Ok(())
    };
    for page in sorted(&tree.join("share/man/man1"))? {
        let name = page.file_name().context("a file")?.to_string_lossy();
        let to = pages.join(format!("{name}.gz"));
        // Without a name and a time, so that it depends on nothing but what is in it.
        let mut encoder = GzEncoder::new(fs::File::create(&to)?, Compression::best());
        encoder.write_all(&fs::read(&page)?)?;
        encoder.finish()?;
        document(&to, "/usr/share/man/man1")?;
    }
    for file in sorted(&tree.join("share/doc/twtrace"))? {
        document(&file, "/usr/share/doc/twtrace")?;
    }
    let changes = packed.join("changelog.yaml");
    let time = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(source.time));
    fs::write(
        &changes,
        CHANGES.replace("VERSION", &source.version).replace("TIME", &time.to_string()),
    )?;
    let text = fs::read_to_string(source.directory.join("packaging/nfpm.yaml"))?;
    let text = text
        .replace("${CHANGELOG}", &changes.display().to_string())
        .replace("${RPM_DOCUMENTATION}", &documentation);
    let config = packed.join("nfpm.yaml");
    fs::write(&config, text)?;
    Ok(config)
}

/// The files of a directory, by name.
fn sorted(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory)?.map(|entry| Ok(entry?.path()));
    let mut files = entries.collect::<Result<Vec<_>>>()?;
    files.sort();
    Ok(files)
}

/// The list of changes that packages of both kinds have to have.
const CHANGES: &str = "\
- semver: VERSION-1
  date: TIME
  packager: twtrace maintainers <twtrace@users.noreply.github.com>
  deb: {urgency: medium, distributions: [unstable]}
  changes:
    - note: \"What changed is in CHANGELOG.md of the source.\"
";

/// Has lintian and rpmlint find no fault with the packages, but for what is meant so: their
/// overrides say why.
pub fn lint(source: &Source, place: &Path) -> Result<()> {
    let mut lintian = source.command("lintian");
    lintian.args(["--allow-root", "--fail-on", "error,warning"]).arg(find(place, "deb")?);
    process::run(&mut lintian)?;
    let mut rpmlint = source.command("rpmlint");
    rpmlint.args(["--config", "packaging/rpm/rpmlint.toml", "--strict"]).arg(find(place, "rpm")?);
    process::run(&mut rpmlint)?;
    print("neither lintian nor rpmlint has anything to say of the packages");
    Ok(())
}

/// The package that ends so.
pub fn find(place: &Path, ending: &str) -> Result<PathBuf> {
    let files = sorted(place)?;
    let ends = |path: &PathBuf| path.extension().is_some_and(|extension| extension == ending);
    files.into_iter().find(ends).with_context(|| format!("no .{ending} in {}", place.display()))
}

/// Installs the Debian package where nobody ever saw cargo, upgrades it, removes and purges it.
pub fn install(place: &Path) -> Result<()> {
    let package = find(place, "deb")?;
    let debian = Debian::make(&["systemd"])?;
    fs::copy(&package, debian.path().join("twtrace.deb"))?;
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
    let settings = debian.path().join("etc/twtrace/twtrace.toml");
    fs::write(&settings, "max_peers = 77\n")?;
    let state = debian.path().join("var/lib/twtrace");
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
