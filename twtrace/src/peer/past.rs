//! What was known of peers before a session: carried over a restart, or given to a session that
//! begins in the middle.

use std::net::IpAddr;

use super::{
    Group,
    history::{Change, Span},
    minutes::Minute,
};
use crate::event::{Role, ip};

/// Peers whose past goes into one part.
const AT_ONCE: usize = 1024;

/// One peer's past.
#[derive(Clone, Debug, PartialEq, Eq)]
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
        Group::peer(netns, role, self.octets(), port)
    }

    /// The past of a row that is a peer, of a namespace that is there.
    pub fn of(group: &Group, history: &super::History, minutes: Vec<Minute>) -> Option<Self> {
        let Group::Peer { netns, role, address, port } = *group else { return None };
        Some(Self {
            netns: netns.current()?,
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

/// The past of all peers at one moment, taken apart: putting it together takes longer, and whoever
/// wants it does it.
#[derive(Clone, Debug)]
pub struct Pasts {
    /// Rows' serial numbers, and what is known but for the minutes that are over.
    peers: Vec<(u32, Past)>,
    /// Those minutes, with the serial numbers of their rows.
    minutes: Vec<(u32, Minute)>,
}

impl Pasts {
    /// Of rows by their serial numbers, with no minute but the newest, and of the minutes that are
    /// over, ascending for each row.
    pub fn new(peers: Vec<(u32, Past)>, minutes: Vec<(u32, Minute)>) -> Self {
        Self { peers, minutes }
    }
}

impl IntoIterator for Pasts {
    type Item = Past;
    type IntoIter = Box<dyn Iterator<Item = Past> + Send>;

    /// Each peer; one at a time, since all together are as much as the table.
    fn into_iter(mut self) -> Self::IntoIter {
        // Of one row they are in order, and stay so.
        self.minutes.sort_by_key(|(serial, _)| *serial);
        let minutes = self.minutes;
        Box::new(self.peers.into_iter().map(move |(serial, mut past)| {
            let from = minutes.partition_point(|(row, _)| *row < serial);
            let own = minutes[from..].iter().take_while(|(row, _)| *row == serial);
            past.minutes = Minute::united(own.map(|(_, minute)| *minute).chain(past.minutes));
            past
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::History;

    #[test]
    fn each_peer_gets_its_own_minutes_back_with_the_newest_added_to_its_like() {
        let minute = |minute, entered| Minute { minute, entered, ..Minute::default() };
        let of = |serial: u8, newest: Option<Minute>| {
            let group = Group::peer(1, Role::Client, [serial; 16], 80);
            let past = Past::of(&group, &History::default(), newest.into_iter().collect());
            (u32::from(serial), past.unwrap())
        };
        let peers = vec![of(2, Some(minute(6, 1))), of(1, None), of(3, Some(minute(9, 4)))];
        let over = vec![(1, minute(5, 1)), (2, minute(5, 2)), (1, minute(6, 3)), (2, minute(6, 4))];
        let told: Vec<Vec<_>> =
            Pasts::new(peers, over).into_iter().map(|past| past.minutes).collect();
        assert_eq!(told[0], [minute(5, 2), minute(6, 5)]);
        assert_eq!(told[1], [minute(5, 1), minute(6, 3)]);
        assert_eq!(told[2], [minute(9, 4)]);
    }
}
