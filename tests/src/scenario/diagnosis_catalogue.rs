//! Each finding of the catalogue, made to happen.
//!
//! TW001 is in the story, and TW008's prediction beside it. TW013, and TW014 where the setting is
//! on, need a kernel before 4.12.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, io};

use anyhow::{Context, Result};
use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
use rustix::process::Signal;
use rustix::thread::UnshareFlags;
use serde_json::Value;

use super::diagnosis::{diagnose, figure, finding, ids, paced};
use crate::counters::Counters;
use crate::equation::{Ledger, settled};
use crate::lab::Lab;
use crate::netns::Netns;
use crate::packet::{ACK, FIN, RST, SYN};
use crate::script::{self, Conversation};
use crate::topology::{self, CLIENT, ROUTED, SERVER, Scripted, ephemeral_ports};
use crate::traffic::{self, Behaviour, Client, Server, abandon};
use crate::twtrace;
use crate::{expect, wait};

/// The findings are exactly these.
fn found(report: &Value, want: &[&str]) -> Result<()> {
    let got = ids(report)?;
    let want: Vec<String> = want.iter().map(|id| (*id).to_owned()).collect();
    expect::equal("findings", &want, &got).with_context(|| format!("{report:#}"))
}

fn severity(report: &Value, id: &str, want: &str) -> Result<()> {
    expect::equal(id, &Some(want), &finding(report, id)?["severity"].as_str())
}

/// TW002: `tcp_timestamps=0` on this end; the peer is not blamed.
pub fn timestamps_off(lab: &Lab) -> Result<()> {
    let net = topology::pair()?;
    net.client.set("ipv4/tcp_timestamps", "0")?;
    net.client.set("ipv4/tcp_tw_reuse", "1")?;
    ephemeral_ports(&net.client, 20_000, 20_199)?;
    let server = Server::start(&net.server, &format!("{SERVER}:8080"), Behaviour::AnswersEof)?;
    let tracer = diagnose(lab, &net.client)?;
    Client::new(&net.client).short_connections(server.addr(), 150)?;
    let report = tracer.finish_report()?;
    found(&report, &["TW002", "TW005", "TW007"])?;
    severity(&report, "TW002", "critical")
}

/// TW003, TW004, TW005, TW007, TW015: the default `tcp_tw_reuse`, and the wrong remedy tried.
pub fn reuse_off(lab: &Lab) -> Result<()> {
    let net = topology::pair()?;
    net.client.set("ipv4/tcp_fin_timeout", "30")?;
    ephemeral_ports(&net.client, 20_000, 20_199)?;
    net.client.set("ipv4/ip_local_reserved_ports", "20000-20049,30000")?;
    let server = Server::start(&net.server, &format!("{SERVER}:8080"), Behaviour::AnswersEof)?;
    let tracer = diagnose(lab, &net.client)?;
    Client::new(&net.client).short_connections(server.addr(), 120)?;
    let report = tracer.finish_report()?;
    found(&report, &["TW003", "TW005", "TW004", "TW007", "TW015"])?;
    let ports = finding(&report, "TW005")?;
    expect::equal("usable ports", &150.0, &figure(ports, "usable_ports")?)?;
    expect::equal("stuck ports", &120.0, &figure(ports, "ports_stuck")?)?;
    let freed = figure(finding(&report, "TW004")?, "freed_by_reuse")?;
    expect::equal("freed by reuse", &120.0, &freed)
}

/// TW005: nothing is left, and nothing comes any more.
pub fn exhausted(lab: &Lab) -> Result<()> {
    let net = topology::pair()?;
    ephemeral_ports(&net.client, 20_000, 20_099)?;
    let server = Server::start(&net.server, &format!("{SERVER}:8080"), Behaviour::AnswersEof)?;
    Client::new(&net.client).try_connections(server.addr(), 110)?;
    let report = diagnose(lab, &net.client)?.finish_report()?;
    severity(&report, "TW005", "critical")?;
    let seconds = figure(finding(&report, "TW005")?, "seconds_to_exhaustion")?;
    expect::equal("seconds to exhaustion", &0.0, &seconds)
}

