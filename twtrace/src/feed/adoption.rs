//! Sockets whose entry was missed, found among those that live.

use std::collections::HashMap;

use twtrace_common::{Entered, Header, Kind, Live, TCP_TIME_WAIT, entered_flags};

use super::walk::Walk;
use crate::{
    kernel::{Tracer, monotonic_ns},
    units::{Hz, TCP_TIMEWAIT_LEN_MS},
};

impl Walk {
    /// Begins to follow sockets that nobody follows, in namespaces of which some are missing, and
    /// answers the records of their entries: not more than are missing. Where sockets have no
    /// addresses nobody follows them yet, and all that may be meant are answered.
    pub fn adopt(&self, missing: &HashMap<u32, u64>) -> Vec<Entered> {
        let hz = Hz::of_running_kernel();
        let mut adopted = Vec::new();
        for namespace in Tracer::namespaces_of(&self.filter) {
            let Some(missing) = missing.get(&namespace.inum) else { continue };
            let unknown = |socket: Entered| {
                let known = self.names.of(socket).is_some_and(|named| self.followed.has(named.tw));
                (!known).then_some(socket)
            };
            let found = match self.inventory.read(&namespace, unknown) {
                Ok(found) => found,
                Err(error) => {
                    tracing::warn!(netns = namespace.inum, %error, "cannot look for what is missing");
                    continue;
                }
            };
            let entries = found.iter().map(|socket| entry(socket, hz, monotonic_ns()));
            let (placed, unplaced): (Vec<_>, Vec<_>) = entries.partition(|entry| entry.tw != 0);
            adopted.extend(unplaced);
            let placed = placed.into_iter();
            let taken = placed.filter(|entry| self.followed.follow(entry.tw, live(entry)));
            adopted.extend(taken.take(usize::try_from(*missing).unwrap_or(usize::MAX)));
        }
        adopted
    }
}

/// The entry of a socket found, as far as it still tells: when, by its timer.
fn entry(found: &Entered, hz: Hz, now_ns: u64) -> Entered {
    let left_ms = hz.millis(found.armed);
    let lived_ms = match found.header.state {
        TCP_TIME_WAIT => TCP_TIMEWAIT_LEN_MS.saturating_sub(left_ms),
        // How long its timer was to run is not known.
        _ => 0,
    };
    let flags = found.header.flags | entered_flags::FOLLOWED | entered_flags::ADOPTED;
    Entered {
        header: Header { kind: Kind::Entered as u8, flags, ..found.header },
        mono_ns: now_ns.saturating_sub(lived_ms * 1_000_000).max(1),
        armed: found.armed.saturating_add(hz.jiffies(lived_ms)),
        ..*found
    }
}

/// What the kernel side is to know of it.
fn live(entry: &Entered) -> Live {
    let (state, chosen) = (entry.header.state, entry.chosen);
    Live {
        entered_ns: entry.mono_ns,
        state,
        chosen,
        netns: entry.header.netns,
        netns_cookie: entry.netns_cookie,
        ..Live::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use twtrace_common::TCP_FIN_WAIT2;

    #[test]
    fn an_adopted_socket_entered_when_its_timer_says() {
        let found = |state, armed| Entered {
            header: Header { kind: Kind::Present as u8, state, ..Header::default() },
            armed,
            tw: 7,
            ..Entered::default()
        };
        let now_ns = 100_000_000_000;
        let time_wait = entry(&found(TCP_TIME_WAIT, 50 * 250), Hz::new(250), now_ns);
        assert_eq!(time_wait.mono_ns, 90_000_000_000);
        assert_eq!((time_wait.header.kind, time_wait.armed), (Kind::Entered as u8, 60 * 250));
        assert_ne!(time_wait.header.flags & entered_flags::ADOPTED, 0);
        assert_eq!(live(&time_wait).entered_ns, time_wait.mono_ns, "or its end is another's");
        let mini = entry(&found(TCP_FIN_WAIT2, 250), Hz::new(250), now_ns);
        assert_eq!((mini.mono_ns, mini.armed), (now_ns, 250));
    }
}
