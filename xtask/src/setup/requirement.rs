//! What is needed for what: the list behind `setup`.

use std::{
    fmt,
    path::{Path, PathBuf},
    process::Command,
};

use super::{NIGHTLY, Purpose, charts, compiler, python};
use crate::{architecture::Architecture, process, toolchain::Facts};

/// One thing the machine should have.
#[derive(Debug, PartialEq, Eq)]
pub struct Requirement {
    /// What it is.
    pub name: String,
    /// What it is for.
    pub why: &'static str,
    /// Whether it is there.
    pub present: bool,
    /// How to get it.
    pub remedy: Remedy,
}

/// How a missing thing is got.
#[derive(Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Install these distribution packages.
    Packages(Vec<String>),
    /// Make the distribution's compiler known to rustup.
    LinkToolchain,
    /// Make a virtual environment with DuckDB, ClickHouse, nfpm and Playwright in it.
    Python,
    /// Take Helm and the schemas of Kubernetes out of packages for Python.
    Charts,
    /// Build one of cargo's own commands, by this name.
    CargoCommand(&'static str),
    /// Build bpf-linker against this major version of LLVM.
    BuildLinker(u32),
    /// Nothing xtask can do; the user is told this.
    ByHand(&'static str),
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.present { "ok" } else { "MISSING" };
        write!(f, "{word:<8} {:<44} {}", self.name, self.why)
    }
}

/// Questions to the machine, apart so that the list can be tested without one.
pub trait Look {
    /// Whether a program is there.
    fn has_program(&self, name: &str) -> bool;
    /// Whether the distribution offers a package.
    fn has_package(&self, name: &str) -> bool;
    /// Whether a file is there.
    fn has_file(&self, path: &Path) -> bool;
    /// The directory of the rustup toolchain in use.
    fn sysroot(&self) -> Option<PathBuf>;
    /// Whether rustup has a toolchain of a name.
    fn has_toolchain(&self, name: &str) -> bool;
    /// Whether the distribution's Python has a module.
    fn has_python_module(&self, name: &str) -> bool;
    /// Where the C compiler finds one of its libraries.
    fn library(&self, name: &str) -> Option<PathBuf>;
}

/// The machine xtask runs on.
pub struct Machine;

impl Look for Machine {
    fn has_program(&self, name: &str) -> bool {
        process::find(name).is_some()
    }

    fn has_package(&self, name: &str) -> bool {
        let ask = ["show", "--no-all-versions", name];
        process::output(Command::new("apt-cache").args(ask)).is_ok_and(|it| !it.is_empty())
    }

    fn has_file(&self, path: &Path) -> bool {
        path.exists()
    }

    fn sysroot(&self) -> Option<PathBuf> {
        let path = process::output(Command::new("rustc").args(["--print", "sysroot"])).ok()?;
        Some(path.trim().into())
    }

    fn has_toolchain(&self, name: &str) -> bool {
        process::output(Command::new("rustup").args(["run", name, "rustc", "--version"])).is_ok()
    }

    fn has_python_module(&self, name: &str) -> bool {
        let ask = format!("import {name}");
        process::output(Command::new("python3").args(["-c", &ask])).is_ok()
    }

    fn library(&self, name: &str) -> Option<PathBuf> {
        let ask = format!("-print-file-name={name}");
        let path = PathBuf::from(process::output(Command::new("cc").arg(ask)).ok()?.trim());
        path.is_absolute().then_some(path)
    }
}