/// TW005: open connections and a listener count; what is said to be left is what connect() finds.
pub fn open_connections(lab: &Lab) -> Result<()> {
    const STUCK: usize = 40;
    let net = topology::pair()?;
    ephemeral_ports(&net.client, 20_000, 20_199)?;
    let _listener = Server::start(&net.client, "0.0.0.0:20100", Behaviour::Holds)?;
    let server = Server::start(&net.server, &format!("{SERVER}:8080"), Behaviour::Holds)?;
    let client = Client::new(&net.client);
    let tracer = diagnose(lab, &net.client)?;
    let mut open = client.open_many(server.addr(), 160)?;
    let mut held = server.take(160)?;
    for stream in open.drain(..STUCK) {
        stream.shutdown(Shutdown::Write)?;
        let ours = stream.local_addr()?;
        held.retain(|theirs| theirs.peer_addr().ok() != Some(ours));
        traffic::read_to_end(&stream)?;
    }
    settled(&net.client, STUCK as u64)?;
    let report = tracer.finish_report()?;
    found(&report, &["TW003", "TW005", "TW004", "TW007"])?;
    let ports = finding(&report, "TW005")?;
    let figure = |key| figure(ports, key);
    let counted = (figure("usable_ports")?, figure("ports_stuck")?, figure("ports_open")?);
    expect::equal("usable, stuck and open", &(200.0, 40.0, 121.0), &counted)?;
    let source = &ports["evidence"]["ports_open"]["source"];
    expect::equal("source", &Some("/proc/net/tcp, tcp6"), &source.as_str())?;
    let left = client.open_until_refused(server.addr())?.len();
    expect::equal("ports that were left", &39, &left)
}

/// TW006: the same port again and again, through a router that strips timestamps.
pub fn fixed_port(lab: &Lab) -> Result<()> {
    let net = topology::routed()?;
    topology::strip_timestamps(&net.router)?;
    let server = Server::start(&net.behind, &format!("{ROUTED}:8080"), Behaviour::AnswersEof)?;
    let client = Client::new(&net.client).bound_to("10.3.0.1:40000");
    let tracer = diagnose(lab, &net.client)?;
    let outcome = client.try_connections(server.addr(), 4)?;
    expect::equal("connections", &(1, 3), &(outcome.connected, outcome.no_port))?;
    let report = tracer.finish_report()?;
    found(&report, &["TW019", "TW006"])?;
    severity(&report, "TW019", "critical")?;
    expect::equal("failed", &3.0, &figure(finding(&report, "TW019")?, "failed")?)?;
    expect::equal("port", &40_000.0, &figure(finding(&report, "TW006")?, "local_port")?)
}

/// TW007 and TW008: a server that closes first, at 92 % of its buckets.
pub fn full_buckets(lab: &Lab) -> Result<()> {
    let net = topology::pair()?;
    net.server.set("ipv4/tcp_max_tw_buckets", "50")?;
    let server = Server::start(&net.server, &format!("{SERVER}:8080"), Behaviour::ClosesFirst)?;
    let tracer = diagnose(lab, &net.server)?;
    Client::new(&net.client).close_second(server.addr(), 46)?;
    settled(&net.server, 46)?;
    let report = tracer.finish_report()?;
    found(&report, &["TW008", "TW007"])?;
    severity(&report, "TW008", "warning")?;
    let peer = finding(&report, "TW007")?["peer"].as_str();
    expect::equal("peer", &Some(CLIENT), &peer)
}

/// TW008: more than the buckets hold; seen in the kernel's counters by every backend.
pub fn overflow(lab: &Lab) -> Result<()> {
    let net = topology::pair()?;
    net.client.set("ipv4/tcp_max_tw_buckets", "50")?;
    let server = Server::start(&net.server, &format!("{SERVER}:8080"), Behaviour::AnswersEof)?;
    let tracer = diagnose(lab, &net.client)?;
    Client::new(&net.client).short_connections(server.addr(), 80)?;
    let report = tracer.finish_report()?;
    severity(&report, "TW008", "critical")?;
    let overflow = finding(&report, "TW008")?;
    expect::equal("overflow", &30.0, &figure(overflow, "overflow")?)?;
    let wanted = figure(overflow, "wanted")?;
    expect::that(wanted > 1000.0, || format!("80 at once are more in a minute, not {wanted}"))
}

