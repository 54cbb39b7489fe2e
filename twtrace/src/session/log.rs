//! What is said on stderr: sentences, and the log, which is held back while the full screen has the
//! terminal.

use std::{
    io::{self, Write},
    sync::{Mutex, PoisonError},
};

use crate::text::{visible, visible_lines};

/// Says something on stderr, in one line or more.
pub fn say(text: &str) {
    // Nobody to tell if stderr is gone.
    let _ = writeln!(io::stderr(), "twtrace: {}", visible_lines(text));
}

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

/// Where the log is written to, an event at a time.
#[derive(Clone, Copy, Debug)]
pub struct Log;

impl Write for Log {
    fn write(&mut self, written: &[u8]) -> io::Result<usize> {
        let line = String::from_utf8_lossy(written);
        let line = format!("{}\n", visible(line.trim_end_matches('\n')));
        let bytes = line.as_bytes();
        match &mut *HELD.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(held) if held.len() + bytes.len() <= MOST => held.extend_from_slice(bytes),
            Some(_) => {}
            None => io::stderr().write_all(bytes)?,
        }
        Ok(written.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
