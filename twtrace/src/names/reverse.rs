//! Names that DNS has for addresses: bounded in number, in how many are asked for at once and in a second,
//! and never waited for by what shows them longer than it wants to.
//!
//! The servers of `/etc/resolv.conf` are asked, for as long as it says; so threads of their own wait for
//! them. The C library is not: in a static program it would load parts of the host's, which need not be of
//! its version.

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::IpAddr,
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, SyncSender, channel, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use domain::resolv::StubResolver;

/// Addresses of which the answer is kept; those asked for first are forgotten.
const MOST: usize = 4096;
/// Asked for at the same time.
const AT_ONCE: usize = 4;
/// Asked for in a second, for as long as there is something to ask for.
const PER_SECOND: u32 = 20;
/// How long an answer holds; then it is asked for again.
const HOLDS: Duration = Duration::from_secs(300);

/// How an address becomes a name.
type Lookup = fn(IpAddr) -> Option<String>;

/// What is known of an address.
#[derive(Debug, Default)]
struct Known {
    name: Option<String>,
    /// Whether an answer is to come.
    asked: bool,
    /// When the last answer came.
    at: Option<Instant>,
}

/// What asks.
pub struct Reverse {
    known: HashMap<IpAddr, Known>,
    order: VecDeque<IpAddr>,
    ask: SyncSender<IpAddr>,
    answers: Receiver<(IpAddr, Option<String>)>,
    /// When the next may be asked for.
    next: Instant,
}

impl Reverse {
    /// One that asks the servers that this host asks.
    pub fn begin() -> Self {
        Self::with(resolve)
    }

    fn with(lookup: Lookup) -> Self {
        let (ask, asked) = sync_channel::<IpAddr>(AT_ONCE);
        let (answer, answers) = channel();
        let asked = Arc::new(Mutex::new(asked));
        for _ in 0..AT_ONCE {
            let (asked, answer) = (Arc::clone(&asked), answer.clone());
            thread::spawn(move || {
                // Both ends are gone when nobody wants to know any more.
                while let Some(address) = next(&asked) {
                    if answer.send((address, lookup(address))).is_err() {
                        break;
                    }
                }
            });
        }
        Self { known: HashMap::new(), order: VecDeque::new(), ask, answers, next: Instant::now() }
    }

    /// The name of an address, and whether an answer is to come; asks for it if it may.
    pub fn name(&mut self, address: IpAddr, now: Instant) -> (Option<&str>, bool) {
        self.take_in(now);
        let known = self.known.get(&address);
        let is_asked = known.is_some_and(|known| known.asked);
        let holds = known.and_then(|known| known.at).is_some_and(|at| now < at + HOLDS);
        if !is_asked && !holds {
            self.request(address, now);
        }
        let known = self.known.get(&address);
        let name = known.and_then(|known| known.name.as_deref());
        // Of one whose answer is old the old one is shown meanwhile.
        (name, known.is_none_or(|known| known.at.is_none()))
    }

    /// Waits until an answer came, or the next may be asked for, or the time has passed.
    pub fn await_answer(&mut self, most: Duration) {
        let now = Instant::now();
        let waits = self.next.saturating_duration_since(now);
        let time = if waits.is_zero() { most } else { waits.min(most) };
        if let Ok((address, name)) = self.answers.recv_timeout(time) {
            self.settle(address, name, Instant::now());
        }
    }

    fn request(&mut self, address: IpAddr, now: Instant) {
        if now < self.next || self.ask.try_send(address).is_err() {
            return;
        }
        self.next = now + Duration::from_secs(1) / PER_SECOND;
        if !self.known.contains_key(&address) {
            self.order.push_back(address);
        }
        self.known.entry(address).or_default().asked = true;
        if self.order.len() > MOST
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    fn take_in(&mut self, now: Instant) {
        while let Ok((address, name)) = self.answers.try_recv() {
            self.settle(address, name, now);
        }
    }

    fn settle(&mut self, address: IpAddr, name: Option<String>, now: Instant) {
        if let Some(known) = self.known.get_mut(&address) {
            *known = Known { name, asked: false, at: Some(now) };
        }
    }
}

/// The next address to ask for.
fn next(asked: &Mutex<Receiver<IpAddr>>) -> Option<IpAddr> {
    asked.lock().ok()?.recv().ok()
}

fn resolve(address: IpAddr) -> Option<String> {
    let first = StubResolver::run(move |resolver| async move {
        let found = resolver.lookup_addr(address).await?;
        Ok::<_, io::Error>(found.iter().next().map(|name| name.to_string()))
    });
    first.ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u32) -> IpAddr {
        IpAddr::V4((0x0a00_0000 + number).into())
    }

    #[test]
    fn no_more_are_asked_for_in_a_second_than_may_be() {
        let mut reverse = Reverse::with(|address| Some(format!("host-{address}")));
        let start = Instant::now();
        let step = Duration::from_secs(1) / PER_SECOND;
        let mut asked = 0;
        // Ten times as often as may be asked, for a second that the clock does not need.
        for turn in 0..10 * PER_SECOND {
            let now = start + step * turn / 10;
            reverse.name(address(turn), now);
            if reverse.known.len() > asked {
                asked = reverse.known.len();
                let (_, name) = reverse.answers.recv().map(|(_, name)| ((), name)).unwrap();
                assert_eq!(name, Some(format!("host-{}", address(turn))));
            }
        }
        assert_eq!(asked, PER_SECOND as usize);
    }

    #[test]
    fn an_answer_holds_for_a_while_and_is_shown_until_the_next_one_comes() {
        let mut reverse = Reverse::with(|_| Some("db".into()));
        let start = Instant::now();
        assert_eq!(reverse.name(address(1), start), (None, true));
        reverse.await_answer(Duration::MAX);
        assert_eq!(reverse.name(address(1), start), (Some("db"), false));
        assert!(!reverse.known[&address(1)].asked);
        let later = start + 2 * HOLDS;
        assert_eq!(reverse.name(address(1), later), (Some("db"), false));
        assert!(reverse.known[&address(1)].asked);
    }

    #[test]
    fn of_very_many_those_asked_for_first_are_forgotten() {
        let mut reverse = Reverse::with(|_| None);
        let start = Instant::now();
        for number in 0..=MOST as u32 {
            let now = start + number * Duration::from_secs(1);
            reverse.name(address(number), now);
            let (address, name) = reverse.answers.recv().unwrap();
            reverse.settle(address, name, now);
        }
        assert_eq!((reverse.known.len(), reverse.order.len()), (MOST, MOST));
        assert!(!reverse.known.contains_key(&address(0)));
    }
}