/// TW001: timestamps that go away while ports are taken over, which inherits them.
pub fn inherited_timestamps(lab: &Lab) -> Result<()> {
    const PORTS: usize = 100;
    let net = topology::routed()?;
    net.client.set("ipv4/tcp_tw_reuse", "1")?;
    ephemeral_ports(&net.client, 20_000, 19_999 + PORTS as u16)?;
    let server = Server::start(&net.behind, &format!("{ROUTED}:8080"), Behaviour::AnswersEof)?;
    let client = Client::new(&net.client);
    client.short_connections(server.addr(), PORTS)?;
    topology::strip_timestamps(&net.router)?;
    // Older than a second: the age at which a port may be taken over.
    wait::pass(Duration::from_millis(1500));
    let ledger = Ledger::open(&net.client)?;
    let tracer = diagnose(lab, &net.client)?;
    client.short_connections(server.addr(), PORTS)?;
    let report = tracer.finish_report()?;
    expect::equal("TWRecycled", &(PORTS as u64), &ledger.counted()?.tw_recycled)?;
    severity(&report, "TW001", "warning")?;
    let stamps = finding(&report, "TW001")?;
    let figures = |name| figure(stamps, name);
    let sent = (figures("with_timestamps")?, figures("without_timestamps")?);
    expect::equal("with and without timestamps", &(0.0, PORTS as f64), &sent)?;
    expect::equal("could be taken over", &(PORTS as f64), &figures("eligible")?)
}

/// TW017: a router, which has no socket of what fills its table.
pub fn conntrack_of_a_router(lab: &Lab) -> Result<()> {
    const CONNECTIONS: usize = 300;
    let net = topology::routed()?;
    track(&net.router, "FORWARD")?;
    net.router.set("netfilter/nf_conntrack_tcp_timeout_time_wait", "432000")?;
    let server = Server::start(&net.behind, &format!("{ROUTED}:8080"), Behaviour::AnswersEof)?;
    let tracer = diagnose(lab, &net.router)?;
    Client::new(&net.client).short_connections(server.addr(), CONNECTIONS)?;
    wait::pass(Duration::from_secs(1));
    let report = tracer.finish_report()?;
    found(&report, &["TW017"])?;
    let full = finding(&report, "TW017")?;
    expect::equal("closed here", &0.0, &figure(full, "closed_here")?)?;
    expect::equal("entries", &(CONNECTIONS as f64), &figure(full, "conntrack_entries")?)
}

/// Has a namespace track what passes a chain.
fn track(netns: &Netns, chain: &str) -> Result<()> {
    let rule = format!("-w -A {chain} -m conntrack --ctstate NEW -j ACCEPT");
    let tracks = ["iptables-nft", "iptables-legacy", "iptables"].into_iter().any(|variant| {
        let words: Vec<_> = std::iter::once(variant).chain(rule.split(' ')).collect();
        netns.exec(&words).is_ok()
    });
    expect::that(tracks, || "no iptables can match connection tracking here".to_owned())
}

/// TW009: the peer holds its FIN back until the mini-sockets give up.
pub fn no_fin(lab: &Lab) -> Result<()> {
    let net = topology::pair()?;
    net.client.set("ipv4/tcp_fin_timeout", "2")?;
    let server = Server::start(&net.server, &format!("{SERVER}:8080"), Behaviour::Holds)?;
    let tracer = diagnose(lab, &net.client)?;
    let streams = Client::new(&net.client).open_many(server.addr(), 10)?;
    let _held = server.take(10)?;
    streams.into_iter().try_for_each(abandon)?;
    settled(&net.client, 10)?;
    settled(&net.client, 0)?;
    let report = tracer.finish_report()?;
    found(&report, &["TW009"])?;
    let timed_out = figure(finding(&report, "TW009")?, "fin_wait2_timeout")?;
    expect::equal("timed out", &10.0, &timed_out)
}

