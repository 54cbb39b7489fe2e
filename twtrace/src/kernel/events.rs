//! What kprobes leave in tracefs where perf does not make them (before Linux 4.17): an event each in
//! `kprobe_events`, which can be deleted only once nobody holds it open. Ids of events are 16 bits,
//! and when they are used up no program of the host can attach a kprobe any more.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use super::hooks;

/// Where tracefs is mounted: by itself, or below debugfs.
const PLACES: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];
/// The list of events; what is written to it makes or deletes one.
const LIST: &str = "kprobe_events";

/// The events of this process, deleted when dropped: to be held until after the programs, whose
/// descriptors hold them.
#[derive(Debug)]
pub struct OwnEvents {
    directory: Option<PathBuf>,
}

impl OwnEvents {
    /// Deletes what processes left that are no more, and will delete those of this one.
    pub fn begin() -> Self {
        let has_list = |place: &&Path| place.join(LIST).exists();
        let directory = PLACES.map(Path::new).iter().find(|place| has_list(place)).copied();
        let own = std::process::id();
        let is_dead = |pid: u32| pid != own && !Path::new("/proc").join(pid.to_string()).exists();
        if let Some(directory) = directory {
            told(delete(directory, is_dead), "that processes left which are no more");
        }
        Self { directory: directory.map(Path::to_owned) }
    }
}

impl Drop for OwnEvents {
    fn drop(&mut self) {
        let own = std::process::id();
        if let Some(directory) = &self.directory {
            told(
                delete(directory, |pid| pid == own),
                "that this process made; the next start does",
            );
        }
    }
}

fn told(deleted: io::Result<usize>, which: &str) {
    match deleted {
        Ok(0) => {}
        Ok(count) => tracing::debug!(count, "deleted events from {LIST}"),
        Err(error) => tracing::warn!("cannot delete the events in {LIST} {which}: {error}"),
    }
}

/// Deletes events of twtrace by the process that made them; answers how many. One that somebody
/// holds open stays, whoever that is: the kernel refuses (`EBUSY`).
fn delete(directory: &Path, of_process: impl Fn(u32) -> bool) -> io::Result<usize> {
    let path = directory.join(LIST);
    let text = fs::read_to_string(&path)?;
    let names: Vec<&str> = text.lines().filter_map(|line| ours(line, &of_process)).collect();
    let mut deleted = 0;
    let mut refused = None;
    for name in names {
        // One write each: of several lines the kernel takes none behind one that it refuses.
        let written = File::options()
            .append(true)
            .open(&path)
            .and_then(|mut list| list.write_all(format!("-:{name}\n").as_bytes()));
        match written {
            Ok(()) => deleted += 1,
            Err(error) => refused = Some(error),
        }
    }
    refused.map_or(Ok(deleted), Err)
}

/// The name of a line's event if it is one of twtrace's, made by such a process:
/// `p:kprobes/aya_PID_p_FUNCTION_0x0_N FUNCTION`, as the library that attaches calls it.
fn ours<'a>(line: &'a str, of_process: &impl Fn(u32) -> bool) -> Option<&'a str> {
    let (event, function) = line.split_once(' ')?;
    let name = event.split_once(":kprobes/")?.1;
    let (pid, rest) = name.strip_prefix("aya_")?.split_once('_')?;
    let known: BTreeSet<&str> = hooks::functions().collect();
    let function = function.split(['+', ' ']).next()?;
    let is_named_so = rest.get(2..)?.starts_with(function) && known.contains(function);
    (is_named_so && of_process(pid.parse().ok()?)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
p:kprobes/aya_77_p_tcp_time_wait_0x0_0 tcp_time_wait
r16:kprobes/aya_77_r_inet_twsk_alloc_0x0_1 inet_twsk_alloc
p:kprobes/aya_88_p_tcp_time_wait_0x0_0 tcp_time_wait+0
p:kprobes/aya_77_p_vfs_read_0x0_0 vfs_read
p:kprobes/p_tcp_time_wait_0 tcp_time_wait
p:mine/aya_77_p_tcp_time_wait_0x0_0 tcp_time_wait
";

    #[test]
    fn only_events_of_twtrace_and_of_such_a_process_are_deleted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(LIST);
        let deleted = |of_process: &dyn Fn(u32) -> bool| {
            fs::write(&path, TEXT).unwrap();
            let count = delete(directory.path(), of_process).unwrap();
            let text = fs::read_to_string(&path).unwrap();
            let asked: Vec<_> = text[TEXT.len()..].lines().map(str::to_owned).collect();
            assert_eq!(count, asked.len());
            asked
        };
        assert_eq!(
            deleted(&|pid| pid == 77),
            ["-:aya_77_p_tcp_time_wait_0x0_0", "-:aya_77_r_inet_twsk_alloc_0x0_1"]
        );
        assert_eq!(deleted(&|pid| pid == 88), ["-:aya_88_p_tcp_time_wait_0x0_0"]);
        assert!(deleted(&|_| false).is_empty());
    }

    #[test]
    fn a_list_that_cannot_be_read_is_told() {
        let directory = tempfile::tempdir().unwrap();
        assert!(delete(directory.path(), |_| true).is_err());
    }
}