/// Everything that purpose needs, in the order to install it.
pub fn requirements(purpose: Purpose, facts: &Facts, look: &dyn Look) -> Vec<Requirement> {
    let mut all = vec![Requirement {
        name: "rustup".into(),
        why: "runs the compilers, each under its name",
        present: facts.rustup,
        remedy: Remedy::ByHand("install rustup as its site says"),
    }];
    all.extend(compiler::needs(facts, look));
    all.push(packaged("C compiler", "links every program", look.has_program("cc"), &["gcc"]));
    all.push(packaged(
        "C library to link with",
        "links every program",
        look.library("libc.so").is_some(),
        &["libc6-dev"],
    ));
    if purpose >= Purpose::Dist {
        all.extend(for_releases(look));
        if purpose == Purpose::TryDist {
            all.extend(for_trying_releases(look));
        }
        return all;
    }
    if purpose >= Purpose::Lab {
        all.extend(for_the_lab(look));
    }
    if purpose >= Purpose::Test {
        all.extend(for_tests(look));
    }
    if purpose >= Purpose::Bench {
        all.extend(for_benchmarks(look));
    }
    if purpose >= Purpose::Vm {
        all.extend(for_machines(look));
    }
    if purpose >= Purpose::Fuzz {
        all.extend(for_fuzzing(look));
    }
    all
}

/// A need that distribution packages fill.
pub fn packaged(name: &str, why: &'static str, present: bool, packages: &[&str]) -> Requirement {
    let packages = packages.iter().map(|&package| package.to_owned()).collect();
    Requirement { name: name.into(), why, present, remedy: Remedy::Packages(packages) }
}

fn for_the_lab(look: &dyn Look) -> Vec<Requirement> {
    vec![
        packaged("ip, ss, tc", "set up the scenarios", look.has_program("ss"), &["iproute2"]),
        packaged(
            "iptables",
            "strips options in the scenarios",
            look.has_program("iptables"),
            &["iptables"],
        ),
        packaged(
            "nft",
            "gives connections another address in the scenarios",
            look.has_program("nft"),
            &["nftables"],
        ),
    ]
}

fn for_tests(look: &dyn Look) -> Vec<Requirement> {
    let component = |name: &str, program: &str, remedy| Requirement {
        name: name.into(),
        why: "checks the source",
        present: look.sysroot().is_some_and(|root| look.has_file(&root.join("bin").join(program))),
        remedy: Remedy::ByHand(remedy),
    };
    let mut all = vec![
        packaged("runc", "runs a container of a scenario", look.has_program("runc"), &["runc"]),
        packaged("podman", "runs others of a scenario", look.has_program("podman"), &["podman"]),
        component("rustfmt", "cargo-fmt", "rustup component add rustfmt"),
        component("clippy", "cargo-clippy", "rustup component add clippy"),
        static_library(look),
        packaged(
            "tmux",
            "types on the full screen in the scenarios",
            look.has_program("tmux"),
            &["tmux"],
        ),
        packaged(
            "mandoc, groff",
            "find fault with the man pages",
            look.has_program("mandoc") && look.has_program("groff"),
            &["mandoc", "groff-base"],
        ),
        packaged(
            "zsh, fish",
            "complete command lines in a scenario",
            look.has_program("zsh") && look.has_program("fish"),
            &["zsh", "fish"],
        ),
        packaged(
            "prometheus, promtool",
            "scrapes the daemon's metrics in a scenario",
            look.has_program("promtool"),
            &["prometheus"],
        ),
        packaged(
            "alertmanager, amtool",
            "routes the alerts in a scenario",
            look.has_program("prometheus-alertmanager") && look.has_program("amtool"),
            &["prometheus-alertmanager"],
        ),
        packaged(
            "chromium-headless-shell",
            "looks at reports in a scenario",
            look.has_program("chromium-headless-shell"),
            &["chromium-headless-shell", "fonts-dejavu-core"],
        ),
    ];
    all.extend(python_of_our_own(look));
    all
}

fn for_benchmarks(look: &dyn Look) -> Vec<Requirement> {
    let tool = |program: &str, why, package: &str| {
        packaged(program, why, look.has_program(program), &[package])
    };
    vec![
        tool("valgrind", "counts instructions", "valgrind"),
        tool("bpftrace", "does a like job, to compare with", "bpftrace"),
        tool("tcplife", "does a like job, to compare with", "libbpf-tools"),
        tool("ab", "opens connections that are not ours", "apache2-utils"),
    ]
}