/// Takes three connections into TIME_WAIT.
fn three(net: &Scripted) -> Result<Vec<Conversation>> {
    let mut peers = Vec::new();
    for _ in 0..3 {
        let (stream, mut peer) = script::connect(net, 8080, true)?;
        stream.shutdown(Shutdown::Write)?;
        peer.close_second()?;
        peers.push(peer);
    }
    Ok(peers)
}

/// Ends them with RSTs.
fn kill(net: &Scripted, peers: &mut [Conversation]) -> Result<()> {
    net.client.set("ipv4/tcp_rfc1337", "0")?;
    for peer in peers {
        peer.send(RST)?;
    }
    settled(&net.client, 0)
}

/// TW010: FINs that come again, far enough apart for another bucket of the timer wheel.
pub fn rearmed(lab: &Lab) -> Result<()> {
    let net = topology::scripted()?;
    let tracer = diagnose(lab, &net.client)?;
    let mut peers = three(&net)?;
    wait::pass(Duration::from_secs(6));
    for peer in &mut peers {
        peer.send_at(FIN | ACK, peer.seq.wrapping_sub(1), peer.ack)?;
        peer.hear_ack()?;
    }
    kill(&net, &mut peers)?;
    // The RSTs that end them, so that their past is told, would be a finding too.
    net.client.set("ipv4/tcp_rfc1337", "1")?;
    let report = tracer.finish_report()?;
    found(&report, &["TW010"])?;
    expect::equal("re-armed", &3.0, &figure(finding(&report, "TW010")?, "rearmed")?)
}

/// TW011: RSTs at the right sequence number.
pub fn assassinated(lab: &Lab) -> Result<()> {
    let net = topology::scripted()?;
    let tracer = diagnose(lab, &net.client)?;
    let mut peers = three(&net)?;
    kill(&net, &mut peers)?;
    let report = tracer.finish_report()?;
    found(&report, &["TW011"])?;
    expect::equal("killed", &3.0, &figure(finding(&report, "TW011")?, "killed")?)
}

/// TW012: segments with timestamps older than the last.
pub fn refused_segments(lab: &Lab) -> Result<()> {
    let net = topology::scripted()?;
    let tracer = diagnose(lab, &net.client)?;
    let mut peers = three(&net)?;
    for peer in &mut peers {
        peer.send_old(ACK)?;
        peer.hear_ack()?;
    }
    let report = tracer.finish_report()?;
    found(&report, &["TW012"])?;
    expect::equal("rejected", &3.0, &figure(finding(&report, "TW012")?, "paws_rejected")?)
}

/// TW012 alone: a SYN with an older clock is refused, and the RST that answers the ACK to it frees the
/// port, unless tcp_rfc1337 has it dropped. No lost ACK, and nobody is to set tcp_rfc1337.
pub fn refused_syns(lab: &Lab) -> Result<()> {
    for (rfc1337, left, want) in [("0", 0, "warning"), ("1", 3, "critical")] {
        let net = topology::scripted()?;
        net.client.set("ipv4/tcp_rfc1337", rfc1337)?;
        let tracer = diagnose(lab, &net.client)?;
        let mut peers = three(&net)?;
        for peer in &mut peers {
            peer.send_old(SYN)?;
            peer.hear_ack()?;
            peer.send(RST)?;
        }
        settled(&net.client, left)?;
        let report = tracer.finish_report()?;
        found(&report, &["TW012"])?;
        severity(&report, "TW012", want)?;
        let refused = finding(&report, "TW012")?;
        expect::equal("rejected", &3.0, &figure(refused, "paws_rejected")?)?;
        let remedy = refused["remedy"].as_str().unwrap_or_default();
        let sets = remedy.contains("tcp_rfc1337=1");
        let unsets = remedy.starts_with("Set net.ipv4.tcp_rfc1337=0.");
        expect::equal("what is to be set", &(false, left > 0), &(sets, unsets))?;
    }
    Ok(())
}

