//! The daemon for long: it answers like a session of one's own, and neither reloads, restarts,
//! crowds nor clients that misbehave change a count.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Output;
use std::thread;

use anyhow::{Context, Result};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::Signal;
use serde_json::Value;

use crate::counters::Counters;
use crate::daemon::Daemon;
use crate::equation::{Ledger, settled};
use crate::lab::{Backend, Lab};
use crate::netns::Netns;
use crate::summary::Totals;
use crate::topology::{self, CLIENT, ROUTED, SERVER};
use crate::traffic::{Behaviour, Client, Server, close_first};
use crate::twtrace::{self, Running, Tracer};
use crate::{expect, http, wait};

/// Resident memory the daemon may take with its default sizes while it counts, bytes: 70 to 80 MiB, of
/// which the rows are 31, and what their ends leave behind.
const MEMORY: u64 = 96 << 20;
/// What it may take besides while it answers a large question.
const ANSWER: u64 = 32 << 20;

/// A document without what two sessions of the same time need not have in common: their length to
/// the millisecond, and lifetimes of sockets whose entry only the daemon saw.
fn comparable(mut document: Value) -> Value {
    fn strip(value: &mut Value) {
        if let Value::Object(map) = value {
            map.remove("elapsed_s");
            map.remove("lifetime_ms");
            map.remove("findings");
            map.values_mut().for_each(strip);
        } else if let Value::Array(items) = value {
            items.iter_mut().for_each(strip);
        }
    }
    strip(&mut document);
    document
}

/// What the daemon has of one namespace since its start.
fn totals_of(daemon: &Daemon, netns: &Netns) -> Result<Totals> {
    totals_in(&daemon.ask("/v1/peers?top=1000")?, netns)
}

/// The sum of the rows of one namespace.
pub fn totals_in(document: &Value, netns: &Netns) -> Result<Totals> {
    let peers = document["peers"].as_array().context("peers")?;
    let mut sum = Totals::default();
    for peer in peers.iter().filter(|peer| peer["netns"] == netns.inum()) {
        let one = Totals::of(peer)?;
        sum.entered += one.entered;
        sum.fin_wait2 += one.fin_wait2;
        sum.live += one.live;
        sum.reused += one.reused;
        sum.two_msl += one.two_msl;
        sum.killed += one.killed;
        sum.unknown += one.unknown;
        sum.overflow += one.overflow;
    }
    Ok(sum)
}

/// A figure of the daemon's status.
fn status(daemon: &Daemon, pointer: &str) -> Result<u64> {
    let status = daemon.ask("/v1/status")?;
    let figure = status.pointer(pointer).and_then(Value::as_u64);
    figure.with_context(|| format!("no figure {pointer} in {status:#}"))
}

/// Asked through the daemon, a session has the same answer as one that loads its own programs.
pub fn answers_like_a_session(lab: &Lab) -> Result<()> {
    let net = topology::pair()?;
    let server = Server::start(&net.server, &format!("{SERVER}:8080"), Behaviour::AnswersEof)?;
    let client = Client::new(&net.client);
    client.short_connections(server.addr(), 15)?;
    let daemon = Daemon::start(lab, &[])?;
    let status = daemon.ask("/v1/status")?;
    let object = status["object"].as_str().unwrap_or_default();
    expect::equal("the object in use", &lab.object.name(), &object)?;
    // Every kernel here tells the programs of tracepoints what they are given, which makes them cheap; the
    // one that goes with kprobes is for those that do not.
    let programs = status["cost"]["programs"].as_array().context("its programs")?;
    let untyped = programs.iter().filter_map(|program| program["program"].as_str());
    let untyped: Vec<_> = untyped.filter(|name| name.starts_with("tracepoint_")).collect();
    let with_kprobes = (lab.backend == Backend::Kprobe).then_some("tracepoint_connecting");
    expect::equal("programs that do without types", &Vec::from_iter(with_kprobes), &untyped)?;
    client.short_connections(server.addr(), 15)?;
    settled(&net.client, 30)?;

    let only = ["--netns", net.client.name()];
    let own = Tracer::watch(lab, &only)?;
    let through = Running::asking(lab, &daemon, "watch", &only)?;
    client.short_connections(server.addr(), 40)?;
    settled(&net.client, 70)?;
    let (through, _) = through.stop()?;
    let own = own.finish()?;
    let want = Totals { entered: 40, present_at_start: 30, live: 70, ..Totals::default() };
    expect::equal("totals of a session of its own", &want, &own.totals()?)?;
    expect::equal(
        "the daemon's answer (got) against a session's own",
        &comparable(own.document().clone()),
        &comparable(serde_json::from_str(&through)?),
    )?;
    expect::equal("of all since the start", &55, &totals_of(&daemon, &net.client)?.entered)?;
    chooses_rows_by_a_filter(&daemon, &net)
}

