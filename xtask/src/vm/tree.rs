//! A file tree in memory, written as the cpio archive that a kernel unpacks at boot.

use std::{
    collections::BTreeMap,
    fs,
    io::{Cursor, Write},
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use anyhow::{Context as _, Result};
use cpio::newc::{self, ModeFileType};

/// Files by their path without the leading slash; parents come before their children.
#[derive(Default)]
pub struct Tree(BTreeMap<String, Node>);

enum Node {
    Dir,
    File { data: Vec<u8>, executable: bool },
    Link { target: String },
}

impl Tree {
    /// Adds a directory and those above it.
    pub fn dir(&mut self, path: &str) {
        let path = path.trim_start_matches('/');
        for (at, _) in path.match_indices('/') {
            self.0.entry(path[..at].to_owned()).or_insert(Node::Dir);
        }
        self.0.entry(path.to_owned()).or_insert(Node::Dir);
    }

    /// Adds a file.
    pub fn file(&mut self, path: &str, data: impl Into<Vec<u8>>) {
        self.add(path, Node::File { data: data.into(), executable: false });
    }

    /// Adds a program.
    pub fn program(&mut self, path: &str, data: impl Into<Vec<u8>>) {
        self.add(path, Node::File { data: data.into(), executable: true });
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, target: &str) {
        self.add(path, Node::Link { target: target.to_owned() });
    }

    /// Adds the files, directories and links of a directory, but those that are left out.
    pub fn copy(&mut self, root: &Path, left_out: &[&str]) -> Result<()> {
        self.copy_below(root, Path::new(""), left_out)
    }

    fn copy_below(&mut self, root: &Path, below: &Path, left_out: &[&str]) -> Result<()> {
        for entry in fs::read_dir(root.join(below))? {
            let entry = entry?;
            let path = below.join(entry.file_name());
            let name = path.to_str().context("a path that is text")?;
            let kind = entry.file_type()?;
            if left_out.contains(&name) {
                continue;
            }
            if kind.is_dir() {
                self.dir(name);
                self.copy_below(root, &path, left_out)?;
            } else if kind.is_symlink() {
                let target = fs::read_link(entry.path())?;
                self.link(name, target.to_str().context("a link that is text")?);
            } else if kind.is_file() {
                let data = fs::read(entry.path())?;
                match entry.metadata()?.permissions().mode() & 0o111 {
                    0 => self.file(name, data),
                    _ => self.program(name, data),
                }
            }
        }
        Ok(())
    }

    /// Whether something is there already.
    pub fn contains(&self, path: &str) -> bool {
        self.0.contains_key(path.trim_start_matches('/'))
    }

    fn add(&mut self, path: &str, node: Node) {
        let path = path.trim_start_matches('/');
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.dir(parent);
        }
        self.0.insert(path.to_owned(), node);
    }

    /// Writes the archive.
    pub fn write(self, out: impl Write) -> Result<()> {
        let entries = self.0.into_iter().map(|(path, node)| {
            let (kind, mode, data) = match node {
                Node::Dir => (ModeFileType::Directory, 0o755, Vec::new()),
                Node::File { data, executable: true } => (ModeFileType::Regular, 0o755, data),
                Node::File { data, executable: false } => (ModeFileType::Regular, 0o644, data),
                Node::Link { target } => (ModeFileType::Symlink, 0o777, target.into_bytes()),
            };
            let head = newc::Builder::new(&path).mode(mode).set_mode_file_type(kind);
            (head, Cursor::new(data))
        });
        cpio::write_cpio(entries, out).context("cannot write the initramfs")?.flush()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn parents_precede_files_and_links_hold_their_target() {
        let mut tree = Tree::default();
        tree.program("/usr/bin/tool", "code");
        tree.link("/bin", "usr/bin");
        let mut archive = Vec::new();
        tree.write(&mut archive).unwrap();

        let mut seen = Vec::new();
        let mut rest = Cursor::new(archive);
        loop {
            let mut reader = newc::Reader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            seen.push(format!("{:o} {} {text}", reader.entry().mode(), reader.entry().name()));
            rest = reader.finish().unwrap();
        }
        assert_eq!(
            seen,
            ["120777 bin usr/bin", "40755 usr ", "40755 usr/bin ", "100755 usr/bin/tool code"]
        );
    }
}
