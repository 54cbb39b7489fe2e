//! What this process has cost.

use std::{fs, path::Path};

use rustix::{
    param::page_size,
    time::{ClockId, clock_gettime},
};

/// What the process has cost.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Seconds of CPU, in user and kernel mode.
    pub cpu_seconds: f64,
    /// Memory of its own that is in RAM, bytes; `None` where procfs does not say.
    pub resident_bytes: Option<u64>,
    /// Descriptors that are open; `None` where procfs does not say.
    pub open_fds: Option<u64>,
}

/// Reads it from procfs, mounted at `proc`, and from the process's own clock.
pub fn read(proc: &Path) -> Process {
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    let own = proc.join("self");
    let pages = fs::read_to_string(own.join("statm"))
        .ok()
        .and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok());
    Process {
        pid: std::process::id(),
        cpu_seconds: cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9,
        resident_bytes: pages.map(|pages| pages * page_size() as u64),
        // One of them is the directory itself.
        open_fds: fs::read_dir(own.join("fd")).ok().map(|fds| fds.count().saturating_sub(1) as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_not_known_and_the_rest_is() {
        let process = read(Path::new("/proc"));
        assert!(process.resident_bytes.is_some_and(|bytes| bytes > 1 << 20), "{process:?}");
        assert!(process.open_fds.is_some_and(|fds| fds >= 3), "{process:?}");
        assert!(process.cpu_seconds > 0.0);
        let blind = read(Path::new("/nonexistent"));
        assert_eq!((blind.resident_bytes, blind.open_fds), (None, None));
        assert_eq!(blind.pid, std::process::id());
    }
}
