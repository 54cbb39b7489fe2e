//! What every scenario is given: the backend under test and the program to run.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

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

/// What a scenario is run with.
#[derive(Clone, Debug)]
pub struct Lab {
    /// The backend that twtrace is told to use.
    pub backend: Backend,
    /// The program under test.
    pub twtrace: PathBuf,
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
