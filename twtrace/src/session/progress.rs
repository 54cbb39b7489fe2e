//! A line on standard error that tells how far something is, while somebody looks on.

use std::{
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

use bytesize::ByteSize;

use crate::{cli::ObserveArgs, pipeline::Pipeline};

/// Time between two lines, and before the first: what is quick needs none.
const INTERVAL: Duration = Duration::from_millis(500);

/// The line; taken away when dropped.
#[derive(Debug)]
pub struct Progress {
    /// Whether somebody looks on.
    seen: bool,
    told: Instant,
    shown: bool,
}

impl Progress {
    /// No line yet; never one, if standard error is not a terminal.
    pub fn begin() -> Self {
        Self { seen: io::stderr().is_terminal(), told: Instant::now(), shown: false }
    }

    /// One that shows nothing if the terminal is used for something else.
    pub fn unless(other: bool) -> Self {
        Self { seen: !other && io::stderr().is_terminal(), ..Self::begin() }
    }

    /// Shows how much of a recording is read.
    pub fn show_read(&mut self, pipeline: &Pipeline, args: &ObserveArgs) {
        let (Some(path), Some(read)) = (&args.replay, pipeline.bytes_read()) else { return };
        self.show(|| {
            let read = ByteSize::b(read).display().iec();
            match std::fs::metadata(path) {
                Ok(file) if file.is_file() => {
                    format!("read {read} of {}", ByteSize::b(file.len()).display().iec())
                }
                _ => format!("read {read}"),
            }
        });
    }

    /// Shows a line if it is time for one.
    pub fn show(&mut self, line: impl FnOnce() -> String) {
        if self.seen && self.told.elapsed() >= INTERVAL {
            self.told = Instant::now();
            self.shown = true;
            // Nobody to tell if standard error is gone.
            let _ = write!(io::stderr(), "\r\x1b[K{}", line());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