fn for_machines(look: &dyn Look) -> Vec<Requirement> {
    let (here, why) = (Architecture::here(), "runs other kernels");
    let qemu = look.has_program(here.machine());
    vec![
        packaged(here.machine(), why, qemu, &[here.machine_package()]),
        packaged(
            "busybox",
            "prompt inside a virtual machine",
            look.has_program("busybox"),
            &["busybox-static"],
        ),
        packaged(
            "systemd",
            "runs the daemon's unit inside a virtual machine",
            look.has_file(Path::new("/usr/lib/systemd/systemd")),
            &["systemd"],
        ),
        packaged(
            "unshare, nsenter, kill",
            "the same",
            ["unshare", "nsenter", "kill"].iter().all(|name| look.has_program(name)),
            &["util-linux", "procps"],
        ),
        Requirement {
            name: "apt and dpkg-deb".into(),
            why: "fetch and unpack kernels",
            present: look.has_program("apt-get") && look.has_program("dpkg-deb"),
            remedy: Remedy::ByHand("use a Debian machine, or bring kernels: vm --image FILE"),
        },
    ]
}

fn static_library(look: &dyn Look) -> Requirement {
    let present = look.library("libc.a").is_some();
    packaged("static C library", "the programs are static", present, &["libc6-dev"])
}

fn python_of_our_own(look: &dyn Look) -> [Requirement; 2] {
    let why = "runs the query engines below";
    let venv = look.has_python_module("ensurepip");
    [
        packaged("Python with venv", why, venv, &["python3", "python3-venv"]),
        Requirement {
            name: "DuckDB, ClickHouse, nfpm, Playwright".into(),
            why: "run the documented queries, make packages, and drive a browser",
            present: look.has_file(&python::mark()),
            remedy: Remedy::Python,
        },
    ]
}

fn for_releases(look: &dyn Look) -> Vec<Requirement> {
    let mut all = vec![
        static_library(look),
        packaged("objcopy", "takes symbols apart", look.has_program("objcopy"), &["binutils"]),
        packaged("git", "says of which commit it is", look.has_program("git"), &["git"]),
        Requirement {
            name: "cargo-cyclonedx".into(),
            why: "lists what the program is made of",
            present: look.has_program("cargo-cyclonedx"),
            remedy: Remedy::CargoCommand("cargo-cyclonedx"),
        },
    ];
    all.extend(python_of_our_own(look));
    all
}

fn for_trying_releases(look: &dyn Look) -> Vec<Requirement> {
    let tool = |program: &str, why, package: &str| {
        packaged(program, why, look.has_program(program), &[package])
    };
    let mut all = vec![
        tool("mmdebstrap", "installs packages where cargo never was", "mmdebstrap"),
        tool("lintian", "finds fault with the Debian package", "lintian"),
        tool("rpmlint", "finds fault with the RPM package", "rpmlint"),
        tool("rpm", "the same", "rpm"),
        packaged(
            "node, npm",
            "hold the dashboard against Grafana's types",
            look.has_program("node") && look.has_program("npm"),
            &["nodejs", "npm"],
        ),
        tool("umoci", "unpacks the image", "umoci"),
        tool("runc", "runs the image", "runc"),
        Requirement {
            name: "Helm and schemas of Kubernetes".into(),
            why: "find fault with the chart",
            present: look.has_file(&charts::mark()),
            remedy: Remedy::Charts,
        },
    ];
    all.extend(for_machines(look));
    all
}

