//! connect() and bind() calls that get no port: the caller's own count of them is the truth.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::net::{
    AddressFamily, Protocol, SocketFlags, SocketType, bind, connect, connect_unspec, listen,
    socket_with, sockopt,
};
use serde_json::Value;

use crate::expect;
use crate::lab::{Backend, Lab};
use crate::sockopt::set_bind_address_no_port;
use crate::summary::Summary;
use crate::topology::{self, ephemeral_ports};
use crate::traffic::{Behaviour, Client, Server, stream_socket};
use crate::twtrace::Tracer;

/// Ports that the client may use.
const PORTS: usize = 20;
/// Calls that find none.
const FAILING: usize = 30;

/// Tries to connect `attempts` times and answers how many found no port, with what came about: closed
/// before the count ends, it may be in it or not.
fn connects(client: &Client, to: SocketAddr, attempts: usize) -> Result<(u64, Vec<TcpStream>)> {
    client.inside(|| {
        let mut kept = Vec::new();
        let mut failed = 0;
        for _ in 0..attempts {
            match client.dial(to) {
                Ok(stream) => kept.push(stream),
                Err(error) if error.kind() == ErrorKind::AddrNotAvailable => failed += 1,
                Err(error) => return Err(error).context("connecting"),
            }
        }
        Ok((failed, kept))
    })
}

/// Asserts the counts of a row, or of the totals.
fn failed(summary: &Summary, object: &Value, no_port: u64, port_busy: u64) -> Result<()> {
    let skipped = summary.skipped()?;
    [("no_port", no_port), ("port_busy", port_busy)]
        .into_iter()
        .try_for_each(|(key, truth)| counted(object, key, truth, skipped))
}

/// Asserts one of them, but for so many skipped runs of programs.
fn counted(object: &Value, key: &str, truth: u64, skipped: u64) -> Result<()> {
    let got = object["failed"][key].as_u64();
    let right = got.is_some_and(|got| (truth.saturating_sub(skipped)..=truth).contains(&got));
    expect::that(right, || format!("failed.{key}: {got:?} of {truth}, {skipped} skipped"))
}

/// This process, as those who look from outside see it.
fn is_ours(place: &Value) -> Result<()> {
    let comm = std::fs::read_to_string("/proc/self/comm")?;
    expect::equal("pid", &Some(u64::from(std::process::id())), &place["pid"].as_u64())?;
    expect::that(place["uid"].as_u64() == Some(0), || format!("uid in {place:#}"))?;
    // The programs for old kernels know the thread's name only.
    if place["kernel_thread"].is_null() {
        return Ok(());
    }
    expect::equal("comm", &Some(comm.trim()), &place["comm"].as_str())?;
    expect::equal("kernel_thread", &Some(false), &place["kernel_thread"].as_bool())
}

/// No port in range, over IPv4, IPv6 and v4-mapped: each by its own peer and in the totals.
pub fn connects_without_a_port(lab: &Lab) -> Result<()> {
    let net = topology::pair()?;
    ephemeral_ports(&net.client, 20_000, 20_019)?;
    let tracer = super::watch(lab, &net.client)?;
    let client = Client::new(&net.client);
    let kinds = [
        ("10.1.0.2:8080", client.clone()),
        ("[fd01::2]:8080", client.clone()),
        ("10.1.0.2:8081", client.clone().mapped()),
    ];
    let (mut truth, mut kept) = (Vec::new(), Vec::new());
    for (address, client) in &kinds {
        let server = Server::start(&net.server, address, Behaviour::Holds)?;
        let (failed, connected) = connects(client, server.addr(), PORTS + FAILING)?;
        truth.push(failed);
        kept.push((server, connected));
    }
    expect::equal("what the calls said", &vec![FAILING as u64; 3], &truth)?;

    let summary = tracer.finish()?;
    for ((address, _), truth) in kinds.iter().zip(&truth) {
        failed(&summary, summary.peer(net.client.inum(), address)?.0, *truth, 0)?;
        let place = place(&summary, "failures", |place| place["remote"] == *address)?;
        is_ours(place)?;
        // The first failure is the first call counted here: all before had a port.
        expect::equal("tried", &Some(FAILING as u64), &place["tried"].as_u64())?;
        expect::equal("range", &serde_json::json!([20_000, 20_019]), &place["port_range"])?;
    }
    let totals = summary.at("/totals")?;
    failed(&summary, totals, truth.iter().sum(), 0)?;
    let binds = &totals["failed"]["address_in_use"];
    if lab.sees_binds() {
        expect::equal("address_in_use", &Some(0), &binds.as_u64())
    } else {
        expect::that(binds.is_null() && summary.at("/binds")?.is_null(), || {
            format!("refused bind() is not seen without control groups: {binds}")
        })
    }
}

