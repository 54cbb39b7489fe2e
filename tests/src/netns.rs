//! Network namespaces of a scenario: made, entered, configured and deleted.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use anyhow::{Context, Result, anyhow, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::counters::Counters;
use crate::evidence;
use crate::sockopt;

/// Bytes of the list of sockets that a failure shows: some twenty lines.
const FIRST_SOCKETS: u64 = 3000;

static MADE: AtomicU32 = AtomicU32::new(0);

/// A named network namespace, deleted when dropped.
#[derive(Debug)]
pub struct Netns {
    name: String,
    inum: u64,
}

impl Netns {
    /// Makes a namespace whose name is unique to this process, with loopback up and
    /// TIME_WAIT sockets safe from a stray RST.
    pub fn new(role: &str) -> Result<Self> {
        let serial = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("twt{}-{serial}-{role}", std::process::id());
        run("ip", &["netns", "add", &name])?;
        let inum =
            fs::metadata(path_of(&name)).with_context(|| format!("no file of {name}"))?.ino();
        let netns = Self { name, inum };
        netns.ip("link set lo up")?;
        // With two processors the ACK of a FIN and the FIN behind it may change places. The late
        // ACK is answered from TIME_WAIT, the answer meets a closed socket, and its RST kills the
        // TIME_WAIT socket: a few in a thousand, unless RFC 1337 is heeded.
        netns.set("ipv4/tcp_rfc1337", "1")?;
        Ok(netns)
    }

    /// The name under which `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The inode number, which is what `lsns` and twtrace print.
    pub fn inum(&self) -> u64 {
        self.inum
    }

    /// Its cookie, where the kernel tells it (Linux 5.14 on).
    pub fn cookie(&self) -> Result<Option<u64>> {
        self.run(|| {
            let socket = UnixDatagram::unbound()?;
            Ok(sockopt::netns_cookie(&socket))
        })
    }

    /// The file that names it.
    pub fn path(&self) -> PathBuf {
        path_of(&self.name)
    }

    /// Runs `work` on a thread that is in this namespace. Sockets made there stay in it.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let file = File::open(self.path()).with_context(|| format!("namespace {}", self.name))?;
        thread::scope(|scope| {
            let inside = scope.spawn(move || {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                    .context("setns")?;
                work()
            });
            inside.join().map_err(|_| anyhow!("the thread in {} panicked", self.name))?
        })
    }

    /// Starts a thread that stays in this namespace; used for servers.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<thread::JoinHandle<T>> {
        let file = File::open(self.path()).with_context(|| format!("namespace {}", self.name))?;
        let (entered, told) = std::sync::mpsc::channel();
        let handle = thread::spawn(move || {
            let moved = move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network));
            // The receiver waits for exactly this message and cannot be gone.
            let _ = entered.send(moved);
            work()
        });
        told.recv().context("the thread ended before it entered")?.context("setns")?;
        Ok(handle)
    }

    /// Runs one `ip` command in this namespace, its words separated by spaces.
    pub fn ip(&self, words: &str) -> Result<()> {
        let mut args = vec!["-n", &self.name];
        args.extend(words.split_whitespace());
        run("ip", &args).map(drop)
    }

    /// Runs a program in this namespace and gives its standard output.
    pub fn exec(&self, words: &[&str]) -> Result<String> {
        let mut args = vec!["netns", "exec", &self.name];
        args.extend(words);
        let output = run("ip", &args)?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Sets a sysctl, given as its path below `/proc/sys/net`.
    pub fn set(&self, key: &str, value: &str) -> Result<()> {
        // procfs shows the sysctls of the thread that opens the file.
        self.run(|| {
            fs::write(format!("/proc/sys/net/{key}"), value)
                .with_context(|| format!("setting {key} to {value} in {}", self.name))
        })
    }

    /// Reads a sysctl, given as its path below `/proc/sys/net`.
    pub fn get(&self, key: &str) -> Result<String> {
        self.run(|| {
            let text = fs::read_to_string(format!("/proc/sys/net/{key}"))
                .with_context(|| format!("reading {key} in {}", self.name))?;
            Ok(text.trim().to_owned())
        })
    }

    /// Deletes the namespace now; its sockets go as soon as nothing else holds it.
    pub fn delete(self) -> Result<()> {
        run("ip", &["netns", "del", &self.name]).map(drop)
    }
}

impl Netns {
    /// What there is room for of the list of its IPv4 sockets; of a large one the kernel makes no more
    /// than is read.
    fn first_sockets(&self) -> Result<String> {
        self.run(|| {
            let mut text = Vec::new();
            File::open("/proc/thread-self/net/tcp")?.take(FIRST_SOCKETS).read_to_end(&mut text)?;
            Ok(String::from_utf8_lossy(&text).into_owned())
        })
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if self.path().exists() {
            if let Ok(counters) = Counters::read(self) {
                let what = format!("the kernel's counters of {} at the end", self.name);
                evidence::keep(what, format!("{counters:?}"));
            }
            if let Ok(sockets) = self.first_sockets() {
                evidence::keep(
                    format!("its sockets, as /proc/net/tcp has them: {}", self.name),
                    sockets,
                );
            }
            // A namespace that cannot be deleted harms no later test: names are not reused.
            let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
        }
    }
}

fn path_of(name: &str) -> PathBuf {
    PathBuf::from("/run/netns").join(name)
}

/// Runs a program to its end; a failure carries what it printed.
pub fn run(program: &str, args: &[&str]) -> Result<Output> {
    let output = Command::new(program)
        .args(args)
        .output()
        .with_context(|| format!("{program} could not be started"))?;
    if !output.status.success() {
        bail!(
            "{program} {}: {}\n{}",
            args.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
    }
    Ok(output)
}
