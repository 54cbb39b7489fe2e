//! The packages in a machine with a systemd of its own, which runs what a host's administrator does:
//! `machine/try.sh`.

use std::{
    fs::{self, File},
    io::BufWriter,
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::{debian::Debian, packages, source::Source};
use crate::{
    build,
    process::{print, say},
    vm::{self, tree::Tree},
};

/// The kernel, of those the tests know.
const SERIES: &str = "6.12";

/// What is run inside, and the service that runs it.
const SCRIPT: &str = include_str!("machine/try.sh");
const SERVICE: &str = "[Unit]\nAfter=systemd-journald.service\n\
    [Service]\nType=oneshot\nExecStart=/bin/sh /packages/try.sh\n";

/// What an upgrade is from. There is no earlier release yet, so it is the same program under an older
/// number.
const OLDER: &str = "0.0.9";

/// What of a Debian no boot and no package needs, and would be most of what is copied.
const LEFT_OUT: [&str; 7] = [
    "usr/share/doc",
    "usr/share/locale",
    "usr/share/man",
    "var/cache",
    "var/lib/apt",
    "dev",
    "proc",
];

/// How long the machine may work, by its own clock.
const WORK: Duration = Duration::from_secs(120);

/// Installs both packages in such a machine, starts the unit, upgrades, removes and purges.
pub fn run(source: &Source, tree: &Path, place: &Path) -> Result<()> {
    let debian = Debian::make(&["systemd", "systemd-sysv", "init-system-helpers", "rpm"])?;
    let older = tempfile::tempdir()?;
    let source = Source { version: OLDER.to_owned(), ..source.clone() };
    packages::make(&source, tree, older.path())?;
    let mut files = Tree::default();
    for directory in ["dev", "proc", "sys", "run", "tmp", "var/cache", "var/lib/apt"] {
        files.dir(directory);
    }
    files.copy(debian.path(), &LEFT_OUT)?;
    for (from, name) in [(older.path(), "old"), (place, "new")] {
        for ending in ["deb", "rpm"] {
            let package = packages::find(from, ending)?;
            files.file(&format!("packages/{name}.{ending}"), fs::read(package)?);
        }
    }
    files.file("packages/try.sh", SCRIPT);
    let units = "etc/systemd/system";
    files.file(&format!("{units}/try.service"), SERVICE);
    files.link(&format!("{units}/multi-user.target.wants/try.service"), "../try.service");
    files.link(&format!("{units}/default.target"), "/usr/lib/systemd/system/multi-user.target");
    files.link("init", "usr/lib/systemd/systemd");
    // Made at the first boot, by what would wait for a terminal.
    files.file("etc/machine-id", "5f6c3d1e8a2b4c7d9e0f1a2b3c4d5e6f\n");
    let image = build::target_dir().join("vm/packages.cpio");
    fs::create_dir_all(image.parent().context("a directory")?)?;
    files.write(BufWriter::new(File::create(&image)?))?;
    for line in vm::boot(SERIES, &image, WORK)? {
        say!("{line}");
    }
    print("in a machine with systemd: installed, started, upgraded, removed and purged");
    Ok(())
}
