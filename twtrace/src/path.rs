//! Which path a socket may take (at entry) and which it took (at its end): pure rules.
//!
//! The rules are `tcp_twsk_unique()`'s, net/ipv4/tcp_ipv4.c, read from 4.19 to 7.1, and
//! `tcp_time_wait()`'s for kernels that still recycle.

use twtrace_common::{EndReason, Ended, Entered, TCP_FIN_WAIT2, ended_flags, entered_flags};

use crate::{
    event::{Role, end_reason, is_loopback},
    units::{Hz, TCP_TIMEWAIT_LEN_MS, recycle_timeout},
};

/// Why the fast path is closed to a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Block {
    /// The peer sent no timestamps though this end offers them.
    NoPeerTimestamps,
    /// `tcp_timestamps` is 0 on this end.
    TimestampsOff,
    /// `tcp_tw_reuse` is 0.
    ReuseOff,
    /// `tcp_tw_reuse` is 2, the default, and this is not loopback.
    ReuseLoopbackOnly,
    /// It never became more than a FIN_WAIT2 mini-socket, which kernels from 6.12 on, and some before,
    /// do not let `connect()` take over. Known at its end only, and assumed of a kernel as long as it
    /// was not seen to do so.
    FinWait2,
}

impl Block {
    /// All reasons, in the order they are shown.
    pub const ALL: [Self; 5] = [
        Self::NoPeerTimestamps,
        Self::TimestampsOff,
        Self::ReuseOff,
        Self::ReuseLoopbackOnly,
        Self::FinWait2,
    ];

    /// Name in machine output.
    pub const fn key(self) -> &'static str {
        match self {
            Self::NoPeerTimestamps => "no_peer_timestamps",
            Self::TimestampsOff => "timestamps_off",
            Self::ReuseOff => "reuse_off",
            Self::ReuseLoopbackOnly => "reuse_loopback_only",
            Self::FinWait2 => "fin_wait2",
        }
    }

    /// The reason in words, for a person.
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::NoPeerTimestamps => {
                "the peer (or a load balancer before it) sent no TCP timestamps"
            }
            Self::TimestampsOff => "TCP timestamps are off on this end (tcp_timestamps=0)",
            Self::ReuseOff => "taking ports over is off (tcp_tw_reuse=0)",
            Self::ReuseLoopbackOnly => {
                "taking ports over is allowed on loopback only (tcp_tw_reuse=2, the default)"
            }
            Self::FinWait2 => {
                "the peer never sent its FIN: it stayed a FIN_WAIT2 mini-socket, which this kernel is \
                 assumed not to let connect() take over"
            }
        }
    }
}

/// What is known of a socket's path when it enters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryPath {
    /// The peer sends timestamps: the option was negotiated (`tstamp_ok`); `None` if not known.
    pub timestamps: Option<bool>,
    /// A timestamp of the peer is known (`ts_recent_stamp`), so the fast path could take the socket;
    /// `None` if not known. A takeover inherits it, and keeps it whatever the peer sends.
    pub eligible: Option<bool>,
    /// The fast path is open to it; `None` if not known.
    pub allowed: Option<bool>,
    /// Why the fast path is closed to it, if it is known to be.
    pub blocked: Option<Block>,
}

impl EntryPath {
    const UNKNOWN: Self = Self { timestamps: None, eligible: None, allowed: None, blocked: None };
}

/// Judges an entry.
///
/// A server's TIME_WAIT sockets are never taken over by `connect()`, so the sysctl does not block
/// them: a new SYN of the peer replaces them, for which timestamps help and nothing else matters.
pub fn at_entry(entered: &Entered, role: Role) -> EntryPath {
    let unknown = |flag: u16| entered.header.flags & flag != 0;
    if unknown(entered_flags::TIMESTAMPS_UNKNOWN) {
        return EntryPath::UNKNOWN;
    }
    let eligible = entered.ts_recent_stamp != 0;
    let timestamps = if unknown(entered_flags::NEGOTIATED_UNKNOWN) {
        // Without any timestamp of the peer there can have been none.
        if eligible { None } else { Some(false) }
    } else {
        Some(unknown(entered_flags::TSTAMP_OK))
    };
    if unknown(entered_flags::SETTINGS_UNKNOWN) {
        // Without timestamps it is closed, whoever left them out.
        let allowed = if eligible { None } else { Some(false) };
        return EntryPath { timestamps, eligible: Some(eligible), allowed, blocked: None };
    }
    let blocked = if !eligible {
        Some(if entered.tcp_timestamps == 0 {
            Block::TimestampsOff
        } else {
            Block::NoPeerTimestamps
        })
    } else if role == Role::Server || entered.tcp_tw_recycle != 0 {
        None
    } else {
        match entered.tcp_tw_reuse {
            0 => Some(Block::ReuseOff),
            2 if !unknown(entered_flags::TWO_IS_ON) && !over_loopback(entered) => {
                Some(Block::ReuseLoopbackOnly)
            }
            _ => None,
        }
    };
    EntryPath { timestamps, eligible: Some(eligible), allowed: Some(blocked.is_none()), blocked }
}

