//! TW019 and its neighbours: calls that fail for want of a port, each for another reason. What the
//! calls themselves answered is the truth; what is asked is whether the cause is named and the remedy
//! is the one that helps against it, and that nothing is said where nothing fails.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::net::{bind, connect, listen, sockopt};
use serde_json::Value;

use super::diagnosis::{diagnose, figure, finding, ids};
use crate::daemon::Daemon;
use crate::lab::Lab;
use crate::netns::Netns;
use crate::sockopt::{set_bind_address_no_port, set_local_port_range};
use crate::topology::{self, SERVER, ephemeral_ports};
use crate::traffic::{
    Behaviour, Server, abandon, close_first, read_to_end, shut_down, stream_socket,
};
use crate::twtrace::Running;
use crate::{expect, wait};

/// Ports that there are.
const PORTS: usize = 20;
/// Calls beyond that.
const MORE: usize = 15;
/// Time after which a bind() that was not followed by a successful one was in vain.
const PATIENCE: Duration = Duration::from_millis(1100);
/// The client's address, for the kernel to choose a port of.
const ANY_PORT: &str = "10.1.0.1:0";

/// What calls came to.
#[derive(Default)]
struct Calls {
    /// Connections that came about, if they are kept.
    kept: Vec<TcpStream>,
    /// Calls that failed for want of a port.
    failed: u64,
}

/// Makes a socket ready before it connects; it is told how manieth it is.
type Prepare = fn(&OwnedFd, usize) -> io::Result<()>;

/// What is done with a connection that came about.
type Then = fn(TcpStream, &mut Calls) -> Result<()>;

/// Connects so many times, one after the other, and does with each connection as `then` has it.
fn calls(
    netns: &Netns,
    to: SocketAddr,
    count: usize,
    prepare: Prepare,
    then: Then,
) -> Result<Calls> {
    netns.run(|| {
        let mut calls = Calls::default();
        for n in 0..count {
            let socket = stream_socket(to)?;
            let made = prepare(&socket, n).and_then(|()| Ok(connect(&socket, &to)?));
            match made.map_err(|error| error.kind()) {
                Ok(()) => then(TcpStream::from(socket), &mut calls)?,
                Err(ErrorKind::AddrNotAvailable | ErrorKind::AddrInUse) => calls.failed += 1,
                Err(other) => bail!("connecting to {to}: {other}"),
            }
        }
        Ok(calls)
    })
}

/// Lets `connect()` choose.
fn plain(_: &OwnedFd, _: usize) -> io::Result<()> {
    Ok(())
}

/// Binds the address first.
fn bound(socket: &OwnedFd, _: usize) -> io::Result<()> {
    Ok(bind(socket, &ANY_PORT.parse::<SocketAddr>().expect("an address"))?)
}

/// Names one of five ports in turn.
fn named(socket: &OwnedFd, n: usize) -> io::Result<()> {
    sockopt::set_socket_reuseaddr(socket, true)?;
    Ok(bind(socket, &SocketAddr::from(([10, 1, 0, 1], 700 + (n % 5) as u16)))?)
}

/// Ends the connection, this side first.
fn closes_first(stream: TcpStream, _: &mut Calls) -> Result<()> {
    close_first(stream)
}

/// Keeps it.
fn keeps(stream: TcpStream, calls: &mut Calls) -> Result<()> {
    calls.kept.push(stream);
    Ok(())
}

/// Keeps it, shut down for sending.
fn keeps_shut_down(stream: TcpStream, calls: &mut Calls) -> Result<()> {
    shut_down(&stream)?;
    keeps(stream, calls)
}

/// Closes it while the peer does not.
fn abandons(stream: TcpStream, _: &mut Calls) -> Result<()> {
    abandon(stream)
}

