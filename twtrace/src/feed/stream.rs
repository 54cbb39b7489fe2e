//! A recording, or what a daemon sends, as a feed.

use std::{
    io::{self, Read},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use tokio::{
    sync::mpsc,
    time::{Duration, Instant, sleep_until},
};

use super::{Input, Origin};
use crate::{
    event::Event,
    recording::{ReadError, Reader},
};

/// Inputs read ahead; a block of records is at most a few megabytes.
const READ_AHEAD: usize = 8;

/// How fast inputs are handed out.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Pace {
    /// As they come.
    #[default]
    Unbounded,
    /// By their own times, this many times as fast as they happened; above 0.
    Times(f64),
}

/// How a stream ended.
#[derive(Debug)]
pub enum StreamEnd {
    /// With the mark that whoever wrote it sets at the end.
    Whole,
    /// Without: cut off, or damaged from there on.
    Broken(ReadError),
}

/// Reads inputs on a thread of its own.
pub struct StreamFeed {
    inputs: mpsc::Receiver<Result<Input, ReadError>>,
    next: Option<Input>,
    end: Option<StreamEnd>,
    pace: Pace,
    /// Time of the first event or moment, and when it was handed out.
    anchor: Option<(u64, Instant)>,
    /// Bytes read of the source.
    read: Arc<AtomicU64>,
}

impl StreamFeed {
    /// Reads the header, then goes on to read on a thread.
    ///
    /// # Errors
    /// [`ReadError`] of the header.
    pub fn open<R: Read + Send + 'static>(
        source: R,
        pace: Pace,
    ) -> Result<(Self, Origin), ReadError> {
        let read = Arc::new(AtomicU64::new(0));
        let (mut reader, origin) = Reader::open(Counted { source, read: Arc::clone(&read) })?;
        let (sender, inputs) = mpsc::channel(READ_AHEAD);
        thread::spawn(move || {
            while let Some(input) = reader.next_input().transpose() {
                let broken = input.is_err();
                // Nobody waits for more, or there is no more.
                if sender.blocking_send(input).is_err() || broken {
                    break;
                }
            }
        });
        Ok((Self { inputs, next: None, end: None, pace, anchor: None, read }, origin))
    }

    /// Waits until an input is due, or the end is reached. May be dropped and called again.
    pub async fn readable(&mut self) {
        if self.next.is_none() && self.end.is_none() {
            let received = self.inputs.recv().await;
            self.put(received);
        }
        if let Some(due) = self.due() {
            sleep_until(due).await;
        }
    }

    /// The next input, if one is there and due.
    pub fn take(&mut self) -> Option<Input> {
        if self.next.is_none() && self.end.is_none() {
            match self.inputs.try_recv() {
                Ok(input) => self.put(Some(input)),
                Err(mpsc::error::TryRecvError::Empty) => {}
                Err(mpsc::error::TryRecvError::Disconnected) => self.put(None),
            }
        }
        if self.due().is_some_and(|due| due > Instant::now()) {
            return None;
        }
        self.next.take()
    }

    /// How it ended, once everything before has been handed out.
    pub fn end(&self) -> Option<&StreamEnd> {
        self.end.as_ref().filter(|_| self.next.is_none())
    }

    /// Bytes read so far, those of inputs read ahead among them.
    pub fn bytes_read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    fn put(&mut self, received: Option<Result<Input, ReadError>>) {
        match received {
            Some(Ok(input)) => self.next = Some(input),
            Some(Err(error)) => self.end = Some(StreamEnd::Broken(error)),
            None => self.end = Some(StreamEnd::Whole),
        }
    }

    /// When the next input is to be handed out; `None` for at once.
    fn due(&mut self) -> Option<Instant> {
        let Pace::Times(speed) = self.pace else { return None };
        let mono_ns = time_of(self.next.as_ref()?)?;
        let (first_ns, begun) = *self.anchor.get_or_insert_with(|| (mono_ns, Instant::now()));
        let after = Duration::from_nanos(mono_ns.saturating_sub(first_ns));
        Some(begun + after.div_f64(speed))
    }
}

/// A source whose bytes are counted.
struct Counted<R> {
    source: R,
    read: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.source.read(buffer)?;
        self.read.fetch_add(got as u64, Ordering::Relaxed);
        Ok(got)
    }
}

/// When an input happened, `CLOCK_MONOTONIC` nanoseconds of its kernel; `None` for what belongs
/// to the start.
fn time_of(input: &Input) -> Option<u64> {
    match input {
        Input::Moment(moment) => Some(moment.clock.mono_ns),
        Input::Records(batch) => match batch.events().next()? {
            Ok(Event::Present(_)) | Err(_) => None,
            Ok(event) => Some(event.mono_ns()),
        },
        _ => None,
    }
}
