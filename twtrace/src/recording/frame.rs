//! Inputs as frames of bytes, and back.

use bytes::{BufMut, Bytes};
use serde::{Serialize, de::DeserializeOwned};
use twtrace_common::{Failure, FailureKey, RefusalKey, Refusals};

use super::{
    MAX_BLOCK, MAX_JSON, MAX_PASTS,
    format::{FileMoment, FileOwned, FilePast, Turn as _},
    lists,
};
use crate::{
    event::Batch,
    origin::{Input, Moment},
    owner::Owned,
    peer::{Past, Refused},
};

/// What a frame holds. Numbers are never given to another kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// Wire records, each with its length in front.
    Records = 1,
    /// Refused takeovers as version 1 has them, without the lengths of their records.
    RefusalsOf1 = 2,
    /// Pairs of an address and a time of entry.
    Vanished = 3,
    /// JSON: what was known before.
    Past = 4,
    /// A time.
    Ready = 5,
    /// JSON: the facts of a moment.
    Moment = 6,
    /// Failed calls as version 1 has them.
    FailuresOf1 = 7,
    /// Pairs of a network namespace and how many sockets live there at most that are not followed.
    Unfollowed = 8,
    /// Keys and counts of refused takeovers: [`lists`].
    Refusals = 9,
    /// Keys and counts of failed calls: [`lists`].
    Failures = 10,
    /// Keys and counts of calls that failed before: [`lists`].
    FailuresBefore = 11,
    /// JSON: whose control groups and network namespaces are.
    Owners = 12,
    /// Nothing; the last frame.
    End = 255,
}

/// Bytes of a frame before its payload.
const HEAD: usize = 5;

/// Sockets or refusals of one frame.
const PAIRS_AT_ONCE: usize = 1 << 15;
/// Pasts of one frame: each has up to two days of minutes.
const PASTS_AT_ONCE: usize = 4;
/// Owners of one frame: names have an upper bound.
const OWNERS_AT_ONCE: usize = 256;
/// Times that names and facts take in memory what they take as JSON.
const JSON_GROWS: usize = 20;

/// Puts one frame.
type Put<'a> = Box<dyn FnOnce(&mut Vec<u8>) + 'a>;

/// An input as frames, of which none is too large for a block whatever the input holds. A list
/// that is cut into several is as good as one.
pub fn pieces(input: &Input) -> Vec<Put<'_>> {
    match input {
        Input::Refusals(refusals) => refusals.chunks(PAIRS_AT_ONCE).map(put_refusals).collect(),
        Input::Failures(failures) => put_failures(FrameKind::Failures, failures),
        Input::FailuresBefore(failures) => put_failures(FrameKind::FailuresBefore, failures),
        Input::Vanished(sockets) => sockets.chunks(PAIRS_AT_ONCE).map(put_vanished).collect(),
        Input::Unfollowed(counts) => counts.chunks(PAIRS_AT_ONCE).map(put_unfollowed).collect(),
        Input::Past(peers) => {
            let put = |some| -> Put<'_> {
                Box::new(move |out| put_json(out, FrameKind::Past, &file_pasts(some)))
            };
            peers.chunks(PASTS_AT_ONCE).map(put).collect()
        }
        Input::Owners(owners) => {
            let put = |some| -> Put<'_> {
                Box::new(move |out| put_json(out, FrameKind::Owners, &file_owners(some)))
            };
            owners.chunks(OWNERS_AT_ONCE).map(put).collect()
        }
        Input::Records(batch) => {
            vec![Box::new(|out| {
                put_bytes(out, FrameKind::Records, |out| out.put_slice(batch.bytes()))
            })]
        }
        Input::Ready(mono_ns) => {
            vec![Box::new(|out| put_bytes(out, FrameKind::Ready, |out| out.put_u64_le(*mono_ns)))]
        }
        Input::Moment(moment) => {
            vec![Box::new(|out| put_json(out, FrameKind::Moment, &file_moment(moment)))]
        }
    }
}

