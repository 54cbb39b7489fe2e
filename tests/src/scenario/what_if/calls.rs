//! The calls of a run, and what the kernel's own list of sockets says is held meanwhile.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::io::Errno;
use rustix::net::{bind, connect};
use rustix::time::{ClockId, clock_gettime};

use crate::netns::Netns;
use crate::sockopt::set_bind_address_no_port;
use crate::topology;
use crate::traffic::{close_first, read_to_end, stream_socket};
use crate::wait;

/// Calls of a run, and the time between two of them.
const CALLS: u32 = 300;
/// The time between two calls.
const PAUSE: Duration = Duration::from_millis(10);
/// How late a call may be: of what is late more than that comes at once, more ports are held than by the
/// same calls at their times, and nothing can be said of what was foretold.
const LATE: Duration = Duration::from_millis(40);
/// A look that takes longer counts for nothing.
const LONG: Duration = Duration::from_millis(20);
/// Looks at what is held that a run needs at least.
const LOOKS: u32 = CALLS / 10;
/// Age from which on a port may be taken over, `tcp_tw_reuse_delay` as it is by default (6.14 on).
const DELAY_S: f64 = 1.0;
/// `TCP_TIMEWAIT_LEN`.
const TIME_WAIT_S: f64 = 60.0;

/// How the client connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Leaves address and port to the kernel.
    Plain,
    /// Binds each of these addresses in turn, and leaves the port to `connect()`.
    InTurn(&'static [&'static str]),
    /// Binds its address first, and with it a port.
    BoundFirst,
    /// Lets the peer close first.
    PeerFirst,
    /// Uses a connection again for this long.
    Kept(Duration),
}

/// What a run came to.
#[derive(Debug)]
pub struct Truth {
    pub failed: u64,
    /// The most ports held at a time, of one source address, of the fullest port space.
    pub peak: u64,
}

/// Where in a second of the kernel each run begins, milliseconds: where ports come back with the next one,
/// how many calls find none depends on that. Half way between two calls, so that no call is at its turn.
const PHASE_MS: u64 = 305;

/// Time until then.
fn until_phase() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    let now_ms = now.tv_nsec as u64 / 1_000_000;
    Duration::from_millis((1_000 + PHASE_MS - now_ms) % 1_000)
}

/// Calls that come at their times, one after the other; gives how many failed, or nothing if one was late.
pub fn run(netns: &Netns, to: &[SocketAddr], how: How) -> Result<Option<u64>> {
    netns.run(|| {
        // A run that begins late is as wrong as a call that is.
        let began = Instant::now() + until_phase();
        let (mut failed, mut late) = (0, false);
        let mut kept = None::<(TcpStream, Instant)>;
        for call in 0..CALLS {
            let due = began + PAUSE * call;
            wait::pass(due.saturating_duration_since(Instant::now()));
            late |= due.elapsed() > LATE;
            let to = to[call as usize % to.len()];
            if let How::Kept(time) = how {
                match kept.take() {
                    Some((stream, opened)) if opened.elapsed() < time => {
                        kept = Some((stream, opened));
                        continue;
                    }
                    Some((stream, _)) => close_first(stream)?,
                    None => {}
                }
            }
            let socket = stream_socket(to)?;
            let source = match how {
                How::InTurn(sources) => Some(sources[call as usize % sources.len()]),
                How::BoundFirst => Some(topology::CLIENT),
                _ => None,
            };
            if let Some(source) = source {
                if how != How::BoundFirst {
                    set_bind_address_no_port(&socket)?;
                }
                let from: SocketAddr = format!("{source}:0").parse()?;
                match bind(&socket, &from) {
                    Err(Errno::ADDRINUSE) => {
                        failed += 1;
                        continue;
                    }
                    other => other.context("bind")?,
                }
            }
            match connect(&socket, &to) {
                Err(Errno::ADDRNOTAVAIL) => failed += 1,
                other => {
                    other.context("connect")?;
                    let stream = TcpStream::from(socket);
                    match how {
                        How::PeerFirst => read_to_end(&stream)?,
                        How::Kept(_) => kept = Some((stream, Instant::now())),
                        _ => close_first(stream)?,
                    }
                }
            }
        }
        Ok((!late).then_some(failed))
    })
}

