//! apt with a configuration of its own, so that another release's packages can be looked
//! up and fetched without touching the machine's lists.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::sources::Archive;
use crate::{architecture::Architecture, process};

/// What vouches for the archive, where it is there; elsewhere whatever apt trusts by itself.
const DEBIAN_KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A private view of one suite; signatures and checksums are verified as ever.
pub struct Apt {
    dir: PathBuf,
    suite: &'static str,
}

/// What is needed of a package's record.
#[derive(Debug, PartialEq, Eq)]
pub struct Package {
    /// The version in the archive.
    pub version: String,
    /// Names of the packages it depends on.
    pub depends: Vec<String>,
}

impl Apt {
    /// Sets up the private directory for one suite of an archive.
    pub fn open(
        dir: PathBuf,
        archive: &Archive,
        suite: &'static str,
        architecture: Architecture,
    ) -> Result<Self> {
        for part in ["lists/partial", "cache/archives/partial"] {
            let path = dir.join(part);
            fs::create_dir_all(&path)
                .with_context(|| format!("cannot create {}", path.display()))?;
        }
        let apt = Self { dir, suite };
        fs::write(apt.sources(), sources_text(archive, suite))?;
        fs::write(apt.config(), config_text(&apt.sources(), &apt.dir, architecture))?;
        Ok(apt)
    }

    /// Fetches the suite's lists.
    pub fn update(&self) -> Result<()> {
        process::run(self.command("apt-get").arg("update").args(process::quiet())).with_context(
            || {
                format!(
                    "cannot read the package lists of Debian's {suite} from the archive that this \
                 machine's apt uses; if {suite} has moved to another archive, fetch a kernel by \
                 hand and name it with --image and --modules",
                    suite = self.suite
                )
            },
        )
    }

    /// Names of the packages in the suite that begin like this.
    pub fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let list = process::output(self.command("apt-cache").args(["pkgnames", prefix]))?;
        Ok(list.lines().map(str::to_owned).collect())
    }

    /// The newest record of a package.
    pub fn show(&self, name: &str) -> Result<Package> {
        let record =
            process::output(self.command("apt-cache").args(["show", "--no-all-versions", name]))?;
        parse_record(&record).with_context(|| format!("apt knows no version of {name}"))
    }

    /// Downloads packages into a directory; apt checks them against the signed lists.
    pub fn download(&self, names: &[String], into: &Path) -> Result<()> {
        let mut command = self.command("apt-get");
        command.arg("download").args(process::quiet()).args(names);
        process::run(command.current_dir(into))
    }

    fn sources(&self) -> PathBuf {
        // apt tells the format from the ending.
        self.dir.join("private.sources")
    }

    /// What is set on top of the machine's own configuration, which may name a proxy.
    fn config(&self) -> PathBuf {
        self.dir.join("private.conf")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.arg(format!("--config-file={}", self.config().display()));
        command
    }
}

fn config_text(sources: &Path, dir: &Path, architecture: Architecture) -> String {
    let architecture = architecture.debian();
    let (sources, dir) = (sources.display(), dir.display());
    format!(
        "Dir::Etc::sourcelist \"{sources}\";\n\
         Dir::Etc::sourceparts \"-\";\n\
         Dir::State::lists \"{dir}/lists\";\n\
         // What the machine itself has installed is no answer here.\n\
         Dir::State::status \"/dev/null\";\n\
         Dir::Cache \"{dir}/cache\";\n\
         APT::Architecture \"{architecture}\";\n\
         APT::Architectures \"{architecture}\";\n\
         Acquire::Languages \"none\";\n\
         Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n\
         // The sandbox user cannot write below a private home directory.\n\
         APT::Sandbox::User \"\";\n"
    )
}

/// The private source list. Sid gets no security updates of its own.
fn sources_text(archive: &Archive, suite: &str) -> String {
    let mut text = paragraph(&archive.main, suite);
    if let (Some(security), true) = (&archive.security, suite != "sid") {
        text.push('\n');
        text.push_str(&paragraph(security, &format!("{suite}-security")));
    }
    text
}

fn paragraph(uri: &str, suite: &str) -> String {
    let keyring = Path::new(DEBIAN_KEYRING).exists();
    let signed_by = if keyring { format!("Signed-By: {DEBIAN_KEYRING}\n") } else { String::new() };
    format!("Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: main\n{signed_by}")
}

fn parse_record(record: &str) -> Result<Package> {
    let field = |name: &str| record.lines().find_map(|line| line.strip_prefix(name));
    let Some(version) = field("Version: ") else { bail!("the record has no version") };
    let depends = field("Depends: ").unwrap_or_default().split(',');
    let name = |it: &str| it.split_whitespace().next().map(str::to_owned);
    Ok(Package { version: version.to_owned(), depends: depends.filter_map(name).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_suite_is_taken_from_the_same_archive() {
        let archive = Archive {
            main: "http://archive.test/debian".into(),
            security: Some("http://archive.test/debian-security".into()),
        };
        let text = sources_text(&archive, "bullseye");
        for line in [
            "URIs: http://archive.test/debian\nSuites: bullseye\nComponents: main\n",
            "\n\nTypes: deb\nURIs: http://archive.test/debian-security\nSuites: bullseye-security\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
        assert!(!sources_text(&archive, "sid").contains("security"));
    }

    #[test]
    fn a_record_gives_version_and_bare_names() {
        let record = "Package: linux-image-7.2-cloud-amd64\nVersion: 7.2.1-1\n\
                      Depends: kmod, linux-binary-7.2 (= 7.2.1-1), linux-modules-7.2 (= 7.2.1-1)\n";
        assert_eq!(
            parse_record(record).unwrap(),
            Package {
                version: "7.2.1-1".into(),
                depends: vec!["kmod".into(), "linux-binary-7.2".into(), "linux-modules-7.2".into()]
            }
        );
    }
}