/// What building for another architecture takes beside the distribution's compiler.
pub fn for_crossing(architecture: Architecture, look: &dyn Look) -> Vec<Requirement> {
    let debian = architecture.debian();
    let library = format!("/usr/lib/rustlib/{}", architecture.target());
    let compiler = architecture.gnu("gcc");
    let emulator = architecture.emulator().unwrap_or_default();
    vec![
        packaged(
            "standard library of the other architecture",
            "is linked into its programs",
            look.has_file(Path::new(&library)),
            &[&format!("libstd-rust-web-dev:{debian}")],
        ),
        packaged(
            "C compiler for it",
            "links its programs",
            look.has_program(&compiler),
            &[
                &format!("gcc-{}-linux-gnu", architecture.name()),
                &format!("libc6-dev-{debian}-cross"),
            ],
        ),
        packaged(
            "emulator of its programs",
            "runs them here",
            look.has_program(&emulator),
            &["qemu-user-static"],
        ),
        packaged(
            "emulator of its machines",
            "runs scenarios there",
            look.has_program(architecture.machine()),
            &[architecture.machine_package()],
        ),
        packaged(
            "mmdebstrap",
            "unpacks tools for such a machine",
            look.has_program("mmdebstrap"),
            &["mmdebstrap"],
        ),
    ]
}

fn for_fuzzing(look: &dyn Look) -> Vec<Requirement> {
    let why = "builds the fuzz targets";
    vec![
        Requirement {
            name: format!("rustup toolchain `{NIGHTLY}`"),
            why,
            present: look.has_toolchain(NIGHTLY),
            remedy: Remedy::ByHand("rustup toolchain install nightly"),
        },
        packaged("C++ compiler", why, look.has_program("c++"), &["g++"]),
        Requirement {
            name: "cargo-fuzz".into(),
            why: "runs the fuzz targets",
            present: look.has_program("cargo-fuzz"),
            remedy: Remedy::CargoCommand("cargo-fuzz"),
        },
    ]
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::toolchain::State;

    /// Programs, libraries and files that are there, and packages that could be.
    pub struct Stage(pub &'static [&'static str], pub &'static [&'static str]);

    impl Look for Stage {
        fn has_program(&self, name: &str) -> bool {
            self.0.contains(&name)
        }
        fn has_package(&self, name: &str) -> bool {
            self.1.contains(&name)
        }
        fn has_file(&self, path: &Path) -> bool {
            self.0.contains(&path.to_str().unwrap())
        }
        fn sysroot(&self) -> Option<PathBuf> {
            Some("/sysroot".into())
        }
        fn has_toolchain(&self, name: &str) -> bool {
            self.0.contains(&name)
        }
        fn has_python_module(&self, name: &str) -> bool {
            self.0.contains(&name)
        }
        fn library(&self, name: &str) -> Option<PathBuf> {
            self.0.contains(&name).then(|| name.into())
        }
    }

    #[test]
    fn running_needs_nothing_of_what_testing_needs() {
        let ready = State::Ready { release: "1.99.0".into(), rustc: "/r".into() };
        let facts = Facts { rustup: true, linker: None, upstream: ready, debian: State::Absent };
        let look = Stage(&["cc", "libc.so"], &[]);
        let missing = |purpose| -> Vec<String> {
            let all = requirements(purpose, &facts, &look).into_iter();
            all.filter(|it| !it.present).map(|it| it.name).collect()
        };
        assert_eq!(missing(Purpose::Run), [""; 0]);
        assert!(missing(Purpose::Test).contains(&"iptables".to_owned()));
        assert!(!missing(Purpose::Test).contains(&"bpftrace".to_owned()));
        assert!(missing(Purpose::Bench).contains(&"bpftrace".to_owned()));
        assert!(missing(Purpose::Vm).contains(&Architecture::here().machine().to_owned()));
        assert!(!missing(Purpose::Vm).contains(&"cargo-fuzz".to_owned()));
        assert!(missing(Purpose::Dist).contains(&"cargo-cyclonedx".to_owned()));
        assert!(!missing(Purpose::Dist).contains(&"iptables".to_owned()));
        assert!(!missing(Purpose::Dist).contains(&"lintian".to_owned()));
        assert!(missing(Purpose::TryDist).contains(&"lintian".to_owned()));
        assert!(missing(Purpose::TryDist).contains(&Architecture::here().machine().to_owned()));
        assert!(missing(Purpose::Fuzz).contains(&"cargo-fuzz".to_owned()));
    }
}
