//! `cargo xtask dist`: what is released, for people who have no cargo.
//!
//! Two makings of one commit are the same bytes, wherever they are made: paths are taken out of what
//! is compiled, and every time is the commit's.

mod archive;
mod charts;
mod container;
mod crates;
mod dashboard;
mod debian;
mod image;
mod licences;
mod machine;
mod packages;
mod program;
mod sbom;
mod source;
mod tree;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail};
use sha2::{Digest, Sha256};

use crate::{
    architecture::Architecture,
    build,
    process::{print, say},
    setup,
};
use source::Source;

/// Where it all is, in the target directory.
const PLACE: &str = "released";
/// The list of all sums.
const SUMS: &str = "SHA256SUMS";

/// What the user asked for.
#[derive(clap::Args)]
pub struct Args {
    /// What it is built for.
    #[arg(long, value_name = "ARCHITECTURE", default_value_t = Architecture::here())]
    arch: Architecture,
    /// Make it a second time, elsewhere, and compare.
    #[arg(long)]
    twice: bool,
    /// Build nothing: pack what was laid out before.
    #[arg(long, conflicts_with = "twice")]
    as_made: bool,
    /// With `--try charts`: make the manifests anew of the chart.
    #[arg(long, requires = "tried")]
    write: bool,
    /// Use what was made as those do that it is for; may be given several times.
    #[arg(long = "try", value_name = "WHAT")]
    tried: Vec<Tried>,
}

/// A way to use what is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Tried {
    /// All of these.
    All,
    /// Look at the packages with lintian and rpmlint; install, upgrade, remove and purge the Debian one.
    Packages,
    /// The same with both packages and their unit in a machine with a systemd of its own.
    Machine,
    /// Run the image by a real runtime.
    Image,
    /// Have Helm and the schemas of Kubernetes find fault with the chart and the manifests.
    Charts,
    /// Hold the dashboard against the types that Grafana publishes.
    Dashboard,
    /// Package the crates as for a registry, and build each from its package alone.
    Crates,
}

/// Makes everything for each architecture, twice if it is of a commit, and tries all that runs here, as part
/// of `test --all`.
pub fn everything() -> Result<()> {
    for arch in Architecture::ALL {
        let twice = !Source::here(build::workspace(), arch)?.is_modified;
        let tried = if arch == Architecture::here() { vec![Tried::All] } else { Vec::new() };
        main(&Args { arch, twice, as_made: false, write: false, tried })?;
    }
    Ok(())
}

/// Makes everything and lists it.
pub fn main(args: &Args) -> Result<ExitCode> {
    setup::ensure(setup::Purpose::Dist)?;
    if args.arch != Architecture::here() {
        setup::cross(args.arch)?;
    }
    if !args.tried.is_empty() {
        setup::ensure(setup::Purpose::TryDist)?;
    }
    let source = Source::here(build::workspace(), args.arch)?;
    let place = build::target_dir().join(PLACE).join(args.arch.name());
    let made = if args.as_made { pack(&source, &place)? } else { make(&source, &place)? };
    for path in &made {
        let size = fs::metadata(path)?.len();
        print(&format!("{:>12} {}", size, path.display()));
    }
    if args.twice {
        again(&source, &place.join(SUMS))?;
    }
    let is_tried = |one| args.tried.iter().any(|tried| [Tried::All, one].contains(tried));
    if is_tried(Tried::Packages) {
        packages::lint(&source, &place)?;
        packages::install(&place)?;
    }
    if is_tried(Tried::Machine) {
        machine::run(&source, &place.join(source.name()), &place)?;
    }
    if is_tried(Tried::Image) {
        container::run(&source, &place.join(format!("{}-oci.tar", source.name())))?;
    }
    if is_tried(Tried::Charts) {
        charts::check(&source, args.write)?;
    }
    if is_tried(Tried::Dashboard) {
        dashboard::check(&source)?;
    }
    if is_tried(Tried::Crates) {
        crates::dry_run(&source)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes all that is released into a directory; answers the files.
fn make(source: &Source, place: &Path) -> Result<Vec<PathBuf>> {
    if place.exists() {
        fs::remove_dir_all(place).with_context(|| format!("{}", place.display()))?;
    }
    fs::create_dir_all(place)?;
    let program = program::build(source)?;
    let tree = place.join(source.name());
    tree::lay_out(source, &program, &tree)?;
    let name = format!("{}-debug.tar.xz", source.name());
    archive::pack_file(source, &program.symbols, &place.join(name))?;
    pack(source, place)
}

/// Packs what is laid out, in each form.
fn pack(source: &Source, place: &Path) -> Result<Vec<PathBuf>> {
    let tree = place.join(source.name());
    let name = |ending: &str| place.join(format!("{}{ending}", source.name()));
    let mut made = vec![archive::pack(source, &tree, &name(".tar.xz"))?, name("-debug.tar.xz")];
    made.extend(packages::make(source, &tree, place)?);
    made.push(image::make(source, &tree, place)?);
    made.push(sum(place, &made)?);
    Ok(made)
}

/// Writes the sums of files, as `sha256sum --check` reads them.
fn sum(place: &Path, made: &[PathBuf]) -> Result<PathBuf> {
    let mut lines = String::new();
    for path in made {
        let sum = Sha256::digest(fs::read(path)?);
        let sum: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
        let name = path.file_name().context("a file")?.to_string_lossy();
        lines.push_str(&format!("{sum}  {name}\n"));
    }
    let path = place.join(SUMS);
    fs::write(&path, lines)?;
    Ok(path)
}

/// Makes all from a clone of the same commit in another directory, and compares.
fn again(source: &Source, sums: &Path) -> Result<()> {
    if source.is_modified {
        bail!("what is not committed cannot be made again: commit it first");
    }
    let directory = tempfile::tempdir()?;
    let clone = source.clone_into(&directory.path().join("elsewhere"))?;
    say!("making {} again in {}", source.commit, clone.directory.display());
    let place = clone.directory.join("target").join(PLACE).join(source.architecture.name());
    make(&clone, &place)?;
    let (first, second) = (fs::read_to_string(sums)?, fs::read_to_string(place.join(SUMS))?);
    if first != second {
        // To be looked at.
        let kept = directory.keep();
        bail!("two makings differ; the second is in {}:\n{first}{second}", kept.display());
    }
    print("the same bytes when made again elsewhere");
    Ok(())
}
