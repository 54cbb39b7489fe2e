//! Expressions over one socket.

use std::net::IpAddr;

use twtrace_common::{
    Ended, Entered, Failure, FailureKey, PortChoice, RefusalKey, TCP_FIN_WAIT2, ended_flags,
};

use super::{EntryState, Expr, Side, Term, Verdict, named};
use crate::{
    event::{Event, Role, ip, owner_is_known},
    failures::{Cause, Program},
    owner::Owner,
    path::{self, Block},
    peer::Past,
};

/// What is known of a socket as it entered.
#[derive(Clone, Copy, Debug)]
pub struct Socket<'a> {
    remote: IpAddr,
    remote_port: u16,
    local: Option<(IpAddr, u16)>,
    netns: u32,
    role: Role,
    autobound: Option<bool>,
    /// It is a call that failed.
    failed: Option<bool>,
    state: Option<EntryState>,
    /// The peer sends timestamps.
    timestamps: Option<bool>,
    /// The fast path could take it.
    eligible: Option<bool>,
    /// Whether its fast path is closed.
    blocked: Option<bool>,
    /// And why, if it is known to be.
    block: Option<Block>,
    uid: Option<u32>,
    cgroup: Option<u64>,
    cookie: u64,
    /// Whose it is.
    owner: Option<&'a Owner>,
}

impl From<&Event> for Socket<'_> {
    fn from(event: &Event) -> Self {
        let (flow, header) = (event.flow(), event.header());
        let peer = Self::of_peer(ip(flow.remote), flow.remote_port, header.netns, event.role());
        let choice = event.port_choice();
        let autobound = (choice != PortChoice::Unknown).then_some(choice == PortChoice::Connect);
        let local = Some((ip(flow.local), flow.local_port));
        let cookie = event.netns_cookie().unwrap_or(0);
        let common = Self { local, autobound, failed: Some(false), cookie, ..peer };
        match event {
            Event::Entered(entered) | Event::Present(entered) => common.entered(entered),
            Event::Ended(ended) => common.ended(ended),
            Event::Failed(failed) => common.owned_by(&Program::from(failed)),
        }
    }
}

impl From<&RefusalKey> for Socket<'_> {
    /// Of the sockets that were refused to `connect()`, no more than the peer is known.
    fn from(key: &RefusalKey) -> Self {
        Self::of_peer(ip(key.remote), key.remote_port, key.netns, Role::Client)
    }
}

impl From<&(FailureKey, Failure)> for Socket<'_> {
    /// Of a call that failed there is no connection: only its ends and its owner are known. Who binds
    /// means to be a server.
    fn from((key, failure): &(FailureKey, Failure)) -> Self {
        let bind = Cause::of(key.result) == Some(Cause::AddressInUse);
        let role = if bind { Role::Server } else { Role::Client };
        let Failure { comm, uid, cgroup, flags, .. } = *failure;
        let program = Program::of(key.pid, comm, uid, cgroup, flags);
        let peer = Self::of_peer(ip(key.remote), key.remote_port, key.netns, role);
        Self { local: Some((ip(key.local), key.local_port)), ..peer }.owned_by(&program)
    }
}

impl From<&Past> for Socket<'_> {
    /// Of a peer's sockets before this session, no more than the peer is known.
    fn from(past: &Past) -> Self {
        Self::of_peer(past.address, past.port, past.netns, past.role)
    }
}

impl<'a> Socket<'a> {
    /// A socket of which no more than the peer is known.
    fn of_peer(remote: IpAddr, remote_port: u16, netns: u32, role: Role) -> Self {
        Self {
            remote,
            remote_port,
            local: None,
            netns,
            role,
            autobound: None,
            failed: None,
            state: None,
            timestamps: None,
            eligible: None,
            blocked: None,
            block: None,
            uid: None,
            cgroup: None,
            cookie: 0,
            owner: None,
        }
    }

    /// What tells whose it is: its control group, and the number and the cookie of its namespace.
    pub fn place(&self) -> (Option<u64>, u32, u64) {
        (self.cgroup, self.netns, self.cookie)
    }