/// A filter chooses the one peer of two that it is meant for; whatever else happened on the host is
/// in `other`, to the last socket.
fn chooses_rows_by_a_filter(daemon: &Daemon, net: &topology::Pair) -> Result<()> {
    let second = Server::start(&net.server, &format!("{SERVER}:8081"), Behaviour::AnswersEof)?;
    Client::new(&net.client).short_connections(second.addr(), 4)?;
    Client::new(&net.client)
        .bound_to(&format!("{CLIENT}:0"))
        .short_connections(second.addr(), 3)?;
    settled(&net.client, 77)?;
    let question = "/v1/summary?filter=dport+=+8081+and+role+client+and+netns+";
    let summary = daemon.ask(&format!("{question}{}", net.client.inum()))?;
    let rows = summary["peers"].as_array().context("rows")?;
    let names: Vec<&str> = rows.iter().filter_map(|row| row["peer"].as_str()).collect();
    expect::equal("rows", &vec![second.addr().to_string().as_str()], &names)?;
    expect::equal("rows that may match", &Some(1), &summary["row_filter"]["rows"].as_u64())?;
    expect::equal("open rows", &Some(0), &summary["row_filter"]["open_rows"].as_u64())?;
    let (row, other) = (Totals::of(&rows[0])?, Totals::of(&summary["other"])?);
    expect::equal("the row", &Totals { entered: 7, live: 7, ..Totals::default() }, &row)?;
    expect::equal("ports bound first", &Some(3), &rows[0]["bound"].as_u64())?;
    let totals = Totals::of(&summary["totals"])?;
    let rest = Totals { entered: totals.entered - 7, live: totals.live - 7, ..totals };
    expect::equal("all that is not in the row", &rest, &other)
}

/// Settings change while connections come, and a faulty file changes nothing.
pub fn reloads_and_loses_nothing(lab: &Lab) -> Result<()> {
    let net = topology::pair()?;
    let server = Server::start(&net.server, &format!("{SERVER}:8080"), Behaviour::AnswersEof)?;
    let file = tempfile::NamedTempFile::new()?;
    fs::write(file.path(), "metrics_peers = 5\n")?;
    let path = file.path().to_str().context("a path that is text")?;
    let daemon = Daemon::start(lab, &["--config", path])?;
    let ledger = Ledger::open(&net.client)?;
    let logged = |what: &str, times: usize| {
        wait::until(&format!("the log to say {what:?}"), wait::SOON, || {
            Ok((daemon.log().matches(what).count() >= times).then_some(()))
        })
        .map_err(|error| daemon.told(error))
    };
    thread::scope(|scope| {
        let traffic =
            scope.spawn(|| Client::new(&net.client).short_connections(server.addr(), 300));
        for times in 1..=5 {
            fs::write(file.path(), format!("metrics_peers = {}\nmax_peers = 100\n", 5 + times))?;
            daemon.signal(Signal::HUP)?;
            logged("the configuration was read again", times)?;
        }
        fs::write(file.path(), "metrics_peers = \"many\"\n")?;
        daemon.signal(Signal::HUP)?;
        logged("the configuration stays as it was", 1)?;
        traffic.join().map_err(|_| anyhow::anyhow!("the traffic panicked"))?
    })?;
    logged("max_peers", 1).context("that a restart is needed was not said")?;
    settled(&net.client, 300)?;
    let totals = Totals { entered: 300, live: 300, ..Totals::default() };
    ledger.agrees_with(&totals)?;
    expect::equal("totals", &totals, &totals_of(&daemon, &net.client)?)?;
    expect::equal("lost", &0, &daemon.ask("/v1/summary")?["totals"]["lost"].as_u64().unwrap_or(1))
}

