//! Cases made up for the tests of rules.

use twtrace_common::PortChoice;

use super::{Case, Finding, Rule, Scene};
use crate::{
    event::Role,
    host::facts::{HostFacts, NamespaceFacts},
    path::Outcome,
    peer::{
        Group, Peer,
        entry::{Entry, SpaceKey},
    },
    trust::Trust,
};

/// The one namespace.
pub const NETNS: u32 = 7;
/// Now; the session began a minute ago.
pub const NOW_NS: u64 = 1_000_000_000_000;

/// A case of a session without loss.
pub fn case<'a>(peers: &'a [Peer], facts: &'a HostFacts) -> Case<'a> {
    Case {
        egress: &[],
        netns_names: None,
        owners: None,
        peers,
        failures: &crate::failures::NONE,
        sockets: None,
        fin_wait2_taken: false,
        sees_connects: true,
        sees_binds: false,
        facts,
        trust: Trust::default(),
        now_ns: NOW_NS,
        wall: std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(86_400),
        since_ns: NOW_NS - 60_000_000_000,
    }
}

/// A host with mainline's defaults in one namespace.
pub fn facts() -> HostFacts {
    let namespace = NamespaceFacts {
        tw_reuse: Some(2),
        tw_reuse_delay_ms: Some(1000),
        timestamps: Some(1),
        port_range: Some(32_768..=60_999),
        max_tw_buckets: Some(131_072),
        fin_timeout: Some(60),
        rfc1337: Some(0),
        time_wait: Some(0),
        ..NamespaceFacts::default()
    };
    HostFacts { namespaces: [(NETNS, namespace)].into(), ..HostFacts::default() }
}

/// The namespace of [`facts`].
pub fn only(facts: &mut HostFacts) -> &mut NamespaceFacts {
    facts.namespaces.get_mut(&NETNS).unwrap()
}

/// What one rule finds.
pub fn found(rules: &[Rule], id: &str, case: &Case<'_>) -> Vec<Finding> {
    let rule = rules.iter().find(|rule| rule.id == id).unwrap();
    (rule.check)(&Scene::of(case))
}

/// A peer in the making.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    address: [u8; 16],
    port: u16,
    local: [u8; 16],
    role: Role,
    rate: f64,
    seconds: u64,
    live: u64,
    with_timestamps: bool,
    blocked: bool,
}

impl Client {
    /// A peer with timestamps whose fast path is closed, as with the default `tcp_tw_reuse`.
    pub fn at(address: &str, port: u16) -> Self {
        let address: std::net::Ipv4Addr = address.parse().unwrap();
        Self {
            address: address.to_ipv6_mapped().octets(),
            port,
            local: std::net::Ipv4Addr::new(10, 1, 0, 1).to_ipv6_mapped().octets(),
            role: Role::Client,
            rate: 0.0,
            seconds: 9,
            live: 0,
            with_timestamps: true,
            blocked: true,
        }
    }

    /// This end is there.
    pub fn from(self, local: std::net::Ipv4Addr) -> Self {
        Self { local: local.to_ipv6_mapped().octets(), ..self }
    }

    /// Entries a second, over exactly the seconds that the window holds at [`NOW_NS`].
    pub fn rate(self, rate: f64) -> Self {
        Self { rate, ..self }
    }

    /// Entries over the last so many seconds only.
    pub fn over(self, seconds: u64) -> Self {
        Self { seconds, ..self }
    }

    /// Live sockets.
    pub fn live(self, live: u64) -> Self {
        Self { live, ..self }
    }

    /// The peer sends no timestamps.
    pub fn without_timestamps(self) -> Self {
        Self { with_timestamps: false, blocked: true, ..self }
    }

    /// Its ports may be taken over.
    pub fn allowed(self) -> Self {
        Self { blocked: false, ..self }
    }

    /// This end is the server.
    pub fn of_server(self) -> Self {
        Self { role: Role::Server, ..self }
    }

    /// The row.
    pub fn peer(self) -> Peer {
        let mut peer = Peer::new(Group::peer(NETNS, self.role, self.address, self.port));
        let space = SpaceKey { local: self.local, chosen: PortChoice::Connect, range: (0, 0) };
        let entries = (self.rate * self.seconds as f64).round() as u64;
        let span_ns = self.seconds * 1_000_000_000;
        for n in 0..entries {
            peer.history.take_in(&Entry {
                mono_ns: NOW_NS - span_ns + n * span_ns / entries,
                with_timestamps: self.with_timestamps,
                timestamps_unknown: false,
                not_from_peer: !self.with_timestamps && self.blocked,
                not_offered: false,
                blocked: self.blocked,
                fin_wait2: false,
                autobound: true,
                space,
                local_port: 32_768 + (n % 28_000) as u16,
                remote_port: self.port,
            });
        }
        if entries == 0 {
            let (with_timestamps, blocked) = (self.with_timestamps, self.blocked);
            let mono_ns = NOW_NS - 30_000_000_000;
            let entry = Entry { with_timestamps, blocked, space, mono_ns, ..Entry::default() };
            let space = peer.history.space_of(&entry.space);
            peer.history.present(space, &entry);
        }
        peer.tally.edit(|counts| {
            counts.entered = self.live.max(entries);
            counts.ended[Outcome::TwoMsl as usize] = counts.entered - self.live;
            if self.with_timestamps {
                counts.with_timestamps = counts.entered;
                counts.eligible = counts.entered;
            } else {
                counts.without_timestamps = counts.entered;
            }
        });
        let live = self.live as u32;
        peer.history.set_live(live, if self.blocked { live } else { 0 });
        peer.scheduled_ms = 60_000;
        peer
    }
}
