//! One set of settings, and what it leads to.

use std::{collections::BTreeMap, net::SocketAddr};

use rustc_hash::FxHashMap;

use super::{
    known::Known,
    prediction::{Predicted, Prediction},
    remedy::Remedy,
    socket::{Key, Socket},
    space::{Space, Wanted},
};
use crate::event::ip;

/// Most port spaces of a world.
pub const MOST_SPACES: usize = 4096;
/// Port spaces told one by one.
const MOST_TOLD: usize = 16;

/// What is known of namespaces, by their inode numbers.
pub type Namespaces = BTreeMap<u32, Known>;

/// One set of settings, and what it leads to.
#[derive(Debug)]
pub struct World {
    remedy: Remedy,
    spaces: FxHashMap<Key, Space>,
    /// Calls that have no place: too many spaces, or no peer to try them on.
    unplaced: u64,
}

impl World {
    /// With nothing in it yet.
    pub fn new(remedy: Remedy) -> Self {
        Self { remedy, spaces: FxHashMap::default(), unplaced: 0 }
    }

    /// Calls that each want a port for a socket like this.
    pub fn take(&mut self, socket: &Socket, namespaces: &Namespaces, calls: u64) {
        let unknown = Known::default();
        let known = namespaces.get(&socket.key.netns).unwrap_or(&unknown);
        let key = key(&self.remedy, socket.key);
        let room = |key: &Key| self.spaces.len() < MOST_SPACES || self.spaces.contains_key(key);
        let Some(key) = key.filter(room) else {
            self.unplaced = self.unplaced.saturating_add(calls);
            return;
        };
        let held_ms = held_ms(&self.remedy, key, socket, known);
        let wanted = Wanted { at_ms: socket.at_ms, calls, held_ms };
        let space = self.spaces.entry(key).or_insert_with(|| {
            let mut space = Space::new(sources(&self.remedy));
            space.open = open(&self.remedy, &key, known).unwrap_or(0);
            space
        });
        space.usable = known.usable(socket, self.remedy.range);
        match self.remedy.keep {
            Some(keep) => space.reuse(wanted, keep.as_millis() as u64, space.open.max(1)),
            None => space.take(wanted),
        }
    }

    /// A socket was ended before its time.
    pub fn end(&mut self, socket: &Socket, namespaces: &Namespaces) {
        let Some(key) = key(&self.remedy, socket.key) else { return };
        let unknown = Known::default();
        let known = namespaces.get(&key.netns).unwrap_or(&unknown);
        let until = socket.at_ms + held_ms(&self.remedy, key, socket, known);
        if let Some(space) = self.spaces.get_mut(&key) {
            space.end(until);
        }
    }

    /// Looks at what is open.
    pub fn look(&mut self, namespaces: &Namespaces) {
        for (key, space) in &mut self.spaces {
            let known = namespaces.get(&key.netns);
            if let Some(open) = known.and_then(|known| open(&self.remedy, key, known)) {
                space.open = open;
            }
        }
    }

    /// What it came to.
    pub fn prediction(&self) -> Prediction {
        let told = |(key, space): (&Key, &Space)| Predicted {
            netns: key.netns,
            local: ip(key.local),
            remote: (!key.bind).then(|| SocketAddr::new(ip(key.remote), key.remote_port)),
            usable: space.usable,
            peak: space.peak,
            failed: space.failed,
        };
        let mut spaces: Vec<Predicted> = self.spaces.iter().map(told).collect();
        spaces.sort_by(|one, two| {
            let fuller = two.share().total_cmp(&one.share());
            fuller.then(two.peak.cmp(&one.peak)).then_with(|| one.name().cmp(&two.name()))
        });
        spaces.truncate(MOST_TOLD);
        let sum = |of: fn(&Space) -> u64| self.spaces.values().map(of).fold(0, u64::saturating_add);
        Prediction {
            remedy: self.remedy.clone(),
            failed: sum(|space| space.failed),
            opened: sum(|space| space.opened),
            unplaced: self.unplaced,
            spaces,
        }
    }
}

fn sources(remedy: &Remedy) -> u16 {
    remedy.sources.unwrap_or(1).max(1)
}

/// The space that a call wants a port of; `None` if that cannot be told.
fn key(remedy: &Remedy, key: Key) -> Option<Key> {
    match (key.bind, remedy.bind_address_no_port) {
        (true, true) if key.remote_port == 0 => None,
        (true, true) => Some(Key { bind: false, ..key }),
        (true, false) => Some(key.of_all_peers()),
        (false, _) => Some(key),
    }
}

/// How long a socket holds its port, milliseconds.
fn held_ms(remedy: &Remedy, key: Key, socket: &Socket, known: &Known) -> u64 {
    if remedy.peer_closes_first {
        return 0;
    }
    let eligible = socket.eligible || remedy.timestamps && socket.offered;
    let allowed = match remedy.tw_reuse.or(socket.tw_reuse).or(known.tw_reuse) {
        Some(1) => true,
        Some(2) => socket.loopback,
        _ => false,
    };
    if key.bind || !eligible || !allowed {
        return socket.left_ms;
    }
    known.too_young_ms(socket).min(socket.left_ms)
}

/// Open connections of a space, each source address's part of them; `None` where nobody looked.
fn open(remedy: &Remedy, key: &Key, known: &Known) -> Option<u64> {
    Some(known.open(key)?.div_ceil(u64::from(sources(remedy))))
}
