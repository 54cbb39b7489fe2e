//! Reads a recording, block by block, in bounded memory.

use std::io::{self, Read};

use bytes::Bytes;

use super::{
    MAGIC, MAX_BLOCK, MAX_HEADER, ReadError, VERSION,
    frame::{self, Frame},
};
use crate::feed::{Input, Origin};

/// Numbers in front of a block's bytes: length of its frames, its own, CRC-32.
const BLOCK_HEAD: usize = 12;

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
        let mut head = [0; 16];
        let got = read_full(&mut source, &mut head)
            .map_err(|source| ReadError::Io { offset: 0, source })?;
        let seen = got.min(MAGIC.len());
        if seen == 0 || head[..seen] != MAGIC[..seen] {
            return Err(ReadError::NotARecording);
        }
        if got < head.len() {
            return Err(ReadError::Cut { offset: 0 });
        }
        let number =
            |at: usize| head[at..].first_chunk().map_or(0, |four| u32::from_le_bytes(*four));
        let (version, length) = (number(8), number(12));
        if version > VERSION {
            return Err(ReadError::TooNew { version });
        }
        if length > MAX_HEADER {
            let problem = format!("a header of {length} bytes");
            return Err(ReadError::Damaged { offset: 0, problem });
        }
        let mut reader = Self { source, offset: 16, block: Bytes::new(), ended: false };
        let header = reader.bytes(length as usize)?;
        let origin: Origin = serde_json::from_slice(&header).map_err(|error| {
            ReadError::Damaged { offset: 16, problem: format!("its header: {error}") }
        })?;
        if origin.abi != twtrace_common::ABI {
            return Err(ReadError::OtherRecords { abi: origin.abi });
        }
        reader.offset += u64::from(length);
        Ok((reader, origin))
    }

    /// The next input; `None` at the end.
    ///
    /// # Errors
    /// [`ReadError`]; nothing can be read after that.
    pub fn next_input(&mut self) -> Result<Option<Input>, ReadError> {
        loop {
            if self.ended {
                return Ok(None);
            }
            let frame = frame::take(&mut self.block)
                .map_err(|problem| ReadError::Damaged { offset: self.offset, problem })?;
            match frame {
                Some(Frame::Input(input)) => return Ok(Some(input)),
                Some(Frame::End) => self.ended = true,
                Some(Frame::Unknown) => {}
                None => self.block = self.next_block()?,
            }
        }
    }

    fn next_block(&mut self) -> Result<Bytes, ReadError> {
        let head = self.bytes(BLOCK_HEAD)?;
        let number =
            |at: usize| head[at..].first_chunk().map_or(0, |four| u32::from_le_bytes(*four));
        let (length, packed_length, sum) = (number(0), number(4), number(8));
        let damaged = |problem: String| ReadError::Damaged { offset: self.offset, problem };
        if length > MAX_BLOCK || packed_length > MAX_BLOCK {
            return Err(damaged(format!("a block of {packed_length} bytes for {length}")));
        }
        let packed = self.bytes(packed_length as usize)?;
        let damaged = |problem: String| ReadError::Damaged { offset: self.offset, problem };
        if crc32fast::hash(&packed) != sum {
            return Err(damaged("a block's checksum does not fit".into()));
        }
        let block = zstd::bulk::decompress(&packed, length as usize)
            .map_err(|error| damaged(format!("a block does not unpack: {error}")))?;
        if block.len() != length as usize {
            return Err(damaged(format!("a block unpacks to {} bytes of {length}", block.len())));
        }
        self.offset += (BLOCK_HEAD + packed.len()) as u64;
        Ok(block.into())
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