/// A daemon that is started again while connections come knows what was before.
pub fn keeps_its_history(lab: &Lab) -> Result<()> {
    let net = topology::routed()?;
    let server = Server::start(&net.behind, &format!("{ROUTED}:8080"), Behaviour::AnswersEof)?;
    let client = Client::new(&net.client);
    let mut first = Daemon::start(lab, &[])?;
    client.short_connections(server.addr(), 20)?;
    // Stopped at once, it keeps what it had not looked at yet.
    settled(&net.client, 20)?;

    topology::strip_timestamps(&net.router)?;
    let second = thread::scope(|scope| {
        let traffic = scope.spawn(|| client.short_connections(server.addr(), 60));
        let stopped = first.stop()?;
        expect::that(stopped.success(), || format!("{stopped}\n{}", first.log()))?;
        let second = Daemon::after(lab, &first)?;
        traffic.join().map_err(|_| anyhow::anyhow!("the traffic panicked"))??;
        anyhow::Ok(second)
    })?;
    client.short_connections(server.addr(), 10)?;
    settled(&net.client, 90)?;

    let peer = server.addr().to_string();
    let only = [peer.as_str(), "--netns", net.client.name(), "--for", "1h"];
    let (report, _) = Running::asking(lab, &second, "explain", &only)?.stop()?;
    let report: Value = serde_json::from_str(&report)?;
    let history = &report["histories"][0];
    let told = || format!("{history:#}\n{}", second.log());
    let with = &history["with_timestamps"]["last"];
    expect::that(!with.is_null(), || format!("the time before is forgotten: {}", told()))?;
    let story = history["story"].as_str().unwrap_or_default();
    let until = "Timestamps were negotiated until";
    expect::that(story.starts_with(until), || format!("{story}\n{}", told()))?;
    let minutes = history["minutes"].as_array().context("minutes")?;
    let entered: u64 = minutes.iter().filter_map(|minute| minute["entered"].as_u64()).sum();
    // What came while no daemon ran is in no minute of either.
    expect::that((20..=90).contains(&entered), || format!("{entered} entered: {}", told()))?;
    let live = history["live"].as_u64();
    expect::equal("live sockets, those of before among them", &Some(90), &live)
}

/// Numbers of programs and of maps.
type Held = (BTreeSet<u32>, BTreeSet<u32>);

/// Waits until none of these programs and maps is in the kernel any more.
pub fn let_go((programs, maps): &Held) -> Result<()> {
    wait::until("the kernel to let programs and maps go", wait::SOON, || {
        let left = aya::programs::loaded_programs().flatten().map(|program| program.id());
        let left = left.filter(|id| programs.contains(id)).count();
        let maps_left = aya::maps::loaded_maps().flatten().map(|map| map.id());
        let maps_left = maps_left.filter(|id| maps.contains(id)).count();
        Ok((left == 0 && maps_left == 0).then_some(()))
    })
}