/// A socket as `/proc/net/tcp` lists it: source address, peer, state, and the rest of its timer in
/// seconds.
fn sockets() -> Result<Vec<(String, String, u8, f64)>> {
    let text = std::fs::read_to_string("/proc/thread-self/net/tcp")?;
    let socket = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (local, _) = words.get(1)?.split_once(':')?;
        let timer = words.get(5)?.split_once(':')?.1;
        let left = i64::from_str_radix(timer, 16).ok()? as f64 / 100.0;
        let state = u8::from_str_radix(words.get(3)?, 16).ok()?;
        Some((local.to_owned(), (*words.get(2)?).to_owned(), state, left))
    };
    Ok(text.lines().skip(1).filter_map(socket).collect())
}

/// Whether the port of a socket of this age may be taken over: `tcp_twsk_unique()`, net/ipv4/tcp_ipv4.c,
/// which before 6.14 asks whether the kernel's seconds have gone on since.
fn is_old_enough(age_s: f64) -> bool {
    if Path::new("/proc/sys/net/ipv4/tcp_tw_reuse_delay").exists() {
        return age_s >= DELAY_S;
    }
    let now = clock_gettime(ClockId::Monotonic);
    let now_s = now.tv_sec as f64 + now.tv_nsec as f64 / 1e9;
    (now_s - age_s).floor() < now_s.floor()
}

/// The most ports held of one source address, and of one peer unless they are `bound` first: open, or
/// in TIME_WAIT and too young where they may be taken over. Nothing if the look took so long
/// that what came and what went meanwhile are both in it.
fn held(taken_over: bool, bound: bool) -> Result<Option<u64>> {
    let began = Instant::now();
    let mut spaces: BTreeMap<(String, String), u64> = BTreeMap::new();
    let sockets = sockets()?;
    if began.elapsed() > LONG {
        return Ok(None);
    }
    for (local, remote, state, left) in sockets {
        let (listens, time_wait) = (state == 10, state == 6);
        let free = time_wait && taken_over && is_old_enough(TIME_WAIT_S - left);
        if !listens && !free {
            let remote = if bound { String::new() } else { remote };
            *spaces.entry((local, remote)).or_default() += 1;
        }
    }
    Ok(Some(spaces.into_values().max().unwrap_or(0)))
}

/// Runs the traffic while somebody looks at what is held; gives nothing if a call was late.
pub fn watched(
    netns: &Netns,
    to: &[SocketAddr],
    how: How,
    taken_over: bool,
) -> Result<Option<Truth>> {
    let over = AtomicBool::new(false);
    let bound = how == How::BoundFirst;
    thread::scope(|scope| {
        let look = scope.spawn(|| {
            netns.run(|| {
                let (mut peak, mut looks) = (0, 0);
                while !over.load(Ordering::Relaxed) {
                    if let Some(held) = held(taken_over, bound)? {
                        (peak, looks) = (peak.max(held), looks + 1);
                    }
                    wait::pass(2 * PAUSE);
                }
                // What is never taken over is all there in the end.
                let last = wait::until("a quick look", wait::SOON, || held(taken_over, bound))?;
                peak = peak.max(last);
                Ok((looks >= LOOKS).then_some(peak))
            })
        });
        let failed = run(netns, to, how);
        over.store(true, Ordering::Relaxed);
        let peak = look.join().map_err(|_| anyhow::anyhow!("the look panicked"))??;
        Ok(failed?.zip(peak).map(|(failed, peak)| Truth { failed, peak }))
    })
}
