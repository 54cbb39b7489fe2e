//! How many may be connected at once, how much their answers may take, and who came.
//!
//! Whoever takes much keeps nobody else from anything: root and the daemon's own user, the other
//! users of this host, and those who come over TCP have places and memory apart, and each user and
//! each address a share of them.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::agent::Clients;

/// Unit in which the memory of answers is given out, bytes.
const PAGE: usize = 1024;
/// Memory for answers that are being written to those of one kind, in [`PAGE`]s: 8 MiB.
const PAGES: usize = 8 * 1024;
/// Answers up to this size need none of it: the places bound how many there are.
const SMALL: usize = 64 * 1024;

/// Who a client is, by the way it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Client {
    /// By the unix socket, whose mode says who may: root, or the daemon's own user.
    Privileged,
    /// By the unix socket, another user; `None` if the kernel does not tell which.
    User(Option<u32>),
    /// Over TCP, from an address: only what every monitoring system may know.
    Network(IpAddr),
}

impl Client {
    /// One over TCP. Who has an IPv6 address has its 64-bit network.
    pub fn network(address: IpAddr) -> Self {
        Self::Network(match address.to_canonical() {
            IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> 64 << 64).into()),
            address => address,
        })
    }

    /// Whether it is root or the daemon's own user.
    pub const fn is_privileged(self) -> bool {
        matches!(self, Self::Privileged)
    }

    const fn is_local(self) -> bool {
        !matches!(self, Self::Network(_))
    }

    const fn kind(self) -> usize {
        match self {
            Self::Privileged => 0,
            Self::User(_) => 1,
            Self::Network(_) => 2,
        }
    }
}

/// How many places there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// On the unix socket; a quarter of them is kept for the privileged.
    pub local: usize,
    /// Over TCP.
    pub network: usize,
}

impl Quota {
    /// Of so many, a quarter over TCP if anybody may come that way.
    pub const fn of(all: usize, network: bool) -> Self {
        let network = if network { all / 4 } else { 0 };
        Self { local: all - network, network }
    }

    /// Most that may be taken on the client's way when it comes, and by itself.
    const fn most(self, client: Client) -> (usize, usize) {
        let all = match client {
            Client::Privileged => return (self.local, self.local),
            Client::User(_) => self.local - self.local / 4,
            Client::Network(_) => self.network,
        };
        (all, all.div_ceil(2))
    }
}

/// The places, and the counts of who took them.
#[derive(Debug)]
pub struct Places {
    taken: Mutex<Taken>,
    /// Memory for answers, by the kind of client.
    memory: [Arc<Semaphore>; 3],
    requests: AtomicU64,
    refused: AtomicU64,
    dropped: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct Taken {
    local: usize,
    network: usize,
    each: HashMap<Client, (usize, Share)>,
}

impl Taken {
    const fn of_way(&mut self, client: Client) -> &mut usize {
        if client.is_local() { &mut self.local } else { &mut self.network }
    }
}

/// What one client has, however many connections it makes.
#[derive(Clone, Debug)]
struct Share {
    turn: Arc<Semaphore>,
    memory: Arc<Semaphore>,
    pages: u32,
}

impl Share {
    fn of(client: Client) -> Self {
        let pages = if client.is_privileged() { PAGES } else { PAGES / 2 };
        let (turn, memory) = (Arc::new(Semaphore::new(1)), Arc::new(Semaphore::new(pages)));
        Self { turn, memory, pages: u32::try_from(pages).unwrap_or(u32::MAX) }
    }
}

impl Places {
    /// All free. Subscribers that fall behind are counted in `dropped`, elsewhere.
    pub fn new(dropped: Arc<AtomicU64>) -> Arc<Self> {
        Arc::new(Self {
            taken: Mutex::default(),
            memory: [(); 3].map(|()| Arc::new(Semaphore::new(PAGES))),
            requests: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            dropped,
        })
    }

