//! KVM where it really runs a kernel, emulation where not.

use std::{
    fs::{self, File, OpenOptions},
    io::Read as _,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::{cache::Cache, kernel::Kernel};
use crate::{architecture::Architecture, process::say, progress::Ongoing};

/// How long a kernel may take under KVM to say its first word; a real one needs 0.1 s.
const PATIENCE: Duration = Duration::from_secs(5);

/// How a virtual machine's instructions are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Accel {
    /// By the processor.
    Kvm,
    /// By emulation.
    Tcg,
}

impl Accel {
    /// qemu's options for it.
    pub const fn options(self, architecture: Architecture) -> &'static [&'static str] {
        match (self, architecture) {
            (Self::Kvm, _) => &["-accel", "kvm", "-cpu", "host"],
            // One thread for all processors: with several, a processor may run into the breakpoint
            // that another is just replacing in a traced function, and the kernel panics. Strings
            // are moved byte by byte where the processor says that it is good at that. An interrupt
            // between cmpxchg16b and whatever sets the flags next finds an address in them (qemu
            // 7.2), and where that has the bit of a nested task the kernel dies of a double fault.
            (Self::Tcg, Architecture::X86_64) => {
                &["-accel", "tcg,thread=single", "-cpu", "max,-erms,-cx16"]
            }
            // Pointers are signed in a way that is quicker to emulate.
            (Self::Tcg, Architecture::Aarch64) => {
                &["-accel", "tcg,thread=single", "-cpu", "max,pauth-impdef=on"]
            }
        }
    }

    /// qemu's options for a clock that is the machine's own: a nanosecond for each instruction, and
    /// where it only waits it goes on at once to the moment it waits for. However slow the host,
    /// nothing there is late. Not for somebody who sits before it.
    pub const fn own_clock(self) -> &'static [&'static str] {
        match self {
            Self::Kvm => &[],
            Self::Tcg => &["-icount", "shift=0,sleep=off", "-rtc", "clock=vm"],
        }
    }

    /// How much longer than by the machine's clock work takes here at most. Emulated, 140 s of a soak
    /// took 640 s on two processors that others used as well.
    pub const fn slowness(self) -> u32 {
        match self {
            Self::Kvm => 1,
            Self::Tcg => 20,
        }
    }

    /// Whether it has such a clock.
    pub const fn has_own_clock(self) -> bool {
        !self.own_clock().is_empty()
    }

    /// Processors of a machine with that kernel, unless told otherwise; with one, nothing per
    /// processor is put to the test. Kernels that start them one after the other, those before 6.5,
    /// never see the second one come under a clock of instructions.
    pub fn processors(self, kernel: &str) -> u8 {
        if self.has_own_clock() && ["5.10", "6.1", "6.1-arm64"].contains(&kernel) { 1 } else { 2 }
    }
}

/// Finds out what works here; asks once for each boot of this machine.
pub fn choose(cache: &Cache, kernel: &Kernel) -> Result<Accel> {
    if kernel.architecture != Architecture::here() {
        return Ok(Accel::Tcg);
    }
    if OpenOptions::new().read(true).write(true).open("/dev/kvm").is_err() {
        return Ok(Accel::Tcg);
    }
    let _lock = cache.lock()?;
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let verdict = cache.dir().join("kvm");
    let remembered = fs::read_to_string(&verdict).unwrap_or_default();
    if let Some(answer) = remembered.strip_prefix(boot.trim()) {
        return Ok(if answer.trim() == "works" { Accel::Kvm } else { Accel::Tcg });
    }
    let works = boots_under_kvm(&kernel.image)?;
    fs::write(&verdict, format!("{} {}\n", boot.trim(), if works { "works" } else { "hangs" }))?;
    if !works {
        say!(
            "/dev/kvm is there, but no kernel says a word under it within {} s: emulating",
            PATIENCE.as_secs()
        );
    }
    Ok(if works { Accel::Kvm } else { Accel::Tcg })
}

/// Boots a kernel with nothing to run; its banner is enough.
fn boots_under_kvm(image: &Path) -> Result<bool> {
    let _ongoing = Ongoing::begin("trying whether KVM works here");
    let log = tempfile::NamedTempFile::new()?;
    let mut child = Command::new(Architecture::here().machine())
        .args(Accel::Kvm.options(Architecture::here()))
        .args(["-m", "256", "-no-reboot", "-nodefaults", "-display", "none", "-kernel"])
        .arg(image)
        .args(["-append", "earlyprintk=ttyS0 console=ttyS0 panic=-1", "-serial"])
        .arg(format!("file:{}", log.path().display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let started = Instant::now();
    let mut spoke = false;
    while !spoke && started.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(50));
        let ended = child.try_wait()?.is_some();
        spoke = has_banner(log.path());
        if ended {
            break;
        }
    }
    // Fails only if it has ended already.
    let _ = child.kill();
    child.wait()?;
    Ok(spoke)
}

fn has_banner(log: &Path) -> bool {
    let mut bytes = Vec::new();
    let read = File::open(log).and_then(|mut file| file.read_to_end(&mut bytes));
    read.is_ok() && String::from_utf8_lossy(&bytes).contains("Linux version ")
}
