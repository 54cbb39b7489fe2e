//! A recording, or what a daemon sends, as a feed.

use std::{
    io::{self, Read},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use tokio::{
    sync::mpsc,
    time::{Duration, Instant, sleep_until},
};

use super::{ReadError, Reader};
use crate::{
    event::Event,
    origin::{Input, Origin},
};

/// Inputs read ahead.
const READ_AHEAD: usize = 8;
/// Bytes that inputs read ahead take, if there are several.
const READ_AHEAD_BYTES: usize = 8 << 20;
/// Longest time between two inputs, when they are handed out by their own times.
const LONGEST: Duration = Duration::from_secs(365 * 86_400);

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
    inputs: mpsc::Receiver<(Result<Input, ReadError>, usize)>,
    ahead: Arc<Ahead>,
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
        let (mut reader, origin) = Reader::open(CountedRead { source, read: Arc::clone(&read) })?;
        let (sender, inputs) = mpsc::channel(READ_AHEAD);
        let ahead = Arc::new(Ahead { bytes: Mutex::new(Bytes::Ahead(0)), changed: Condvar::new() });
        let room = Arc::clone(&ahead);
        thread::spawn(move || {
            while let Some(input) = reader.next_input().transpose() {
                let broken = input.is_err();
                let size = if broken { 0 } else { reader.size() };
                // Nobody waits for more, or there is no more.
                if !room.take(size) || sender.blocking_send((input, size)).is_err() || broken {
                    break;
                }
            }
        });
        Ok((Self { inputs, ahead, next: None, end: None, pace, anchor: None, read }, origin))
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

    fn put(&mut self, received: Option<(Result<Input, ReadError>, usize)>) {
        match received {
            Some((Ok(input), size)) => {
                self.ahead.give_back(size);
                self.next = Some(input);
            }
            Some((Err(error), _)) => self.end = Some(StreamEnd::Broken(error)),
            None => self.end = Some(StreamEnd::Whole),
        }
    }

    /// When the next input is to be handed out; `None` for at once.
    fn due(&mut self) -> Option<Instant> {
        let Pace::Times(speed) = self.pace else { return None };
        let mono_ns = time_of(self.next.as_ref()?)?;
        let (first_ns, begun) = *self.anchor.get_or_insert_with(|| (mono_ns, Instant::now()));
        let after = Duration::from_nanos(mono_ns.saturating_sub(first_ns)).as_secs_f64();
        let slowed = Duration::try_from_secs_f64(after / speed).unwrap_or(LONGEST);
        Some(begun + slowed.min(LONGEST))
    }
}

impl Drop for StreamFeed {
    fn drop(&mut self) {
        self.ahead.close();
    }
}

/// How many bytes are read ahead, for the thread that reads to wait.
#[derive(Debug)]
struct Ahead {
    bytes: Mutex<Bytes>,
    changed: Condvar,
}

#[derive(Debug)]
enum Bytes {
    /// So many.
    Ahead(usize),
    /// Nobody takes anything any more.
    Closed,
}

impl Ahead {
    /// Waits until there is room, or nothing is read ahead; false if nobody takes it any more.
    fn take(&self, size: usize) -> bool {
        let full = |bytes: &mut Bytes| match bytes {
            Bytes::Closed => false,
            Bytes::Ahead(ahead) => *ahead > 0 && *ahead + size > READ_AHEAD_BYTES,
        };
        let bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes =
            self.changed.wait_while(bytes, full).unwrap_or_else(PoisonError::into_inner);
        match &mut *bytes {
            Bytes::Closed => false,
            Bytes::Ahead(ahead) => {
                *ahead += size;
                true
            }
        }
    }

    fn give_back(&self, size: usize) {
        if let Bytes::Ahead(ahead) = &mut *self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
        {
            *ahead -= size;
        }
        self.changed.notify_one();
    }

    fn close(&self) {
        *self.bytes.lock().unwrap_or_else(PoisonError::into_inner) = Bytes::Closed;
        self.changed.notify_one();
    }
}

/// A source whose bytes are counted.
struct CountedRead<R> {
    source: R,
    read: Arc<AtomicU64>,
}

impl<R: Read> Read for CountedRead<R> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_read_ahead_than_there_is_room_for_but_one_input_always_is() {
        let ahead = Arc::new(Ahead { bytes: Mutex::new(Bytes::Ahead(0)), changed: Condvar::new() });
        assert!(ahead.take(READ_AHEAD_BYTES * 2), "one, however large");
        let (sender, taken) = std::sync::mpsc::channel();
        let waiting = Arc::clone(&ahead);
        let thread = thread::spawn(move || {
            while waiting.take(READ_AHEAD_BYTES / 2) {
                sender.send(()).unwrap();
            }
        });
        assert!(taken.try_recv().is_err());
        ahead.give_back(READ_AHEAD_BYTES * 2);
        taken.recv().unwrap();
        taken.recv().unwrap();
        assert!(taken.try_recv().is_err(), "the third finds no room");
        ahead.close();
        thread.join().unwrap();
    }
}
