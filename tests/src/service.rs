//! Servers of others that twtrace's figures and alerts go to, run for a scenario.

use std::fs;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use tempfile::TempDir;

/// A port of 127.0.0.1 that is free now, as an address.
pub fn free_address() -> Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

/// A server of our own, ended when dropped.
pub struct Service {
    child: Child,
    /// Where it listens.
    pub address: String,
    /// Its files.
    pub directory: TempDir,
}

impl Service {
    /// Starts a program of Debian's package of that name in a directory with its files, to listen on an
    /// address.
    pub fn start(
        program: &str,
        address: String,
        directory: TempDir,
        args: &[&str],
    ) -> Result<Self> {
        let child = Command::new(program)
            .args(args)
            .arg(format!("--web.listen-address={address}"))
            .current_dir(&directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(directory.path().join("log"))?)
            .spawn()
            .with_context(|| format!("starting {program}, of the package {program}"))?;
        Ok(Self { child, address, directory })
    }

    /// What it said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // A failure to end it is no finding about twtrace.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
