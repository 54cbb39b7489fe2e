//! What `what-if` foretells, against what then really happens: the same traffic is recorded once, and
//! run again with the setting changed.
//!
//! The truth is the kernel's: the calls' own answers, and the ports held by the sockets that
//! `/proc/net/tcp` lists while it runs, with the age that their timers tell.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::net::{bind, connect};
use serde_json::Value;

use crate::lab::Lab;
use crate::netns::Netns;
use crate::sockopt::set_bind_address_no_port;
use crate::topology::{self, ROUTED, SERVER, address, ephemeral_ports};
use crate::traffic::{Behaviour, Server, close_first, read_to_end, stream_socket};
use crate::twtrace::{self, Running};
use crate::{expect, wait};

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
/// Ports that are too few for them unless something is changed.
const FEW: u16 = 120;
/// Age from which on a port may be taken over, `tcp_tw_reuse_delay` as it is by default.
const DELAY_S: f64 = 1.0;
/// `TCP_TIMEWAIT_LEN`.
const TIME_WAIT_S: f64 = 60.0;

/// How the client connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
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
struct Truth {
    failed: u64,
    /// The most ports held at a time, of one source address, of the fullest port space.
    peak: u64,
}

/// Calls that come at their times, one after the other; gives how many failed, or nothing if one was late.
fn run(netns: &Netns, to: &[SocketAddr], how: How) -> Result<Option<u64>> {
    netns.run(|| {
        let began = Instant::now();
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
                bind(&socket, &from).context("bind")?;
            }
            match connect(&socket, &to) {
                Err(rustix::io::Errno::ADDRNOTAVAIL) => failed += 1,
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

/// The most ports held of one source address, and of one peer unless they are `bound` first: open, or
/// in TIME_WAIT for less than the delay where they may be taken over. Nothing if the look took so long
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
        let free = time_wait && taken_over && TIME_WAIT_S - left >= DELAY_S;
        if !listens && !free {
            let remote = if bound { String::new() } else { remote };
            *spaces.entry((local, remote)).or_default() += 1;
        }
    }
    Ok(Some(spaces.into_values().max().unwrap_or(0)))
}

/// Runs the traffic while somebody looks at what is held; gives nothing if a call was late.
fn watched(netns: &Netns, to: &[SocketAddr], how: How, taken_over: bool) -> Result<Option<Truth>> {
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

/// What is foretold of a namespace.
fn foretold(lab: &Lab, file: &str, netns: &Netns, set: &[&str]) -> Result<Truth> {
    let sets = set.iter().flat_map(|setting| ["--set", setting]);
    let args = ["what-if", "--replay", file, "--netns", netns.name(), "-o", "json"];
    let args: Vec<&str> = args.into_iter().chain(sets).collect();
    let output = twtrace::run(lab, &args)?;
    expect::that(output.status.success(), || twtrace::shown(&output))?;
    let document: Value = serde_json::from_slice(&output.stdout)?;
    let last = document["predictions"].as_array().and_then(|all| all.last());
    let last = last.with_context(|| format!("no prediction in {document:#}"))?;
    let failed = last["failed"].as_u64().context("failed")?;
    let peak = last["port_spaces"][0]["peak"].as_u64().unwrap_or(0);
    Ok(Truth { failed, peak })
}

/// One setting, the traffic that is recorded for it, and how it is then really run.
struct Case {
    what: &'static str,
    set: &'static [&'static str],
    /// The recorded traffic.
    from: Recorded,
    /// What is changed for the real run, before it.
    change: fn(&topology::Routed) -> Result<()>,
    how: How,
    /// Whether ports may be taken over then.
    taken_over: bool,
}

/// Traffic that is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Recorded {
    /// With timestamps, and `tcp_tw_reuse` 0.
    Direct,
    /// The same with more ports: when calls that failed were is known less exactly than when
    /// connections ended, and a second's worth of them is what is foretold.
    Roomy,
    /// Without timestamps, `tcp_tw_reuse` 1, more ports.
    Stripped,
    /// To two peers, each port bound first, `tcp_tw_reuse` 1, more ports.
    BoundFirst,
}

