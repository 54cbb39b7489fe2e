//! Names of control groups.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    os::unix::fs::{DirEntryExt, MetadataExt},
    path::{Component, Path, PathBuf},
};

/// Where control groups are mounted; hosts with both versions have the second below `unified`.
const ROOTS: [&str; 2] = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];

/// The directory of this host's root control group, if control groups are mounted.
pub fn root() -> Option<&'static Path> {
    ROOTS.iter().map(Path::new).find(|root| root.is_dir())
}

/// `CGROUP2_SUPER_MAGIC`, include/uapi/linux/magic.h.
const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;
/// Number of the root's directory (`kernfs_create_root()`, fs/kernfs/dir.c, 5.5 on): what is mounted in a
/// cgroup namespace begins further down.
const ROOT: u64 = 1;

/// The directory of the control group of version 2 that all processes of this host are below.
///
/// # Errors
/// None is mounted, in one line.
pub fn root_of_all() -> Result<File, String> {
    let is_root = |file: &File| {
        let version_2 = rustix::fs::fstatfs(file)
            .is_ok_and(|system| system.f_type as u64 == CGROUP2_SUPER_MAGIC);
        version_2 && file.metadata().is_ok_and(|metadata| metadata.ino() == ROOT)
    };
    ROOTS.iter().filter_map(|root| File::open(root).ok()).find(is_root).ok_or_else(|| {
        format!("no root control group of version 2 is mounted at {}", ROOTS.join(" or "))
    })
}

/// The identifier of a control group of this host, by its path from the root or by that of its
/// directory.
///
/// # Errors
/// There is no such directory, or the path leads out of the root: who may ask for an identifier need
/// not be told what else is on this host.
pub fn id(path: &str) -> io::Result<u64> {
    let root = root().ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, "no control groups are mounted on this host")
    })?;
    below(root, path)
}

fn below(root: &Path, path: &str) -> io::Result<u64> {
    let path = name(path);
    if Path::new(&path).components().any(|part| part == Component::ParentDir) {
        let why = "a control group's path has no .. in it";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    let directory = root.join(&path[1..]);
    let metadata = match fs::metadata(&directory) {
        Ok(metadata) if metadata.is_dir() => metadata,
        Ok(_) => return Err(io::ErrorKind::NotADirectory.into()),
        Err(error) => return Err(error),
    };
    Ok(metadata.ino())
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
/// Most bytes of names: some twenty thousand groups. Those beyond are told by their numbers.
const MAX_BYTES: usize = 2 << 20;

/// Paths of the control groups below `root` (`/sys/fs/cgroup`), by identifier, relative to it.
///
/// A group's identifier is its directory's inode number: `kernfs_node.id`, include/linux/kernfs.h
/// (64-bit kernels since 5.5).
pub fn names(root: &Path) -> HashMap<u64, String> {
    let mut names = HashMap::new();
    let mut bytes = 0;
    let Ok(metadata) = fs::metadata(root) else { return names };
    let mut pending = vec![(root.to_owned(), metadata.ino(), 0)];
    while let Some((directory, id, depth)) = pending.pop() {
        let relative = directory.strip_prefix(root).unwrap_or(&directory);
        let name = format!("/{}", relative.display());
        bytes += name.len();
        if bytes > MAX_BYTES {
            break;
        }
        names.insert(id, name);
        if depth == MAX_DEPTH {
            continue;
        }
        let entries = fs::read_dir(&directory).into_iter().flatten().filter_map(Result::ok);
        let below = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        pending.extend(below.map(|entry| (entry.path(), entry.ino(), depth + 1)));
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
    fn only_a_directory_below_the_root_has_an_identifier() {
        let outside = tempfile::tempdir().unwrap();
        let root = outside.path().join("cgroup");
        let service = root.join("system.slice/nginx.service");
        fs::create_dir_all(&service).unwrap();
        fs::write(service.join("cgroup.procs"), "").unwrap();
        let inode = |path: &Path| fs::metadata(path).unwrap().ino();
        assert_eq!(below(&root, "/system.slice/nginx.service").unwrap(), inode(&service));
        assert_eq!(below(&root, "/").unwrap(), inode(&root));
        for path in ["/..", "system.slice/../../cgroup", "/sys/fs/cgroup/../cgroup"] {
            assert!(below(&root, path).unwrap_err().to_string().contains("no .."), "{path}");
        }
        assert!(below(&root, "/system.slice/nginx.service/cgroup.procs").is_err());
        assert!(below(&root, "/none").is_err());
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