/// The first place of a list that is meant.
fn place<'a>(
    summary: &'a Summary,
    list: &str,
    meant: impl Fn(&Value) -> bool,
) -> Result<&'a Value> {
    let places = summary.at(&format!("/{list}"))?.as_array().context("no list of places")?;
    places.iter().find(|place| meant(place)).with_context(|| format!("no such place: {places:#?}"))
}

/// The port that a connect() comes with is another connection's.
pub fn connects_with_a_busy_port(lab: &Lab) -> Result<()> {
    let net = topology::pair()?;
    let server = Server::start(&net.server, "10.1.0.2:8080", Behaviour::Holds)?;
    let tracer = super::watch(lab, &net.client)?;
    let client = Client::new(&net.client).bound_to("10.1.0.1:5000");
    let kept = client.open(server.addr())?;
    let (truth, _) = connects(&client, server.addr(), 4)?;
    expect::equal("what the calls said", &4, &truth)?;
    let summary = tracer.finish()?;
    drop(kept);
    failed(&summary, summary.peer(net.client.inum(), "10.1.0.2:8080")?.0, 0, truth)?;
    failed(&summary, summary.at("/totals")?, 0, truth)?;
    let place = place(&summary, "failures", |place| place["reason"] == "port_busy")?;
    is_ours(place)?;
    expect::equal("local", &Some("10.1.0.1:5000"), &place["local"].as_str())
}

/// What ends before it is connected for other reasons is no failure of ports; a socket that was
/// refused and then finds no port is one.
pub fn other_ends_of_a_connect_are_none(lab: &Lab) -> Result<()> {
    let net = topology::pair()?;
    let server = Server::start(&net.server, "10.1.0.2:8080", Behaviour::Holds)?;
    ephemeral_ports(&net.client, 20_000, 20_019)?;
    let tracer = super::watch(lab, &net.client)?;
    let client = Client::new(&net.client);
    let nobody: SocketAddr = "10.1.0.2:1".parse()?;
    let unreachable: SocketAddr = "10.1.0.99:80".parse()?;
    let (truth, _kept) = client.inside(|| {
        for _ in 0..5 {
            let refused = client.dial(nobody).map(drop).map_err(|error| error.kind());
            expect::equal("nobody listens", &Err(ErrorKind::ConnectionRefused), &refused)?;
        }
        // Given up while under way: by AF_UNSPEC, and by closing.
        for given_up in 0..4 {
            let socket = stream_socket(unreachable)?;
            rustix::io::ioctl_fionbio(&socket, true)?;
            let under_way = connect(&socket, &unreachable) == Err(rustix::io::Errno::INPROGRESS);
            expect::that(under_way, || "connected to nobody".into())?;
            if given_up % 2 == 0 {
                connect_unspec(&socket)?;
            }
        }
        // A socket that had a port once, and finds none now: what is left of the first is no port.
        let again = stream_socket(nobody)?;
        let refused = connect(&again, &nobody);
        expect::equal("nobody listens", &Err(rustix::io::Errno::CONNREFUSED), &refused)?;
        let mut kept = Vec::new();
        let mut failed = 0;
        for _ in 0..PORTS {
            kept.push(client.dial(server.addr())?);
        }
        for socket in [again].into_iter().chain(multipath()) {
            match connect(&socket, &server.addr()) {
                Err(rustix::io::Errno::ADDRNOTAVAIL) => failed += 1,
                other => bail!("there should be no port: {other:?}"),
            }
        }
        Ok((failed, kept))
    })?;
    let summary = tracer.finish()?;
    failed(&summary, summary.at("/totals")?, truth, 0)?;
    failed(&summary, summary.peer(net.client.inum(), "10.1.0.2:8080")?.0, truth, 0)
}