const SOURCES: &[&str] = &[topology::CLIENT, "10.1.0.3"];

const CASES: &[Case] = &[
    Case {
        what: "nothing",
        set: &["tcp_tw_reuse=0"],
        from: Recorded::Direct,
        change: |_| Ok(()),
        how: How::Plain,
        taken_over: false,
    },
    Case {
        what: "tcp_tw_reuse=1",
        set: &["tcp_tw_reuse=1"],
        from: Recorded::Roomy,
        change: |net| net.client.set("ipv4/tcp_tw_reuse", "1"),
        how: How::Plain,
        taken_over: true,
    },
    Case {
        what: "the widest range",
        set: &["ip_local_port_range=1024-65535"],
        from: Recorded::Direct,
        change: |net| ephemeral_ports(&net.client, 1024, 65_535),
        how: How::Plain,
        taken_over: false,
    },
    Case {
        what: "two source addresses",
        set: &["source_addresses=2"],
        from: Recorded::Direct,
        change: |_| Ok(()),
        how: How::InTurn(SOURCES),
        taken_over: false,
    },
    Case {
        what: "the peer closes first",
        set: &["peer_closes_first=1"],
        from: Recorded::Direct,
        change: |_| Ok(()),
        how: How::PeerFirst,
        taken_over: false,
    },
    Case {
        what: "connections kept for a second",
        set: &["keep=1s"],
        from: Recorded::Direct,
        change: |_| Ok(()),
        how: How::Kept(Duration::from_secs(1)),
        taken_over: false,
    },
    Case {
        what: "timestamps let through",
        set: &["timestamps=1"],
        from: Recorded::Stripped,
        change: |_| Ok(()),
        how: How::Plain,
        taken_over: true,
    },
    Case {
        what: "IP_BIND_ADDRESS_NO_PORT",
        set: &["bind_address_no_port=1"],
        from: Recorded::BoundFirst,
        change: |_| Ok(()),
        how: How::InTurn(&[topology::CLIENT]),
        taken_over: true,
    },
];

/// A network as it is recorded, or as it is run again.
fn network(from: Recorded, recorded: bool) -> Result<topology::Routed> {
    let net = topology::routed()?;
    if from == Recorded::Stripped && recorded {
        topology::strip_timestamps(&net.router)?;
    }
    address(&net.client, "eth0", "10.1.0.3/24")?;
    let off = matches!(from, Recorded::Direct | Recorded::Roomy);
    let reuse = if off { "0" } else { "1" };
    net.client.set("ipv4/tcp_tw_reuse", reuse)?;
    // Enough for those that are bound first: a bind() that is refused not every way to attach shows.
    let ports = if from == Recorded::Direct { FEW } else { 4 * FEW };
    ephemeral_ports(&net.client, 20_000, 19_999 + ports)?;
    Ok(net)
}

/// The servers of a network, and where the calls go.
fn servers(
    net: &topology::Routed,
    from: Recorded,
    how: How,
) -> Result<(Vec<Server>, Vec<SocketAddr>)> {
    let behaviour = match how {
        How::PeerFirst => Behaviour::ClosesFirst,
        _ => Behaviour::AnswersEof,
    };
    let places: &[(&Netns, String)] = &match from {
        Recorded::Direct | Recorded::Roomy => vec![(&net.direct, format!("{SERVER}:8080"))],
        Recorded::Stripped => vec![(&net.behind, format!("{ROUTED}:8080"))],
        Recorded::BoundFirst => {
            vec![(&net.direct, format!("{SERVER}:8080")), (&net.direct, format!("{SERVER}:8081"))]
        }
    };
    let servers: Vec<Server> = places
        .iter()
        .map(|(netns, at)| Server::start(netns, at, behaviour))
        .collect::<Result<_>>()?;
    let addresses = servers.iter().map(Server::addr).collect();
    Ok((servers, addresses))
}