/// Numbers of the programs and maps that a process holds.
pub fn held(pid: u32) -> Result<Held> {
    let (mut programs, mut maps) = (BTreeSet::new(), BTreeSet::new());
    for file in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        // Descriptors that were closed meanwhile hold nothing.
        let text = fs::read_to_string(file?.path()).unwrap_or_default();
        for line in text.lines() {
            let number = |key: &str| line.strip_prefix(key)?.trim().parse::<u32>().ok();
            programs.extend(number("prog_id:"));
            maps.extend(number("map_id:"));
        }
    }
    Ok((programs, maps))
}

/// Killed, it leaves no program and no map in the kernel, and can be started again at once.
pub fn killed_leaves_nothing(lab: &Lab) -> Result<()> {
    let mut daemon = Daemon::start(lab, &[])?;
    let (programs, maps) = held(daemon.pid())?;
    expect::that(programs.len() >= 4 && maps.len() >= 4, || {
        format!("programs {programs:?}, maps {maps:?}")
    })?;
    daemon.kill()?;
    let_go(&(programs, maps))?;

    let net = topology::pair()?;
    let server = Server::start(&net.server, &format!("{SERVER}:8080"), Behaviour::AnswersEof)?;
    let again = Daemon::after(lab, &daemon)?;
    Client::new(&net.client).short_connections(server.addr(), 10)?;
    settled(&net.client, 10)?;
    expect::equal("entered", &10, &totals_of(&again, &net.client)?.entered)
}