/// A socket of Multipath TCP, where the kernel has it: its subflow fails, and that once.
fn multipath() -> Option<rustix::fd::OwnedFd> {
    let protocol = std::num::NonZeroU32::new(262).map(Protocol::from_raw);
    let (family, kind) = (AddressFamily::INET, SocketType::STREAM);
    socket_with(family, kind, SocketFlags::CLOEXEC, protocol).ok()
}

/// A bind() that somebody listening refuses, and one that an own TIME_WAIT socket does; a program
/// that finds a port soon was merely looking for one.
pub fn refused_binds(lab: &Lab) -> Result<()> {
    if !lab.sees_binds() {
        // What is said then, the others hold.
        return Ok(());
    }
    let net = topology::pair()?;
    let server = Server::start(&net.server, "10.1.0.2:8080", Behaviour::AnswersEof)?;
    let tracer = super::watch(lab, &net.client)?;
    let client = Client::new(&net.client);
    let listener = bound("10.1.0.1:5000", &client)?;
    client.inside(|| Ok(listen(&listener, 1)?))?;
    // One's own port, in TIME_WAIT: without SO_REUSEADDR nobody gets it.
    client.clone().bound_to("10.1.0.1:6000").short_connections(server.addr(), 1)?;

    let refused = |address: &str, times: u64| {
        for _ in 0..times {
            let outcome = bound(address, &client).map(drop).map_err(|error| error.kind());
            expect::equal(address, &Err(ErrorKind::AddrInUse), &outcome)?;
        }
        Ok::<_, anyhow::Error>(())
    };
    refused("10.1.0.1:5000", 3)?;
    refused("0.0.0.0:5000", 2)?;
    refused("10.1.0.1:6000", 4)?;
    let found = bound("10.1.0.1:5001", &client)?;
    let search = 9;
    // Time that passes is what this is about: no success comes within a second.
    refused("10.1.0.1:5001", 1)?;
    std::thread::sleep(Duration::from_millis(1100));
    drop(bound("10.1.0.1:5002", &client)?);
    drop((found, listener));

    let summary = tracer.finish()?;
    let totals = summary.at("/totals/failed")?;
    expect::equal("address_in_use", &Some(search + 1), &totals["address_in_use"].as_u64())?;
    failed(&summary, summary.at("/totals")?, 0, 0)?;
    for (local, count) in
        [("10.1.0.1:5000", 3), ("0.0.0.0:5000", 2), ("10.1.0.1:6000", 4), ("10.1.0.1:5001", 1)]
    {
        let place = place(&summary, "binds", |place| place["local"] == local)?;
        is_ours(place)?;
        expect::equal(local, &Some(count), &place["count"].as_u64())?;
        let program = &place["program_binds"];
        expect::equal("refused", &Some(search + 1), &program["refused"].as_u64())?;
        expect::equal("unanswered", &Some(1), &program["unanswered"].as_u64())?;
        expect::equal("bound", &Some(2), &program["bound"].as_u64())?;
    }
    Ok(())
}

/// A socket bound to an address in the client's namespace, without SO_REUSEADDR.
fn bound(address: &str, client: &Client) -> io::Result<rustix::fd::OwnedFd> {
    let address: SocketAddr = address.parse().expect("addresses in tests are literals");
    let outcome = client.inside(|| {
        let socket = stream_socket(address)?;
        sockopt::set_socket_reuseaddr(&socket, false)?;
        Ok(bind(&socket, &address).map(|()| socket))
    });
    outcome.map_err(io::Error::other)?.map_err(Into::into)
}

