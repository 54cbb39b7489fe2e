//! Names of control groups.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Component, Path, PathBuf},
};

/// Where control groups are mounted; hosts with both versions have the second below `unified`.
const ROOTS: [&str; 2] = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];

/// The directory of this host's root control group, if control groups are mounted.
pub fn root() -> Option<&'static Path> {
    ROOTS.iter().map(Path::new).find(|root| root.is_dir())
}

/// The identifier of a control group of this host, by its path from the root or by that of its
/// directory.
///
/// # Errors
/// There is no such directory.
pub fn id(path: &str) -> io::Result<u64> {
    let root = root().ok_or(io::ErrorKind::NotFound)?;
    Ok(fs::metadata(root.join(&name(path)[1..]))?.ino())
}

/// The name of a control group, as [`names`] gives it, from its path from the root or that of its
/// directory.
pub fn name(path: &str) -> String {
    let path = Path::new(path);
    let path = ROOTS.iter().find_map(|root| path.strip_prefix(root).ok()).unwrap_or(path);
    let below = |part: &Component<'_>| !matches!(part, Component::RootDir | Component::CurDir);
    format!("/{}", path.components().filter(below).collect::<PathBuf>().display())
}

/// Deepest directory looked into.
const MAX_DEPTH: usize = 16;

/// Paths of the control groups below `root` (`/sys/fs/cgroup`), by identifier, relative to it.
///
/// A group's identifier is its directory's inode number: `kernfs_node.id`, include/linux/kernfs.h
/// (64-bit kernels since 5.5).
pub fn names(root: &Path) -> HashMap<u64, String> {
    let mut names = HashMap::new();
    let mut pending: Vec<(PathBuf, usize)> = vec![(root.to_owned(), 0)];
    while let Some((directory, depth)) = pending.pop() {
        if let Ok(metadata) = fs::metadata(&directory) {
            let relative = directory.strip_prefix(root).unwrap_or(&directory);
            names.insert(metadata.ino(), format!("/{}", relative.display()));
        }
        if depth == MAX_DEPTH {
            continue;
        }
        let entries = fs::read_dir(&directory).into_iter().flatten().filter_map(Result::ok);
        pending.extend(
            entries
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| (entry.path(), depth + 1)),
        );
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_named_by_their_path_below_the_root() {
        let root = tempfile::tempdir().unwrap();
        let service = root.path().join("system.slice/nginx.service");
        fs::create_dir_all(&service).unwrap();
        let names = names(root.path());
        let inode = fs::metadata(&service).unwrap().ino();
        assert_eq!(names[&inode], "/system.slice/nginx.service");
        assert_eq!(names.len(), 3);
    }

    #[test]
    fn a_path_of_any_host_is_the_name_that_its_group_has() {
        for path in [
            "/system.slice/a.service",
            "system.slice/a.service/",
            "/sys/fs/cgroup/system.slice/a.service",
            "/sys/fs/cgroup/unified/system.slice/./a.service",
        ] {
            assert_eq!(name(path), "/system.slice/a.service", "{path}");
        }
        assert_eq!((name("/"), name("/sys/fs/cgroup")), ("/".to_owned(), "/".to_owned()));
    }
}
