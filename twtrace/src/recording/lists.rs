//! Lists of keys and counts, as the kernel programs keep them.
//!
//! In front of a list are the lengths of its keys and of its values, so that either may grow: what a
//! reader does not know is cut, what an older writer did not know is 0, which must mean *not known*.

use bytes::BufMut;
use twtrace_common::Decode;

/// Bytes of a key and of its value.
pub type Lengths = (usize, usize);

/// Lengths of refusals in version 1, which did not tell.
pub const REFUSALS_1: Lengths = (24, 40);
/// Lengths of failures in version 1.
pub const FAILURES_1: Lengths = (48, 72);

/// Appends a list with its lengths.
pub fn put<K: Decode, V: Decode>(out: &mut Vec<u8>, list: impl Iterator<Item = (K, V)>) {
    for length in [size_of::<K>(), size_of::<V>()] {
        out.put_u16_le(u16::try_from(length).expect("a record is far below 64 KiB"));
    }
    for (key, value) in list {
        out.put_slice(key.as_bytes());
        out.put_slice(value.as_bytes());
    }
}

/// Reads a list that begins with its lengths.
///
/// # Errors
/// In words, if it is cut off.
pub fn take<K: Decode, V: Decode>(payload: &[u8]) -> Result<Vec<(K, V)>, String> {
    let (lengths, list) = payload.split_first_chunk::<4>().ok_or("a list has no lengths")?;
    let [key, key_high, value, value_high] = *lengths;
    let length = |low, high| usize::from(u16::from_le_bytes([low, high]));
    take_of((length(key, key_high), length(value, value_high)), list)
}

/// Reads a list whose lengths are known.
///
/// # Errors
/// As for [`take`].
pub fn take_of<K: Decode, V: Decode>(
    (key, value): Lengths,
    list: &[u8],
) -> Result<Vec<(K, V)>, String> {
    if key == 0 || value == 0 || !list.len().is_multiple_of(key + value) {
        return Err(format!(
            "a list of {} bytes has keys of {key} and values of {value}",
            list.len()
        ));
    }
    let pair = |bytes: &[u8]| Some((fitted(&bytes[..key])?, fitted(&bytes[key..])?));
    Ok(list.chunks_exact(key + value).filter_map(pair).collect())
}

/// A record of more or fewer bytes than today's.
fn fitted<T: Decode>(bytes: &[u8]) -> Option<T> {
    if bytes.len() >= size_of::<T>() {
        return T::from_bytes(bytes);
    }
    let mut whole = bytes.to_vec();
    whole.resize(size_of::<T>(), 0);
    T::from_bytes(&whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use twtrace_common::{Failure, FailureKey, RefusalKey, Refusals};

    #[test]
    fn a_list_is_read_whether_its_records_have_more_or_fewer_fields() {
        let key = RefusalKey { netns: 7, remote_port: 443, ..RefusalKey::default() };
        let counts = Refusals { by_reason: [1, 2, 3, 4, 5] };
        let mut list = Vec::new();
        put(&mut list, [(key, counts)].into_iter());
        assert_eq!(take(&list), Ok(vec![(key, counts)]));

        // Of a later writer, whose counts have another reason.
        let mut longer = Vec::new();
        longer.put_u16_le(24);
        longer.put_u16_le(48);
        longer.put_slice(key.as_bytes());
        longer.put_slice(counts.as_bytes());
        longer.put_u64_le(6);
        assert_eq!(take(&longer), Ok(vec![(key, counts)]));

        // Of an earlier one, which knew four.
        let mut shorter = Vec::new();
        shorter.put_u16_le(24);
        shorter.put_u16_le(32);
        shorter.put_slice(key.as_bytes());
        shorter.put_slice(&counts.as_bytes()[..32]);
        let four = Refusals { by_reason: [1, 2, 3, 4, 0] };
        assert_eq!(take(&shorter), Ok(vec![(key, four)]));
    }

    #[test]
    fn a_list_that_does_not_add_up_is_refused() {
        for list in [&[0; 3][..], &[0; 8], &[24, 0, 40, 0, 1]] {
            assert!(take::<RefusalKey, Refusals>(list).is_err(), "{list:?}");
        }
    }

    #[test]
    fn records_have_not_become_shorter_than_in_version_1() {
        assert!(size_of::<RefusalKey>() >= REFUSALS_1.0 && size_of::<Refusals>() >= REFUSALS_1.1);
        assert!(size_of::<FailureKey>() >= FAILURES_1.0 && size_of::<Failure>() >= FAILURES_1.1);
    }
}
