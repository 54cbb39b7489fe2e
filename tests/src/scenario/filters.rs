//! Filters let through exactly what matches.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::cgroup::Cgroup;
use crate::daemon::Daemon;
use crate::equation::{Ledger, settled};
use crate::expect;
use crate::lab::Lab;
use crate::summary::{Summary, Totals};
use crate::topology::{self, SERVER, address};
use crate::traffic::{Behaviour, Client, Server};
use crate::twtrace::{Running, Tracer};
use crate::wait;

/// Arguments that filter, and how many of the mixture are let through.
type Case<'a> = (&'a [&'a str], u64);

/// Each thing that the kernel programs compare.
pub fn filters(lab: &Lab) -> Result<()> {
    let net = several_subnets()?;
    let inum = net.client.inum().to_string();
    let path = net.client.path().display().to_string();
    let name = net.client.name();
    let cases: [Case<'_>; 8] = [
        (&["--netns", name], 63),
        (&["--netns", &inum, "--port", "8080"], 1 + 4 + 16),
        (&["--netns", &path, "--local-port", "8090"], 32),
        (&["--netns", name, "--peer", "10.1.0.0/24"], 1 + 2 + 8 + 32),
        (&["--netns", name, "--peer", "fd01::2", "-6"], 4),
        (&["--netns", name, "-4"], 63 - 4),
        (&["--netns", name, "--peer", "10.1.0.2", "--port", "8080", "-4"], 1),
        (&["--netns", net.server.name()], 0),
    ];
    let_through(lab, &net, &cases)
}

/// What the kernel programs cannot compare is decided in userspace, as exactly.
pub fn by_expression(lab: &Lab) -> Result<()> {
    let net = several_subnets()?;
    let name = net.client.name();
    let cases: [Case<'_>; 7] = [
        (&["--netns", name, "not dst 10.1.0.0/16"], 4),
        (&["--netns", name, "dport = :8080 or dst fd01::/16 or role server"], 1 + 4 + 16 + 32),
        (&["--netns", name, "dport > :8080 and role client"], 2 + 8),
        (&["--netns", name, "src 10.1.0.1 sport < :32768"], 32),
        (&["dport", "=", ":8080", "netns", name, "!", "dst", "::/0"], 1 + 16),
        (&["--netns", name, "--peer", "10.1.9.0/24", "uid 0 and not uid 1"], 16),
        (&["--netns", name, "--port", "8080", "timestamps dport = :8081"], 0),
    ];
    let_through(lab, &net, &cases)
}

/// A client and a server, which is in a second subnet as well.
fn several_subnets() -> Result<topology::Pair> {
    let net = topology::pair()?;
    address(&net.server, "eth0", "10.1.9.2/24")?;
    net.client.ip("route add 10.1.9.0/24 dev eth0")?;
    Ok(net)
}

/// One mixture of traffic under many filters at once; the numbers of connections are such that
/// each sum tells which ones were in it: 1 IPv4, 2 on another port, 4 IPv6, 8 v4-mapped, 16 to
/// another subnet, 32 as a server.
fn let_through(lab: &Lab, net: &topology::Pair, cases: &[Case<'_>]) -> Result<()> {
    let tracers =
        cases.iter().map(|(args, _)| Tracer::watch(lab, args)).collect::<Result<Vec<_>>>()?;
    let serve = |addr| Server::start(&net.server, addr, Behaviour::AnswersEof);
    let servers = [
        serve("10.1.0.2:8080")?,
        serve("10.1.0.2:8081")?,
        serve("[fd01::2]:8080")?,
        serve("10.1.0.2:8082")?,
        serve("10.1.9.2:8080")?,
    ];
    let client = Client::new(&net.client);
    client.short_connections(servers[0].addr(), 1)?;
    client.short_connections(servers[1].addr(), 2)?;
    client.short_connections(servers[2].addr(), 4)?;
    client.clone().mapped().short_connections(servers[3].addr(), 8)?;
    client.short_connections(servers[4].addr(), 16)?;
    let closes = Server::start(&net.client, "10.1.0.1:8090", Behaviour::ClosesFirst)?;
    Client::new(&net.server).close_second(closes.addr(), 32)?;
    settled(&net.client, 63)?;

    let mut want = Vec::new();
    let mut got = Vec::new();
    for (tracer, (args, entered)) in tracers.into_iter().zip(cases) {
        want.push((args.join(" "), *entered));
        got.push((args.join(" "), tracer.finish()?.totals()?.entered));
    }
    expect::equal("entered under each filter", &want, &got)
}

/// Names of control groups and namespaces are those of the time and the host that the answer is
/// of: a recording has its own, though here the group is gone and another has its name, and a
/// daemon has those of when it was asked, though it began before.
pub fn by_names_of_the_time(lab: &Lab) -> Result<()> {
    let daemon = Daemon::start(lab, &[])?;
    let net = topology::pair()?;
    let server = Server::start(&net.server, &format!("{SERVER}:8080"), Behaviour::AnswersEof)?;
    let group = Cgroup::new()?;
    let filter = format!("cgroup {}", group.name());
    let only = ["--netns", net.client.name(), &filter];
    let own = Tracer::watch(lab, &only)?;
    let through = Running::asking(lab, &daemon, "watch", &only)?;
    let all = Tracer::watch(lab, &["--netns", net.client.name()])?;
    group.connect(&net.client, server.addr(), 7)?;
    Client::new(&net.client).short_connections(server.addr(), 5)?;
    settled(&net.client, 12)?;

    let name = group.name().to_owned();
    group.remove()?;
    let another = Cgroup::named(&name)?;
    another.connect(&net.client, server.addr(), 3)?;
    settled(&net.client, 15)?;
    let (through, _) = through.stop()?;
    let through = Summary::parse(&through, lab.backend.name())?.totals()?.entered;
    // Its end asks the recording the same, and compares.
    let own = own.finish()?.totals()?.entered;
    let all = all.finish()?.totals()?.entered;
    expect::equal("entered: own, the daemon, without the group", &(7, 7, 15), &(own, through, all))
}

/// What only userspace can tell apart is counted as the kernel counts it: all connections of one
/// namespace match and none of the other's do, so that the kernel's own counters are of the same
/// sockets, their ends among them.
pub fn in_userspace(lab: &Lab) -> Result<()> {
    let (with, without) = (topology::pair()?, topology::pair()?);
    without.client.set("ipv4/tcp_timestamps", "0")?;
    let serve = |net: &topology::Pair| {
        net.client.set("ipv4/tcp_tw_reuse", "1")?;
        Server::start(&net.server, &format!("{SERVER}:8080"), Behaviour::AnswersEof)
    };
    let servers = [serve(&with)?, serve(&without)?];
    topology::ephemeral_ports(&with.client, 20_000, 20_029)?;
    let ledgers = [Ledger::open(&with.client)?, Ledger::open(&without.client)?];
    let (one, other) = (with.client.inum(), without.client.inum());
    let filter = format!("(netns {one} or netns {other}) and timestamps");
    let tracer = Tracer::watch(lab, &[&filter])?;
    Client::new(&with.client).short_connections(servers[0].addr(), 30)?;
    Client::new(&without.client).short_connections(servers[1].addr(), 20)?;
    // Old enough for their ports to be taken over.
    wait::pass(Duration::from_millis(1500));
    Client::new(&with.client).short_connections(servers[0].addr(), 20)?;
    let reused = ledgers[0].counted()?.tw_recycled;
    let want = Totals { entered: 50, reused, live: 50 - reused, ..Totals::default() };
    let left_out = Totals { entered: 20, live: 20, ..Totals::default() };
    ledgers[1].agrees_with(&left_out).context("what the scenario itself set out to make happen")?;
    super::totals_are(tracer, &ledgers[0], want).map(drop)
}
