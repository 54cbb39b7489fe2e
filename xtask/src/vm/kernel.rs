//! Kernels to run: which there are, and getting the newest of a series.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail};

use super::{apt::Apt, cache::Cache, sources};
use crate::{
    architecture::Architecture,
    process::{self, say},
};

/// How long a fetched kernel is taken as the newest without asking.
const FRESH: Duration = Duration::from_secs(7 * 24 * 3600);

/// A kernel series of the test matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Series {
    /// What the user calls it.
    pub name: &'static str,
    /// What its versions begin with.
    version: &'static str,
    /// The processors it is for.
    pub architecture: Architecture,
    /// What names of its packages end with.
    flavour: &'static str,
    /// The Debian release that maintains it.
    suite: &'static str,
    /// Ways to attach that work there.
    attach: &'static str,
    /// Whether the suite's newest kernel will do when it has left this series behind.
    rolling: bool,
}

/// All ways to attach.
const EVERY_WAY: &str = "fentry,kprobe,tracepoint";

/// The matrix, oldest first.
pub const ALL: [Series; 4] = [
    cloud("5.10", "bullseye", false),
    cloud("6.1", "bookworm", false),
    cloud("6.12", "trixie", false),
    cloud("7.2", "sid", true),
];

/// Those of 64-bit Arm, which run the core of the scenarios: with pages of 4 KiB, and of 16.
pub const ARM: [Series; 2] = [
    Series {
        name: "6.1-arm64",
        version: "6.1",
        architecture: Architecture::Aarch64,
        flavour: "-cloud-arm64",
        // Ftrace calls no program directly on Arm before 6.4.
        attach: "kprobe,tracepoint",
        suite: "bookworm",
        rolling: false,
    },
    Series {
        name: "6.12-arm64-16k",
        version: "6.12",
        architecture: Architecture::Aarch64,
        flavour: "-arm64-16k",
        attach: EVERY_WAY,
        suite: "trixie",
        rolling: false,
    },
];

/// A kernel in which tasks are switched where others have interrupts or softirqs off. It runs the core.
pub const RT: Series =
    Series { name: "7.2-rt", version: "7.2", flavour: "-rt-amd64", ..cloud("7.2", "sid", true) };

/// A kernel that Debian makes for virtual machines.
const fn cloud(version: &'static str, suite: &'static str, rolling: bool) -> Series {
    let (architecture, flavour) = (Architecture::X86_64, "-cloud-amd64");
    Series { name: version, version, architecture, flavour, suite, attach: EVERY_WAY, rolling }
}

/// A kernel on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Its short name in test names, such as `6.1`.
    pub label: String,
    /// The processors it is for.
    pub architecture: Architecture,
    /// Ways to attach that work there, with commas between.
    pub attach: &'static str,
    /// The boot image.
    pub image: PathBuf,
    /// The directory that its modules lie under, if it has any.
    pub modules: Option<PathBuf>,
}

/// Gives the newest kernel of a series, from the cache where that is fresh.
pub fn fetch(series: Series, cache: &Cache) -> Result<Kernel> {
    let _lock = cache.lock()?;
    let dir = cache.dir().join("kernels").join(series.name);
    let cached = at(&dir, series);
    if let Some(kernel) = &cached
        && age(&dir.join("package")).is_some_and(|age| age < FRESH)
    {
        return Ok(kernel.clone());
    }
    match (update(series, cache, &dir), cached) {
        (Ok(()), _) => at(&dir, series).with_context(|| {
            format!("the newest {} kernel package holds no boot image", series.name)
        }),
        (Err(error), Some(kernel)) => {
            say!("{error:#}");
            say!("going on with the {} kernel fetched before", series.name);
            Ok(kernel)
        }
        (Err(error), None) => Err(error),
    }
}

/// Looks the newest package up and unpacks it, unless it is what the cache holds.
fn update(series: Series, cache: &Cache, dir: &Path) -> Result<()> {
    let archive = sources::debian_archive()?.context(
        "this machine's apt has no Debian archive to fetch kernels from; \
         name a kernel with --image and its modules with --modules",
    )?;
    let place = match series.architecture {
        Architecture::X86_64 => series.suite.to_owned(),
        other => format!("{}-{}", series.suite, other.debian()),
    };
    let place = cache.dir().join("apt").join(place);
    let apt = Apt::open(place, &archive, series.suite, series.architecture)?;
    apt.update()?;
    let names = apt.names("linux-image-")?;
    let name = newest(&names, series)
        .with_context(|| format!("Debian's {} has no kernel {}", series.suite, series.name))?;
    let package = apt.show(name)?;
    let identity = format!("{name} {}\n", package.version);
    let stamp = dir.join("package");
    if fs::read_to_string(&stamp).is_ok_and(|cached| cached == identity) {
        // Looked up today: counts as fresh again.
        fs::write(&stamp, identity)?;
        return Ok(());
    }

    let parts = package.depends.into_iter().filter(|it| is_part(it));
    let wanted: Vec<_> = [name.to_owned()].into_iter().chain(parts).collect();
    say!("fetching kernel {}: {}", series.name, identity.trim());
    let fresh = cache.dir().join("kernels").join(format!("new-{}", series.name));
    if fresh.exists() {
        fs::remove_dir_all(&fresh)?;
    }
    fs::create_dir_all(&fresh)?;
    apt.download(&wanted, &fresh)?;
    for package in files_ending(&fresh, ".deb")? {
        process::run(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&fresh))?;
        fs::remove_file(&package)?;
    }
    fs::write(fresh.join("package"), identity)?;
    if dir.exists() {
        fs::remove_dir_all(dir)?;
    }
    fs::rename(&fresh, dir).with_context(|| format!("cannot move {} into place", dir.display()))
}