/// Half-open, garbled, oversized and far too many clients leave the counts exact.
pub fn ignores_clients_that_misbehave(lab: &Lab) -> Result<()> {
    let net = topology::pair()?;
    let server = Server::start(&net.server, &format!("{SERVER}:8080"), Behaviour::AnswersEof)?;
    let daemon = Daemon::start(lab, &["--request-time", "2s", "--stall-time", "2s"])?;
    let ledger = Ledger::open(&net.client)?;
    let socket = daemon.socket();
    thread::scope(|scope| {
        let traffic =
            scope.spawn(|| Client::new(&net.client).short_connections(server.addr(), 200));
        let mut crowd = Vec::new();
        for number in 0..1000_usize {
            let Ok(mut client) = UnixStream::connect(&socket) else { continue };
            // Those for whom there is no place are cut off while they write.
            let _ = match number % 4 {
                0 => client.write_all(b"GET /v1/sum"),
                1 => client.write_all(&[0xff; 512]),
                2 => client
                    .write_all(&[b"GET / HTTP/1.1\r\nX: ".to_vec(), vec![b'x'; 9000]].concat()),
                _ => client.write_all(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n"),
            };
            crowd.push(client);
            if crowd.len() > 200 {
                crowd.remove(0);
            }
        }
        traffic.join().map_err(|_| anyhow::anyhow!("the traffic panicked"))??;
        drop(crowd);
        anyhow::Ok(())
    })?;
    settled(&net.client, 200)?;
    let totals = Totals { entered: 200, live: 200, ..Totals::default() };
    ledger.agrees_with(&totals)?;
    wait::until("the daemon to answer again", wait::SOON, || {
        Ok(http::local(&socket, "/healthz").is_ok().then_some(()))
    })?;
    expect::equal("totals", &totals, &totals_of(&daemon, &net.client)?)
}

/// The address of one of many clients on the loopback network.
fn client_address(number: u32) -> SocketAddr {
    let [_, b, c, d] = (number + 256).to_be_bytes();
    SocketAddr::from(([127, b, c, d], 0))
}

/// A flag that says something of kernel programs is not swallowed because a daemon has others: with
/// `--daemon auto` it brings programs of the session's own, with `always` it is refused.
pub fn is_not_asked_what_it_would_not_heed(lab: &Lab) -> Result<()> {
    let netns = Netns::new("heed")?;
    let daemon = Daemon::start(lab, &["--netns", netns.name()])?;
    let socket = daemon.socket().display().to_string();
    let ask = |when: &str, more: &[&str]| {
        let begin = ["watch", "-o", "json", "--for", "100ms", "--netns", netns.name()];
        let whom = ["--daemon", when, "--socket", &socket];
        twtrace::run(lab, &[&begin[..], &whom, more].concat())
    };
    let said = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let by_daemon = ask("auto", &[])?;
    expect::that(said(&by_daemon).contains("by the daemon"), || twtrace::shown(&by_daemon))?;
    let own = [&lab.attach()[..], &["--buffer", "2MiB"]].concat();
    let alone = ask("auto", &own)?;
    expect::that(alone.status.success() && !said(&alone).contains("by the daemon"), || {
        twtrace::shown(&alone)
    })?;
    let refused = ask("always", &["--buffer", "2MiB", "--max-live", "9"])?;
    let sentence = "--max-live, --buffer asks for kernel programs of this session's own";
    expect::that(refused.status.code() == Some(2) && said(&refused).contains(sentence), || {
        twtrace::shown(&refused)
    })
}

/// Namespaces that come and go, then a flood of peers; one after the other, since memory is measured
/// and a daemon sees the whole host.
pub fn in_a_crowd(lab: &Lab) -> Result<()> {
    forgets_namespaces(lab)?;
    counts_peers_beyond_the_cap(lab)
}

/// 200,000 distinct peers: memory stays under its bound, and what is in no row is in `other`.
fn counts_peers_beyond_the_cap(lab: &Lab) -> Result<()> {
    const PEERS: u32 = 200_000;
    let netns = Netns::new("flood")?;
    netns.set("ipv4/tcp_max_tw_buckets", "1000000")?;
    let server = Server::start(&netns, "127.0.0.1:8080", Behaviour::ClosesFirst)?;
    let mut daemon = Daemon::sized(lab, &["--netns", netns.name()])?;
    let before = Counters::read(&netns)?;
    flood(&netns, server.addr(), 0..PEERS)?;
    let counted = Counters::read(&netns)?.since(before);
    let made = counted.tw + counted.tw_killed;
    expect::equal("TIME_WAIT sockets by the kernel's count", &u64::from(PEERS), &made)?;
    wait::until("every entry to be counted", wait::SOON, || {
        let summary = daemon.ask("/v1/summary?top=1")?;
        Ok((summary["totals"]["entered"].as_u64() == Some(made)).then_some(()))
    })
    .map_err(|error| daemon.told(error))?;
    let counting = comes_under(&daemon, MEMORY)?;
    let summary = daemon.ask("/v1/summary?top=1000")?;
    expect::equal("lost", &Some(0), &summary["totals"]["lost"].as_u64())?;
    let rows = summary["peers"].as_array().context("peers")?;
    let shown: u64 = rows.iter().filter_map(|row| row["entered"].as_u64()).sum();
    let other = summary["other"]["entered"].as_u64().unwrap_or(0);
    expect::equal("rows and other together", &made, &(shown + other))?;
    expect::equal("rows", &Some(65_536), &summary["peers_total"].as_u64())?;
    let resident = comes_under(&daemon, MEMORY + ANSWER)?;
    eprintln!("{PEERS} peers: {} MiB resident, {} after answering", mib(counting), mib(resident));
    let stopped = daemon.stop()?;
    expect::that(stopped.success(), || format!("{stopped}\n{}", daemon.log()))
}

/// Memory that the daemon has once it is under a bound: what a busy machine made it take for a while,
/// for batches that waited or a look for what was missed, it gives back within seconds.
fn comes_under(daemon: &Daemon, bound: u64) -> Result<u64> {
    let mut resident = 0;
    let under = wait::until("the memory to come under its bound", wait::SOON, || {
        resident = status(daemon, "/cost/resident_bytes")?;
        Ok((resident <= bound).then_some(resident))
    });
    under.with_context(|| format!("{resident} bytes are resident, of {bound} at most"))
}

/// One connection from each of many addresses of the loopback network, which the server closes first:
/// as many sockets in TIME_WAIT.
fn flood(netns: &Netns, to: SocketAddr, numbers: Range<u32>) -> Result<()> {
    const THREADS: u32 = 4;
    let dial = |first: u32| {
        netns.run(|| {
            for number in (first..numbers.end).step_by(THREADS as usize) {
                let from = client_address(number).to_string();
                // The server has closed: this end is the second.
                crate::traffic::read_to_end(&Client::new(netns).bound_to(&from).dial(to)?)?;
            }
            Ok(())
        })
    };
    thread::scope(|scope| {
        let dial = &dial;
        let first = numbers.start..numbers.start + THREADS;
        let threads: Vec<_> = first.map(|first| scope.spawn(move || dial(first))).collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined
            .map(|outcome| outcome.unwrap_or_else(|_| anyhow::bail!("it panicked")))
            .find(|outcome| outcome.is_err())
            .unwrap_or(Ok(()))
    })
    .context("the flood")
}

/// Several sessions begin to listen at once while tens of thousands of sockets live and more come: not
/// one event is lost, and each session has all.
///
/// No more come at once than the buffer holds: how fast a busy machine lets the daemon be is not asked.
pub fn lets_many_listen(lab: &Lab) -> Result<()> {
    const BEFORE: u32 = 24_000;
    const MEANWHILE: u32 = 24_000;
    const AT_ONCE: usize = 3_000;
    let netns = Netns::new("listen")?;
    netns.set("ipv4/tcp_max_tw_buckets", "1000000")?;
    let server = Server::start(&netns, "127.0.0.1:8080", Behaviour::ClosesFirst)?;
    let sizes = ["--max-live", "262144", "--buffer", "1MiB", "--request-time", "2m"];
    let only = [&sizes[..], &["--netns", netns.name()]].concat();
    let mut daemon = Daemon::sized(lab, &only)?;
    let paced = |daemon: &Daemon, numbers: Range<u32>| {
        for first in numbers.clone().step_by(AT_ONCE) {
            let end = numbers.end.min(first + AT_ONCE as u32);
            flood(&netns, server.addr(), first..end)?;
            wait::until("every entry to be counted", wait::SOON, || {
                let summary = daemon.ask("/v1/summary?top=1")?;
                let live = summary["totals"]["live"].as_u64();
                Ok((live == Some(u64::from(end))).then_some(()))
            })
            .map_err(|error| daemon.told(error))?;
        }
        anyhow::Ok(())
    };
    paced(&daemon, 0..BEFORE)?;
    let sessions = thread::scope(|scope| {
        let (daemon, daemons) = (&daemon, 0..3);
        let more = scope.spawn(move || paced(daemon, BEFORE..BEFORE + MEANWHILE));
        let watch = move || Running::asking(lab, daemon, "watch", &[]);
        let watching: Vec<_> = daemons.map(|_| scope.spawn(watch)).collect();
        let mut sessions = Vec::new();
        for session in watching {
            sessions.push(session.join().map_err(|_| anyhow::anyhow!("a session panicked"))??);
        }
        more.join().map_err(|_| anyhow::anyhow!("the traffic panicked"))??;
        anyhow::Ok(sessions)
    })?;
    let all = u64::from(BEFORE + MEANWHILE);
    let lost = daemon.ask("/v1/summary")?["totals"]["lost"].as_u64();
    expect::equal("lost", &Some(0), &lost)?;
    for session in sessions {
        let (document, _) = session.stop()?;
        let document: Value = serde_json::from_str(&document)?;
        let totals = Totals::of(&document["totals"])?;
        expect::equal("live", &all, &totals.live)?;
        expect::equal("there or entered", &all, &(totals.present_at_start + totals.entered))?;
    }
    daemon.stop().map(drop)
}

const fn mib(bytes: u64) -> u64 {
    bytes >> 20
}

/// A small file system, unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        mount("tmpfs", directory.path(), "tmpfs", MountFlags::empty(), c"size=64k,mode=0755")?;
        Ok(Self(directory))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // What cannot be unmounted goes with the test's machine.
        let _ = unmount(self.path(), UnmountFlags::DETACH);
    }
}

