//! The log on stderr, held back while the full screen has the terminal.

use std::{
    io::{self, Write},
    sync::{Mutex, PoisonError},
};

/// Most bytes held back; what comes then is dropped, since the first warnings tell most.
const MOST: usize = 1 << 16;

/// What is held back, while it is.
static HELD: Mutex<Option<Vec<u8>>> = Mutex::new(None);

/// Holds the log back from now on, until it is dropped.
#[derive(Debug)]
pub struct Hold(());

impl Hold {
    /// Begins.
    pub fn begin() -> Self {
        *HELD.lock().unwrap_or_else(PoisonError::into_inner) = Some(Vec::new());
        Self(())
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let held = HELD.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Nobody to tell if this fails.
        let _ = io::stderr().write_all(&held.unwrap_or_default());
    }
}

/// Where the log is written to.
#[derive(Clone, Copy, Debug)]
pub struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut *HELD.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(held) if held.len() + bytes.len() <= MOST => held.extend_from_slice(bytes),
            Some(_) => {}
            None => return io::stderr().write(bytes),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
