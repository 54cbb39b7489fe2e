//! Archives that depend on nothing but what is in them and the commit's time.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use liblzma::write::XzEncoder;
use tar::{Builder, EntryType, Header};

use super::source::Source;

/// Effort of compression.
const EFFORT: u32 = 9;

/// Packs a directory under its own name.
pub fn pack(source: &Source, tree: &Path, to: &Path) -> Result<PathBuf> {
    let above = tree.parent().context("a directory above")?;
    write(source, above, &list(tree)?, to)
}

/// Packs one file under its own name.
pub fn pack_file(source: &Source, file: &Path, to: &Path) -> Result<PathBuf> {
    write(source, file.parent().context("a directory")?, &[file.to_owned()], to)
}

/// A directory and all below it, in order.
pub fn list(tree: &Path) -> Result<Vec<PathBuf>> {
    fn walk(path: &Path, all: &mut Vec<PathBuf>) -> Result<()> {
        all.push(path.to_owned());
        if path.is_dir() {
            for entry in fs::read_dir(path)? {
                walk(&entry?.path(), all)?;
            }
        }
        Ok(())
    }
    let mut all = Vec::new();
    walk(tree, &mut all)?;
    all.sort();
    Ok(all)
}

fn write(source: &Source, above: &Path, all: &[PathBuf], to: &Path) -> Result<PathBuf> {
    let file = File::create(to).with_context(|| format!("{}", to.display()))?;
    let mut builder = Builder::new(XzEncoder::new(file, EFFORT));
    for path in all {
        append(&mut builder, source, path.strip_prefix(above)?, path)?;
    }
    builder.into_inner()?.finish()?.flush()?;
    Ok(to.to_owned())
}

/// Adds a file or a directory under a name: root's, programs to be run by everybody, of the commit's
/// time.
pub fn append(
    builder: &mut Builder<impl Write>,
    source: &Source,
    name: &Path,
    from: &Path,
) -> Result<()> {
    let is_program = name.parent().is_some_and(|parent| parent.ends_with("bin"));
    let mut header = Header::new_gnu();
    header.set_mtime(source.time);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mode(if from.is_dir() || is_program { 0o755 } else { 0o644 });
    if from.is_dir() {
        header.set_entry_type(EntryType::Directory);
        header.set_size(0);
        builder.append_data(&mut header, name, std::io::empty())?;
    } else {
        let bytes = fs::read(from)?;
        header.set_size(bytes.len() as u64);
        builder.append_data(&mut header, name, bytes.as_slice())?;
    }
    Ok(())
}
