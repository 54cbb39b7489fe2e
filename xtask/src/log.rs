//! One file that keeps all that a run said.

use std::{
    fs::{self, File},
    io::Write as _,
    path::PathBuf,
    process::Command,
    sync::{Mutex, OnceLock, PoisonError},
};

use anyhow::{Context as _, Result};

use crate::{build, process};

static FILE: OnceLock<Mutex<File>> = OnceLock::new();

/// Begins the file of this run, named after the time of day; from now on all goes there as well.
pub fn begin() -> Result<PathBuf> {
    let dir = build::target_dir().join("logs");
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let now = process::output(Command::new("date").args(["-u", "+%Y-%m-%dT%H-%M-%SZ"]))?;
    let path = dir.join(format!("test-{}.log", now.trim()));
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    FILE.get_or_init(|| Mutex::new(file));
    Ok(path)
}

/// Whether there is such a file.
pub fn is_kept() -> bool {
    FILE.get().is_some()
}

/// Keeps a line, if there is such a file.
pub fn keep(line: &str) {
    if let Some(file) = FILE.get() {
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        // What was to be told was told; a full disk ends the run elsewhere.
        let _ = writeln!(file, "{line}");
    }
}