/// Whether a connection is one that `tcp_tw_reuse=2` lets take ports over: by the device it was
/// bound to, or by an address (`tcp_twsk_unique()`).
pub fn over_loopback(entered: &Entered) -> bool {
    entered.header.flags & entered_flags::LOOPBACK_DEVICE != 0
        || is_loopback(entered.flow.local)
        || is_loopback(entered.flow.remote)
}

/// The path a socket took, which is all that whoever wants its port asks: every end is of one class,
/// and of one alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// It ended before 2MSL, its port free again.
    Fast,
    /// It sat out 2MSL.
    TwoMsl,
    /// Any other end. An entry that overflowed is none: there was no socket that could end.
    Other,
}

impl Class {
    /// All classes, in the order they are shown.
    pub const ALL: [Self; 3] = [Self::Fast, Self::TwoMsl, Self::Other];

    /// Name in machine output.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::TwoMsl => "two_msl",
            Self::Other => "other",
        }
    }

    /// Heading of its column, for people.
    pub const fn heading(self) -> &'static str {
        match self {
            Self::Fast => "FAST",
            Self::TwoMsl => "2MSL",
            Self::Other => "OTHER",
        }
    }
}

/// How a socket ended: the reason, of which its class follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Fast: its timer was armed at 3.5 x RTO (kernels before 4.12) and ran out.
    Recycled,
    /// Fast: an outgoing `connect()` took its port over.
    Reused,
    /// Fast: a new SYN of the peer was accepted on it.
    Replaced,
    /// It sat out 2MSL.
    TwoMsl,
    /// A RST ended it.
    Killed,
    /// An administrator ended it (`ss -K`).
    Aborted,
    /// Its network namespace was deleted.
    Purged,
    /// A FIN_WAIT2 mini-socket whose peer never sent a FIN ran out of time.
    FinWait2Timeout,
    /// Nobody saw why.
    Unknown,
}

impl Outcome {
    /// All outcomes, in the order they are shown.
    pub const ALL: [Self; 9] = [
        Self::Recycled,
        Self::Reused,
        Self::Replaced,
        Self::TwoMsl,
        Self::Killed,
        Self::Aborted,
        Self::Purged,
        Self::FinWait2Timeout,
        Self::Unknown,
    ];

    /// Name in machine output.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Recycled => "recycled",
            Self::Reused => "reused",
            Self::Replaced => "replaced",
            Self::TwoMsl => "two_msl",
            Self::Killed => "killed",
            Self::Aborted => "aborted",
            Self::Purged => "purged",
            Self::FinWait2Timeout => "fin_wait2_timeout",
            Self::Unknown => "unknown",
        }
    }

    /// What happened, for a person.
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Recycled => "fast: recycled, the short timer ran out",
            Self::Reused => "fast: reused by an outgoing connect()",
            Self::Replaced => "fast: replaced by a new SYN of the peer",
            Self::TwoMsl => "sat out 2MSL",
            Self::Killed => "killed by a RST",
            Self::Aborted => "ended by an administrator (ss -K)",
            Self::Purged => "purged with the network namespace",
            Self::FinWait2Timeout => "timed out in FIN_WAIT2: the peer never sent its FIN",
            Self::Unknown => "ended unseen",
        }
    }

    /// Which path that was.
    pub const fn class(self) -> Class {
        match self {
            Self::Recycled | Self::Reused | Self::Replaced => Class::Fast,
            Self::TwoMsl => Class::TwoMsl,
            Self::Killed | Self::Aborted | Self::Purged | Self::FinWait2Timeout | Self::Unknown => {
                Class::Other
            }
        }
    }

    /// Whether it came before the timer ran out: taken over, replaced, killed.
    pub const fn is_early(self) -> bool {
        matches!(self, Self::Reused | Self::Replaced | Self::Killed | Self::Aborted | Self::Unknown)
    }
}