/// The first finding is that calls failed, as many as the calls themselves said; the cause and the
/// remedy have these words.
fn fails(report: &Value, truth: u64, cause: &str, remedy: &str) -> Result<()> {
    let first = ids(report)?.into_iter().next();
    expect::equal("the first finding", &Some("TW019".to_owned()), &first)?;
    let failure = finding(report, "TW019")?;
    expect::equal("severity", &Some("critical"), &failure["severity"].as_str())?;
    if failure["evidence"]["inferred"].is_null() {
        expect::equal("failed", &(truth as f64), &figure(failure, "failed")?)?;
    }
    for (what, words) in [("summary", cause), ("remedy", remedy)] {
        let said = failure[what].as_str().unwrap_or_default();
        expect::that(said.contains(words), || format!("no {words:?} in: {said}"))?;
    }
    let others = report["findings"].as_array().into_iter().flatten();
    let again = others.filter(|finding| finding["id"] == "TW019").count();
    expect::equal("findings of one space", &1, &again)
}

/// A client with few ports and a server.
fn few_ports(behaviour: Behaviour) -> Result<(topology::Pair, Server)> {
    let net = topology::pair()?;
    ephemeral_ports(&net.client, 20_000, 20_000 + PORTS as u16 - 1)?;
    let server = Server::start(&net.server, &format!("{SERVER}:8080"), behaviour)?;
    Ok((net, server))
}

/// Everything is in TIME_WAIT and may not be taken over: of loopback 2 is enough.
pub fn reuse_off_on_loopback(lab: &Lab) -> Result<()> {
    let netns = Netns::new("lo0")?;
    ephemeral_ports(&netns, 20_000, 20_000 + PORTS as u16 - 1)?;
    netns.set("ipv4/tcp_tw_reuse", "0")?;
    let server = Server::start(&netns, "127.0.0.1:8080", Behaviour::AnswersEof)?;
    let tracer = diagnose(lab, &netns)?;
    let truth = calls(&netns, server.addr(), PORTS + MORE, plain, closes_first)?.failed;
    expect::equal("what the calls said", &(MORE as u64), &truth)?;
    fails(&tracer.finish_report()?, truth, "tcp_tw_reuse=0", "net.ipv4.tcp_tw_reuse=2")
}

/// `bind(address, 0)` first: neither timestamps nor tcp_tw_reuse give a port back, to nobody.
pub fn bound_first(lab: &Lab) -> Result<()> {
    let (net, server) = few_ports(Behaviour::AnswersEof)?;
    net.client.set("ipv4/tcp_tw_reuse", "1")?;
    let tracer = diagnose(lab, &net.client)?;
    let truth = calls(&net.client, server.addr(), PORTS + MORE, bound, closes_first)?.failed;
    expect::equal("what the calls said", &(MORE as u64), &truth)?;
    if lab.sees_binds() {
        // That the program does not go on to find a port is known after a second.
        wait::pass(PATIENCE);
    }
    let report = tracer.finish_report()?;
    fails(&report, truth, "binds its address before it connects", "IP_BIND_ADDRESS_NO_PORT")?;
    let inferred = &finding(&report, "TW019")?["evidence"]["inferred"];
    expect::equal("inferred", &!lab.sees_binds(), &!inferred.is_null())
}

/// The same ports are gone for a `connect()` that chooses its own.
pub fn bound_by_others(lab: &Lab) -> Result<()> {
    let (net, server) = few_ports(Behaviour::AnswersEof)?;
    net.client.set("ipv4/tcp_tw_reuse", "1")?;
    let tracer = diagnose(lab, &net.client)?;
    calls(&net.client, server.addr(), PORTS, bound, closes_first)?;
    let truth = calls(&net.client, server.addr(), MORE, plain, closes_first)?.failed;
    expect::equal("what the calls said", &(MORE as u64), &truth)?;
    let report = tracer.finish_report()?;
    let findings = report["findings"].as_array().context("findings")?;
    let failure = findings.iter().find(|finding| !finding["peer"].is_null());
    let said = failure.and_then(|finding| finding["summary"].as_str()).unwrap_or_default();
    let wanted = "took theirs with bind() before connect()";
    expect::that(said.contains(wanted), || format!("no {wanted:?} in {report:#}"))
}