/// A disk that is full when the state is written: it is said, the state before stays, counting
/// goes on, and in the end the daemon has failed.
pub fn tells_of_a_full_disk(lab: &Lab) -> Result<()> {
    let disk = SmallDisk::new()?;
    let state = disk.path().join("state");
    let path = state.to_str().context("a path that is text")?;
    let net = topology::pair()?;
    let server = Server::start(&net.server, &format!("{SERVER}:8080"), Behaviour::AnswersEof)?;
    // Of one namespace alone, so that others of this host do not fill the disk before.
    let only = ["--netns", net.client.name(), "--state-file", path, "--save-every", "10s"];
    let mut daemon = Daemon::start(lab, &only)?;
    Client::new(&net.client).short_connections(server.addr(), 10)?;
    wait::until("the state to be written", wait::SOON, || Ok(state.exists().then_some(())))
        .map_err(|error| daemon.told(error))?;
    let before = fs::read(&state)?;
    // Fills it to the last byte.
    let filled = fs::write(disk.path().join("filler"), vec![1; 1 << 20]);
    expect::that(filled.is_err(), || "the disk is not full".to_owned())?;
    wait::until("the fault to be told", wait::SOON, || {
        let status = daemon.ask("/v1/status")?;
        let fault = status.pointer("/state/fault").and_then(Value::as_str).unwrap_or("");
        Ok(fault.contains("No space left on device").then_some(()))
    })
    .map_err(|error| daemon.told(error))?;
    expect::that(fs::read(&state)? == before, || "the state before was touched".to_owned())?;
    Client::new(&net.client).short_connections(server.addr(), 10)?;
    settled(&net.client, 20)?;
    expect::equal("entered", &20, &totals_of(&daemon, &net.client)?.entered)?;
    let stopped = daemon.stop()?;
    let log = daemon.log();
    expect::equal("exit status", &Some(1), &stopped.code())?;
    expect::that(log.contains("the history is not kept: cannot write the state"), || log)
}