/// Judges an end.
///
/// A timer that ran out is *recycled* when it was really armed at 3.5 x RTO and not at
/// TCP_TIMEWAIT_LEN, also where that is longer than 60 s; a kernel without recycling never arms
/// a TIME_WAIT socket so, except that a vendor's shorter TIME_WAIT length is still 2MSL.
pub fn at_end(ended: &Ended, recycle_exists: bool, hz: Hz) -> Outcome {
    match end_reason(ended) {
        EndReason::Expired if ended.header.state == TCP_FIN_WAIT2 => Outcome::FinWait2Timeout,
        // Of a socket that was there only what was left of its timer may be known.
        EndReason::Expired if recycle_exists && was_present(ended) && ended.last_armed == 0 => {
            Outcome::Unknown
        }
        EndReason::Expired if recycle_exists && armed_for_recycling(ended, hz) => Outcome::Recycled,
        EndReason::Expired => Outcome::TwoMsl,
        EndReason::Reused => Outcome::Reused,
        EndReason::Replaced => Outcome::Replaced,
        EndReason::Killed => Outcome::Killed,
        EndReason::Aborted => Outcome::Aborted,
        EndReason::Purged => Outcome::Purged,
        EndReason::Unknown => Outcome::Unknown,
    }
}

/// Whether the socket was there before the programs were, and its timer not set since.
fn was_present(ended: &Ended) -> bool {
    ended.header.flags & ended_flags::PRESENT != 0 && ended.rearms == 0
}

/// Whether the last arming was at 3.5 x RTO.
fn armed_for_recycling(ended: &Ended, hz: Hz) -> bool {
    let armed = u64::from(ended.last_armed);
    if armed == 0 || hz.millis(ended.last_armed) == TCP_TIMEWAIT_LEN_MS {
        return false;
    }
    // The RTO may have moved between entry and the FIN that armed the timer again.
    ended.rto == 0 || armed.abs_diff(recycle_timeout(ended.rto.into())) <= armed / 4
}

#[cfg(test)]
mod tests {
    use super::*;
    use twtrace_common::{Flow, Header, TCP_TIME_WAIT};

    const HZ: Hz = Hz::new(250);

    fn loopback() -> [u8; 16] {
        std::net::Ipv4Addr::LOCALHOST.to_ipv6_mapped().octets()
    }

    fn entry(stamp: i64, timestamps: u8, reuse: u8) -> Entered {
        Entered {
            ts_recent_stamp: stamp,
            tcp_timestamps: timestamps,
            tcp_tw_reuse: reuse,
            ..Entered::default()
        }
    }

    fn blocked(entered: &Entered) -> Option<Block> {
        at_entry(entered, Role::Client).blocked
    }

    #[test]
    fn a_clients_fast_path_is_closed_for_the_first_reason_that_holds() {
        assert_eq!(blocked(&entry(0, 1, 1)), Some(Block::NoPeerTimestamps));
        assert_eq!(blocked(&entry(0, 0, 1)), Some(Block::TimestampsOff));
        assert_eq!(blocked(&entry(9, 1, 0)), Some(Block::ReuseOff));
        assert_eq!(blocked(&entry(9, 1, 2)), Some(Block::ReuseLoopbackOnly));
        assert_eq!(blocked(&entry(9, 1, 1)), None);
        let header = Header { flags: entered_flags::TWO_IS_ON, ..Header::default() };
        assert_eq!(blocked(&Entered { header, ..entry(9, 1, 2) }), None, "before Linux 4.19");
    }

    #[test]
    fn loopback_is_allowed_at_the_default() {
        let flow = Flow { remote: loopback(), ..Flow::default() };
        assert_eq!(blocked(&Entered { flow, ..entry(9, 1, 2) }), None);
        let header = Header { flags: entered_flags::LOOPBACK_DEVICE, ..Header::default() };
        assert_eq!(blocked(&Entered { header, ..entry(9, 1, 2) }), None, "whatever the address");
    }