/// FIN_WAIT2 mini-sockets hold their ports where `connect()` does not take them over.
pub fn fin_wait2(lab: &Lab) -> Result<()> {
    let (net, server) = few_ports(Behaviour::Holds)?;
    net.client.set("ipv4/tcp_tw_reuse", "1")?;
    let tracer = diagnose(lab, &net.client)?;
    let mut truth = calls(&net.client, server.addr(), PORTS, plain, abandons)?.failed;
    expect::equal("what the first calls said", &0, &truth)?;
    // Older than the delay after which they might be taken over.
    wait::pass(2 * PATIENCE);
    truth += calls(&net.client, server.addr(), MORE, plain, abandons)?.failed;
    let report = tracer.finish_report()?;
    if truth == 0 {
        // Kernels up to 6.11 let them be taken over.
        return expect::equal("findings", &Vec::<String>::new(), &ids(&report)?);
    }
    fails(&report, truth, "in FIN_WAIT2", "net.ipv4.tcp_fin_timeout")
}

/// Ports are taken over, but there is a delay before that.
pub fn too_young(lab: &Lab) -> Result<()> {
    let (net, server) = few_ports(Behaviour::AnswersEof)?;
    net.client.set("ipv4/tcp_tw_reuse", "1")?;
    let tracer = diagnose(lab, &net.client)?;
    // Within a second, which is the delay or more.
    let truth = calls(&net.client, server.addr(), PORTS + MORE, plain, closes_first)?.failed;
    let report = tracer.finish_report()?;
    if truth == 0 {
        return expect::that(!ids(&report)?.contains(&"TW019".to_owned()), || {
            format!("nothing failed: {report:#}")
        });
    }
    fails(&report, truth, "ports are taken over, but only", "make fewer")
}

/// The range of the socket is the program's own.
pub fn range_of_the_socket(lab: &Lab) -> Result<()> {
    let net = topology::pair()?;
    let server = Server::start(&net.server, &format!("{SERVER}:8080"), Behaviour::AnswersEof)?;
    let own: Prepare = |socket, _| set_local_port_range(socket, 40_000, 40_000 + PORTS as u16 - 1);
    if net.client.run(|| Ok(own(&stream_socket(server.addr())?, 0)?)).is_err() {
        // Kernels up to 6.2 have no such option.
        return Ok(());
    }
    let tracer = diagnose(lab, &net.client)?;
    let truth = calls(&net.client, server.addr(), PORTS + MORE, own, closes_first)?.failed;
    expect::equal("what the calls said", &(MORE as u64), &truth)?;
    let report = tracer.finish_report()?;
    fails(&report, truth, "the socket's own range 40000-40019", "IP_LOCAL_PORT_RANGE")
}

/// A program names its ports, outside the range, and has no timestamps; with them all is well.
pub fn named_by_the_program(lab: &Lab) -> Result<()> {
    for (timestamps, want) in [("0", 10), ("1", 0)] {
        let net = topology::pair()?;
        net.client.set("ipv4/tcp_timestamps", timestamps)?;
        let server = Server::start(&net.server, &format!("{SERVER}:8080"), Behaviour::AnswersEof)?;
        let tracer = diagnose(lab, &net.client)?;
        let truth = calls(&net.client, server.addr(), 15, named, closes_first)?.failed;
        expect::equal("what the calls said", &want, &truth)?;
        let report = tracer.finish_report()?;
        if truth == 0 {
            expect::equal("findings", &Vec::<String>::new(), &ids(&report)?)?;
            continue;
        }
        fails(&report, truth, "among 5 ports (700-704)", "Let connect() choose the port")?;
    }
    Ok(())
}

/// Open connections hold the ports, or such as the program has only shut down.
pub fn open_connections(lab: &Lab) -> Result<()> {
    let cases: [(Then, _, _); 2] = [
        (keeps, "are open", "leak"),
        (keeps_shut_down, "the program has shut down and not closed", "state fin-wait-2"),
    ];
    for (then, how, remedy) in cases {
        let (net, server) = few_ports(Behaviour::Holds)?;
        let tracer = diagnose(lab, &net.client)?;
        let made = calls(&net.client, server.addr(), PORTS + MORE, plain, then)?;
        expect::equal("what the calls said", &(MORE as u64), &made.failed)?;
        let report = tracer.finish_report()?;
        drop(made.kept);
        let why = format!("20 of its 20 ports are held by connections that {how}");
        fails(&report, made.failed, &why, remedy)?;
    }
    Ok(())
}

