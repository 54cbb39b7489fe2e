//! The network namespaces of the host: found, named and entered for reading.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, AsRawFd},
        unix::{fs::MetadataExt, net::UnixDatagram},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::statfs,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use super::KernelError;

/// Where `ip netns` keeps its names.
const NAMED: &str = "/run/netns";

/// Processes of a namespace that are remembered.
const MOST_PIDS: usize = 64;

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
    /// Processes in it, those with the lowest numbers.
    pub pids: Vec<u32>,
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
        Visitor::travel(|visitor| {
            visitor.enter(self)?;
            Ok(job())
        })?
    }
}

/// A thread that goes from namespace to namespace.
#[derive(Debug)]
pub struct Visitor {
    /// Where it is.
    inside: Option<u32>,
}

impl Visitor {
    /// Lets a thread go where `work` sends it, and waits for it.
    ///
    /// # Errors
    /// The thread failed.
    pub fn travel<T: Send>(work: impl FnOnce(&mut Self) -> T + Send) -> io::Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| work(&mut Self { inside: inum_of(Path::new(OWN)) }));
            thread.join().map_err(|_| io::Error::other("the thread inside the namespace failed"))
        })
    }

    /// Enters a namespace. Nothing of those left is held: a file kept open in one would keep it alive.
    ///
    /// # Errors
    /// Opening the namespace's file, or entering it (CAP_SYS_ADMIN, but for the one it is in).
    pub fn enter(&mut self, namespace: &Namespace) -> io::Result<()> {
        if self.inside != Some(namespace.inum) {
            let file = File::open(&namespace.path)?;
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
            self.inside = Some(namespace.inum);
        }
        Ok(())
    }
}

/// `SO_NETNS_COOKIE`, include/uapi/asm-generic/socket.h; 5.14 on.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// The cookie of the calling thread's namespace, which no other one ever has; 0 where it cannot be
/// had.
pub fn cookie() -> u64 {
    let Ok(socket) = UnixDatagram::unbound() else { return 0 };
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the descriptor is open, and there is room for as many bytes as said.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if done == 0 { cookie } else { 0 }
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
            if let Some(inum) = inum_of(&named) {
                let pids = Vec::new();
                by_inum.entry(inum).or_insert(Namespace { inum, path: named, name, pids });
            }
        }
        for process in entries(Path::new("/proc")) {
            let pid = process.file_name().and_then(|name| name.to_str()?.parse().ok());
            let path = process.join("ns/net");
            if let Some(pid) = pid
                && let Some(inum) = inum_of_link(&path)
            {
                let unnamed = || Namespace { inum, path, name: None, pids: Vec::new() };
                let pids = &mut by_inum.entry(inum).or_insert_with(unnamed).pids;
                if pids.len() < MOST_PIDS {
                    pids.push(pid);
                }
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

/// Inode number that the link of a process tells, `net:[4026531840]`: at a fraction of what it costs
/// to follow it, and there may be thousands.
fn inum_of_link(path: &Path) -> Option<u32> {
    let link = fs::read_link(path).ok()?;
    link.to_str()?.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok()
}

/// Inode number of a network namespace's file; those of namespaces fit 32 bits. No other file has one.
fn inum_of(path: &Path) -> Option<u32> {
    // Opening another file could wait, or do something.
    if !is_of_namespaces(path) {
        return None;
    }
    let file = File::open(path).ok().filter(is_of_network)?;
    file.metadata().ok().and_then(|file| u32::try_from(file.ino()).ok())
}

/// `NSFS_MAGIC`, include/uapi/linux/magic.h.
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// Whether a file is a namespace's of whichever kind, found out without opening it.
fn is_of_namespaces(path: &Path) -> bool {
    statfs(path).is_ok_and(|system| u64::try_from(system.f_type) == Ok(NSFS_MAGIC))
}

/// Whether a namespace's file is one of a network namespace. Kernels before 4.11 do not tell: there
/// every namespace's is taken for one.
fn is_of_network(file: &File) -> bool {
    // SAFETY: the descriptor is open, and this request takes no argument.
    let kind = unsafe { libc::ioctl(file.as_raw_fd(), libc::NS_GET_NSTYPE) };
    kind == libc::CLONE_NEWNET
        || kind < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::ENOTTY)
}

/// Finds the namespace a user means: a name of `ip netns`, an inode number, or a path.
///
/// # Errors
/// [`KernelError::NoNamespace`].
pub fn find(wanted: &str) -> Result<u32, KernelError> {
    if !wanted.contains('/') {
        return find_known(wanted);
    }
    inum_of(Path::new(wanted)).ok_or_else(|| KernelError::NoNamespace { name: wanted.to_owned() })
}

/// The same by name or number alone: for those who may ask for namespaces, and not what else is on
/// this host.
///
/// # Errors
/// [`KernelError::NoNamespace`].
pub fn find_known(wanted: &str) -> Result<u32, KernelError> {
    let known = match wanted.parse::<u32>() {
        Ok(inum) => Some(inum),
        Err(_) if wanted.contains('/') => None,
        Err(_) => inum_of(&Path::new(NAMED).join(wanted)),
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
        assert_eq!(inum_of_link(Path::new("/proc/self/ns/net")), Some(ours));
        assert_eq!(inum_of_link(Path::new("/proc/self/ns/pid")), None);
        assert_eq!(find("/proc/self/ns/net").unwrap(), ours);
        assert_eq!(find(&ours.to_string()).unwrap(), ours);
    }

    #[test]
    fn no_other_file_is_taken_for_a_namespace() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        let told = |path: &str| find(path).unwrap_err().to_string().replace(path, "");
        assert_eq!(told(path), told("/no/such/file"), "whether there is one is not told");
        let uts = "/proc/self/ns/uts";
        assert_eq!(told(uts), told("/no/such/file"), "a namespace, and not of the network");
        for wanted in [".", "..", "", "../netns"] {
            assert!(find(wanted).is_err() && find_known(wanted).is_err(), "{wanted:?}");
        }
        assert!(find_known("/proc/self/ns/net").is_err(), "by name or number alone");
        assert_eq!(find_known("4026531840").unwrap(), 4_026_531_840);
    }

    #[test]
    fn a_name_nobody_knows_is_refused_with_what_to_give() {
        let message = find("no-such-namespace").unwrap_err().to_string();
        assert!(message.starts_with("no network namespace no-such-namespace"), "{message}");
        assert!(message.contains("/proc/PID/ns/net"), "{message}");
    }
}
