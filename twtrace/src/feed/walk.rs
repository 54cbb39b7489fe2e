//! A walk over all sockets in TIME_WAIT. It takes a second on a crowded host, so a thread beside the
//! one that counts does it.

use std::collections::{HashMap, HashSet};

use twtrace_common::{Entered, Filter};

use crate::{
    kernel::{Followed, Inventory, SocketNames, Tracer},
    track::Tracked,
};

/// What a walk needs, taken from the kernel side at one moment.
pub struct Walk {
    /// Reads a namespace.
    pub(super) inventory: Inventory,
    /// Which sockets are reported.
    pub(super) filter: Filter,
    /// What they are called.
    pub(super) names: SocketNames,
    /// Those the kernel side follows.
    pub(super) followed: Followed,
}

impl Walk {
    /// What `keep` keeps of the sockets in TIME_WAIT now, as the kernel has them, by namespace.
    /// Namespaces that cannot be read are missing from the answer.
    pub fn sockets<T: Send>(&self, keep: impl Fn(Entered) -> T + Sync) -> HashMap<u32, Vec<T>> {
        self.look(|socket| self.names.of(socket).map(&keep))
    }

    fn look<T: Send>(&self, keep: impl Fn(Entered) -> Option<T> + Sync) -> HashMap<u32, Vec<T>> {
        let mut alive = HashMap::new();
        for namespace in Tracer::namespaces_of(&self.filter) {
            if let Ok(sockets) = self.inventory.read(&namespace, &keep) {
                alive.insert(namespace.inum, sockets);
            }
        }
        alive
    }

    /// Finds the sockets whose end was lost or missed among those that were followed when the walk
    /// was made. Ends of some may be on their way still: take in all that waits before taking this
    /// in. The kernel side lets go of those that it missed itself.
    pub fn vanished(&self, followed: &[(u64, Tracked)]) -> Vanished {
        // One without a name is followed by nobody, and at no address.
        let name = |socket| self.names.of(socket).map_or(0, |named| named.tw);
        let alive = self.look(|socket| Some(name(socket)));
        let count = |sockets: &Vec<u64>| sockets.len() as u64;
        let mut unfollowed: HashMap<u32, u64> =
            alive.iter().map(|(inum, sockets)| (*inum, count(sockets))).collect();
        let alive: HashMap<u32, HashSet<u64>> =
            alive.into_iter().map(|(inum, all)| (inum, all.into_iter().collect())).collect();
        let (gone, there) =
            part(followed, &alive, |tw, entered_ns| self.followed.holds(tw, entered_ns));
        for (_, socket) in there {
            unfollowed.entry(socket.netns).and_modify(|count| *count = count.saturating_sub(1));
        }
        let missed =
            gone.iter().filter(|(tw, socket)| self.followed.forget(*tw, socket.entered_ns));
        Vanished {
            missed: missed.map(|(_, socket)| socket.netns).collect(),
            gone: gone.iter().map(|(tw, socket)| (*tw, socket.entered_ns)).collect(),
            unfollowed,
        }
    }
}

/// What a walk finds of sockets that had ended.
pub struct Vanished {
    /// Them, by address and time of entry.
    pub gone: Vec<(u64, u64)>,
    /// The namespaces of those whose end the kernel side had not noticed, one for each.
    pub missed: Vec<u32>,
    /// How many live that nobody followed, by namespace.
    pub unfollowed: HashMap<u32, u64>,
}

/// Sockets by address.
type Sockets = Vec<(u64, Tracked)>;

/// Parts the sockets that are not among those alive, or that the kernel side follows no more, from
/// those that are there. Of a namespace that was not read all are taken to be.
fn part(
    followed: &[(u64, Tracked)],
    alive: &HashMap<u32, HashSet<u64>>,
    holds: impl Fn(u64, u64) -> bool,
) -> (Sockets, Sockets) {
    let lives = |(tw, socket): &(u64, Tracked)| {
        alive.get(&socket.netns).is_none_or(|sockets| sockets.contains(tw))
            && holds(*tw, socket.entered_ns)
    };
    followed.iter().copied().partition(|socket| !lives(socket))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gone_is_what_is_not_there_or_another_socket_by_now() {
        let socket = |netns, entered_ns| Tracked {
            entered_ns,
            row: 1,
            netns,
            holding: crate::track::Holding::default(),
        };
        let followed = [
            (0xa0, socket(1, 5)),
            (0xb0, socket(1, 6)),
            (0xc0, socket(1, 7)),
            (0xd0, socket(2, 8)),
        ];
        let alive = HashMap::from([(1, HashSet::from([0xa0, 0xb0]))]);
        let (gone, there) = part(&followed, &alive, |tw, _| tw != 0xb0);
        let gone: Vec<_> = gone.iter().map(|(tw, socket)| (*tw, socket.entered_ns)).collect();
        assert_eq!(gone, [(0xb0, 6), (0xc0, 7)], "of namespace 2 nothing is known");
        assert_eq!(there, [followed[0], followed[3]]);
    }
}
