//! What a socket is to the settings that are tried, and the port space it is in.

use twtrace_common::{Entered, PortChoice, TCP_FIN_WAIT2, entered_flags};

use super::Place;
use crate::{
    aggregate::{began_ns, left_ms, space},
    event::{Role, is_loopback, octets},
    failures::Cause,
    path,
    units::{Hz, TCP_TIMEWAIT_LEN_MS},
};

/// What tells a port space from others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Key {
    /// Inode number of its network namespace.
    pub netns: u32,
    /// Ports for `bind(address, 0)`, of all peers together.
    pub bind: bool,
    /// The address of this end.
    pub local: [u8; 16],
    /// That of the peer, and its port; zero for all peers.
    pub remote: [u8; 16],
    /// The peer's port.
    pub remote_port: u16,
    /// The socket's own range; 0 where it is its namespace's.
    pub range: (u16, u16),
}

impl Key {
    /// The space that failed calls of a place wanted a port of, with the range of their sockets if they
    /// had their own; `None` where the port was named.
    pub fn of_failed(place: &Place, own_range: Option<(u16, u16)>) -> Option<Self> {
        let (netns, cause, local, remote, _) = *place;
        let (remote, remote_port) =
            remote.map_or(([0; 16], 0), |remote| (octets(remote.ip()), remote.port()));
        let key = Self {
            netns,
            bind: cause == Cause::AddressInUse,
            local: octets(local.ip()),
            remote,
            remote_port,
            range: own_range.unwrap_or_default(),
        };
        (cause != Cause::PortBusy && local.port() == 0).then_some(key)
    }

    /// The space of all peers that a port bound first is of.
    pub const fn of_all_peers(self) -> Self {
        Self { remote: [0; 16], remote_port: 0, ..self }
    }
}

/// What a socket that entered is to the settings that are tried.
#[derive(Clone, Copy, Debug, Default)]
pub struct Socket {
    /// Its port space as it was.
    pub key: Key,
    /// When it entered, milliseconds.
    pub at_ms: u64,
    /// How much of its time is over then.
    pub age_ms: u64,
    /// How long its timer runs from then on.
    pub left_ms: u64,
    /// It has a timestamp of the peer.
    pub eligible: bool,
    /// In which second that came, if the kernel's seconds are those of `CLOCK_MONOTONIC`.
    pub stamp_s: Option<u64>,
    /// It could have one, as this end offers them.
    pub offered: bool,
    /// Whether `tcp_tw_reuse=2` is about it.
    pub loopback: bool,
    /// `tcp_tw_reuse` at the entry, if known, 1 where 2 means the same.
    pub tw_reuse: Option<u8>,
    /// The range of its namespace at the entry.
    pub range: (u16, u16),
}

impl Socket {
    /// One that entered, or was there when the session began; `None` where a program named its port.
    pub fn entered(entered: &Entered, role: Role, present: bool, hz: Hz) -> Option<Self> {
        let flag = |flag: u16| entered.header.flags & flag != 0;
        let chosen = space(entered, role);
        if chosen.chosen == PortChoice::Program {
            return None;
        }
        let flow = &entered.flow;
        let eligible = path::at_entry(entered, role).eligible == Some(true);
        let reuse = (!flag(entered_flags::SETTINGS_UNKNOWN)).then_some(entered.tcp_tw_reuse);
        let two_is_on = flag(entered_flags::TWO_IS_ON);
        let began_ns = if present { began_ns(hz, entered) } else { entered.mono_ns };
        // Of a socket whose entry was seen before its timer was read, and of a mini-socket, which gets
        // another timer when the peer's FIN comes, it is taken to be the usual one.
        let left_ms = match entered.armed {
            0 if !present => TCP_TIMEWAIT_LEN_MS,
            _ if present && flag(entered_flags::ENTRY_KNOWN) => TCP_TIMEWAIT_LEN_MS,
            _ if entered.header.state == TCP_FIN_WAIT2 => TCP_TIMEWAIT_LEN_MS,
            _ => left_ms(hz, entered),
        };
        Some(Self {
            key: Key {
                netns: entered.header.netns,
                bind: chosen.chosen == PortChoice::Bind,
                local: flow.local,
                remote: flow.remote,
                remote_port: flow.remote_port,
                range: chosen.range,
            },
            at_ms: entered.mono_ns.max(began_ns) / 1_000_000,
            age_ms: entered.mono_ns.saturating_sub(began_ns) / 1_000_000,
            left_ms,
            eligible,
            stamp_s: u64::try_from(entered.ts_recent_stamp).ok().filter(|stamp| *stamp > 0),
            offered: entered.tcp_timestamps != 0 || flag(entered_flags::SETTINGS_UNKNOWN),
            loopback: path::over_loopback(entered),
            tw_reuse: reuse.map(|reuse| if two_is_on && reuse == 2 { 1 } else { reuse }),
            range: (flow.port_low, flow.port_high),
        })
    }

    /// What a failed call's socket would have been: as the last one of its space that was seen.
    pub fn wanted(key: Key, at_ms: u64, like: Option<Self>) -> Self {
        let unlike = Self {
            left_ms: TCP_TIMEWAIT_LEN_MS,
            offered: true,
            loopback: is_loopback(key.local) || is_loopback(key.remote),
            ..Self::default()
        };
        let like = like.unwrap_or(unlike);
        let left_ms = like.left_ms + like.age_ms;
        Self { key, at_ms, age_ms: 0, left_ms, stamp_s: None, ..like }
    }
}