    /// The same with whose it is.
    pub fn owned<'b>(self, owner: Option<&'b Owner>) -> Socket<'b>
    where
        'a: 'b,
    {
        Socket { owner, ..self }
    }

    /// A call that failed, and whose socket it was about.
    fn owned_by(self, program: &Program) -> Self {
        Self { uid: program.uid, cgroup: program.cgroup, failed: Some(true), ..self }
    }

    fn entered(self, entered: &Entered) -> Self {
        let known = owner_is_known(entered);
        let path = path::at_entry(entered, self.role);
        Self {
            state: Some(state(entered.header.state == TCP_FIN_WAIT2)),
            timestamps: path.timestamps,
            eligible: path.eligible,
            blocked: path.allowed.map(|allowed| !allowed),
            block: path.blocked,
            uid: known.then_some(entered.uid),
            cgroup: known.then_some(entered.cgroup),
            ..self
        }
    }

    /// The end of a socket whose entry was not seen tells less.
    fn ended(self, ended: &Ended) -> Self {
        let flag = |flag: u16| ended.header.flags & flag != 0;
        let was_fin_wait2 = ended.header.state == TCP_FIN_WAIT2 || flag(ended_flags::PROMOTED);
        // Of a socket that was not followed, nobody saw it promoted.
        let followed = !flag(ended_flags::UNTRACKED) && !flag(ended_flags::PRESENT);
        Self { state: (followed || was_fin_wait2).then(|| state(was_fin_wait2)), ..self }
    }

    fn term(&self, term: &Term) -> Verdict {
        let end = |side: &Side| match side {
            Side::Remote => Some((self.remote, self.remote_port)),
            Side::Local => self.local,
        };
        Verdict::of(match term {
            Term::Host(side, network) => end(side).map(|(address, _)| network.contains(&address)),
            Term::Port(side, op, bound) => end(side).map(|(_, port)| op.holds(port, *bound)),
            Term::Timestamps => self.timestamps,
            Term::Eligible => self.eligible,
            Term::Autobound => self.autobound,
            Term::Failed => self.failed,
            Term::Role(role) => Some(self.role == *role),
            Term::State(state) => self.state.map(|known| known == *state),
            Term::Uid(uid) => self.uid.map(|known| known == *uid),
            Term::Blocked(None) => self.blocked,
            Term::Blocked(Some(reason)) => match self.blocked {
                Some(true) => self.block.map(|block| block == *reason),
                open => open,
            },
            Term::Netns(name) => return named(name, Some(u64::from(self.netns))),
            Term::Cgroup(name) => return named(name, self.cgroup),
            Term::Owner(name) => self.owner.map(|owner| owner.is(name)),
        })
    }
}

fn state(fin_wait2: bool) -> EntryState {
    if fin_wait2 { EntryState::FinWait2 } else { EntryState::TimeWait }
}

impl Expr {
    /// Whether a socket matches.
    pub fn matches(&self, socket: &Socket<'_>) -> Verdict {
        self.decide(&|term| socket.term(term))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use twtrace_common::{Flow, Header, TCP_TIME_WAIT, entered_flags};

    fn v4(last: u8) -> [u8; 16] {
        std::net::Ipv4Addr::new(10, 0, 0, last).to_ipv6_mapped().octets()
    }

    fn entered() -> Entered {
        Entered {
            header: Header { kind: 1, state: TCP_TIME_WAIT, flags: 0, netns: 7 },
            flow: Flow {
                local: v4(1),
                remote: v4(2),
                local_port: 40_000,
                remote_port: 443,
                ..Flow::default()
            },
            rto: 51,
            uid: 1000,
            cgroup: 99,
            tcp_timestamps: 1,
            tcp_tw_reuse: 1,
            chosen: PortChoice::Program as u8,
            ..Entered::default()
        }
    }

    fn verdict(text: &str, event: &Event) -> Verdict {
        text.parse::<Expr>().unwrap().matches(&Socket::from(event))
    }

    #[test]
    fn an_entry_answers_every_question() {
        let event = Event::Entered(entered());
        for text in [
            "dst 10.0.0.0/8",
            "dst 10.0.0.2:443",
            "src 10.0.0.1",
            "not src 10.0.0.2",
            "dport = 443",
            "sport >= 40000",
            "not sport > 40000",
            "role client",
            "state time-wait",
            "netns 7",
            "uid 1000",
            "cgroup 99",
            "blocked",
            "blocked no-peer-timestamps",
            "not timestamps",
            "not blocked reuse-off",
            "not autobound",
            "not failed",
            "not dst ::/0",
        ] {
            assert_eq!(verdict(text, &event), Verdict::Yes, "{text}");
            assert_eq!(verdict(&format!("not ({text})"), &event), Verdict::No, "{text}");
        }
    }

    #[test]
    fn a_socket_that_was_there_before_has_no_known_owner() {
        let present = Entered { rto: 0, uid: 0, cgroup: 0, ..entered() };
        let event = Event::Present(present);
        assert_eq!(verdict("uid 0", &event), Verdict::Maybe);
        assert_eq!(verdict("cgroup 99", &event), Verdict::Maybe);
        assert_eq!(verdict("not timestamps", &event), Verdict::Yes);
    }

    #[test]
    fn without_timestamps_a_socket_is_blocked_though_the_settings_that_say_why_are_unknown() {
        let mut entry = entered();
        entry.header.flags |= entered_flags::SETTINGS_UNKNOWN;
        let event = Event::Entered(entry);
        assert_eq!(verdict("blocked", &event), Verdict::Yes);
        assert_eq!(verdict("blocked no-peer-timestamps", &event), Verdict::Maybe);
    }

    #[test]
    fn an_end_alone_does_not_tell_timestamps_or_owner() {
        let ended = |state, flags| {
            Event::Ended(Ended {
                header: Header { kind: 3, state, flags, netns: 7 },
                flow: entered().flow,
                ..Ended::default()
            })
        };
        let promoted = ended(TCP_TIME_WAIT, ended_flags::PROMOTED);
        assert_eq!(verdict("state fin-wait-2", &promoted), Verdict::Yes);
        assert_eq!(verdict("dst 10.0.0.2 timestamps", &promoted), Verdict::Maybe);
        assert_eq!(verdict("dst 10.0.0.3 timestamps", &promoted), Verdict::No);
        let untracked = ended(TCP_TIME_WAIT, ended_flags::UNTRACKED);
        assert_eq!(verdict("state time-wait", &untracked), Verdict::Maybe);
    }
}
