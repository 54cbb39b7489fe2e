//! Work on a thread beside the one that counts.

use std::{
    io,
    sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, sync_channel},
    thread,
    time::Duration,
};

/// Something being found out.
#[derive(Debug)]
pub struct Beside<T>(Receiver<T>);

/// How far it is.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress<T> {
    /// It goes on.
    Under,
    /// This came of it.
    Done(T),
    /// The thread ended without a word.
    Failed,
}

impl<T: Send + 'static> Beside<T> {
    /// Begins.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn begin(name: &'static str, job: impl FnOnce() -> T + Send + 'static) -> io::Result<Self> {
        let (sender, receiver) = sync_channel(1);
        // Whoever wanted to know may have gone; there is room for one.
        let run = move || drop(sender.try_send(job()));
        thread::Builder::new().name(name.into()).spawn(run)?;
        Ok(Self(receiver))
    }

    /// How far it is now.
    pub fn look(&self) -> Progress<T> {
        match self.0.try_recv() {
            Ok(found) => Progress::Done(found),
            Err(TryRecvError::Empty) => Progress::Under,
            Err(TryRecvError::Disconnected) => Progress::Failed,
        }
    }

    /// What came of it, however long that takes; `None` if the thread ended without a word.
    pub fn end(self) -> Option<T> {
        self.0.recv().ok()
    }

    /// How far it is after this time, or as soon as it is done.
    pub fn wait(&self, time: Duration) -> Progress<T> {
        match self.0.recv_timeout(time) {
            Ok(found) => Progress::Done(found),
            Err(RecvTimeoutError::Timeout) => Progress::Under,
            Err(RecvTimeoutError::Disconnected) => Progress::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_found_out_is_told_once_and_a_thread_that_failed_is_told_from_one_that_works() {
        let (go, going) = std::sync::mpsc::channel();
        let beside = Beside::begin("test", move || going.recv().map(|n: u32| n + 1)).unwrap();
        assert_eq!(beside.look(), Progress::Under);
        go.send(6).unwrap();
        assert_eq!(beside.wait(Duration::from_secs(60)), Progress::Done(Ok(7)));
        let failed = Beside::<u32>::begin("test", || panic!("as it should")).unwrap();
        assert_eq!(failed.wait(Duration::from_secs(60)), Progress::Failed);
    }
}
