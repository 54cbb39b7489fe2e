//! What is known of a network namespace when its entries are replayed.

use std::{net::SocketAddr, ops::RangeInclusive};

use super::socket::{Key, Socket};
use crate::{
    diagnose::{arithmetic::usable_ports, pressure::reuse_delay},
    event::ip,
    host::{facts::NamespaceFacts, open::OpenPorts},
};

/// When a port may be taken over (`tcp_twsk_unique()`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takeover {
    /// So long after the entry, milliseconds: `tcp_tw_reuse_delay`, Linux 6.14 on; and, as the wall
    /// clock's seconds begin nobody knows when, what is enough for kernels up to 4.18.
    After(u64),
    /// When a second of `CLOCK_MONOTONIC` begins that is later than the one of the peer's last
    /// timestamp: Linux 4.19 to 6.13.
    NextSecond,
}

/// A namespace as it was when it was looked at last.
#[derive(Clone, Debug)]
pub struct Known {
    range: Option<RangeInclusive<u16>>,
    reserved: Vec<RangeInclusive<u16>>,
    takeover: Takeover,
    /// `tcp_tw_reuse`.
    pub tw_reuse: Option<u8>,
    open: Option<OpenPorts>,
}

impl Default for Known {
    fn default() -> Self {
        Self::of(&NamespaceFacts { tw_reuse_delay_ms: Some(1000), ..NamespaceFacts::default() })
    }
}

impl Known {
    /// Of what was read.
    pub fn of(facts: &NamespaceFacts) -> Self {
        let long = facts.long_stamps || facts.tw_recycle.is_some();
        let takeover = match facts.tw_reuse_delay_ms {
            None if !long => Takeover::NextSecond,
            _ => Takeover::After((reuse_delay(facts) * 1000.0) as u64),
        };
        Self {
            range: facts.port_range.clone(),
            reserved: facts.reserved_ports.clone(),
            takeover,
            tw_reuse: facts.tw_reuse.and_then(|value| u8::try_from(value).ok()),
            open: facts.open.clone(),
        }
    }

    /// How long a socket that may be taken over holds its port all the same, milliseconds.
    pub fn too_young_ms(&self, socket: &Socket) -> u64 {
        let from_ms = socket.at_ms.saturating_sub(socket.age_ms);
        let until_ms = match self.takeover {
            Takeover::After(delay_ms) => from_ms.saturating_add(delay_ms),
            Takeover::NextSecond => {
                // The kernel's seconds of a recording may be anything.
                let stamp_s = socket.stamp_s.filter(|stamp_s| *stamp_s <= socket.at_ms / 1000);
                stamp_s.unwrap_or(from_ms / 1000).saturating_add(1).saturating_mul(1000)
            }
        };
        until_ms.saturating_sub(socket.at_ms)
    }

    /// Ports there are for a socket, in a range that is tried or as it was.
    pub fn usable(&self, socket: &Socket, tried: Option<(u16, u16)>) -> u64 {
        let here = self.range.as_ref().map(|range| (*range.start(), *range.end()));
        let at_entry = Some(socket.range).filter(|range| range.1 != 0);
        let own = Some(socket.key.range).filter(|range| *range != (0, 0));
        // As it is since Linux 4.2 unless it was set.
        let usual = (32_768, 60_999);
        let (low, high) = own.or(tried).or(here).or(at_entry).unwrap_or(usual);
        usable_ports(&(low..=high), &self.reserved)
    }

    /// Whether open connections were looked at.
    pub const fn knows_open(&self) -> bool {
        self.open.is_some()
    }

    /// Ports of a space that open connections had; `None` if that was not looked for.
    pub fn open(&self, key: &Key) -> Option<u64> {
        let open = self.open.as_ref()?;
        let local = ip(key.local);
        Some(match key.bind {
            true => open.held_for_all(local),
            false => {
                let peer = SocketAddr::new(ip(key.remote), key.remote_port);
                let held = match key.range {
                    (0, 0) => open.held(local, peer),
                    own => open.held_within(local, peer, own),
                };
                held.unwrap_or(0)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entered(at_ms: u64, stamp_s: Option<u64>) -> Socket {
        Socket { at_ms, stamp_s, ..Socket::default() }
    }

    #[test]
    fn a_port_may_be_taken_over_when_its_kernel_says_so() {
        let of = |tw_reuse_delay_ms, long_stamps| {
            Known::of(&NamespaceFacts { tw_reuse_delay_ms, long_stamps, ..<_>::default() })
        };
        let socket = entered(5_300, Some(5));
        assert_eq!(of(Some(1_000), false).too_young_ms(&socket), 1_000, "by its age");
        assert_eq!(of(Some(0), false).too_young_ms(&socket), 1);
        assert_eq!(of(None, false).too_young_ms(&socket), 700, "when the next second begins");
        assert_eq!(of(None, false).too_young_ms(&entered(5_300, Some(4))), 0, "an older timestamp");
        assert_eq!(of(None, false).too_young_ms(&entered(5_300, None)), 700);
        assert_eq!(of(None, true).too_young_ms(&socket), 2_000, "the worst case");
        let there_before = Socket { age_ms: 800, ..entered(5_300, None) };
        assert_eq!(of(Some(1_000), false).too_young_ms(&there_before), 200);
    }
}