/// The same with ports that were bound first: where refused bind() calls are not seen, it is told that
/// no port is left, and concluded that none is to be bound.
pub fn bound_and_open(lab: &Lab) -> Result<()> {
    let (net, server) = few_ports(Behaviour::Holds)?;
    let tracer = diagnose(lab, &net.client)?;
    let made = calls(&net.client, server.addr(), PORTS + MORE, bound, keeps)?;
    expect::equal("what the calls said", &(MORE as u64), &made.failed)?;
    let sees = lab.sees_binds();
    if sees {
        wait::pass(PATIENCE);
    }
    let report = tracer.finish_report()?;
    drop(made.kept);
    let (cause, remedy) = ("held by open connections", "IP_BIND_ADDRESS_NO_PORT");
    if sees {
        return fails(&report, made.failed, cause, remedy);
    }
    let found = vec!["TW005".to_owned(), "TW019".to_owned()];
    expect::equal("findings", &found, &ids(&report)?).with_context(|| format!("{report:#}"))?;
    for (id, want) in [("TW005", "critical"), ("TW019", "warning")] {
        expect::equal(id, &Some(want), &finding(&report, id)?["severity"].as_str())?;
    }
    let concluded = finding(&report, "TW019")?;
    let said = concluded["summary"].as_str().unwrap_or_default();
    expect::that(said.contains(cause), || format!("no {cause:?} in {said}"))
}

/// Connections under way hold them: the peer does not answer.
pub fn unanswered_connections(lab: &Lab) -> Result<()> {
    let (net, _) = few_ports(Behaviour::Holds)?;
    let nobody: SocketAddr = "10.1.0.99:80".parse()?;
    let tracer = diagnose(lab, &net.client)?;
    let (under_way, truth) = net.client.run(|| {
        let (mut under_way, mut failed) = (Vec::new(), 0);
        for _ in 0..PORTS + MORE {
            let socket = stream_socket(nobody)?;
            rustix::io::ioctl_fionbio(&socket, true)?;
            match connect(&socket, &nobody) {
                Err(rustix::io::Errno::INPROGRESS) => under_way.push(socket),
                Err(rustix::io::Errno::ADDRNOTAVAIL) => failed += 1,
                other => bail!("connecting to nobody: {other:?}"),
            }
        }
        Ok((under_way, failed))
    })?;
    expect::equal("what the calls said", &(MORE as u64), &truth)?;
    let report = tracer.finish_report()?;
    drop(under_way);
    fails(&report, truth, "20 wait for an answer", "does not answer")
}

/// A server that did not set SO_REUSEADDR cannot be started again while its own TIME_WAIT lasts.
pub fn restart_of_a_server(lab: &Lab) -> Result<()> {
    let net = topology::pair()?;
    let address: SocketAddr = format!("{SERVER}:8080").parse()?;
    let tracer = diagnose(lab, &net.server)?;
    let serve = || {
        net.server.run(|| {
            let socket = stream_socket(address)?;
            Ok(bind(&socket, &address).and_then(|()| listen(&socket, 8)).map(|()| socket)?)
        })
    };
    let listener = std::net::TcpListener::from(serve()?);
    let client = calls(&net.client, address, 3, plain, keeps)?;
    for stream in &client.kept {
        let (accepted, _) = listener.accept()?;
        accepted.shutdown(std::net::Shutdown::Write)?;
        read_to_end(stream)?;
        stream.shutdown(std::net::Shutdown::Both)?;
        read_to_end(&accepted)?;
    }
    drop(listener);
    expect::that(serve().is_err(), || "the port was free".into())?;
    if lab.sees_binds() {
        wait::pass(PATIENCE);
    }
    let report = tracer.finish_report()?;
    expect::equal("findings", &vec!["TW019".to_owned()], &ids(&report)?)?;
    let failure = finding(&report, "TW019")?;
    let severity = if lab.sees_binds() { "critical" } else { "warning" };
    expect::equal("severity", &Some(severity), &failure["severity"].as_str())?;
    expect::equal("held", &3.0, &figure(failure, "without_reuseaddr")?)?;
    let free_in = figure(failure, "free_in")?;
    expect::that((50.0..=64.0).contains(&free_in), || format!("free in {free_in} s"))?;
    let remedy = failure["remedy"].as_str().unwrap_or_default();
    expect::that(remedy.contains("SO_REUSEADDR"), || remedy.to_owned())
}

