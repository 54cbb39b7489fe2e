//! Tools for a machine of another architecture: a Debian of it, of which nothing is run here.

use std::{
    fs,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context as _, Result};

use super::tree::Tree;
use crate::{architecture::Architecture, build, process};

/// The release that it is.
const SUITE: &str = "bookworm";

/// What scenarios call.
const PACKAGES: &str = "bash,iproute2,iptables,nftables,procps,util-linux";

/// Has `/bin` and the like be links into `/usr`, as in the machines of this architecture.
const MERGED: &str = "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr";

/// What of it no scenario needs.
const LEFT_OUT: [&str; 9] =
    ["usr/share", "usr/games", "usr/include", "var", "etc", "dev", "proc", "run", "sys"];

/// Held by whoever looks whether they are there: machines are made side by side.
static FETCHING: Mutex<()> = Mutex::new(());

/// Adds them, fetched once.
pub fn add(tree: &mut Tree, architecture: Architecture) -> Result<()> {
    let place = build::target_dir().join(format!("vm/tools-{}", architecture.debian()));
    let fetching = FETCHING.lock().unwrap_or_else(PoisonError::into_inner);
    if !place.exists() {
        let fresh = place.with_extension("new");
        if fresh.exists() {
            fs::remove_dir_all(&fresh)?;
        }
        let mut command = process::as_root("mmdebstrap")?;
        // Unpacked and not configured, for which its own programs would be run.
        command.args(["--variant=extract", "--quiet", "--include", PACKAGES, MERGED]);
        command.arg("--architectures");
        process::run(command.arg(architecture.debian()).arg(SUITE).arg(&fresh))?;
        fs::rename(&fresh, &place)?;
    }
    drop(fetching);
    let libraries = architecture.libraries();
    let libraries = libraries.strip_prefix("/")?;
    let unused = ["perl-base", "gconv"].map(|name| libraries.join(name).display().to_string());
    let left_out: Vec<_> = LEFT_OUT.into_iter().chain(unused.iter().map(String::as_str)).collect();
    tree.copy(&place, &left_out)?;
    // Without alternatives, which are made by what is not run.
    for (name, target) in
        [("iptables", "xtables-legacy-multi"), ("ip6tables", "xtables-legacy-multi")]
    {
        tree.link(&format!("usr/sbin/{name}"), target);
    }
    tree.contains("usr/bin/bash").then_some(()).context("no shell among the tools")
}
