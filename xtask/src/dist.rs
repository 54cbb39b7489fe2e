//! `cargo xtask dist`: what is released, for people who have no cargo.
//!
//! Two makings of one commit are the same bytes, wherever they are made: paths are taken out of what
//! is compiled, and every time is the commit's.

mod archive;
mod crates;
mod licences;
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
    /// Make it a second time, elsewhere, and compare.
    #[arg(long)]
    twice: bool,
    /// Install the packages in a Debian of their own, upgrade, remove and purge them.
    #[arg(long)]
    install: bool,
    /// Package the crates as for a registry, and build each from its package alone.
    #[arg(long)]
    crates: bool,
}

/// Makes everything and lists it.
pub fn main(args: &Args) -> Result<ExitCode> {
    setup::ensure(setup::Purpose::Dist)?;
    let source = Source::here(build::workspace())?;
    let place = build::target_dir().join(PLACE);
    let made = make(&source, &place)?;
    for path in &made {
        let size = fs::metadata(path)?.len();
        print(&format!("{:>12} {}", size, path.display()));
    }
    if args.twice {
        again(&source, &place.join(SUMS))?;
    }
    if args.install {
        packages::install(&place)?;
    }
    if args.crates {
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
    let name = format!("twtrace-{}-{}-linux", source.version, program::ARCHITECTURE);
    let tree = place.join(&name);
    tree::lay_out(source, &program, &tree)?;
    let mut made = vec![
        archive::pack(source, &tree, &place.join(format!("{name}.tar.xz")))?,
        archive::pack_file(source, &program.symbols, &place.join(format!("{name}-debug.tar.xz")))?,
    ];
    made.extend(packages::make(source, &tree, place)?);
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
    let place = clone.directory.join("target").join(PLACE);
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