    /// A place; `None`, counted, when there is none for this client.
    pub fn take(self: &Arc<Self>, quota: Quota, client: Client) -> Option<Seat> {
        let (most, most_own) = quota.most(client);
        let mut taken = self.lock();
        let own = taken.each.get(&client).map_or(0, |(own, _)| *own);
        if *taken.of_way(client) >= most || own >= most_own {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        *taken.of_way(client) += 1;
        let (own, share) = taken.each.entry(client).or_insert_with(|| (0, Share::of(client)));
        *own += 1;
        Some(Seat {
            client,
            share: share.clone(),
            places: Arc::clone(self),
            endless: Notify::new(),
        })
    }

    /// Counts a request.
    pub fn asked(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Who came so far.
    pub fn clients(&self) -> Clients {
        let taken = self.lock();
        Clients {
            connected: (taken.local + taken.network) as u64,
            requests: self.requests.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One place, given back when dropped.
#[derive(Debug)]
pub struct Seat {
    /// Who has it.
    pub client: Client,
    share: Share,
    places: Arc<Places>,
    endless: Notify,
}

/// The turn of a client to have a large answer made: one at a time, so that what waits for memory is
/// one answer a client. Given back when dropped.
#[derive(Debug)]
pub struct Turn {
    _permit: Option<OwnedSemaphorePermit>,
}

/// Memory of an answer, given back when dropped.
#[derive(Debug)]
pub struct Held {
    _own: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

impl Seat {
    /// What is answered has no end: nothing that the client may still send will be looked at.
    pub fn give_for_ever(&self) {
        self.endless.notify_one();
    }

    /// Waits until the answer is one without end.
    pub async fn given_for_ever(&self) {
        self.endless.notified().await;
    }

    /// Waits until no other answer is being made for this client.
    pub async fn turn(&self) -> Turn {
        // Nobody closes it.
        Turn { _permit: Arc::clone(&self.share.turn).acquire_owned().await.ok() }
    }

    /// Memory for an answer; waits until there is some. A small one needs none.
    pub async fn memory(&self, bytes: usize) -> Option<Held> {
        if bytes <= SMALL {
            return None;
        }
        let pages = u32::try_from(bytes.div_ceil(PAGE)).unwrap_or(u32::MAX).min(self.share.pages);
        let all = &self.places.memory[self.client.kind()];
        let own = Arc::clone(&self.share.memory).acquire_many_owned(pages).await.ok()?;
        let all = Arc::clone(all).acquire_many_owned(pages).await.ok()?;
        Some(Held { _own: own, _all: all })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        *taken.of_way(self.client) -= 1;
        if let Some((own, _)) = taken.each.get_mut(&self.client) {
            *own -= 1;
            if *own == 0 {
                taken.each.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::task::{Context, Poll, Waker};

    const ALICE: Client = Client::User(Some(1000));
    const BOB: Client = Client::User(Some(1001));

    /// An answer that need not be waited for.
    fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
        match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) => Some(answer),
            Poll::Pending => None,
        }
    }

    fn from(address: &str) -> Client {
        Client::network(address.parse().unwrap())
    }

    #[test]
    fn a_quarter_of_the_places_is_kept_for_the_privileged_and_nobody_takes_all_others() {
        let places = Places::new(Arc::default());
        let quota = Quota::of(8, false);
        let mut held: Vec<_> = (0..8).filter_map(|_| places.take(quota, ALICE)).collect();
        assert_eq!(held.len(), 3, "half of the six that users have");
        held.extend((0..8).filter_map(|_| places.take(quota, BOB)));
        assert_eq!(held.len(), 6);
        assert!(places.take(quota, Client::User(None)).is_none(), "two are kept");
        held.extend((0..8).filter_map(|_| places.take(quota, Client::Privileged)));
        assert_eq!(held.len(), 8);
        assert_eq!(places.clients(), Clients { connected: 8, refused: 17, ..Clients::default() });
        held.clear();
        assert_eq!(places.clients().connected, 0);
        assert!(places.take(quota, ALICE).is_some());
        assert!(places.lock().each.is_empty(), "nothing is kept of whoever left");
    }

    #[test]
    fn who_comes_over_tcp_takes_no_place_of_the_unix_socket_and_the_reverse() {
        let places = Places::new(Arc::default());
        let quota = Quota::of(64, true);
        let many = |client| (0..100).filter_map(|_| places.take(quota, client)).collect::<Vec<_>>();
        let one = many(from("192.0.2.1"));
        let same = many(from("::ffff:192.0.2.1"));
        let other = many(from("2001:db8::1"));
        assert_eq!((one.len(), same.len(), other.len()), (8, 0, 8));
        assert!(many(from("2001:db8::2")).is_empty() && many(from("192.0.2.2")).is_empty());
        let root = many(Client::Privileged);
        assert_eq!(root.len(), 48);
        drop(other);
        assert_eq!(many(from("2001:db8::2")).len(), 8, "those of TCP are as they were");
        let unheard = Quota::of(64, false);
        assert_eq!((unheard.local, unheard.network), (64, 0));
    }

    #[test]
    fn the_smallest_number_of_places_has_one_for_everybody() {
        let places = Places::new(Arc::default());
        let quota = Quota::of(4, true);
        let all = [ALICE, BOB, from("192.0.2.1"), Client::Privileged];
        let held = all.map(|client| places.take(quota, client));
        assert!(held.iter().all(Option::is_some), "{held:?}");
    }

    #[test]
    fn memory_of_one_is_not_that_of_another() {
        let places = Places::new(Arc::default());
        let quota = Quota::of(64, true);
        let of = |client| places.take(quota, client).unwrap();
        let (alice, bob, root) = (of(ALICE), of(BOB), of(Client::Privileged));
        let mut held: Vec<_> = (0..2).filter_map(|_| at_once(alice.memory(2 << 20))).collect();
        assert_eq!(held.len(), 2);
        assert!(at_once(of(ALICE).memory(2 << 20)).is_none(), "she has her share");
        assert!(at_once(alice.memory(SMALL)).is_some_and(|held| held.is_none()), "a small one");
        held.push(at_once(bob.memory(64 << 20)).unwrap());
        let carol = of(Client::User(Some(1002)));
        assert!(at_once(carol.memory(1 << 20)).is_none(), "users have as much together");
        held.push(at_once(root.memory(64 << 20)).unwrap());
        held.push(at_once(of(from("192.0.2.1")).memory(2 << 20)).unwrap());
        held.clear();
        assert!(at_once(carol.memory(1 << 20)).is_some());
    }

    #[test]
    fn one_answer_of_a_client_is_made_at_a_time() {
        let places = Places::new(Arc::default());
        let quota = Quota::of(64, true);
        let (first, second) = (places.take(quota, ALICE), places.take(quota, ALICE));
        let (first, second) = (first.unwrap(), second.unwrap());
        let turn = at_once(first.turn()).unwrap();
        assert!(at_once(second.turn()).is_none());
        assert!(at_once(places.take(quota, BOB).unwrap().turn()).is_some());
        drop(turn);
        assert!(at_once(second.turn()).is_some());
    }
}
