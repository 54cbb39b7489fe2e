//! Reads a recording, block by block, in bounded memory.

use std::io::{self, Read};

use bytes::Bytes;

use super::{
    BLOCK_HEAD, HEAD, MAGIC, MAX_BLOCK, MAX_HEADER, ReadError, VERSION,
    frame::{self, Frame},
};
use crate::feed::{Input, Origin};

/// A recording being read.
#[derive(Debug)]
pub struct Reader<R> {
    source: R,
    /// Bytes of whole parts read so far.
    offset: u64,
    block: Bytes,
    ended: bool,
}

impl<R: Read> Reader<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn open(mut source: R) -> Result<(Self, Origin), ReadError> {
        let mut head = [0; HEAD];
        let got = read_full(&mut source, &mut head)
            .map_err(|source| ReadError::Io { offset: 0, source })?;
        let seen = got.min(MAGIC.len());
        if seen == 0 || head[..seen] != MAGIC[..seen] {
            return Err(ReadError::NotARecording);
        }
        if got < head.len() {
            return Err(ReadError::Cut { offset: 0 });
        }
        let [version, length, sum] = numbers(&head[MAGIC.len()..]);
        let length = length as usize;
        if version > VERSION {
            return Err(ReadError::TooNew { version });
        }
        if length > MAX_HEADER {
            let problem = format!("a header of {length} bytes");
            return Err(ReadError::Damaged { offset: 0, problem });
        }
        let mut reader = Self { source, offset: HEAD as u64, block: Bytes::new(), ended: false };
        let header = reader.bytes(length)?;
        if crc32fast::hash(&header) != sum {
            return Err(reader.damaged("its header's checksum does not fit"));
        }
        let origin: Origin = serde_json::from_slice(&header)
            .map_err(|error| reader.damaged(format!("its header: {error}")))?;
        if origin.abi != twtrace_common::ABI {
            return Err(ReadError::OtherRecords { abi: origin.abi });
        }
        reader.offset += length as u64;
        Ok((reader, origin))
    }

    /// The next input; `None` at the end.
    ///
    /// # Errors
    /// [`ReadError`], once; after that there is nothing more.
    pub fn next_input(&mut self) -> Result<Option<Input>, ReadError> {
        if self.ended {
            return Ok(None);
        }
        let input = self.read_on();
        self.ended = !matches!(input, Ok(Some(_)));
        input
    }

    fn read_on(&mut self) -> Result<Option<Input>, ReadError> {
        loop {
            match frame::take(&mut self.block).map_err(|problem| self.damaged(problem))? {
                Some(Frame::Input(input)) => return Ok(Some(input)),
                Some(Frame::End) => return Ok(None),
                Some(Frame::Unknown) => {}
                None => self.block = self.next_block()?,
            }
        }
    }

    fn next_block(&mut self) -> Result<Bytes, ReadError> {
        let [length, packed_length, sum] = numbers(&self.bytes(BLOCK_HEAD)?);
        let (length, packed_length) = (length as usize, packed_length as usize);
        if length > MAX_BLOCK || packed_length > MAX_BLOCK {
            return Err(self.damaged(format!("a block of {packed_length} bytes for {length}")));
        }
        let packed = self.bytes(packed_length)?;
        if crc32fast::hash(&packed) != sum {
            return Err(self.damaged("a block's checksum does not fit"));
        }
        let block = zstd::bulk::decompress(&packed, length)
            .map_err(|error| self.damaged(format!("a block does not unpack: {error}")))?;
        if block.len() != length {
            return Err(
                self.damaged(format!("a block unpacks to {} bytes of {length}", block.len()))
            );
        }
        self.offset += (BLOCK_HEAD + packed.len()) as u64;
        Ok(block.into())
    }

    fn damaged(&self, problem: impl Into<String>) -> ReadError {
        ReadError::Damaged { offset: self.offset, problem: problem.into() }
    }

    /// Exactly that many bytes.
    fn bytes(&mut self, length: usize) -> Result<Vec<u8>, ReadError> {
        let mut bytes = Vec::new();
        // Not reserved at once: the length may be nonsense.
        let got = self
            .source
            .by_ref()
            .take(length as u64)
            .read_to_end(&mut bytes)
            .map_err(|source| ReadError::Io { offset: self.offset, source })?;
        if got < length { Err(ReadError::Cut { offset: self.offset }) } else { Ok(bytes) }
    }
}

/// The three numbers that bytes begin with; 0 where there are too few bytes.
fn numbers(bytes: &[u8]) -> [u32; 3] {
    let (words, _) = bytes.as_chunks::<4>();
    std::array::from_fn(|at| words.get(at).map_or(0, |word| u32::from_le_bytes(*word)))
}

/// Fills a buffer as far as there is something; answers how far.
fn read_full(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while got < buffer.len() {
        match source.read(&mut buffer[got..]) {
            Ok(0) => break,
            Ok(more) => got += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}
