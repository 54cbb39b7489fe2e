//! Writes a recording, append-safe: what is in the file is whole up to the last block.

use std::{
    fs::File,
    io::{self, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use bytes::BufMut;

use super::{
    BLOCK_HEAD, HEAD, MAGIC, MAX_BLOCK, MAX_HEADER, VERSION, WriteError,
    format::{FileOrigin, Turn as _},
    frame,
};
use crate::{
    files,
    origin::{Input, Origin},
};

/// Frames that make a block worth writing, bytes.
const BLOCK: usize = 256 << 10;
/// Effort of compression: the fastest of Zstandard's ordinary levels.
const LEVEL: i32 = 1;

/// Inputs in, bytes of a recording out.
pub struct Encoder {
    frames: Vec<u8>,
    compressor: zstd::bulk::Compressor<'static>,
}

impl Encoder {
    /// An encoder, and the bytes that come before all blocks.
    ///
    /// # Errors
    /// The compressor has no memory, or the header is too long.
    pub fn new(origin: &Origin) -> io::Result<(Self, Vec<u8>)> {
        let header: FileOrigin = origin.clone().turn();
        let header = serde_json::to_vec(&header)?;
        let length = within(header.len(), MAX_HEADER, "the header")?;
        let mut head = Vec::with_capacity(HEAD + header.len());
        head.put_slice(MAGIC);
        head.put_u32_le(VERSION);
        head.put_u32_le(length);
        head.put_u32_le(crc32fast::hash(&header));
        head.put_slice(&header);
        Ok((Self::of_blocks()?, head))
    }

    /// An encoder of blocks that follow others.
    ///
    /// # Errors
    /// The compressor has no memory.
    pub fn of_blocks() -> io::Result<Self> {
        let compressor = zstd::bulk::Compressor::new(LEVEL)?;
        Ok(Self { frames: Vec::with_capacity(BLOCK), compressor })
    }

    /// Takes an input; gives blocks when some are due.
    ///
    /// # Errors
    /// The compressor failed, or the input is larger than a reader would take.
    pub fn push(&mut self, input: &Input) -> io::Result<Option<Vec<u8>>> {
        let mut blocks = Vec::new();
        for put in frame::pieces(input) {
            let begun = self.frames.len();
            put(&mut self.frames);
            if let Err(error) = frame::check(&self.frames[begun..]) {
                // What comes after it is as good as before.
                self.frames.truncate(begun);
                return Err(io::Error::other(error));
            }
            if self.frames.len() >= BLOCK {
                blocks.extend(self.block()?);
            }
        }
        if matches!(input, Input::Moment(_)) && !self.frames.is_empty() {
            blocks.extend(self.block()?);
        }
        Ok((!blocks.is_empty()).then_some(blocks))
    }

    /// What was taken in since the last block, as one; `None` if nothing was.
    ///
    /// # Errors
    /// As for [`Encoder::push`].
    pub fn flush(&mut self) -> io::Result<Option<Vec<u8>>> {
        if self.frames.is_empty() { Ok(None) } else { self.block().map(Some) }
    }

    /// The last block, with the mark of the end.
    ///
    /// # Errors
    /// As for [`Encoder::push`].
    pub fn end(&mut self) -> io::Result<Vec<u8>> {
        frame::put_end(&mut self.frames);
        self.block()
    }

    fn block(&mut self) -> io::Result<Vec<u8>> {
        let length = within(self.frames.len(), MAX_BLOCK, "what is to be kept at once")?;
        let packed = self.compressor.compress(&self.frames)?;
        let packed_length = within(packed.len(), MAX_BLOCK, "a block")?;
        let mut block = Vec::with_capacity(BLOCK_HEAD + packed.len());
        block.put_u32_le(length);
        block.put_u32_le(packed_length);
        block.put_u32_le(crc32fast::hash(&packed));
        block.put_slice(&packed);
        self.frames.clear();
        Ok(block)
    }
}

/// A length, if a reader takes as much.
fn within(length: usize, most: usize, what: &str) -> io::Result<u32> {
    match u32::try_from(length) {
        Ok(short) if length <= most => Ok(short),
        _ => Err(io::Error::other(format!("{what} has {length} bytes, more than {most}"))),
    }
}

/// When a new file is begun, and how many are kept.
#[derive(Clone, Copy, Debug)]
pub struct Rotation {
    /// Bytes from which on a file is full.
    pub bytes: u64,
    /// Files kept, the one being written among them; at least 1.
    pub keep: usize,
}

/// A recording being written to a file.
pub struct Recorder {
    path: PathBuf,
    file: File,
    encoder: Encoder,
    /// Bytes of whole blocks in the file.
    written: u64,
    /// Bytes in files before this one.
    before: u64,
    rotation: Option<Rotation>,
}

impl Recorder {
    /// Creates the file, in place of one that is there.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn create(
        path: &Path,
        origin: &Origin,
        rotation: Option<Rotation>,
    ) -> Result<Self, WriteError> {
        let failed = |error| WriteError { path: path.to_owned(), error };
        let file = files::create(path).map_err(failed)?;
        let (encoder, head) = Encoder::new(origin).map_err(failed)?;
        let mut recorder =
            Self { path: path.to_owned(), file, encoder, written: 0, before: 0, rotation };
        recorder.append(&head)?;
        Ok(recorder)
    }

    /// Writes an input.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn write(&mut self, input: &Input) -> Result<(), WriteError> {
        match self.encoder.push(input).map_err(|error| self.failed(error))? {
            Some(block) => self.append(&block),
            None => Ok(()),
        }
    }

    /// Bytes written so far, in all files.
    pub const fn bytes(&self) -> u64 {
        self.before + self.written
    }

    /// Whether a new file is due.
    pub fn is_full(&self) -> bool {
        self.rotation.is_some_and(|rotation| self.written >= rotation.bytes)
    }

    /// Ends this file, moves it and those before it on by one (`FILE.1` is the youngest of them),
    /// and begins the next.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn rotate(&mut self, origin: &Origin) -> Result<(), WriteError> {
        let Some(rotation) = self.rotation else { return Ok(()) };
        self.finish()?;
        let name = |number: usize| match number {
            0 => self.path.clone(),
            _ => PathBuf::from(format!("{}.{number}", self.path.display())),
        };
        for number in (0..rotation.keep.saturating_sub(1)).rev() {
            match std::fs::rename(name(number), name(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(self.failed(error));
                }
                _ => {}
            }
        }
        let before = self.bytes();
        *self = Self { before, ..Self::create(&self.path, origin, self.rotation)? };
        Ok(())
    }

    /// Ends the file.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn finish(&mut self) -> Result<(), WriteError> {
        let block = self.encoder.end().map_err(|error| self.failed(error))?;
        self.append(&block)?;
        self.file.sync_data().map_err(|error| self.failed(error))
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        if let Err(error) = self.file.write_all(bytes) {
            // Half a block would be read as a cut; without it what is there is whole.
            let restored = self.file.set_len(self.written);
            let sought = self.file.seek(SeekFrom::Start(self.written));
            tracing::debug!(?restored, ?sought, "the block that did not fit is taken back");
            return Err(self.failed(error));
        }
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn failed(&self, error: io::Error) -> WriteError {
        WriteError { path: self.path.clone(), error }
    }
}