/// A `bind()` is refused for other reasons than ports, succeeds without a port, is tried again on the same
/// socket, and is of UDP: what counts are ports of TCP in use, over both versions of IP.
pub fn refused_binds_and_others(lab: &Lab) -> Result<()> {
    let net = topology::pair()?;
    let tracer = super::watch(lab, &net.client)?;
    let client = Client::new(&net.client);
    let holders = ["10.1.0.1:5000", "[fd01::1]:5000"].map(|address| bound(address, &client));
    let refused = |address: &str, want: ErrorKind, times: u64| {
        for _ in 0..times {
            let outcome = bound(address, &client).map(drop).map_err(|error| error.kind());
            expect::equal(address, &Err(want), &outcome)?;
        }
        Ok::<_, anyhow::Error>(())
    };
    // Others' addresses.
    refused("10.1.0.77:5000", ErrorKind::AddrNotAvailable, 3)?;
    refused("[fd01::77]:0", ErrorKind::AddrNotAvailable, 3)?;
    client.inside(|| {
        // A port that takes a right this thread gives up.
        caps::drop(None, caps::CapSet::Effective, caps::Capability::CAP_NET_BIND_SERVICE)?;
        let forbidden = bind(&stream_socket(BELOW.parse()?)?, &BELOW.parse::<SocketAddr>()?);
        caps::raise(None, caps::CapSet::Effective, caps::Capability::CAP_NET_BIND_SERVICE)?;
        expect::equal(BELOW, &Err(rustix::io::Errno::ACCESS), &forbidden)?;
        // An address alone, and given up; one's own port once more.
        let any: SocketAddr = "10.1.0.1:0".parse()?;
        let alone = stream_socket(any)?;
        set_bind_address_no_port(&alone)?;
        bind(&alone, &any)?;
        let twice = stream_socket(any)?;
        bind(&twice, &any)?;
        expect::equal("bound", &Err(rustix::io::Errno::INVAL), &bind(&twice, &any))?;
        // The same port over UDP.
        let _holder = std::net::UdpSocket::bind("10.1.0.1:5000")?;
        let second = std::net::UdpSocket::bind("10.1.0.1:5000").map_err(|error| error.kind());
        expect::equal("over UDP", &Err(ErrorKind::AddrInUse), &second.map(drop))?;
        // One socket, until it finds a port.
        let patient = stream_socket(any)?;
        for port in [5000, 5000, 5000] {
            let outcome = bind(&patient, &SocketAddr::new(any.ip(), port));
            expect::equal("held", &Err(rustix::io::Errno::ADDRINUSE), &outcome)?;
        }
        Ok(bind(&patient, &SocketAddr::new(any.ip(), 5001))?)
    })?;
    refused("[fd01::1]:5000", ErrorKind::AddrInUse, 2)?;
    refused("[::]:5000", ErrorKind::AddrInUse, 1)?;
    drop(holders);
    let summary = tracer.finish()?;
    let binds = &summary.at("/totals/failed")?["address_in_use"];
    if !lab.sees_binds() {
        return expect::that(binds.is_null(), || format!("not seen: {binds}"));
    }
    expect::equal("address_in_use", &Some(6), &binds.as_u64())?;
    for (local, count) in [("10.1.0.1:5000", 3), ("[fd01::1]:5000", 2), ("[::]:5000", 1)] {
        let place = place(&summary, "binds", |place| place["local"] == local)?;
        is_ours(place)?;
        expect::equal(local, &Some(count), &place["count"].as_u64())?;
    }
    Ok(())
}

/// A port that takes a right.
const BELOW: &str = "10.1.0.1:80";