/// The traffic of each kind, recorded together; gives the namespaces, or nothing if a call was late.
fn recorded(lab: &Lab, file: &str) -> Result<Option<Vec<(Recorded, topology::Routed)>>> {
    let kinds = [Recorded::Direct, Recorded::Roomy, Recorded::Stripped, Recorded::BoundFirst];
    let nets: Vec<_> =
        kinds.into_iter().map(|kind| Ok((kind, network(kind, true)?))).collect::<Result<_>>()?;
    let recording = Running::start(lab, &[&["record", file][..], &twtrace::SMALL].concat())?;
    let in_time = thread::scope(|scope| {
        let play = |(kind, net): &(Recorded, topology::Routed)| {
            let how = if *kind == Recorded::BoundFirst { How::BoundFirst } else { How::Plain };
            let (_servers, to) = servers(net, *kind, how)?;
            run(&net.client, &to, how).with_context(|| format!("{kind:?}"))
        };
        let plays: Vec<_> = nets.iter().map(|net| scope.spawn(move || play(net))).collect();
        let mut in_time = true;
        for play in plays {
            let failed = play.join().map_err(|_| anyhow::anyhow!("a client panicked"))??;
            in_time &= failed.is_some();
        }
        Ok::<_, anyhow::Error>(in_time)
    })?;
    recording.stop()?;
    Ok(in_time.then_some(nets))
}

/// Whether two peaks are as near as a tenth, or one port.
fn near(foretold: u64, truth: u64) -> bool {
    foretold.abs_diff(truth) as f64 <= (truth as f64 / 10.0).max(1.0)
}

/// Runs cases as they were foretold, all at once; of those in which a call was late nothing comes.
fn really(cases: &[&Case]) -> Result<Vec<Option<Truth>>> {
    thread::scope(|scope| {
        let play = |case: &Case| {
            let net = network(case.from, false)?;
            (case.change)(&net)?;
            let (_servers, to) = servers(&net, case.from, case.how)?;
            watched(&net.client, &to, case.how, case.taken_over)
        };
        let plays: Vec<_> = cases.iter().map(|case| scope.spawn(move || play(case))).collect();
        let join = |play: thread::ScopedJoinHandle<'_, Result<Option<Truth>>>| {
            play.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a client panicked")))
        };
        plays.into_iter().map(join).collect()
    })
}

/// Each setting, foretold from one recording and then run.
pub fn foretells_what_then_happens(lab: &Lab) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("r.twt");
    let file = file.to_str().context("a path")?;
    let mut foretold_of = Vec::new();
    super::until_as_meant(|| {
        let Some(nets) = recorded(lab, file)? else { return Ok(None) };
        foretold_of.clear();
        for case in CASES {
            let net = nets.iter().find(|(kind, _)| *kind == case.from);
            let (_, net) = net.context("it was recorded")?;
            foretold_of.push(foretold(lab, file, &net.client, case.set)?);
        }
        Ok(Some(()))
    })?;
    let mut truths: Vec<Option<Truth>> = CASES.iter().map(|_| None).collect();
    super::until_as_meant(|| {
        let left: Vec<usize> = (0..CASES.len()).filter(|case| truths[*case].is_none()).collect();
        let cases: Vec<&Case> = left.iter().map(|case| &CASES[*case]).collect();
        for (case, truth) in left.into_iter().zip(really(&cases)?) {
            truths[case] = truth;
        }
        Ok(truths.iter().all(Option::is_some).then_some(()))
    })?;
    let mut table = String::new();
    let mut wrong = false;
    for ((case, foretold), truth) in CASES.iter().zip(&foretold_of).zip(truths) {
        let truth = truth.context(case.what)?;
        wrong |= foretold.failed != truth.failed || !near(foretold.peak, truth.peak);
        table += &format!("{}: {foretold:?}, really {truth:?}\n", case.what);
    }
    expect::that(!wrong, || table)
}