fn put_refusals(refusals: &[(RefusalKey, Refused)]) -> Put<'_> {
    let counts = |(key, refused): &(_, Refused)| (*key, Refusals { by_reason: refused.by_reason });
    Box::new(move |out| {
        put_bytes(out, FrameKind::Refusals, |out| lists::put(out, refusals.iter().map(counts)));
    })
}

fn put_failures(kind: FrameKind, failures: &[(FailureKey, Failure)]) -> Vec<Put<'_>> {
    let lists = failures.chunks(PAIRS_AT_ONCE).map(|some| some.iter().copied());
    lists
        .map(|list| -> Put<'_> {
            Box::new(move |out| put_bytes(out, kind, |out| lists::put(out, list)))
        })
        .collect()
}

fn put_vanished(sockets: &[(u64, u64)]) -> Put<'_> {
    put_pairs(FrameKind::Vanished, sockets, |socket| socket)
}

fn put_unfollowed(counts: &[(u32, u64)]) -> Put<'_> {
    put_pairs(FrameKind::Unfollowed, counts, |(netns, most)| (netns.into(), most))
}

fn put_pairs<'a, T: Copy>(
    kind: FrameKind,
    some: &'a [T],
    pair: impl Fn(T) -> (u64, u64) + 'a,
) -> Put<'a> {
    Box::new(move |out| {
        put_bytes(out, kind, |out| {
            for (one, other) in some.iter().copied().map(pair) {
                out.put_u64_le(one);
                out.put_u64_le(other);
            }
        });
    })
}

/// Appends the mark of the end.
pub fn put_end(out: &mut Vec<u8>) {
    put_bytes(out, FrameKind::End, |_| {});
}

fn file_pasts(pasts: &[Past]) -> Vec<FilePast> {
    pasts.to_vec().turn()
}

fn file_owners(owners: &[Owned]) -> Vec<FileOwned> {
    owners.iter().cloned().map(FileOwned::from).collect()
}

fn file_moment(moment: &Moment) -> FileMoment {
    moment.clone().turn()
}

