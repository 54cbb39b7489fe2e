//! Recordings: the inputs of a session in a file, to be taken in again.
//!
//! # Format, version 2
//! All numbers are little-endian.
//!
//! | part | bytes |
//! |---|---|
//! | magic | `TWTRACE\n` |
//! | version | 4 |
//! | length of the header | 4 |
//! | CRC-32 of the header | 4 |
//! | header | JSON: where the inputs come from ([`crate::origin::Origin`]) |
//! | blocks | to the end |
//!
//! A block is the length of its frames (4), its own length (4), the CRC-32 of its own bytes (4),
//! and its frames, compressed with Zstandard. A frame is a kind (1), a length (4) and a payload;
//! the last frame of all marks the end, so that a file that was cut off is known from a whole one.
//! Frames of a kind that a reader does not know are passed over.
//!
//! Records may grow at their end without a new version, and so may keys and values of lists: what a
//! reader does not know is cut, what a writer did not know is 0. Keys may be added to JSON ([`format`]).
//! Version 1 had lists without the lengths of their records; they are read as today's.
//!
//! A block is written when it is full and with every moment, once a second: a crash costs a
//! second. No block and no frame is larger than a reader takes, so neither are a
//! reader's needs. The very same
//! bytes are what a daemon sends to `twtrace`.

mod format;
mod frame;
mod lift;
mod lists;
mod reader;
mod stream;
mod writer;

use std::{io, path::PathBuf};

pub use reader::Reader;
pub use stream::{Pace, StreamEnd, StreamFeed};
pub use writer::{Encoder, Recorder, Rotation};

/// First bytes of a recording.
const MAGIC: &[u8; 8] = b"TWTRACE\n";
/// Version of the format.
pub const VERSION: u32 = 2;
/// Bytes before the header: magic, version, length, CRC-32.
const HEAD: usize = 20;
/// Longest header; the names of network namespaces and control groups are in it.
const MAX_HEADER: usize = MAX_JSON;
/// Most bytes of a block, compressed or not.
const MAX_BLOCK: usize = 1 << 24;
/// Most bytes of JSON that is names and facts. Read, it takes up to some twenty times as much: what a
/// stranger's recording can take is bounded by this.
const MAX_JSON: usize = 4 << 20;
/// Most bytes of JSON that is the past of peers, which read takes less than before.
const MAX_PASTS: usize = 8 << 20;
/// Numbers in front of a block's bytes: length of its frames, its own, CRC-32.
const BLOCK_HEAD: usize = 12;

/// Why a recording cannot be read, or not further.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be opened.
    #[error("cannot open it: {source}")]
    Unopened {
        /// Why.
        source: io::Error,
    },
    /// It is something else.
    #[error("this is no recording of twtrace: it does not begin with {:?}", "TWTRACE")]
    NotARecording,
    /// A later twtrace wrote it.
    #[error("this recording has format {version}, and this twtrace reads up to {VERSION}")]
    TooNew {
        /// Its version.
        version: u32,
    },
    /// Its wire records are of another version.
    #[error(
        "this recording has records of version {abi}, and this twtrace reads {} to {}",
        lift::OLDEST,
        twtrace_common::ABI
    )]
    OtherRecords {
        /// Their version.
        abi: u32,
    },
    /// It ends where there should be more.
    #[error("it is cut off after byte {offset}")]
    Cut {
        /// Bytes that are whole.
        offset: u64,
    },
    /// What is there is not what was written.
    #[error("it is damaged after byte {offset}: {problem}")]
    Damaged {
        /// Bytes that are whole.
        offset: u64,
        /// What does not fit.
        problem: String,
    },
    /// Reading failed.
    #[error("cannot read on after byte {offset}: {source}")]
    Io {
        /// Bytes that were read.
        offset: u64,
        /// Why.
        source: io::Error,
    },
}

/// Why a recording cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the recording {path}: {error}; what was written before is whole")]
pub struct WriteError {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub error: io::Error,
}
