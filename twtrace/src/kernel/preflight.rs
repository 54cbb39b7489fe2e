//! What can be known to be missing before anything is tried, so that the message names it.

use std::{fs, path::Path};

use super::KernelError;

/// Where securityfs shows the lockdown mode.
const LOCKDOWN: &str = "/sys/kernel/security/lockdown";
/// Number of the last capability that the kernel knows.
const LAST_CAPABILITY: &str = "/proc/sys/kernel/cap_last_cap";
/// CAP_SYS_ADMIN, include/uapi/linux/capability.h.
const CAP_SYS_ADMIN: u32 = 21;
/// CAP_PERFMON.
const CAP_PERFMON: u32 = 38;
/// CAP_BPF.
const CAP_BPF: u32 = 39;

/// Checks privileges and lockdown.
///
/// # Errors
/// [`KernelError::Privilege`], [`KernelError::Lockdown`]. What cannot be found out is no error:
/// loading will tell.
pub fn check() -> Result<(), KernelError> {
    if let Ok(status) = fs::read_to_string("/proc/self/status") {
        let last = fs::read_to_string(LAST_CAPABILITY).ok();
        let last = last.and_then(|text| text.trim().parse().ok()).unwrap_or(u32::MAX);
        let missing = missing_capabilities(&status, last);
        if !missing.is_empty() {
            return Err(KernelError::Privilege { missing: missing.join(" and ") });
        }
    }
    lockdown(Path::new(LOCKDOWN))
}

/// The capabilities among those needed that a `/proc/PID/status` text does not show as effective, on a
/// kernel whose `last` one has this number: before 5.8 there is no CAP_BPF to be given.
fn missing_capabilities(status: &str, last: u32) -> Vec<&'static str> {
    let Some(effective) = effective(status) else { return Vec::new() };
    let has = |capability: u32| effective & (1 << capability) != 0;
    if has(CAP_SYS_ADMIN) {
        return Vec::new();
    }
    if last < CAP_BPF {
        return vec!["CAP_SYS_ADMIN"];
    }
    [(CAP_BPF, "CAP_BPF"), (CAP_PERFMON, "CAP_PERFMON")]
        .into_iter()
        .filter_map(|(capability, name)| (!has(capability)).then_some(name))
        .collect()
}

/// The effective capabilities in a `/proc/PID/status` text.
fn effective(status: &str) -> Option<u64> {
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

/// Refuses a kernel in confidentiality mode. A file that is missing or unreadable (securityfs is
/// often not mounted) says nothing.
fn lockdown(path: &Path) -> Result<(), KernelError> {
    match fs::read_to_string(path) {
        Ok(modes) if modes.contains("[confidentiality]") => {
            Err(KernelError::Lockdown { path: path.to_owned() })
        }
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Whether this kernel offers kprobes to perf, through which programs are attached to them.
pub fn has_kprobes() -> bool {
    Path::new("/sys/bus/event_source/devices/kprobe/type").exists()
}

/// What to do about an error of a kprobe's that says nothing of it: before Linux 4.17 kprobes are made
/// in tracefs.
pub fn tracefs_hint(error: &str) -> &'static str {
    if error.contains("tracefs not found") {
        "; mount it: mount -t tracefs tracefs /sys/kernel/tracing, or debugfs at /sys/kernel/debug"
    } else {
        ""
    }
}

/// What an error of perf's most probably comes from, if the user can do something about it: Debian's
/// and Ubuntu's kernels know a level of `perf_event_paranoid` above mainline's highest, 2.
pub fn perf_hint() -> &'static str {
    let level = fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").unwrap_or_default();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let forbidden = level.trim().parse::<i32>().is_ok_and(|level| level > 2);
    if forbidden && effective(&status).is_some_and(|mask| mask & (1 << CAP_SYS_ADMIN) == 0) {
        "; with kernel.perf_event_paranoid above 2 this kernel wants CAP_SYS_ADMIN for kprobes and \
         perf buffers"
    } else {
        ""
    }
}

/// Lets BPF maps use memory on kernels before 5.11, which charge it to RLIMIT_MEMLOCK. Failure
/// is no error: newer kernels do not ask, and on older ones the map's own error tells.
pub fn raise_memlock_limit() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let unlimited = Rlimit { current: None, maximum: None };
    if let Err(error) = setrlimit(Resource::Memlock, unlimited) {
        tracing::debug!(%error, "cannot raise RLIMIT_MEMLOCK; fine on Linux 5.11 and later");
    }
}

/// RLIMIT_MEMLOCK in words, if there is one.
pub fn memlock_limit() -> Option<String> {
    use rustix::process::{Resource, getrlimit};
    getrlimit(Resource::Memlock).current.map(|bytes| format!("{} KiB", bytes / 1024))
}

/// Gives memory that is free back to the system: reading the kernel's types at the start takes
/// tens of megabytes that are not needed again. Does nothing where the C library has no such call.
pub fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim() has no preconditions; it looks at free memory only.
    unsafe {
        libc::malloc_trim(0)
    };
}

/// `uname -r`.
pub fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_missing_capabilities_are_named() {
        let status = |mask: u64| format!("Name:\tx\nCapEff:\t{mask:016x}\n");
        let with = |mask: u64| missing_capabilities(&status(mask), 40);
        assert_eq!(with(0), ["CAP_BPF", "CAP_PERFMON"]);
        assert_eq!(with(1 << CAP_BPF), ["CAP_PERFMON"]);
        assert!(with(1 << CAP_BPF | 1 << CAP_PERFMON).is_empty());
        assert!(with(1 << CAP_SYS_ADMIN).is_empty());
        assert_eq!(missing_capabilities(&status(0), 37), ["CAP_SYS_ADMIN"], "Linux 4.4");
        assert!(missing_capabilities("Name:\tx\n", 40).is_empty(), "unknown is not missing");
    }

    #[test]
    fn only_confidentiality_stops_us_and_an_unreadable_file_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lockdown");
        assert!(lockdown(&path).is_ok(), "securityfs is not mounted");
        assert!(lockdown(directory.path()).is_ok(), "unreadable");
        fs::write(&path, "none [integrity] confidentiality\n").unwrap();
        assert!(lockdown(&path).is_ok());
        fs::write(&path, "none integrity [confidentiality]\n").unwrap();
        let message = lockdown(&path).unwrap_err().to_string();
        assert!(message.contains("confidentiality"), "{message}");
    }
}
