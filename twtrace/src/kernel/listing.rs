//! Sockets in TIME_WAIT where the kernel has no iterator over them: from the list in `net/tcp`, which
//! tells both ends of each and not its address.
//!
//! A network namespace has one socket of two given ends at a time, so the ends tell which socket an
//! end record is about. One that was there at the start gets a number where others have an address.

use std::{
    collections::{HashMap, HashSet},
    hash::BuildHasher as _,
    io,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use hashbrown::{HashTable, hash_table::Entry};
use rustc_hash::FxBuildHasher;
use twtrace_common::{
    AF_INET, AF_INET6, Ended, Entered, Flow, Header, Kind, PortChoice, ended_flags, entered_flags,
};

use super::{Namespace, monotonic_ns};
use crate::{event::Role, host::sockets, units::Hz};

/// Where the range of ephemeral ports is told.
const PORT_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
/// How much later the timer of a socket may be due than it was said to be: what the kernel and this
/// program round. More, and it is another socket's.
const SLACK_NS: u64 = 100_000_000;

/// The files of the thread's own namespace.
const NET: &str = "/proc/thread-self/net";

/// What a socket that the kernel side does not follow has instead of an address: a number below this, and no
/// kernel has anything there.
const LEAST_ADDRESS: u64 = 1 << 30;

/// `ip_local_port_range` of this namespace.
pub fn port_range() -> Option<(u16, u16)> {
    let text = std::fs::read_to_string(PORT_RANGE).ok()?;
    let mut words = text.split_whitespace().map(str::parse);
    Some((words.next()?.ok()?, words.next()?.ok()?))
}

/// Whether this stands for the address of a socket that was there at the start.
pub fn is_number(tw: u64) -> bool {
    (1..LEAST_ADDRESS).contains(&tw)
}

/// The sockets in TIME_WAIT in a namespace, as far as the list tells: their addresses are 0.
///
/// # Errors
/// The namespace vanished, may not be entered, or its list could not be read.
pub fn read(namespace: &Namespace) -> io::Result<Vec<Entered>> {
    let inum = namespace.inum;
    namespace.run(move || {
        let range = port_range().unwrap_or_default();
        let hz = Hz::of_running_kernel();
        let mut found = Vec::new();
        // Those that listen come first, of each family.
        let mut listening = HashSet::new();
        let mut towards: HashMap<([u8; 16], u16), HashSet<u16>> = HashMap::new();
        sockets::read(Path::new(NET), |socket| {
            if socket.listens() {
                listening.insert(socket.ends()?.0.port());
            }
            if socket.is_in_time_wait() {
                let mut record = record(&socket, inum, range, hz)?;
                let flow = &record.flow;
                if listening.contains(&flow.local_port) {
                    record.chosen = PortChoice::Accepted as u8;
                } else if Role::of(flow, PortChoice::Unknown).0 == Role::Server {
                    let peer = (flow.remote, flow.remote_port);
                    towards.entry(peer).or_default().insert(flow.local_port);
                }
                found.push(record);
            }
            Some(())
        })
        .map_err(io::Error::other)?;
        // Who has several ports towards one of a peer connected.
        for record in &mut found {
            let Flow { remote, remote_port, local_port, .. } = record.flow;
            if towards.get(&(remote, remote_port)).is_some_and(|ports| ports.len() > 1) {
                let is_ephemeral = (range.0..=range.1).contains(&local_port);
                let choice = if is_ephemeral { PortChoice::Connect } else { PortChoice::Program };
                record.chosen = choice as u8;
            }
        }
        Ok(found)
    })?
}

/// The record of a listed socket in TIME_WAIT.
fn record(
    socket: &sockets::Socket<'_>,
    netns: u32,
    (port_low, port_high): (u16, u16),
    hz: Hz,
) -> Option<Entered> {
    let (local, remote) = socket.ends()?;
    let time_wait = socket.time_wait()?;
    let left_ms = u64::try_from(time_wait.left.as_millis()).unwrap_or(u64::MAX);
    // Of the full socket nothing is left, and of this one the list tells no timestamp.
    const UNKNOWN: u16 = entered_flags::TIMESTAMPS_UNKNOWN
        | entered_flags::SETTINGS_UNKNOWN
        | entered_flags::OWNER_UNKNOWN;
    Some(Entered {
        header: Header {
            kind: Kind::Present as u8,
            state: time_wait.state,
            flags: UNKNOWN | entered_flags::FOLLOWED,
            netns,
        },
        mono_ns: monotonic_ns(),
        flow: Flow {
            local: bytes(local),
            remote: bytes(remote),
            local_port: local.port(),
            remote_port: remote.port(),
            port_low,
            port_high,
        },
        armed: hz.jiffies(left_ms),
        family: if socket.is_v6 { AF_INET6 } else { AF_INET },
        ..Entered::default()
    })
}

fn bytes(end: SocketAddr) -> [u8; 16] {
    match end.ip() {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// The namespace and both ends of a socket.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ends {
    netns: u32,
    local: ([u8; 16], u16),
    remote: ([u8; 16], u16),
}

impl Ends {
    /// Those of a record.
    pub fn of(header: &Header, flow: &Flow) -> Self {
        let local = (flow.local, flow.local_port);
        Self { netns: header.netns, local, remote: (flow.remote, flow.remote_port) }
    }
}

/// The sockets followed, by their ends.
#[derive(Clone)]
pub struct ByEnds {
    sockets: HashTable<Entered>,
    /// Numbers given.
    numbers: u64,
    hz: Hz,
}

impl ByEnds {
    /// None yet; timers are told in ticks of `hz`.
    pub fn new(hz: Hz) -> Self {
        Self { sockets: HashTable::new(), numbers: 0, hz }
    }

    /// Follows a socket that was there at the start, or whose entry was missed. Answers its record
    /// with a number in it.
    pub fn number(&mut self, listed: Entered) -> Entered {
        self.numbers += 1;
        let numbered = Entered { tw: self.numbers, ..listed };
        self.insert(numbered);
        numbered
    }

    /// A socket entered.
    pub fn enter(&mut self, entered: &Entered) {
        let flag = |flag: u16| entered.header.flags & flag != 0;
        if flag(entered_flags::FOLLOWED) && !flag(entered_flags::UNTRACKED) {
            self.insert(*entered);
        }
    }

    /// A socket ended. If it is one that has a number its record gets it, and if that one was not there
    /// at the start the time of its entry.
    pub fn end(&mut self, ended: &mut Ended) {
        let ends = Ends::of(&ended.header, &ended.flow);
        let untracked = ended.header.flags & ended_flags::UNTRACKED != 0;
        let meant = |socket: &Entered| {
            of(socket) == ends
                && if untracked {
                    is_number(socket.tw)
                } else {
                    (socket.tw, socket.mono_ns) == (ended.tw, ended.entered_ns)
                }
        };
        let Ok(entry) = self.sockets.find_entry(hash(&ends), meant) else { return };
        let (socket, _) = entry.remove();
        if untracked {
            ended.tw = socket.tw;
            ended.header.flags ^= ended_flags::UNTRACKED;
            if socket.header.kind == Kind::Present as u8 {
                ended.header.flags |= ended_flags::PRESENT;
            } else {
                ended.entered_ns = socket.mono_ns;
            }
        }
    }

    /// The record of a listed socket, if it is followed, as it is now.
    ///
    /// One that was there at the start may have ended unseen and another one have the same ends
    /// now, whose timer is due later. So it is if a packet set the timer again, which is rare, and
    /// then the socket is taken not to live any more.
    pub fn named(&self, listed: &Entered) -> Option<Entered> {
        let ends = of(listed);
        let known = self.sockets.find(hash(&ends), |socket| of(socket) == ends)?;
        let promoted = known.header.state != listed.header.state;
        if is_number(known.tw) && !promoted && self.due_ns(listed) > self.due_ns(known) + SLACK_NS {
            return None;
        }
        let header = Header { state: listed.header.state, ..known.header };
        Some(Entered { header, ..*known })
    }

    /// When the timer of a socket that was there is due, `CLOCK_MONOTONIC` nanoseconds.
    fn due_ns(&self, socket: &Entered) -> u64 {
        socket.mono_ns + self.hz.millis(socket.armed) * 1_000_000
    }

    fn insert(&mut self, socket: Entered) {
        let ends = of(&socket);
        let same = |other: &Entered| of(other) == ends;
        match self.sockets.entry(hash(&ends), same, |other| hash(&of(other))) {
            // The one before ended, and nobody saw it.
            Entry::Occupied(mut before) => *before.get_mut() = socket,
            Entry::Vacant(place) => drop(place.insert(socket)),
        }
    }
}

fn of(socket: &Entered) -> Ends {
    Ends::of(&socket.header, &socket.flow)
}

fn hash(ends: &Ends) -> u64 {
    FxBuildHasher.hash_one(ends)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(local_port: u16) -> Flow {
        Flow { local: [1; 16], remote: [2; 16], local_port, remote_port: 80, ..Flow::default() }
    }

    fn entered(tw: u64, mono_ns: u64, port: u16) -> Entered {
        let header = Header { flags: entered_flags::FOLLOWED, netns: 7, ..Header::default() };
        Entered { header, tw, mono_ns, flow: flow(port), ..Entered::default() }
    }

    fn ended(tw: u64, entered_ns: u64, port: u16) -> Ended {
        let flags = if entered_ns == 0 { ended_flags::UNTRACKED } else { 0 };
        let header = Header { flags, netns: 7, ..Header::default() };
        Ended { header, tw, entered_ns, flow: flow(port), ..Ended::default() }
    }

    const ADDRESS: u64 = 0xffff_8880_0000_1000;

    #[test]
    fn the_end_of_a_socket_that_was_there_gets_its_number_once() {
        let mut sockets = ByEnds::new(Hz::new(250));
        let mut present = entered(0, 5, 4000);
        present.header.kind = Kind::Present as u8;
        let number = sockets.number(present).tw;
        assert!(is_number(number) && !is_number(0) && !is_number(ADDRESS));
        let mut end = ended(ADDRESS, 0, 4000);
        sockets.end(&mut end);
        assert_eq!((end.tw, end.header.flags), (number, ended_flags::PRESENT));
        let mut second = ended(ADDRESS, 0, 4000);
        sockets.end(&mut second);
        assert_eq!(second, ended(ADDRESS, 0, 4000), "nobody's");
    }

    #[test]
    fn the_end_of_a_socket_whose_entry_was_missed_gets_its_number_and_the_time_of_its_entry() {
        let mut sockets = ByEnds::new(Hz::new(250));
        let mut adopted = entered(0, 5, 4000);
        adopted.header.kind = Kind::Entered as u8;
        let number = sockets.number(adopted).tw;
        let mut end = ended(ADDRESS, 0, 4000);
        sockets.end(&mut end);
        assert_eq!((end.tw, end.entered_ns, end.header.flags), (number, 5, 0));
    }

    #[test]
    fn another_port_or_namespace_is_another_socket() {
        let mut sockets = ByEnds::new(Hz::new(250));
        sockets.number(entered(0, 5, 4000));
        for mut other in [ended(ADDRESS, 0, 4001), {
            let mut end = ended(ADDRESS, 0, 4000);
            end.header.netns = 8;
            end
        }] {
            let before = other;
            sockets.end(&mut other);
            assert_eq!(other, before);
        }
    }

    #[test]
    fn the_next_socket_with_the_same_ends_is_not_mistaken_for_the_one_before() {
        let mut sockets = ByEnds::new(Hz::new(250));
        sockets.enter(&entered(ADDRESS, 5, 4000));
        sockets.enter(&entered(ADDRESS, 9, 4000));
        sockets.end(&mut ended(ADDRESS, 5, 4000));
        let listed = entered(0, 20, 4000);
        assert_eq!(sockets.named(&listed).map(|socket| socket.mono_ns), Some(9));
        sockets.end(&mut ended(ADDRESS, 9, 4000));
        assert_eq!(sockets.named(&listed), None);
    }

    #[test]
    fn what_is_listed_now_is_named_with_its_substate_of_now() {
        let mut sockets = ByEnds::new(Hz::new(250));
        sockets.enter(&entered(ADDRESS, 5, 4000));
        let mut listed = entered(0, 20, 4000);
        listed.header.state = 6;
        let named = sockets.named(&listed).unwrap();
        assert_eq!((named.tw, named.mono_ns, named.header.state), (ADDRESS, 5, 6));
        assert_eq!(sockets.named(&entered(0, 20, 4001)), None, "not followed");
    }

    #[test]
    fn a_later_timer_is_that_of_another_socket_unless_the_peers_fin_set_it() {
        let mut sockets = ByEnds::new(Hz::new(250));
        let listed = |mono_s: u64, left_s: u32, state| {
            let mut socket = entered(0, mono_s * 1_000_000_000, 4000);
            (socket.armed, socket.header.state) = (left_s * 250, state);
            socket
        };
        sockets.number(listed(10, 40, 6));
        assert!(sockets.named(&listed(20, 30, 6)).is_some());
        assert!(sockets.named(&listed(20, 59, 6)).is_none());
        sockets.number(listed(10, 40, 5));
        assert!(sockets.named(&listed(20, 59, 6)).is_some());
    }
}