/// Neighbours that are well: nothing is said of them, and `check` is content.
pub fn of_healthy_neighbours(lab: &Lab) -> Result<()> {
    let no_port: Prepare = |socket, n| {
        set_bind_address_no_port(socket)?;
        bound(socket, n)
    };
    // Few of the ports, each in another way.
    let neighbours: [(Prepare, Then); 4] =
        [(plain, closes_first), (bound, closes_first), (no_port, closes_first), (plain, keeps)];
    for (prepare, then) in neighbours {
        let (net, server) = few_ports(Behaviour::AnswersEof)?;
        net.client.set("ipv4/tcp_tw_reuse", "1")?;
        let tracer = diagnose(lab, &net.client)?;
        let made = calls(&net.client, server.addr(), PORTS / 4, prepare, then)?;
        expect::equal("what the calls said", &0, &made.failed)?;
        let report = tracer.finish_report()?;
        let found = ids(&report)?;
        expect::equal("findings", &Vec::<String>::new(), &found)
            .with_context(|| format!("{report:#}"))?;
    }
    Ok(())
}

/// `check` leads with the failure, whatever the shares of limits.
pub fn check_leads_with_the_failure(lab: &Lab) -> Result<()> {
    let (net, server) = few_ports(Behaviour::Holds)?;
    let made = calls(&net.client, server.addr(), PORTS, plain, keeps)?;
    let mut checking =
        Running::start(lab, &["check", "--netns", net.client.name(), "--for", "2s"])?;
    let mut truth = 0;
    while checking.has_ended()?.is_none() {
        truth += calls(&net.client, server.addr(), 1, plain, keeps)?.failed;
    }
    let (status, text, _) = checking.ended()?;
    drop(made.kept);
    expect::that(truth > 0 && status.code() == Some(2), || text.clone())?;
    let leads =
        text.starts_with("TWTRACE CRITICAL - TW019: ") && text.contains(" are open; 100% of");
    expect::that(leads, || text)
}

/// Whoever asks a daemon hears of what failed before, and counts only what fails from then on.
pub fn before_a_daemon_was_asked(lab: &Lab) -> Result<()> {
    let (net, server) = few_ports(Behaviour::AnswersEof)?;
    net.client.set("ipv4/tcp_tw_reuse", "0")?;
    let name = net.client.name();
    let daemon = Daemon::start(lab, &["--netns", name])?;
    let truth = calls(&net.client, server.addr(), PORTS + MORE, plain, closes_first)?.failed;
    expect::equal("what the calls said", &(MORE as u64), &truth)?;
    wait::until("the daemon to have counted them", wait::SOON, || {
        let failed = daemon.ask("/v1/summary")?["totals"]["failed"]["no_port"].as_u64();
        Ok((failed == Some(truth)).then_some(()))
    })?;
    let ask = |verb| Running::asking(lab, &daemon, verb, &["--netns", name])?.stop();
    let (report, _) = ask("diagnose")?;
    fails(&serde_json::from_str(&report)?, truth, "tcp_tw_reuse=0", "net.ipv4.tcp_tw_reuse=1")?;
    let (watched, _) = ask("watch")?;
    let watched: Value = serde_json::from_str(&watched)?;
    let counted = &watched["totals"]["failed"]["no_port"];
    expect::equal("counted by a session that saw none", &Some(0), &counted.as_u64())
}
