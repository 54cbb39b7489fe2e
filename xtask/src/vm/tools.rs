//! Programs of this machine that go into a virtual machine, with the libraries they need.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::tree::Tree;
use crate::{architecture::Architecture, process};

/// What scenarios call. Not every machine has all; a scenario that misses one says so.
const TOOLS: [&str; 19] = [
    "sh",
    "bash",
    "kill",
    "unshare",
    "nsenter",
    "systemctl",
    "journalctl",
    "systemd-sysusers",
    "ip",
    "ss",
    "tc",
    "nft",
    "sysctl",
    "iptables",
    "ip6tables",
    "iptables-legacy",
    "ip6tables-legacy",
    "iptables-nft",
    "ip6tables-nft",
];

/// Extensions of iptables that scenarios use, less their prefix and ending.
const EXTENSIONS: [&str; 6] =
    ["xt_TCPOPTSTRIP", "xt_standard", "xt_tcp", "xt_comment", "xt_conntrack", "ip6t_REJECT"];

/// Where systemd keeps what nobody calls by name.
const SYSTEMD: &str = "/usr/lib/systemd";

/// Its programs that run a unit and keep what it says; the second is of systemd 254 and later.
const SYSTEMD_PROGRAMS: [&str; 3] = ["systemd", "systemd-executor", "systemd-journald"];

/// Its units that others rest on, those alone: nothing else of this machine is to be started.
const SYSTEMD_UNITS: [&str; 15] = [
    "sysinit.target",
    "basic.target",
    "multi-user.target",
    "network.target",
    "local-fs.target",
    "swap.target",
    "sockets.target",
    "timers.target",
    "paths.target",
    "slices.target",
    "shutdown.target",
    "umount.target",
    "systemd-journald.service",
    "systemd-journald.socket",
    "systemd-journald-dev-log.socket",
];

/// Adds the tools that this machine has.
pub fn add(tree: &mut Tree) -> Result<()> {
    for (link, target) in
        [("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")]
    {
        tree.dir(target);
        tree.link(link, target);
    }
    let mut libraries = BTreeSet::new();
    for path in TOOLS.iter().filter_map(|name| process::find(name)) {
        add_program(tree, &path, &mut libraries)?;
    }
    // Where Debian keeps iptables' extensions.
    let extensions = Architecture::here().libraries().join("xtables");
    for name in EXTENSIONS {
        let path = extensions.join(format!("lib{name}.so"));
        if path.exists() {
            add_program(tree, &path, &mut libraries)?;
        }
    }
    add_systemd(tree, &mut libraries)?;
    for library in libraries {
        let data = read(&library)?;
        tree.program(&merged(&library), data);
    }
    // Not as the shell: Debian's takes its own `ip` for the one on PATH.
    if let Some(busybox) = process::find("busybox") {
        tree.program("usr/bin/busybox", read(&busybox)?);
        tree.dir("usr/local/bin");
    }
    Ok(())
}

/// Adds systemd, which scenarios start in namespaces of their own.
fn add_systemd(tree: &mut Tree, libraries: &mut BTreeSet<PathBuf>) -> Result<()> {
    let programs = SYSTEMD_PROGRAMS.map(|name| Path::new(SYSTEMD).join(name));
    for path in programs.iter().filter(|path| path.exists()) {
        add_program(tree, path, libraries)?;
    }
    let units = SYSTEMD_UNITS.map(|name| Path::new(SYSTEMD).join("system").join(name));
    for path in units.iter().filter(|path| path.exists()) {
        tree.file(&merged(path), read(path)?);
    }
    Ok(())
}

/// Adds a program at its own path, with the links that lead to it: which of its trades a
/// program of many names plies depends on the name.
fn add_program(tree: &mut Tree, path: &Path, libraries: &mut BTreeSet<PathBuf>) -> Result<()> {
    let mut path = path.to_owned();
    while let Ok(target) = fs::read_link(&path) {
        let parent = path.parent().unwrap_or(Path::new("/"));
        let next = parent.join(&target);
        tree.link(&merged(&path), &merged(&next));
        path = next;
    }
    let place = merged(&path);
    if !tree.contains(&place) {
        tree.program(&place, read(&path)?);
        libraries.extend(needed_libraries(&path)?);
    }
    Ok(())
}

/// A path with `/bin` and the like replaced by the directories they link to.
fn merged(path: &Path) -> String {
    let path = path.to_string_lossy();
    let old = ["/bin/", "/sbin/", "/lib/", "/lib64/"].iter().any(|top| path.starts_with(top));
    if old { format!("/usr{path}") } else { path.into_owned() }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn needed_libraries(path: &Path) -> Result<Vec<PathBuf>> {
    let done = Command::new("ldd").arg(path).output().context("cannot run ldd")?;
    // It fails for static programs, which need none.
    Ok(parse_ldd(&String::from_utf8_lossy(&done.stdout)))
}

/// Paths in lines such as `libc.so.6 => /lib/libc.so.6 (0x…)` and `/lib64/ld.so (0x…)`.
fn parse_ldd(text: &str) -> Vec<PathBuf> {
    text.lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(PathBuf::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_the_loader_are_found_but_not_what_the_kernel_provides() {
        let text = "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x2)\n\
                    \t/lib64/ld-linux.so.2 (0x3)\n\tlibgone.so => not found\n";
        assert_eq!(
            parse_ldd(text),
            [PathBuf::from("/lib/x/libc.so.6"), "/lib64/ld-linux.so.2".into()]
        );
    }

    #[test]
    fn old_top_directories_are_moved_below_usr() {
        assert_eq!(merged(Path::new("/lib64/ld.so")), "/usr/lib64/ld.so");
        assert_eq!(merged(Path::new("/usr/sbin/ip")), "/usr/sbin/ip");
    }
}
