//! The network namespaces of the host: found, named and entered for reading.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    io,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::KernelError;

/// Where `ip netns` keeps its names.
const NAMED: &str = "/run/netns";

/// This thread's own.
const OWN: &str = "/proc/thread-self/ns/net";

/// One network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Inode number: what `ls -Li /proc/PID/ns/net` shows.
    pub inum: u32,
    /// A file that opens it.
    pub path: PathBuf,
    /// Its name for `ip netns`, if it has one.
    pub name: Option<String>,
}

impl Namespace {
    /// Runs `job` on a thread of its own inside the namespace.
    ///
    /// # Errors
    /// Opening the namespace's file, or entering it (CAP_SYS_ADMIN, but for this thread's own).
    pub fn run<T: Send>(&self, job: impl FnOnce() -> T + Send) -> io::Result<T> {
        if inum_of(Path::new(OWN)) == Some(self.inum) {
            return Ok(job());
        }
        let file = File::open(&self.path)?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
                Ok(job())
            });
            thread.join().map_err(|_| io::Error::other("the thread inside the namespace failed"))?
        })
    }
}

/// All namespaces that a process is in or that a name holds. One kept by nothing but an open
/// descriptor or a socket cannot be found.
#[derive(Clone, Debug, Default)]
pub struct Namespaces {
    by_inum: BTreeMap<u32, Namespace>,
}

impl Namespaces {
    /// Looks for them.
    pub fn scan() -> Self {
        let mut by_inum = BTreeMap::new();
        for named in entries(Path::new(NAMED)) {
            let name = named.file_name().map(|name| name.to_string_lossy().into_owned());
            add(&mut by_inum, named, name);
        }
        for process in entries(Path::new("/proc")) {
            let is_process = process
                .file_name()
                .is_some_and(|name| name.to_string_lossy().bytes().all(|b| b.is_ascii_digit()));
            if is_process {
                add(&mut by_inum, process.join("ns/net"), None);
            }
        }
        Self { by_inum }
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Namespace> {
        self.by_inum.values()
    }

    /// Names of those that have one.
    pub fn names(&self) -> HashMap<u32, String> {
        self.iter().filter_map(|ns| Some((ns.inum, ns.name.clone()?))).collect()
    }

    /// One of them.
    pub fn get(&self, inum: u32) -> Option<&Namespace> {
        self.by_inum.get(&inum)
    }
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let read = fs::read_dir(directory).into_iter().flatten();
    read.filter_map(|entry| Some(entry.ok()?.path())).collect()
}

fn add(by_inum: &mut BTreeMap<u32, Namespace>, path: PathBuf, name: Option<String>) {
    if let Some(inum) = inum_of(&path) {
        by_inum.entry(inum).or_insert(Namespace { inum, path, name });
    }
}

/// Inode number of a namespace's file; those of namespaces fit 32 bits.
fn inum_of(path: &Path) -> Option<u32> {
    fs::metadata(path).ok().and_then(|file| u32::try_from(file.ino()).ok())
}

/// Finds the namespace a user means: a name of `ip netns`, an inode number, or a path.
///
/// # Errors
/// [`KernelError::NoNamespace`].
pub fn find(wanted: &str) -> Result<u32, KernelError> {
    let known = if let Ok(inum) = wanted.parse::<u32>() {
        Some(inum)
    } else if wanted.contains('/') {
        inum_of(Path::new(wanted))
    } else {
        inum_of(&Path::new(NAMED).join(wanted))
    };
    known.ok_or_else(|| KernelError::NoNamespace { name: wanted.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_s_namespace_is_among_those_found() {
        let ours = inum_of(Path::new("/proc/self/ns/net")).unwrap();
        let found = Namespaces::scan();
        assert_eq!(found.get(ours).map(|namespace| namespace.inum), Some(ours));
        assert_eq!(find("/proc/self/ns/net").unwrap(), ours);
        assert_eq!(find(&ours.to_string()).unwrap(), ours);
    }

    #[test]
    fn a_name_nobody_knows_is_refused_with_what_to_give() {
        let message = find("no-such-namespace").unwrap_err().to_string();
        assert!(message.starts_with("no network namespace no-such-namespace"), "{message}");
        assert!(message.contains("/proc/PID/ns/net"), "{message}");
    }
}