/// Newer kernels are split; these are the parts that hold files.
fn is_part(name: &str) -> bool {
    ["linux-binary-", "linux-modules-", "linux-image-"].iter().any(|part| name.starts_with(part))
}

/// The newest signed kernel of the series among package names.
fn newest(names: &[String], series: Series) -> Option<&str> {
    let candidates = |prefix: String| {
        let fits = move |name: &&String| {
            name.starts_with(&prefix)
                && name.ends_with(series.flavour)
                && name["linux-image-".len()..].starts_with(|c: char| c.is_ascii_digit())
        };
        let by_version = |name: &&String| natural_key(name);
        names.iter().filter(fits).max_by_key(by_version).map(String::as_str)
    };
    let within = |separator| candidates(format!("linux-image-{}{separator}", series.version));
    // 6.1.0-9 and 6.1+deb12, but not 6.12.
    ['.', '+', '-']
        .into_iter()
        .filter_map(within)
        .max_by_key(|name| natural_key(name))
        .or_else(|| if series.rolling { candidates("linux-image-".to_owned()) } else { None })
}

/// Orders names by the numbers in them: `6.1.0-10` after `6.1.0-9`.
fn natural_key(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

/// The kernel unpacked in a directory. Usually in /boot; newer ones lie by their modules.
fn at(dir: &Path, series: Series) -> Option<Kernel> {
    let modules = ["usr/lib/modules", "lib/modules"]
        .iter()
        .find_map(|part| fs::read_dir(dir.join(part)).ok()?.flatten().next())?
        .path();
    let release = modules.file_name()?.to_str()?.to_owned();
    let in_boot = dir.join("boot").join(format!("vmlinuz-{release}"));
    let image = [in_boot, modules.join("vmlinuz")].into_iter().find(|path| path.is_file())?;
    let label = if release.starts_with(series.version) {
        series.name.to_owned()
    } else {
        // The rolling suite has moved on; do not claim the old series was tested.
        release.split('.').take(2).collect::<Vec<_>>().join(".")
    };
    let Series { architecture, attach, .. } = series;
    Some(Kernel { label, architecture, attach, image, modules: Some(modules) })
}

fn age(path: &Path) -> Option<Duration> {
    SystemTime::now().duration_since(path.metadata().ok()?.modified().ok()?).ok()
}

fn files_ending(dir: &Path, ending: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.to_str().is_some_and(|it| it.ends_with(ending)) {
            found.push(path);
        }
    }
    if found.is_empty() {
        bail!("no file ending in {ending} in {}", dir.display());
    }
    Ok(found)
}

/// A kernel that the user names.
pub fn from_image(image: &Path, modules: Option<&Path>) -> Result<Kernel> {
    File::open(image).with_context(|| format!("cannot read {}", image.display()))?;
    let name = image.file_name().unwrap_or_default().to_string_lossy();
    Ok(Kernel {
        label: name.trim_start_matches("vmlinuz-").to_owned(),
        architecture: Architecture::here(),
        attach: EVERY_WAY,
        image: image.to_owned(),
        modules: modules.map(Path::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pick(names: &[&str], series: &str) -> Option<String> {
        let series = ALL.into_iter().find(|it| it.name == series).unwrap();
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        newest(&names, series).map(str::to_owned)
    }

    #[test]
    fn the_newest_signed_cloud_kernel_of_the_series_is_taken() {
        let names = [
            "linux-image-6.1.0-9-cloud-amd64",
            "linux-image-6.1.0-40-cloud-amd64",
            "linux-image-6.1.0-41-cloud-amd64-unsigned",
            "linux-image-6.1.0-41-cloud-amd64-dbg",
            "linux-image-6.1.0-42-amd64",
            "linux-image-6.12.9+bpo-cloud-amd64",
            "linux-image-cloud-amd64",
        ];
        assert_eq!(pick(&names, "6.1").unwrap(), "linux-image-6.1.0-40-cloud-amd64");
        assert_eq!(pick(&names, "6.12").unwrap(), "linux-image-6.12.9+bpo-cloud-amd64");
        assert_eq!(pick(&names, "5.10"), None);
    }

    #[test]
    fn a_rolling_suite_that_moved_on_gives_its_newest() {
        let names = ["linux-image-7.3.1-cloud-amd64", "linux-image-7.4+deb14-cloud-amd64"];
        assert_eq!(pick(&names, "7.2").unwrap(), "linux-image-7.4+deb14-cloud-amd64");
    }

    #[test]
    fn parts_of_a_split_kernel_are_told_from_other_dependencies() {
        assert!(is_part("linux-modules-7.2+deb14-cloud-amd64"));
        assert!(!is_part("linux-base"));
        assert!(!is_part("kmod"));
    }
}
