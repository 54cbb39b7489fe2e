//! Inputs as frames of bytes, and back.

use bytes::{BufMut, Bytes};
use serde::{Serialize, de::DeserializeOwned};
use twtrace_common::{Decode, RefusalKey, Refusals};

use crate::{event::Batch, feed::Input, peer::Refused};

/// What a frame holds. Numbers are never given to another kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Wire records, each with its length in front.
    Records = 1,
    /// Keys and counts of refused takeovers, as the kernel programs keep them.
    Refusals = 2,
    /// Pairs of an address and a time of entry.
    Vanished = 3,
    /// JSON: what was known before.
    Past = 4,
    /// A time.
    Ready = 5,
    /// JSON: the facts of a moment.
    Moment = 6,
    /// Nothing; the last frame.
    End = 255,
}

/// Bytes of a frame before its payload.
const HEAD: usize = 5;

/// Sockets or refusals of one frame.
const PAIRS_AT_ONCE: usize = 1 << 15;
/// Pasts of one frame: each has up to a day of minutes.
const PASTS_AT_ONCE: usize = 16;

/// Puts one frame.
type Put<'a> = Box<dyn FnOnce(&mut Vec<u8>) + 'a>;

/// An input as frames, of which none is too large for a block whatever the input holds. A list
/// that is cut into several is as good as one.
pub fn pieces(input: &Input) -> Vec<Put<'_>> {
    match input {
        Input::Refusals(refusals) => refusals.chunks(PAIRS_AT_ONCE).map(put_refusals).collect(),
        Input::Vanished(sockets) => sockets.chunks(PAIRS_AT_ONCE).map(put_vanished).collect(),
        Input::Past(peers) => {
            let put = |some| -> Put<'_> { Box::new(move |out| put_json(out, Kind::Past, some)) };
            peers.chunks(PASTS_AT_ONCE).map(put).collect()
        }
        Input::Records(batch) => {
            vec![Box::new(|out| put_bytes(out, Kind::Records, |out| out.put_slice(batch.bytes())))]
        }
        Input::Ready(mono_ns) => {
            vec![Box::new(|out| put_bytes(out, Kind::Ready, |out| out.put_u64_le(*mono_ns)))]
        }
        Input::Moment(moment) => vec![Box::new(|out| put_json(out, Kind::Moment, moment))],
    }
}

fn put_refusals(refusals: &[(RefusalKey, Refused)]) -> Put<'_> {
    Box::new(move |out| {
        put_bytes(out, Kind::Refusals, |out| {
            for (key, refused) in refusals {
                out.put_slice(key.as_bytes());
                out.put_slice(Refusals { by_reason: refused.by_reason }.as_bytes());
            }
        });
    })
}

fn put_vanished(sockets: &[(u64, u64)]) -> Put<'_> {
    Box::new(move |out| {
        put_bytes(out, Kind::Vanished, |out| {
            for (tw, entered_ns) in sockets {
                out.put_u64_le(*tw);
                out.put_u64_le(*entered_ns);
            }
        });
    })
}

/// Appends the mark of the end.
pub fn put_end(out: &mut Vec<u8>) {
    put_bytes(out, Kind::End, |_| {});
}

fn put_bytes(out: &mut Vec<u8>, kind: Kind, payload: impl FnOnce(&mut Vec<u8>)) {
    out.put_u8(kind as u8);
    let length_at = out.len();
    out.put_u32_le(0);
    payload(out);
    let length = u32::try_from(out.len() - length_at - 4).expect("a frame is far below 4 GiB");
    out[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
}

fn put_json(out: &mut Vec<u8>, kind: Kind, value: &(impl Serialize + ?Sized)) {
    put_bytes(out, kind, |out| {
        serde_json::to_writer(out, value).expect("plain data and a vector take everything");
    });
}

/// One frame of a block.
#[derive(Debug)]
pub enum Frame {
    /// An input.
    Input(Input),
    /// The end of all.
    End,
    /// Of a kind that this version does not know.
    Unknown,
}

/// Takes the first frame off a block; `None` when the block is used up.
///
/// # Errors
/// What does not fit, in words.
pub fn take(block: &mut Bytes) -> Result<Option<Frame>, String> {
    if block.is_empty() {
        return Ok(None);
    }
    let (kind, length) = match block.first_chunk::<HEAD>() {
        Some([kind, length @ ..]) => (*kind, u32::from_le_bytes(*length) as usize),
        None => return Err("a frame's head is cut off".into()),
    };
    if block.len() - HEAD < length {
        return Err(format!("a frame says it has {length} bytes"));
    }
    let _head = block.split_to(HEAD);
    let payload = block.split_to(length);
    frame(kind, payload).map(Some)
}

fn frame(kind: u8, payload: Bytes) -> Result<Frame, String> {
    let input = match kind {
        _ if kind == Kind::Records as u8 => {
            let batch = Batch::from_bytes(payload);
            batch.is_whole().then_some(Input::Records(batch)).ok_or("a record is cut off")?
        }
        _ if kind == Kind::Refusals as u8 => Input::Refusals(refusals(&payload)?),
        _ if kind == Kind::Vanished as u8 => Input::Vanished(vanished(&payload)?),
        _ if kind == Kind::Past as u8 => Input::Past(json(&payload)?),
        _ if kind == Kind::Ready as u8 => {
            let bytes = payload.first_chunk::<8>().ok_or("a time is too short")?;
            Input::Ready(u64::from_le_bytes(*bytes))
        }
        _ if kind == Kind::Moment as u8 => Input::Moment(Box::new(json(&payload)?)),
        _ if kind == Kind::End as u8 => return Ok(Frame::End),
        _ => return Ok(Frame::Unknown),
    };
    Ok(Frame::Input(input))
}

fn json<T: DeserializeOwned>(payload: &[u8]) -> Result<T, String> {
    serde_json::from_slice(payload).map_err(|error| error.to_string())
}

fn refusals(payload: &[u8]) -> Result<Vec<(RefusalKey, Refused)>, String> {
    let whole = size_of::<RefusalKey>() + size_of::<Refusals>();
    if !payload.len().is_multiple_of(whole) {
        return Err("a list of refusals is cut off".into());
    }
    let pairs = payload.chunks_exact(whole).filter_map(|pair| {
        let key = RefusalKey::from_bytes(pair)?;
        let counts = Refusals::from_bytes(&pair[size_of::<RefusalKey>()..])?;
        Some((key, Refused { by_reason: counts.by_reason }))
    });
    Ok(pairs.collect())
}

fn vanished(payload: &[u8]) -> Result<Vec<(u64, u64)>, String> {
    let (pairs, []) = payload.as_chunks::<16>() else {
        return Err("a list of sockets is cut off".into());
    };
    Ok(pairs
        .iter()
        .map(|pair| {
            let pair = u128::from_le_bytes(*pair);
            (pair as u64, (pair >> 64) as u64)
        })
        .collect())
}
