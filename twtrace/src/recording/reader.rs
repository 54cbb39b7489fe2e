//! Reads a recording, block by block, in bounded memory.

use std::io::{self, Read};

use bytes::Bytes;

use super::{
    BLOCK_HEAD, HEAD, MAGIC, MAX_BLOCK, MAX_HEADER, ReadError, VERSION,
    format::{FileOrigin, Turn as _},
    frame::{self, Frame},
    lift,
};
use crate::{
    origin::{Input, Origin},
    text::visible,
};

/// A recording being read.
#[derive(Debug)]
pub struct Reader<R> {
    source: R,
    /// Bytes of whole parts read so far.
    offset: u64,
    block: Bytes,
    /// Version of its records.
    abi: u32,
    /// Bytes of all blocks so far, unpacked, and how many there may be.
    unpacked: u64,
    most: u64,
    /// About how many bytes the last input takes.
    size: usize,
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
        if version == 0 {
            let problem = "there is no format 0".to_owned();
            return Err(ReadError::Damaged { offset: 0, problem });
        }
        if length > MAX_HEADER {
            let problem = format!("a header of {length} bytes");
            return Err(ReadError::Damaged { offset: 0, problem });
        }
        let mut reader = Self {
            source,
            offset: HEAD as u64,
            block: Bytes::new(),
            abi: twtrace_common::ABI,
            unpacked: 0,
            most: u64::MAX,
            size: 0,
            ended: false,
        };
        let header = reader.bytes(length)?;
        if crc32fast::hash(&header) != sum {
            return Err(reader.damaged("its header's checksum does not fit"));
        }
        let header: FileOrigin = serde_json::from_slice(&header)
            .map_err(|error| reader.damaged(format!("its header: {error}")))?;
        let mut origin: Origin = header.turn();
        if !(lift::OLDEST..=twtrace_common::ABI).contains(&origin.abi) {
            return Err(ReadError::OtherRecords { abi: origin.abi });
        }
        reader.offset += length as u64;
        reader.abi = origin.abi;
        // What is handed on has today's records.
        origin.abi = twtrace_common::ABI;
        Ok((reader, origin))
    }

    /// Takes no more than so many bytes, unpacked.
    pub fn limit(&mut self, most: u64) {
        self.most = most;
    }

    /// About how many bytes the input given last takes.
    pub const fn size(&self) -> usize {
        self.size
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
                Some(Frame::Input(Input::Records(batch), size)) if self.abi == lift::OLDEST => {
                    self.size = size;
                    return Ok(Some(Input::Records(lift::from_version_1(&batch))));
                }
                Some(Frame::Input(input, size)) => {
                    self.size = size;
                    return Ok(Some(input));
                }
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
        self.unpacked += length as u64;
        if self.unpacked > self.most {
            return Err(self.damaged(format!("it unpacks to more than {} bytes", self.most)));
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
        ReadError::Damaged { offset: self.offset, problem: visible(&problem.into()).into_owned() }
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
