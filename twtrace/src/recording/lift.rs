//! Records of earlier versions as today's.

use twtrace_common::{Kind, PortChoice};

use crate::event::{Batch, BatchBuilder};

/// Bytes of an [`twtrace_common::Entered`] of version 1.
const ENTERED_1: usize = 104;
/// Bytes of an [`twtrace_common::Ended`] of version 1.
const ENDED_1: usize = 96;
/// Where the flags are: behind the kind and the state.
const FLAGS: usize = 2;
/// Where [`twtrace_common::Entered`] has who chose the port; reserved before.
const ENTERED_CHOSEN: usize = 101;
/// Where [`twtrace_common::Ended`] has it.
const ENDED_CHOSEN: usize = 89;
/// The flag of version 1 that says that `connect()` chose the port.
const AUTOBOUND: u8 = 1 << 1;

/// Oldest version of the records that can be lifted.
pub const OLDEST: u32 = 1;

/// Records of version 1 as today's: who chose the port moves from a flag to a field, and the cookie
/// of the namespace is unknown.
pub fn from_version_1(batch: &Batch) -> Batch {
    let mut lifted = BatchBuilder::default();
    for record in batch.records() {
        let (length, chosen) = match record.first() {
            Some(&kind) if kind == Kind::Entered as u8 || kind == Kind::Present as u8 => {
                (ENTERED_1, ENTERED_CHOSEN)
            }
            Some(&kind) if kind == Kind::Ended as u8 => (ENDED_1, ENDED_CHOSEN),
            _ => (usize::MAX, 0),
        };
        if record.len() != length {
            // Not one of that version: whoever decodes it says so.
            lifted.push(record);
            continue;
        }
        let mut bytes = record.to_vec();
        if bytes[FLAGS] & AUTOBOUND != 0 {
            bytes[FLAGS] &= !AUTOBOUND;
            bytes[chosen] = PortChoice::Connect as u8;
        }
        bytes.extend([0; 8]);
        lifted.push(&bytes);
    }
    lifted.take()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;
    use std::mem::offset_of;
    use twtrace_common::{Decode as _, Ended, Entered, Header};

    #[test]
    fn a_flag_of_version_1_becomes_the_choice_of_the_port() {
        assert_eq!(offset_of!(Entered, chosen), ENTERED_CHOSEN);
        assert_eq!(offset_of!(Ended, chosen), ENDED_CHOSEN);
        let header = |kind, flags| Header { kind: kind as u8, flags, ..Header::default() };
        let entered =
            Entered { header: header(Kind::Entered, 0b11), mono_ns: 7, ..Entered::default() };
        let ended = Ended { header: header(Kind::Ended, 0b100), mono_ns: 9, ..Ended::default() };
        let mut builder = BatchBuilder::default();
        builder.push(&entered.as_bytes()[..ENTERED_1]);
        builder.push(&ended.as_bytes()[..ENDED_1]);
        builder.push(&[3; 20]);
        let lifted = from_version_1(&builder.take());
        let events: Vec<_> = lifted.events().collect();
        let lifted = Entered {
            header: header(Kind::Entered, 0b01),
            chosen: PortChoice::Connect as u8,
            ..entered
        };
        assert_eq!(events[..2], [Ok(Event::Entered(lifted)), Ok(Event::Ended(ended))]);
        assert!(events[2].is_err(), "neither version has such a record");
    }
}
