//! The feed as several listeners have it: one encoding, sent to all.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64};

use bytes::Bytes;

use super::hub::{Subscribers, Subscription};
use crate::{
    feed::{Input, Origin},
    pipeline::Tap,
    recording::Encoder,
};

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

    /// One more, which takes in `inputs` first; whatever comes now is for it as well.
    ///
    /// # Errors
    /// The compressor failed.
    pub fn subscribe(
        &self,
        origin: &Origin,
        inputs: &[Input],
    ) -> std::io::Result<Subscription<Bytes>> {
        let mut inner = self.lock();
        // What is not sent yet happened before: the others have it now, the new one never.
        inner.flush()?;
        let (mut own, mut first) = Encoder::new(origin)?;
        for input in inputs {
            first.extend(own.push(input)?.unwrap_or_default());
        }
        first.extend(own.flush()?.unwrap_or_default());
        inner.encoder.get_or_insert(own);
        Ok(inner.listeners.subscribe(Some(first.into())))
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
    pub fn end(&self) -> std::io::Result<()> {
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
    fn flush(&mut self) -> std::io::Result<()> {
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
