//! What is said on stderr: sentences, and the log, which is held back while the full screen has the
//! terminal.

use std::{
    io::{self, Write},
    sync::{Mutex, PoisonError},
};

use crate::text::{visible, visible_lines};

/// Says something on stderr, in one line or more.
pub fn say(text: &str) {
    let line = format!("twtrace: {}\n", visible_lines(text));
    keep_line(&line);
    // Nobody to tell if stderr is gone.
    let _ = io::stderr().write_all(line.as_bytes());
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

/// Most bytes kept for a support bundle: what the verifier says of one program may have hundreds of
/// thousands.
const MOST_KEPT: usize = 4 << 20;

/// All that was said, if it is kept.
static KEPT: Mutex<Option<String>> = Mutex::new(None);

/// Keeps from now on what is said and logged, beside showing it.
pub fn keep() {
    *KEPT.lock().unwrap_or_else(PoisonError::into_inner) = Some(String::new());
}

/// What was kept, which is nothing from now on.
pub fn kept() -> String {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default()
}

fn keep_line(line: &str) {
    if let Some(kept) = &mut *KEPT.lock().unwrap_or_else(PoisonError::into_inner)
        && kept.len() + line.len() <= MOST_KEPT
    {
        kept.push_str(line);
    }
}

/// Where the log goes that is kept, an event at a time.
#[derive(Clone, Copy, Debug)]
pub struct Kept;

impl Write for Kept {
    fn write(&mut self, written: &[u8]) -> io::Result<usize> {
        keep_line(&visible_lines(&String::from_utf8_lossy(written)));
        Ok(written.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