/// A server that closes first, to clients that come again from few ports: its sockets are replaced, so
/// they stay as many as the ports, and a limit far below rate x 60 s does.
pub fn steady_server(lab: &Lab) -> Result<()> {
    const PORTS: u16 = 20;
    const CONNECTIONS: usize = 400;
    let net = topology::pair()?;
    ephemeral_ports(&net.client, 20_000, 20_000 + PORTS - 1)?;
    net.server.set("ipv4/tcp_max_tw_buckets", "60")?;
    let server = Server::start(&net.server, &format!("{SERVER}:8080"), Behaviour::ClosesFirst)?;
    let ledger = Ledger::open(&net.server)?;
    let tracer = diagnose(lab, &net.server)?;
    Client::new(&net.client).close_second(server.addr(), CONNECTIONS)?;
    let report = tracer.finish_report()?;
    found(&report, &[])?;
    let buckets = &report["margins"]["namespaces"][0]["buckets"];
    let of = |key: &str| buckets[key].as_f64().with_context(|| format!("{key} in {buckets:#}"));
    let live = Counters::read(&net.server)?.live as f64;
    expect::equal("live", &live, &of("live")?)?;
    expect::that(live <= f64::from(PORTS), || format!("{live} of {PORTS} ports"))?;
    expect::that(of("steady_state")? <= 2.0 * live, || format!("{buckets:#}"))?;
    expect::equal("full", &true, &buckets["seconds_to_full"].is_null())?;
    expect::equal("overflowed", &0, &ledger.counted()?.overflow)
}

/// TW014: a line in sysctl.d for a setting that this kernel does not have.
pub fn recycle_configured(lab: &Lab) -> Result<()> {
    let netns = Netns::new("sysctl")?;
    let directory = tempfile::tempdir()?;
    fs::write(directory.path().join("90-tw.conf"), "net.ipv4.tcp_tw_recycle = 1\n")?;
    fs::create_dir_all("/etc/sysctl.d")?;
    let mut command = Command::new(&lab.twtrace);
    command.args(["diagnose", "-o", "json", "--for", "100ms"]).args(lab.attach());
    command.args(["--netns", netns.name()]);
    let over = directory.path().to_owned();
    // SAFETY: between fork and exec only system calls are made, on a path that was there before.
    unsafe { command.pre_exec(move || mount_over(&over, "/etc/sysctl.d")) };
    let output = twtrace::finished(&mut command)?;
    let report: Value =
        serde_json::from_slice(&output.stdout).with_context(|| twtrace::shown(&output))?;
    found(&report, &["TW014"])?;
    let file = &finding(&report, "TW014")?["evidence"]["file"]["value"];
    expect::equal("file", &Some("/etc/sysctl.d/90-tw.conf:1"), &file.as_str())
}

/// Puts a directory in another's place, for the calling process alone.
fn mount_over(directory: &Path, place: &str) -> io::Result<()> {
    // SAFETY: the process has one thread, which nothing else shares its mounts with.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    Ok(mount_bind(directory, place)?)
}

/// TW016: a program and its backend on one host; the ports are taken over, so it works.
pub fn loopback(lab: &Lab) -> Result<()> {
    let netns = Netns::new("lo")?;
    ephemeral_ports(&netns, 20_000, 20_199)?;
    let server = Server::start(&netns, "127.0.0.1:8080", Behaviour::AnswersEof)?;
    let tracer = diagnose(lab, &netns)?;
    Client::new(&netns).short_connections(server.addr(), 100)?;
    let report = tracer.finish_report()?;
    found(&report, &["TW016"])
}

/// TW017: connection tracking that remembers for days.
pub fn conntrack(lab: &Lab) -> Result<()> {
    let net = topology::pair()?;
    track(&net.client, "INPUT")?;
    net.client.set("netfilter/nf_conntrack_tcp_timeout_time_wait", "432000")?;
    let server = Server::start(&net.server, &format!("{SERVER}:8080"), Behaviour::AnswersEof)?;
    let tracer = diagnose(lab, &net.client)?;
    let ends = Instant::now() + Duration::from_secs(2);
    paced(&Client::new(&net.client), &server, || Ok(Instant::now() >= ends))?
        .context("two seconds are too short for ports to come back")?;
    let report = tracer.finish_report()?;
    // It is hours away, if it goes on like that.
    severity(&report, "TW017", "warning")?;
    let seconds = figure(finding(&report, "TW017")?, "conntrack_time_wait")?;
    expect::equal("its time", &432_000.0, &seconds)
}

