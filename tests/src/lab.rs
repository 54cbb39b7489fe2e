//! What every scenario is given: the backend under test and the program to run.

use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::wait;

/// A way in which twtrace can attach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// BPF trampolines on kernel functions.
    Fentry,
    /// Kprobes and kretprobes on the same functions.
    Kprobe,
    /// The timer tracepoints and `sock:inet_sock_set_state`.
    Tracepoint,
}

impl Backend {
    /// The name that `--attach` takes and the document gives.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fentry => "fentry",
            Self::Kprobe => "kprobe",
            Self::Tracepoint => "tracepoint",
        }
    }

    /// Reads a list such as `fentry,kprobe`.
    pub fn list(text: &str) -> Result<Vec<Self>> {
        let one = |name: &str| {
            [Self::Fentry, Self::Kprobe, Self::Tracepoint]
                .into_iter()
                .find(|backend| backend.name() == name)
        };
        text.split(',')
            .map(|name| one(name).with_context(|| format!("--attach: no backend {name:?}")))
            .collect()
    }

    /// Whether it sees what the functions return: refusals, overflow, every re-arm.
    pub fn sees_functions(self) -> bool {
        self != Self::Tracepoint
    }
}

/// Which kernel programs twtrace is told to load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Object {
    /// Those for kernels with ring buffers.
    RingBuf,
    /// Those for kernels from 4.4 on, with the kernel's types in a file.
    Perf,
}

impl Object {
    /// The name that `--object` takes and the document gives.
    pub fn name(self) -> &'static str {
        match self {
            Self::RingBuf => "ringbuf",
            Self::Perf => "perf",
        }
    }

    /// Reads a list such as `ringbuf,perf`.
    pub fn list(text: &str) -> Result<Vec<Self>> {
        let one = |name: &str| {
            [Self::RingBuf, Self::Perf].into_iter().find(|object| object.name() == name)
        };
        text.split(',')
            .map(|name| one(name).with_context(|| format!("--object: no object {name:?}")))
            .collect()
    }
}

/// A backend with the programs that it attaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// How they are attached.
    pub backend: Backend,
    /// Which they are.
    pub object: Object,
}

impl Way {
    /// All there are: the programs for old kernels come as kprobes alone.
    pub const ALL: [Self; 4] = [
        Self { backend: Backend::Fentry, object: Object::RingBuf },
        Self { backend: Backend::Kprobe, object: Object::RingBuf },
        Self { backend: Backend::Kprobe, object: Object::Perf },
        Self { backend: Backend::Tracepoint, object: Object::RingBuf },
    ];

    /// Those with one of these backends and one of these objects.
    pub fn among(backends: &[Backend], objects: &[Object]) -> Vec<Self> {
        let wanted = |way: &Self| backends.contains(&way.backend) && objects.contains(&way.object);
        Self::ALL.into_iter().filter(wanted).collect()
    }

    /// The name that stands before a scenario's.
    pub fn name(self) -> &'static str {
        match self.object {
            Object::RingBuf => self.backend.name(),
            Object::Perf => "kprobe-perf",
        }
    }
}

/// What a scenario is run with.
#[derive(Clone, Debug)]
pub struct Lab {
    /// The backend that twtrace is told to use.
    pub backend: Backend,
    /// The programs that it is told to load.
    pub object: Object,
    /// What it is told to take the kernel's types from; its own choice if `None`.
    pub btf: Option<String>,
    /// The program under test.
    pub twtrace: PathBuf,
}

impl Lab {
    /// One that attaches in this way. On old kernels the types come in a file: here it is the
    /// kernel's own.
    pub fn new(Way { backend, object }: Way, twtrace: &Path) -> Self {
        let btf = (object == Object::Perf).then(|| "/sys/kernel/btf/vmlinux".to_owned());
        Self { backend, object, btf, twtrace: twtrace.to_owned() }
    }

    /// Copies the program to where anybody may run it, since it may lie where only root can go.
    pub fn copy_to(&self, program: &Path) -> Result<()> {
        fs::copy(&self.twtrace, program).context("copying twtrace")?;
        fs::set_permissions(program, Permissions::from_mode(0o755))?;
        // While another scenario starts a program, its child has the copy open for writing for a moment.
        wait::until("the copy to be let go of", wait::SOON, || {
            match Command::new(program).arg("--version").output() {
                Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => Ok(None),
                ran => ran.map(Some).context("running the copy"),
            }
        })?;
        Ok(())
    }

    /// The options that make twtrace attach as this lab wants it.
    pub fn attach(&self) -> Vec<&str> {
        let mut args = vec!["--attach", self.backend.name(), "--object", self.object.name()];
        if let Some(btf) = &self.btf {
            args.extend(["--btf", btf]);
        }
        args
    }

    /// Whether refused `bind()` calls are seen: through tracepoints it takes control groups of version 2,
    /// from their root on.
    pub fn sees_binds(&self) -> bool {
        let roots = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(Path::new);
        let is_root = |root: &&Path| {
            root.join("cgroup.procs").exists()
                && !root.join("cgroup.type").exists()
                && root.join("cgroup.controllers").exists()
        };
        self.backend.sees_functions() || roots.iter().any(is_root)
    }

    /// The same with types from elsewhere.
    pub fn with_btf(&self, btf: &str) -> Self {
        Self { btf: Some(btf.to_owned()), ..self.clone() }
    }
}

/// Where `twtrace` is: as named, else as TWTRACE_BIN says, else beside this program, else in PATH.
pub fn find_twtrace(named: Option<&str>) -> Result<PathBuf> {
    if let Some(path) = named.map(PathBuf::from).or(std::env::var_os("TWTRACE_BIN").map(Into::into))
    {
        if !path.is_file() {
            bail!("there is no twtrace at {}", path.display());
        }
        return Ok(path);
    }
    let beside = std::env::current_exe()?.with_file_name("twtrace");
    Ok(if beside.is_file() { beside } else { "twtrace".into() })
}