/// 500 namespaces come and go, each with a connection: nothing of them stays.
fn forgets_namespaces(lab: &Lab) -> Result<()> {
    const NAMESPACES: usize = 500;
    let daemon = Daemon::start(lab, &[])?;
    let churn = |count: usize| -> Result<()> {
        for _ in 0..count {
            let netns = Netns::new("churn")?;
            let server = Server::start(&netns, "127.0.0.1:80", Behaviour::AnswersEof)?;
            close_first(Client::new(&netns).open(server.addr())?)?;
            drop(server);
            netns.delete()?;
        }
        Ok(())
    };
    churn(20)?;
    daemon.ask("/v1/summary")?;
    let before = (held(daemon.pid())?, status(&daemon, "/cost/open_fds")?);
    let resident = status(&daemon, "/cost/resident_bytes")?;
    churn(NAMESPACES)?;
    wait::until("the sockets of the namespaces to be purged", wait::SOON, || {
        let summary = daemon.ask("/v1/summary")?;
        let purged = summary["totals"]["purged"].as_u64().unwrap_or(0);
        Ok((purged >= (NAMESPACES + 20) as u64).then_some(()))
    })
    .map_err(|error| daemon.told(error))?;
    let after = (held(daemon.pid())?, status(&daemon, "/cost/open_fds")?);
    expect::equal("programs, maps and descriptors held", &before, &after)?;
    let grown = status(&daemon, "/cost/resident_bytes")?.saturating_sub(resident);
    expect::that(grown < 8 << 20, || format!("{grown} bytes more are resident"))?;

    Ok(())
}