/// Opens connections, as many as it is told by a line each, until it may have no more files.
const OPENS: &str = r#"ulimit -S -n 200
while read -r many; do
    made=0
    while [ $made -lt $many ] && exec {fd}<>/dev/tcp/10.1.0.2/8080; do made=$((made + 1)); done 2>/dev/null
    echo $made
done"#;

/// TW021: a program opens connections until it may have no more files; with more allowed, which is the
/// remedy, it is left in peace.
pub fn descriptors(lab: &Lab) -> Result<()> {
    let net = topology::pair()?;
    let _server = Server::start(&net.server, &format!("{SERVER}:8080"), Behaviour::Holds)?;
    let program = net.client.run(|| {
        let mut bash = Command::new("bash");
        bash.args(["-c", OPENS]).stdin(Stdio::piped()).stdout(Stdio::piped());
        bash.spawn().context("starting bash")
    })?;
    let mut program = Opens(program);
    let files = format!("/proc/{}/fd", program.0.id());
    let told = |many: &[&str]| -> Result<Value> {
        let report = diagnose(lab, &net.client)?.finish_report()?;
        found(&report, many)?;
        Ok(report)
    };
    program.open(100)?;
    told(&[])?;
    program.open(50)?;
    let report = told(&[])?;
    let near = &report["margins"]["processes_near_limit"][0];
    expect::equal("its limit", &Some(200), &near["max"].as_u64())?;
    expect::equal("sockets", &Some(150), &near["sockets"].as_u64())?;
    program.open(100)?;
    let report = told(&["TW021"])?;
    let open = fs::read_dir(&files)?.count() as f64;
    let full = finding(&report, "TW021")?;
    expect::equal("process", &f64::from(program.0.id()), &figure(full, "process")?)?;
    expect::equal("open", &open, &figure(full, "open")?)?;
    // A shell leaves those below 10 to its user.
    expect::that(open >= 190.0, || format!("{open} of 200 are not nearly all"))?;
    let more = format!("--pid={}", program.0.id());
    crate::netns::run("prlimit", &[&more, "--nofile=1000:"])?;
    told(&[])?;
    expect::equal("connections made then", &40, &program.open(40)?)
}

/// A program that runs [`OPENS`].
struct Opens(Child);

impl Opens {
    /// Has it open so many connections, and answers how many it got.
    fn open(&mut self, many: u32) -> Result<u32> {
        let (input, output) = (self.0.stdin.as_mut(), self.0.stdout.as_mut());
        let (input, output) = input.zip(output).context("its input and output")?;
        writeln!(input, "{many}")?;
        let mut made = String::new();
        let mut byte = [0];
        while output.read(&mut byte)? > 0 && byte != *b"\n" {
            made.push(char::from(byte[0]));
        }
        made.parse().with_context(|| format!("it said {made:?}"))
    }
}

impl Drop for Opens {
    fn drop(&mut self) {
        // It ends with its input; what is left of it is taken up here.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// TW018: nobody reads the buffer while it fills.
pub fn lost(lab: &Lab) -> Result<()> {
    let net = topology::pair()?;
    let server = Server::start(&net.server, &format!("{SERVER}:8080"), Behaviour::AnswersEof)?;
    let tracer = diagnose(lab, &net.client)?;
    tracer.signal(Signal::STOP)?;
    let made = Client::new(&net.client).short_connections(server.addr(), 10_000);
    tracer.signal(Signal::CONT)?;
    made?;
    let report = tracer.finish_report()?;
    severity(&report, "TW018", "warning")?;
    let lost = figure(finding(&report, "TW018")?, "lost")?;
    expect::that(lost > 0.0, || format!("{lost} events lost"))
}
