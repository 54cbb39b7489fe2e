//! What was known of peers before a session: carried over a restart, or given to a session that
//! begins in the middle.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{
    Group,
    history::{Change, Span},
    minutes::Minute,
};
use crate::event::{Role, ip};

/// Peers whose past goes into one part.
const AT_ONCE: usize = 1024;

/// One peer's past.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Past {
    /// Inode number of its network namespace.
    pub netns: u32,
    /// Which end this host is.
    pub role: Role,
    /// Its address.
    pub address: IpAddr,
    /// Its port where it is the server, else 0.
    pub port: u16,
    /// When sockets with timestamps were seen; `CLOCK_MONOTONIC` of this boot.
    pub with: Span,
    /// When sockets without were seen.
    pub without: Span,
    /// Changes between the two, oldest first.
    pub changes: Vec<Change>,
    /// Changes ever seen.
    pub changes_seen: u64,
    /// Minutes in which something happened, oldest first.
    pub minutes: Vec<Minute>,
}

impl Past {
    /// Puts the past of many peers into parts of a bounded size, as recordings have them.
    pub fn parts(mut all: impl Iterator<Item = Self>) -> impl Iterator<Item = Vec<Self>> {
        std::iter::from_fn(move || {
            let part: Vec<Self> = all.by_ref().take(AT_ONCE).collect();
            (!part.is_empty()).then_some(part)
        })
    }

    /// Its address as events have it, IPv4 v4-mapped.
    pub fn octets(&self) -> [u8; 16] {
        match self.address {
            IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
            IpAddr::V6(address) => address.octets(),
        }
    }

    /// The row it is about.
    pub fn group(&self) -> Group {
        let (netns, role, port) = (self.netns, self.role, self.port);
        Group::Peer { netns, role, address: self.octets(), port }
    }

    /// The past of a row that is a peer.
    pub fn of(group: &Group, history: &super::History, minutes: Vec<Minute>) -> Option<Self> {
        let Group::Peer { netns, role, address, port } = *group else { return None };
        Some(Self {
            netns,
            role,
            address: ip(address),
            port,
            with: history.with,
            without: history.without,
            changes: history.changes().to_vec(),
            changes_seen: history.changes_seen(),
            minutes,
        })
    }
}
