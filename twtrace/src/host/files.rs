//! Processes that have most of the files they may open, most of them sockets.
//!
//! The host's own limit (`fs.file-max`) is out of reach on today's kernels; that of a process
//! (`RLIMIT_NOFILE`) often is 1024.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// A process near its limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessFiles {
    /// Process, as the namespace of procfs numbers it.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// Inode number of its network namespace.
    pub netns: u32,
    /// Files it has open.
    pub open: u64,
    /// Most it may have (soft `RLIMIT_NOFILE`); more than 0.
    pub limit: u64,
    /// Of the open ones, sockets.
    pub sockets: u64,
}

impl ProcessFiles {
    /// Share of the limit that is taken.
    pub fn share(&self) -> f64 {
        self.open as f64 / self.limit as f64
    }
}

/// Fewer open files are nobody's trouble: some programs give up the right to open any more.
const FEW: u64 = 64;
/// Percent of the limit from which on a process is told of.
const NEAR: u64 = 70;
/// Most processes told of.
const MOST: usize = 8;

/// Those found at the last look.
#[derive(Debug, Default)]
pub struct Look {
    looked: Option<Instant>,
    found: Vec<ProcessFiles>,
}

impl Look {
    /// How long a look will do: it asks every process.
    const FRESH: Duration = Duration::from_secs(5);

    /// The processes of a network namespace, of all with 0, nearest to its limit first. What cannot be
    /// read, for want of a right or because it is gone, is left out.
    pub fn look(&mut self, proc: &Path, netns: u32, now: Instant) -> Vec<ProcessFiles> {
        if self.looked.is_none_or(|looked| now.duration_since(looked) >= Self::FRESH) {
            self.looked = Some(now);
            self.found = all(proc);
        }
        let asked = |process: &&ProcessFiles| netns == 0 || process.netns == netns;
        self.found.iter().filter(asked).take(MOST).cloned().collect()
    }
}

fn all(proc: &Path) -> Vec<ProcessFiles> {
    let entries = fs::read_dir(proc).into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut found: Vec<_> = pids.filter_map(|pid| look(pid, &proc.join(pid.to_string()))).collect();
    found.sort_by(|one, other| other.share().total_cmp(&one.share()));
    found
}

fn look(pid: u32, process: &Path) -> Option<ProcessFiles> {
    let files = process.join("fd");
    // Their number is the directory's size since 6.2 (`proc_fd_getattr()`, fs/proc/fd.c).
    let open = match fs::metadata(&files).ok()?.len() {
        0 => fs::read_dir(&files).ok()?.count() as u64,
        open => open,
    };
    if open < FEW {
        return None;
    }
    let limit = soft_limit(&fs::read_to_string(process.join("limits")).ok()?)?;
    if limit == 0 || open * 100 < limit * NEAR {
        return None;
    }
    let is_socket = |path: PathBuf| {
        fs::read_link(path).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"))
    };
    let entries = fs::read_dir(&files).ok()?.flatten();
    let sockets = entries.filter(|entry| is_socket(entry.path())).count() as u64;
    // A store of files manages those itself, and its limit.
    if sockets * 2 < open {
        return None;
    }
    let comm = fs::read_to_string(process.join("comm")).ok()?.trim_end().to_owned();
    let netns = fs::metadata(process.join("ns/net")).ok()?.ino() as u32;
    Some(ProcessFiles { pid, comm, netns, open, limit, sockets })
}

/// The soft limit of open files in a process's `limits`; `None` if there is none.
fn soft_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_is_the_first_of_its_line() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max processes             95892                95892                processes \n\
                      Max open files            1024                 1048576              files     \n";
        assert_eq!(soft_limit(limits), Some(1024));
        assert_eq!(soft_limit(&limits.replace("1024 ", "unlimited ")), None);
        assert_eq!(soft_limit(""), None);
    }

    #[test]
    fn nobody_is_told_of_who_may_open_many_more() {
        let own = std::process::id();
        assert!(all(Path::new("/proc")).iter().all(|process| process.pid != own));
    }
}