/// Calls in a tight loop are told by few events that stand for all, and counted one by one.
pub fn many_at_once_are_told_by_few_events(lab: &Lab) -> Result<()> {
    const CALLS: usize = 2_000;
    let net = topology::pair()?;
    ephemeral_ports(&net.client, 20_000, 20_019)?;
    let server = Server::start(&net.server, "10.1.0.2:8080", Behaviour::Holds)?;
    let tracer = Tracer::events(lab, &["--netns", net.client.name()])?;
    let client = Client::new(&net.client);
    let began = Instant::now();
    let kept = client.open_many(server.addr(), PORTS)?;
    let (truth, _) = connects(&client, server.addr(), CALLS)?;
    let seconds = began.elapsed().as_secs() + 2;
    drop(kept);
    expect::equal("what the calls said", &(CALLS as u64), &truth)?;
    tracer.await_events("a failure", |events| events.iter().any(|it| it["event"] == "failed"))?;
    let events = tracer.finish_events()?;
    let failed: Vec<_> = events.iter().filter(|event| event["event"] == "failed").collect();
    let processors = std::thread::available_parallelism()?.get() as u64;
    let most = 10 * seconds * processors;
    let told = failed.len() as u64;
    expect::that((1..=most).contains(&told), || format!("{told} events, {most} at most"))?;
    let stand_for: u64 = failed.iter().filter_map(|event| event["stands_for"].as_u64()).sum();
    expect::that(stand_for <= truth, || format!("{stand_for} of {truth}"))?;
    for event in failed {
        is_ours(event)?;
        expect::equal("reason", &Some("no_port"), &event["reason"].as_str())?;
        expect::equal("remote", &Some("10.1.0.2:8080"), &event["remote"].as_str())?;
        expect::equal("local", &Some("10.1.0.1:0"), &event["local"].as_str())?;
    }
    Ok(())
}

/// Threads that search a long range in vain all at once, each giving way to others meanwhile: the kernel
/// has few places for functions that are yet to return.
pub fn many_threads_fail_at_once(lab: &Lab) -> Result<()> {
    const THREADS: usize = 16;
    const CALLS: usize = 200;
    let net = topology::pair()?;
    ephemeral_ports(&net.client, 20_000, 20_999)?;
    net.client.set("ipv4/tcp_tw_reuse", "0")?;
    let server = Server::start(&net.server, "10.1.0.2:8080", Behaviour::AnswersEof)?;
    let client = Client::new(&net.client);
    client.short_connections(server.addr(), 1_000)?;
    let tracer = super::watch(lab, &net.client)?;
    let truth = std::thread::scope(|scope| {
        let calls = || connects(&client, server.addr(), CALLS);
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(calls)).collect();
        threads.into_iter().try_fold(0, |sum, thread| {
            let (failed, _) = thread.join().map_err(|_| anyhow::anyhow!("a caller panicked"))??;
            Ok::<_, anyhow::Error>(sum + failed)
        })
    })?;
    expect::equal("what the calls said", &((THREADS * CALLS) as u64), &truth)?;
    let summary = tracer.finish()?;
    // Where a task may be interrupted within a program, the run for another one is skipped, in all ways.
    let skipped = summary.number("/trust/skipped")?;
    counted(summary.at("/totals")?, "no_port", truth, skipped)?;
    counted(summary.at("/totals")?, "port_busy", 0, 0)
}

/// The same with a port that is bound first: what the kernel does not tell of is counted.
pub fn many_threads_are_refused_at_once(lab: &Lab) -> Result<()> {
    const THREADS: u64 = 16;
    const CALLS: u64 = 200;
    if !lab.sees_binds() {
        return Ok(());
    }
    let net = topology::pair()?;
    ephemeral_ports(&net.client, 20_000, 20_199)?;
    let client = Client::new(&net.client);
    let held: Vec<_> =
        std::iter::repeat_with(|| bound("10.1.0.1:0", &client)).take_while(Result::is_ok).collect();
    expect::equal("ports held", &200, &held.len())?;
    let tracer = super::watch(lab, &net.client)?;
    let refused = |_| bound("10.1.0.1:0", &client).map(drop).map_err(|error| error.kind());
    let refused = || (0..CALLS).map(refused).filter(|it| *it == Err(ErrorKind::AddrInUse)).count();
    let truth = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(refused)).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).sum::<usize>() as u64
    });
    expect::equal("what the calls said", &(THREADS * CALLS), &truth)?;
    let summary = tracer.finish()?;
    let seen = summary.number("/totals/failed/address_in_use")?;
    let missed = summary.number("/trust/answers_missed")?;
    let skipped = summary.number("/trust/skipped")?;
    // That a thread's last answer was missed the next call of it would tell.
    let last = if lab.backend == Backend::Kprobe { THREADS } else { 0 };
    let known = seen..=seen + missed + skipped + last;
    expect::that(known.contains(&truth), || {
        format!("{truth}: {seen} seen, {missed} missed, {skipped} skipped")
    })
}
