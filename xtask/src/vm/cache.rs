//! The directory for what is fetched once and used by every checkout.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// A directory outside the source tree.
pub struct Cache(PathBuf);

impl Cache {
    /// Opens `$XDG_CACHE_HOME/twtrace`, or the same below `~/.cache`.
    pub fn open() -> Result<Self> {
        let base = env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
            .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")))
            .context("neither XDG_CACHE_HOME nor HOME says where to keep downloads")?;
        let dir = base.join("twtrace");
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        Ok(Self(dir))
    }

    /// The directory itself.
    pub fn dir(&self) -> &Path {
        &self.0
    }

    /// Waits until no other xtask changes the cache; lasts as long as the answer.
    pub fn lock(&self) -> Result<File> {
        let path = self.0.join("lock");
        let file =
            File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
        Ok(file)
    }
}
