//! Network namespaces where connections are open and nothing was seen to close yet: where somebody shares
//! an address, they take its ports as well.

use std::{
    collections::BTreeSet,
    path::Path,
    time::{Duration, Instant},
};

use crate::{
    host::netstat::sockets_in_use,
    kernel::{Namespaces, Visitor},
};

/// Time after which they are looked for again.
const EVERY: Duration = Duration::from_secs(5);
/// Most namespaces that are looked into.
const MOST_NAMESPACES: usize = 256;
/// TCP sockets from which on a namespace's are counted: few take no ports worth a word.
const CROWD: u64 = 8;

/// Namespaces with many sockets.
#[derive(Debug, Default)]
pub struct Crowds {
    when: Option<Instant>,
    inums: BTreeSet<u32>,
}

impl Crowds {
    /// Those namespaces, looked for if it is time.
    pub fn look(&mut self, all: &Namespaces, now: Instant) -> &BTreeSet<u32> {
        if self.when.is_none_or(|when| now.saturating_duration_since(when) >= EVERY) {
            self.when = Some(now);
            let crowded = Visitor::travel(|visitor| {
                let net = Path::new("/proc/thread-self/net");
                let mut is_crowded =
                    |namespace| visitor.enter(namespace).is_ok() && sockets_in_use(net) >= CROWD;
                let all = all.iter().take(MOST_NAMESPACES);
                all.filter(|namespace| is_crowded(namespace)).map(|it| it.inum).collect()
            });
            // What cannot be entered is told of where its facts are read.
            self.inums = crowded.unwrap_or_default();
        }
        &self.inums
    }

    /// Whether a namespace was among them.
    pub fn have(&self, inum: u32) -> bool {
        self.inums.contains(&inum)
    }
}
