//! The daemon's settings: one definition from which the file, the flags, the default file and the
//! documentation come.
//!
//! [`keys`] is that definition. A value is text first, wherever it comes from, and is read by its
//! type ([`value`]); flags precede the file, which precedes the defaults.

pub mod choice;
pub mod file;
pub mod flags;
pub mod keys;
pub mod print;
pub mod value;

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

pub use choice::{Attach, WhichObject};
pub use file::FileFault;
pub use flags::Flags;
pub use keys::{DaemonConfig, KEYS, Key, parse, ring_bytes};

/// Where the settings are read from when nobody names a file.
pub const DEFAULT_FILE: &str = "/etc/twtrace/twtrace.toml";

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file says what cannot be; one line for each fault.
    #[error("{}", lines(.path, .faults))]
    Faulty {
        /// The file.
        path: PathBuf,
        /// All of it, in the order of the file.
        faults: Vec<FileFault>,
    },
    /// Settings that do not go together.
    #[error("{0}")]
    Contradiction(String),
}

/// When a change of a key has effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TakesEffect {
    /// As soon as the file is read again.
    Reload,
    /// With the next start.
    Restart,
}

/// What another configuration would change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Keys whose new value has effect at once.
    pub now: Vec<&'static str>,
    /// Keys whose new value waits for a restart.
    pub restart: Vec<&'static str>,
}

impl DaemonConfig {
    /// The settings of a file with flags on top. Without `path` the default file is read if it is
    /// there.
    ///
    /// # Errors
    /// [`ConfigError`], with every fault of the file.
    pub fn load(path: Option<&Path>, flags: &Flags) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        let file = path.unwrap_or(Path::new(DEFAULT_FILE));
        match read(file) {
            Ok(bytes) => file::apply_bytes(&mut config, &bytes)
                .map_err(|faults| ConfigError::Faulty { path: file.to_owned(), faults })?,
            Err(error) if path.is_none() && error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => {
                return Err(ConfigError::Unreadable { path: file.to_owned(), source });
            }
        }
        flags.apply(&mut config);
        config.check()?;
        Ok(config)
    }

    /// What would change with other settings.
    pub fn changes(&self, new: &Self) -> Changes {
        let mut changes = Changes::default();
        for key in KEYS.iter().filter(|key| (key.differs)(self, new)) {
            match key.change {
                TakesEffect::Reload => changes.now.push(key.name),
                TakesEffect::Restart => changes.restart.push(key.name),
            }
        }
        changes
    }

    /// These settings with what of the new ones has effect at once: what a reload makes of them.
    #[must_use]
    pub fn reloaded(&self, new: &Self) -> Self {
        let mut config = self.clone();
        for key in KEYS.iter().filter(|key| key.change == TakesEffect::Reload) {
            (key.copy)(&mut config, new);
        }
        config
    }

    /// Checks the settings against each other.
    fn check(&self) -> Result<(), ConfigError> {
        let (needed, allowed) = (self.memory_needed(), self.memory.as_u64());
        if needed > allowed {
            let mib = |bytes: u64| bytes.div_ceil(1 << 20);
            return Err(ConfigError::Contradiction(format!(
                "max_peers = {}, max_live = {} and buffer = {} MiB need {} MiB, and memory allows \
                 {} MiB: lower them, or raise memory",
                self.max_peers,
                self.max_live,
                mib(self.buffer.as_u64()),
                mib(needed),
                mib(allowed),
            )));
        }
        Ok(())
    }
}

/// Most bytes of a file; the default one with every comment has a tenth.
const MOST_BYTES: u64 = 64 << 10;

/// A whole file, if it is not longer than a configuration can be.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST_BYTES {
        let why = format!("it is longer than {} KiB, which no configuration is", MOST_BYTES >> 10);
        return Err(io::Error::other(why));
    }
    Ok(bytes)
}

/// All faults of a file as compilers write them.
fn lines(path: &Path, faults: &[FileFault]) -> String {
    let lines = faults.iter().map(|fault| format!("{}:{fault}", path.display()));
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(text: &str, flags: &[(&'static str, &str)]) -> Result<DaemonConfig, ConfigError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("twtrace.toml");
        std::fs::write(&path, text).unwrap();
        DaemonConfig::load(Some(&path), &Flags::of(flags))
    }

    #[test]
    fn flags_precede_the_file_and_the_file_the_defaults() {
        let config =
            loaded("max_peers = 1000\nhistory = \"2h\"\n", &[("max_peers", "50")]).unwrap();
        assert_eq!(config.max_peers, 50);
        assert_eq!(config.history.as_secs(), 7200);
        assert_eq!(config.max_live, DaemonConfig::default().max_live);
    }

    #[test]
    fn a_file_asked_for_must_be_there_and_the_default_one_need_not() {
        let missing = Path::new("/nonexistent/twtrace.toml");
        let error = DaemonConfig::load(Some(missing), &Flags::default()).unwrap_err().to_string();
        assert!(error.starts_with("cannot read the configuration /nonexistent/"), "{error}");
        if !Path::new(DEFAULT_FILE).exists() {
            assert_eq!(
                DaemonConfig::load(None, &Flags::default()).unwrap(),
                DaemonConfig::default()
            );
        }
    }

    #[test]
    fn a_change_is_for_now_or_for_the_next_start() {
        let old = DaemonConfig::default();
        let new = DaemonConfig { max_peers: 7, metrics_peers: 9, ..old.clone() };
        let changes = old.changes(&new);
        assert_eq!(changes.now, ["metrics_peers"]);
        assert_eq!(changes.restart, ["max_peers"]);
        let reloaded = old.reloaded(&new);
        assert_eq!((reloaded.max_peers, reloaded.metrics_peers), (old.max_peers, 9));
        assert_eq!(old.changes(&old), Changes::default());
    }

    #[test]
    fn what_does_not_fit_into_the_memory_allowed_is_refused_with_what_to_do() {
        let error = loaded("max_peers = 10000000\n", &[]).unwrap_err().to_string();
        assert!(error.contains("max_peers = 10000000"), "{error}");
        assert!(error.contains("raise memory"), "{error}");
        loaded("max_peers = 10000000\nmemory = \"64GiB\"\n", &[]).unwrap();
    }
}
