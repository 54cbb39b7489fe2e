//! The feed as several listeners have it: one encoding, sent to all.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::hub::{Feed, Subscribers};
use crate::{
    feed::{Opening, beside::Beside},
    origin::Input,
    pipeline::Tap,
    recording::Encoder,
};

/// Pieces of an opening that wait for its listener: as much as is made ahead of it.
const AHEAD: usize = 16;

/// All listeners. Clones are the same listeners.
#[derive(Clone)]
pub struct Feeds(Arc<Mutex<Inner>>);

struct Inner {
    /// There while somebody listens.
    encoder: Option<Encoder>,
    listeners: Subscribers<Bytes>,
}

impl Feeds {
    /// None yet. Those that fall behind are counted in `dropped`.
    pub fn new(dropped: Arc<AtomicU64>) -> Self {
        let listeners = Subscribers::new(dropped);
        Self(Arc::new(Mutex::new(Inner { encoder: None, listeners })))
    }

    /// One more, which takes the opening in first; whatever comes now is for it as well.
    ///
    /// # Errors
    /// The compressor failed, or the system refuses a thread.
    pub fn join(&self, opening: Opening) -> io::Result<Feed> {
        let mut inner = self.lock();
        // What is not sent yet happened before: the others have it now, the new one never.
        inner.flush()?;
        if inner.encoder.is_none() {
            inner.encoder = Some(Encoder::of_blocks()?);
        }
        let live = inner.listeners.subscribe();
        drop(inner);
        let (pieces, receiver) = mpsc::channel(AHEAD);
        Beside::begin("feed", move || encode(opening, &pieces))?;
        Ok(Feed { opening: receiver, live })
    }

    /// Whether nobody listens.
    pub fn is_empty(&self) -> bool {
        self.lock().listeners.is_empty()
    }

    /// How many listen.
    pub fn len(&self) -> usize {
        self.lock().listeners.len()
    }

    /// Sends what waits, and the mark of the end.
    ///
    /// # Errors
    /// The compressor failed.
    pub fn end(&self) -> io::Result<()> {
        let mut inner = self.lock();
        if let Some(mut encoder) = inner.encoder.take() {
            let last = encoder.end()?;
            inner.listeners.send(&last.into());
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn flush(&mut self) -> io::Result<()> {
        if let Some(encoder) = &mut self.encoder
            && let Some(block) = encoder.flush()?
        {
            self.listeners.send(&block.into());
        }
        Ok(())
    }
}

impl Tap for Feeds {
    fn told(&mut self, input: &Input) {
        let mut inner = self.lock();
        if inner.listeners.is_empty() {
            inner.encoder = None;
            return;
        }
        let Some(encoder) = &mut inner.encoder else { return };
        match encoder.push(input) {
            Ok(Some(block)) => inner.listeners.send(&block.into()),
            Ok(None) => {}
            Err(error) => tracing::error!(%error, "the feed cannot be compressed"),
        }
    }
}

/// Encodes an opening, at the pace of whoever takes it.
fn encode(opening: Opening, pieces: &mpsc::Sender<io::Result<Bytes>>) {
    let encoded = || -> io::Result<()> {
        // Whoever wanted it may have gone: the work ends with the next piece.
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        let send = |piece: Vec<u8>| pieces.blocking_send(Ok(piece.into())).map_err(gone);
        let (origin, inputs) = opening.into_inputs();
        let (mut encoder, head) = Encoder::new(&origin)?;
        send(head)?;
        for input in inputs {
            if let Some(block) = encoder.push(&input)? {
                send(block)?;
            }
        }
        encoder.flush()?.map_or(Ok(()), send)
    };
    if let Err(error) = encoded() {
        // It may be just that nobody listens.
        let _ = pieces.blocking_send(Err(error));
    }
}