    #[test]
    fn a_server_is_blocked_by_missing_timestamps_only() {
        assert_eq!(at_entry(&entry(9, 1, 0), Role::Server).blocked, None);
        assert_eq!(
            at_entry(&entry(0, 1, 1), Role::Server),
            EntryPath {
                timestamps: Some(false),
                eligible: Some(false),
                allowed: Some(false),
                blocked: Some(Block::NoPeerTimestamps)
            }
        );
    }

    #[test]
    fn what_is_not_known_is_neither_open_nor_closed() {
        let with = |flags, stamp| {
            let header = Header { flags, ..Header::default() };
            at_entry(&Entered { header, ..entry(stamp, 0, 0) }, Role::Client)
        };
        assert_eq!(with(entered_flags::TIMESTAMPS_UNKNOWN, 0), EntryPath::UNKNOWN);
        let settings = with(entered_flags::SETTINGS_UNKNOWN, 9);
        assert_eq!((settings.eligible, settings.allowed), (Some(true), None));
        let neither = with(entered_flags::SETTINGS_UNKNOWN, 0);
        assert_eq!((neither.eligible, neither.allowed), (Some(false), Some(false)));
        assert_eq!(neither.blocked, None, "by whom is not known");
    }

    #[test]
    fn where_recycling_is_on_a_client_with_timestamps_is_not_blocked_by_the_reuse_setting() {
        let recycling = Entered { tcp_tw_recycle: 1, ..entry(9, 1, 0) };
        assert_eq!(blocked(&recycling), None);
        let stripped = Entered { tcp_tw_recycle: 1, ..entry(0, 1, 0) };
        assert_eq!(blocked(&stripped), Some(Block::NoPeerTimestamps));
    }

    fn expired(state: u8, last_armed: u32, rto: u32) -> Ended {
        Ended {
            header: Header { state, ..Header::default() },
            reason: EndReason::Expired as u8,
            last_armed,
            rto,
            ..Ended::default()
        }
    }

    #[test]
    fn an_expiry_is_recycled_only_when_the_timer_was_armed_short() {
        let outcome = |armed, rto| at_end(&expired(TCP_TIME_WAIT, armed, rto), true, HZ);
        // Linux 4.9 at 250 Hz, run: RTO 204 ms; with recycling 0.75 s, else 60 s.
        assert_eq!(outcome(179, 51), Outcome::Recycled, "3.5 x 51, as armed there");
        assert_eq!(outcome(182, 51), Outcome::Recycled, "the RTO moved before the FIN came");
        assert_eq!(outcome(15_000, 51), Outcome::TwoMsl);
        assert_eq!(outcome(17_500, 5_000), Outcome::Recycled, "longer than 60 s all the same");
        assert_eq!(outcome(179, 0), Outcome::Recycled, "RTO unknown");
        assert_eq!(outcome(0, 51), Outcome::TwoMsl, "arming not seen");
    }

    #[test]
    fn a_socket_that_was_there_ends_by_what_it_was_armed_with_if_that_is_known() {
        let outcome = |armed, recycle_exists| {
            let mut ended = expired(TCP_TIME_WAIT, armed, 0);
            ended.header.flags = ended_flags::PRESENT;
            at_end(&ended, recycle_exists, HZ)
        };
        assert_eq!(outcome(179, true), Outcome::Recycled, "tw_timeout");
        assert_eq!(outcome(15_000, true), Outcome::TwoMsl);
        assert_eq!(outcome(0, true), Outcome::Unknown);
        assert_eq!(outcome(0, false), Outcome::TwoMsl, "there is nothing else");
    }

    #[test]
    fn a_kernel_without_recycling_never_recycles() {
        let vendor = expired(TCP_TIME_WAIT, 1_250, 51);
        assert_eq!(at_end(&vendor, false, HZ), Outcome::TwoMsl, "a vendor's 5 s TIME_WAIT");
    }

    #[test]
    fn a_mini_socket_that_expires_never_reached_time_wait() {
        let ended = expired(TCP_FIN_WAIT2, 15_000, 51);
        assert_eq!(at_end(&ended, false, HZ), Outcome::FinWait2Timeout);
    }
}