fn put_bytes(out: &mut Vec<u8>, kind: FrameKind, payload: impl FnOnce(&mut Vec<u8>)) {
    out.put_u8(kind as u8);
    let length_at = out.len();
    out.put_u32_le(0);
    payload(out);
    let length = u32::try_from(out.len() - length_at - 4).expect("a frame is far below 4 GiB");
    out[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
}

fn put_json(out: &mut Vec<u8>, kind: FrameKind, value: &(impl Serialize + ?Sized)) {
    put_bytes(out, kind, |out| {
        serde_json::to_writer(out, value).expect("plain data and a vector take everything");
    });
}

/// One frame of a block.
#[derive(Debug)]
pub enum Frame {
    /// An input, and about how many bytes it takes.
    Input(Input, usize),
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

/// Most bytes of a frame of a kind.
fn most(kind: u8) -> usize {
    match kind {
        _ if kind == FrameKind::Past as u8 => MAX_PASTS,
        _ if kind == FrameKind::Moment as u8 || kind == FrameKind::Owners as u8 => MAX_JSON,
        _ => MAX_BLOCK,
    }
}

/// Refuses a frame that is longer than a reader takes.
///
/// # Errors
/// In words.
pub fn check(frame: &[u8]) -> Result<(), String> {
    fits(frame.first().copied().unwrap_or(0), frame.len().saturating_sub(HEAD))
}

fn fits(kind: u8, length: usize) -> Result<(), String> {
    let most = most(kind);
    if length <= most {
        return Ok(());
    }
    Err(format!("a frame of kind {kind} has {length} bytes, more than {most}"))
}

fn frame(kind: u8, payload: Bytes) -> Result<Frame, String> {
    let length = payload.len();
    fits(kind, length)?;
    let names = [FrameKind::Moment as u8, FrameKind::Owners as u8];
    let grows = if names.contains(&kind) { JSON_GROWS } else { 1 };
    let input = match kind {
        _ if kind == FrameKind::Records as u8 => {
            let batch = Batch::from_bytes(payload);
            batch.is_whole().then_some(Input::Records(batch)).ok_or("a record is cut off")?
        }
        _ if kind == FrameKind::RefusalsOf1 as u8 => {
            Input::Refusals(refusals(lists::take_of(lists::REFUSALS_1, &payload)?))
        }
        _ if kind == FrameKind::FailuresOf1 as u8 => {
            Input::Failures(lists::take_of(lists::FAILURES_1, &payload)?)
        }
        _ if kind == FrameKind::Refusals as u8 => Input::Refusals(refusals(lists::take(&payload)?)),
        _ if kind == FrameKind::Failures as u8 => Input::Failures(lists::take(&payload)?),
        _ if kind == FrameKind::FailuresBefore as u8 => {
            Input::FailuresBefore(lists::take(&payload)?)
        }
        _ if kind == FrameKind::Vanished as u8 => Input::Vanished(pairs(&payload)?),
        _ if kind == FrameKind::Unfollowed as u8 => Input::Unfollowed(unfollowed(&payload)?),
        _ if kind == FrameKind::Past as u8 => Input::Past(pasts(&payload)?),
        _ if kind == FrameKind::Ready as u8 => {
            let bytes = payload.first_chunk::<8>().ok_or("a time is too short")?;
            Input::Ready(u64::from_le_bytes(*bytes))
        }
        _ if kind == FrameKind::Moment as u8 => {
            Input::Moment(Box::new(json::<FileMoment>(&payload)?.turn()))
        }
        _ if kind == FrameKind::Owners as u8 => Input::Owners(owners(&payload)?),
        _ if kind == FrameKind::End as u8 => return Ok(Frame::End),
        _ => return Ok(Frame::Unknown),
    };
    Ok(Frame::Input(input, length * grows))
}

/// One that is of neither a control group nor a namespace is of something later versions know.
fn owners(payload: &[u8]) -> Result<Vec<Owned>, String> {
    let owners: Vec<FileOwned> = json(payload)?;
    Ok(owners.into_iter().filter_map(FileOwned::into_owned).collect())
}

/// The minutes of a peer come one after the other, each once.
fn pasts(payload: &[u8]) -> Result<Vec<Past>, String> {
    let pasts: Vec<Past> = json::<Vec<FilePast>>(payload)?.turn();
    let ordered = |past: &Past| past.minutes.is_sorted_by(|one, next| one.minute < next.minute);
    if pasts.iter().all(ordered) { Ok(pasts) } else { Err("minutes are out of order".into()) }
}

fn json<T: DeserializeOwned>(payload: &[u8]) -> Result<T, String> {
    serde_json::from_slice(payload).map_err(|error| error.to_string())
}

fn refusals(list: Vec<(RefusalKey, Refusals)>) -> Vec<(RefusalKey, Refused)> {
    list.into_iter().map(|(key, counts)| (key, Refused { by_reason: counts.by_reason })).collect()
}

fn unfollowed(payload: &[u8]) -> Result<Vec<(u32, u64)>, String> {
    let number =
        |netns| u32::try_from(netns).map_err(|_| format!("no namespace has number {netns}"));
    let counts = pairs(payload)?.into_iter().map(|(netns, most)| Ok((number(netns)?, most)));
    counts.collect()
}

fn pairs(payload: &[u8]) -> Result<Vec<(u64, u64)>, String> {
    let (pairs, []) = payload.as_chunks::<16>() else {
        return Err("a list of pairs is cut off".into());
    };
    Ok(pairs
        .iter()
        .map(|pair| {
            let pair = u128::from_le_bytes(*pair);
            (pair as u64, (pair >> 64) as u64)
        })
        .collect())
}
