//! What a processor architecture is called by whom: the one place that names any.

use std::{env, fmt, path::PathBuf};

/// An architecture that twtrace is released for and tested on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Architecture {
    /// 64-bit x86.
    #[value(name = "x86_64")]
    X86_64,
    /// 64-bit Arm.
    #[value(name = "aarch64")]
    Aarch64,
}

impl Architecture {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::X86_64, Self::Aarch64];

    /// That of this machine.
    ///
    /// # Panics
    /// On any other, for which nothing here was ever tried.
    pub fn here() -> Self {
        match env::consts::ARCH {
            "x86_64" => Self::X86_64,
            "aarch64" => Self::Aarch64,
            other => panic!("nobody has tried this on {other}: see xtask/src/architecture.rs"),
        }
    }

    /// What the kernel, Rust and RPM call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// What Debian, Go and OCI call it.
    pub const fn debian(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    /// Rust's name of the target that programs are built for.
    pub fn target(self) -> String {
        format!("{}-unknown-linux-gnu", self.name())
    }

    /// The prefix of GNU's tools for it.
    pub fn gnu(self, tool: &str) -> String {
        if self == Self::here() {
            tool.to_owned()
        } else {
            format!("{}-linux-gnu-{tool}", self.name())
        }
    }

    /// Where Debian keeps its libraries.
    pub fn libraries(self) -> PathBuf {
        format!("/usr/lib/{}-linux-gnu", self.name()).into()
    }

    /// Debian's package of [`Self::machine`].
    pub const fn machine_package(self) -> &'static str {
        match self {
            Self::X86_64 => "qemu-system-x86",
            Self::Aarch64 => "qemu-system-arm",
        }
    }

    /// What emulates a machine of it.
    pub const fn machine(self) -> &'static str {
        match self {
            Self::X86_64 => "qemu-system-x86_64",
            Self::Aarch64 => "qemu-system-aarch64",
        }
    }

    /// Options for the board of such a machine.
    pub const fn board(self) -> &'static [&'static str] {
        match self {
            Self::X86_64 => &[],
            Self::Aarch64 => &["-M", "virt"],
        }
    }

    /// Runs its programs on this machine, if they are of another one.
    pub fn emulator(self) -> Option<String> {
        (self != Self::here()).then(|| format!("qemu-{}-static", self.name()))
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
