//! What of the host decides how the kernel programs attach.

use std::{
    fs,
    io::{self, BufRead, BufReader, Read},
    path::Path,
};

use flate2::read::GzDecoder;

use crate::text::visible_lines;

/// Files that are told as they are, where they are there and may be read; one line of each, but of
/// those that have names in them the lines that begin so.
const FILES: [(&str, &[&str]); 16] = [
    ("/etc/os-release", &["PRETTY_NAME=", "ID=", "VERSION_ID="]),
    ("/proc/version", &[]),
    ("/proc/sys/kernel/bpf_stats_enabled", &[]),
    ("/proc/sys/kernel/unprivileged_bpf_disabled", &[]),
    ("/proc/sys/kernel/perf_event_paranoid", &[]),
    ("/proc/sys/kernel/kptr_restrict", &[]),
    ("/proc/sys/kernel/cap_last_cap", &[]),
    ("/proc/sys/net/core/bpf_jit_enable", &[]),
    ("/proc/sys/net/core/bpf_jit_harden", &[]),
    ("/sys/kernel/security/lockdown", &[]),
    ("/sys/kernel/security/lsm", &[]),
    ("/sys/bus/event_source/devices/kprobe/type", &[]),
    ("/sys/devices/system/cpu/online", &[]),
    ("/proc/meminfo", &["MemTotal:", "MemAvailable:"]),
    (
        "/proc/self/status",
        &["Uid:", "CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:", "NoNewPrivs:", "Seccomp:"],
    ),
    ("/proc/self/limits", &["Max locked memory", "Max open files"]),
];

/// Files of which it matters whether they are there, and how large they are.
const PRESENT: [&str; 4] = [
    "/sys/kernel/btf/vmlinux",
    "/sys/kernel/tracing/events",
    "/sys/kernel/debug/tracing/events",
    "/sys/fs/cgroup/cgroup.controllers",
];

/// What the kernel was built with, as far as it decides.
const CONFIG: [&str; 16] = [
    "CONFIG_BPF_SYSCALL=",
    "CONFIG_BPF_JIT",
    "CONFIG_BPF_LSM=",
    "CONFIG_BPF_EVENTS=",
    "CONFIG_DEBUG_INFO_BTF",
    "CONFIG_KPROBES",
    "CONFIG_KPROBE_EVENTS=",
    "CONFIG_FPROBE=",
    "CONFIG_DYNAMIC_FTRACE",
    "CONFIG_FUNCTION_TRACER=",
    "CONFIG_FUNCTION_ERROR_INJECTION=",
    "CONFIG_SECURITY_LOCKDOWN_LSM",
    "CONFIG_PREEMPT",
    "CONFIG_HZ=",
    "CONFIG_NET_NS=",
    "CONFIG_INET_DIAG=",
];

/// Most bytes of one file.
const MOST: u64 = 1 << 20;

/// All of it.
pub fn told() -> String {
    let uname = rustix::system::uname();
    let mut text = format!(
        "kernel {} {} {}\npage size {}\n",
        uname.release().to_string_lossy(),
        uname.machine().to_string_lossy(),
        uname.version().to_string_lossy(),
        rustix::param::page_size(),
    );
    for (path, beginnings) in FILES {
        told_of(path, fs::File::open(path), beginnings, &mut text);
    }
    for path in PRESENT {
        let said = match fs::metadata(path) {
            Ok(there) if there.is_file() => format!("there, {} bytes", there.len()),
            Ok(_) => "there".to_owned(),
            Err(error) => error.to_string(),
        };
        text.push_str(&format!("{path}: {said}\n"));
    }
    text.push_str(&format!("/proc/kallsyms: {}\n", symbols(Path::new("/proc/kallsyms"))));
    let packed = Path::new("/proc/config.gz");
    if let Ok(file) = fs::File::open(packed) {
        told_of("/proc/config.gz", Ok(GzDecoder::new(file)), &CONFIG, &mut text);
    } else {
        let path = format!("/boot/config-{}", uname.release().to_string_lossy());
        told_of(&path, fs::File::open(&path), &CONFIG, &mut text);
    }
    text
}

/// Adds the lines of a file that begin as wanted, the first one if nothing is said, or why not.
fn told_of(path: &str, file: io::Result<impl Read>, beginnings: &[&str], text: &mut String) {
    let read = file.and_then(|file| {
        let mut bytes = Vec::new();
        file.take(MOST).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    });
    let said = match read {
        Err(error) => error.to_string(),
        Ok(read) if beginnings.is_empty() => read.lines().next().unwrap_or_default().to_owned(),
        Ok(read) => {
            let wanted = |line: &&str| beginnings.iter().any(|begin| line.starts_with(begin));
            read.lines().filter(wanted).map(|line| format!("\n  {line}")).collect()
        }
    };
    text.push_str(&format!("{path}: {}\n", visible_lines(&said.replace('\t', " "))));
}

/// Whether addresses of the kernel's symbols can be read, without telling any.
fn symbols(path: &Path) -> String {
    let first = fs::File::open(path).and_then(|file| {
        let mut line = String::new();
        BufReader::new(file.take(MOST)).read_line(&mut line)?;
        Ok(line)
    });
    match first {
        Err(error) => error.to_string(),
        Ok(line) if line.is_empty() => "empty".to_owned(),
        Ok(line) => {
            let address = line.split(' ').next().unwrap_or_default();
            let hidden = address.bytes().all(|digit| digit == b'0');
            // The first symbol of some kernels is at address 0 for everybody.
            if hidden {
                "the first address is 0: hidden, or of a per-CPU symbol"
            } else {
                "addresses are shown"
            }
            .to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_matters_is_told_and_no_other_and_what_is_not_there_says_why() {
        let mut text = String::new();
        let file = "Name:\tsecret\nCapEff:\t00ff\u{7}\nGroups:\t7\n";
        told_of("/a", Ok(file.as_bytes()), &["CapEff:"], &mut text);
        told_of("/b", Ok("first\nsecond\n".as_bytes()), &[], &mut text);
        let absent = Err::<&[u8], _>(io::Error::from(io::ErrorKind::NotFound));
        told_of("/c", absent, &[], &mut text);
        assert!(text.contains("/a: \n  CapEff:"), "{text}");
        assert!(!text.contains("secret") && !text.contains('\u{7}'), "{text}");
        assert!(text.contains("/b: first\n") && !text.contains("second"), "{text}");
        assert!(text.contains("/c: entity not found"), "{text}");
    }

    #[test]
    fn hidden_symbols_are_told_from_shown_ones() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kallsyms");
        fs::write(&path, "0000000000000000 T _stext\n").unwrap();
        assert!(symbols(&path).contains("hidden"));
        fs::write(&path, "ffffffff81000000 T _stext\n").unwrap();
        assert_eq!(symbols(&path), "addresses are shown");
        assert!(symbols(&directory.path().join("none")).contains("No such file"));
    }
}
