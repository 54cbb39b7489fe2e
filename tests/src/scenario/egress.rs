//! An address that several namespaces leave through: what the NAT's own table holds is the truth.

use std::fs;

use anyhow::{Context, Result};
use serde_json::Value;

use super::behind::{Behind, PORTS, TO, found_in};
use crate::daemon::Daemon;
use crate::equation::settled;
use crate::expect;
use crate::http;
use crate::lab::Lab;
use crate::netns::Netns;
use crate::topology::{address, link};
use crate::traffic::{Behaviour, Client, Server};
use crate::twtrace::{Running, Tracer};
use crate::wait;

/// Short connections of each client.
const SHORT: [usize; 3] = [30, 60, 45];
/// Connections of the first that stay open.
const OPEN: usize = 20;

/// Nobody describes anything: the rules of the router are found, by iptables and by nft itself, with the
/// connections that pass them, and what is estimated is what its table has.
pub fn found_by_itself(lab: &Lab) -> Result<()> {
    let (by_iptables, by_nft, own) = (Behind::new(5)?, Behind::new(5)?, Behind::new(5)?);
    by_iptables.masquerade()?;
    let last = 20_000 + PORTS - 1;
    let rule = "ip saddr 10.5.0.0/16 tcp dport 8080 counter snat ip to 10.9.0.1:20000";
    by_nft.nft(&format!("{rule}-{last}"))?;
    // As docker has it, of a network that nobody here is in.
    let docker = "iptables -w -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE";
    own.router.exec(&docker.split(' ').collect::<Vec<_>>())?;

    let daemon = Daemon::start(lab, &[])?;
    let tracer = Tracer::report(lab, "diagnose", &[])?;
    let all = [&by_iptables, &by_nft, &own];
    let mut open = Vec::new();
    for net in all {
        let listens = Server::start(&net.server, TO, Behaviour::AnswersEof)?;
        for (client, short) in net.clients.iter().zip(SHORT) {
            Client::new(client).short_connections(listens.addr(), short)?;
            settled(client, short as u64)?;
        }
        open.push((Client::new(&net.clients[0]).open_many(listens.addr(), OPEN)?, listens));
    }
    let truth = by_iptables.tracked()?;
    let series = format!(
        "twtrace_egress_ports_used{{egress=\"{}/ip nat\",to=\"{TO}\"}} ",
        by_iptables.router.inum()
    );
    wait::until("the daemon to tell what the router holds", wait::SOON, || {
        let text = http::local(&daemon.socket(), "/metrics")?;
        let used = text.lines().find_map(|line| line.strip_prefix(&series));
        let used = used.map(str::parse::<f64>).transpose()?;
        Ok(used.filter(|used| (used - truth).abs() <= truth * 0.05))
    })?;
    let report = tracer.finish_report()?;
    for (net, kind, table) in
        [(&by_iptables, "masquerade", "ip nat"), (&by_nft, "snat", "inet shared")]
    {
        let truth = net.tracked()?;
        let margins = found_in(&report, &net.router);
        expect::equal("destinations of what was found", &1, &margins.len())
            .with_context(|| format!("{kind}: {:#}", report["margins"]["egress"]))?;
        let margin = margins[0];
        let of = (margin["found"]["kind"].as_str(), margin["found"]["table"].as_str());
        expect::equal("what was found", &(Some(kind), Some(table)), &of)?;
        expect::equal("towards", &Some(TO), &margin["to"].as_str())?;
        expect::equal("nobody described it", &Value::Null, &margin["egress"])?;
        expect::equal("ports", &Some(PORTS), &margin["ports"].as_u64())?;
        expect::equal("held for", &Some(120.0), &margin["hold_s"].as_f64())?;
        let now = margin["now"].as_f64().context("now")?;
        let near = (now - truth).abs() <= truth * 0.05;
        expect::that(near, || format!("{now} of {truth}: {margin:#}"))?;
        let takers = margin["takers"].as_array().context("takers")?;
        let takers: Vec<_> = takers.iter().filter_map(|taker| taker["netns"].as_u64()).collect();
        let most = [1, 0, 2].map(|n: usize| net.clients[n].inum()).to_vec();
        expect::equal("who takes most, by namespace", &most, &takers)?;
    }
    expect::equal("found where nobody passes", &0, &found_in(&report, &own.router).len())
}

/// What a rule depends on that nobody can know beforehand is told, and nothing is made of it.
pub fn found_and_not_understood(lab: &Lab) -> Result<()> {
    let net = Behind::new(8)?;
    net.nft("meta mark 7 masquerade")?;
    let running = Running::start(lab, &["diagnose", "-o", "json"])?;
    let listens = Server::start(&net.server, TO, Behaviour::AnswersEof)?;
    let client = &net.clients[0];
    Client::new(client).short_connections(listens.addr(), 9)?;
    settled(client, 9)?;
    let (report, said) = running.stop()?;
    let report = serde_json::from_str(&report).context("a report")?;
    expect::equal("found", &0, &found_in(&report, &net.router).len())?;
    let told = format!(
        "whether network namespace {} gives connections from 10.8.1.2 to {TO} another address cannot be told",
        net.router.inum()
    );
    expect::that(said.contains(&told), || said)
}

/// Containers as docker has them, few connections of which leave: nothing is wrong with that.
pub fn found_and_left_in_peace(lab: &Lab) -> Result<()> {
    let (host, server) = (Netns::new("host")?, Netns::new("server")?);
    link(&host, "eth0", &server, "eth0")?;
    address(&host, "eth0", "10.9.0.1/24")?;
    address(&server, "eth0", "10.9.0.2/24")?;
    host.set("ipv4/ip_forward", "1")?;
    host.ip("link add docker0 type bridge")?;
    host.ip("link set docker0 up")?;
    address(&host, "docker0", "172.17.0.1/16")?;
    let docker = "iptables -w -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE";
    host.exec(&docker.split(' ').collect::<Vec<_>>())?;
    let mut containers = Vec::new();
    for n in 2..=3 {
        let container = Netns::new("container")?;
        let port = format!("veth{n}");
        link(&container, "eth0", &host, &port)?;
        host.ip(&format!("link set {port} master docker0"))?;
        address(&container, "eth0", &format!("172.17.0.{n}/16"))?;
        container.ip("route add default via 172.17.0.1")?;
        containers.push(container);
    }
    let listens = Server::start(&server, TO, Behaviour::AnswersEof)?;
    let beside = Server::start(&containers[1], "172.17.0.3:8080", Behaviour::AnswersEof)?;
    let tracer = Tracer::report(lab, "diagnose", &[])?;
    Client::new(&containers[0]).short_connections(listens.addr(), 40)?;
    Client::new(&host).short_connections(listens.addr(), 40)?;
    // From one container to the other, by the bridge alone.
    Client::new(&containers[0]).short_connections(beside.addr(), 40)?;
    settled(&containers[0], 80)?;
    settled(&host, 40)?;
    let report = tracer.finish_report()?;
    let margins = found_in(&report, &host);
    expect::equal("destinations", &1, &margins.len())
        .with_context(|| format!("{:#}", report["margins"]["egress"]))?;
    let margin = margins[0];
    expect::equal("towards", &Some(TO), &margin["to"].as_str())?;
    expect::equal("ports without a range", &Some(64_512), &margin["ports"].as_u64())?;
    expect::equal("held of the container alone", &Some(40.0), &margin["now"].as_f64())?;
    let findings = report["findings"].as_array().context("findings")?;
    let wrong = findings.iter().filter(|it| it["id"] == "TW020");
    let wrong: Vec<_> = wrong.filter(|it| it["netns"].as_u64() == Some(host.inum())).collect();
    expect::that(wrong.is_empty(), || format!("{wrong:#?}"))
}

/// Three clients behind a router that masquerades: what is estimated is what its table of connections has,
/// to within 5 %, and who takes how much. With fewer ports than are held none is left.
pub fn shared_address(lab: &Lab) -> Result<()> {
    let net = Behind::new(4)?;
    net.masquerade()?;
    let Behind { server, clients, .. } = &net;
    let listens = Server::start(server, TO, Behaviour::AnswersEof)?;
    let roomy = format!("ports={PORTS} hold=120s from=10.4.0.0/16");
    let narrow = "ports=100 hold=120s from=10.4.0.0/16";
    let other = "ports=100 hold=120s from=10.4.0.0/16 except=10.9.0.0/24";
    let two = format!("ports=200 hold=2m netns={},{}", clients[0].name(), clients[1].inum());
    let egress = ["--egress", &roomy, "--egress", narrow, "--egress", other, "--egress", &two];
    let described = tempfile::NamedTempFile::new()?;
    let table =
        |ports| format!("[[egress]]\nports = {ports}\nhold = \"2m\"\nfrom = [\"10.4.0.0/16\"]\n");
    fs::write(described.path(), table(PORTS) + &table(100))?;
    let described = described.path().to_str().context("a path")?;
    let daemon = Daemon::start(lab, &["--config", described])?;
    let tracer = Tracer::report(lab, "diagnose", &egress)?;
    for (client, short) in clients.iter().zip(SHORT) {
        Client::new(client).short_connections(listens.addr(), short)?;
        settled(client, short as u64)?;
    }
    // Last: who is served waits for the end of those before.
    let open = Client::new(&clients[0]).open_many(listens.addr(), OPEN)?;
    let made = (OPEN + SHORT.iter().sum::<usize>()) as f64;
    let told = |family: &str, egress: u64| -> Result<Option<f64>> {
        let text = http::local(&daemon.socket(), "/metrics")?;
        let series = format!("{family}{{egress=\"{egress}\",to=\"{TO}\"}} ");
        let mut values = text.lines().filter_map(|line| line.strip_prefix(&series));
        Ok(values.next().map(str::parse).transpose()?)
    };
    wait::until("the daemon to tell what the NAT holds", wait::SOON, || {
        let used = told("twtrace_egress_ports_used", 1)?;
        Ok(used.filter(|used| (used - made).abs() <= made * 0.05))
    })?;
    let limits = (told("twtrace_egress_ports_limit", 1)?, told("twtrace_egress_ports_limit", 2)?);
    expect::equal("ports of the daemon's two", &(Some(PORTS as f64), Some(100.0)), &limits)?;
    let report = tracer.finish_report()?;
    let truth = net.tracked()?;
    drop(open);

    expect::equal("connections in the router's table", &made, &truth)?;
    let margins = report["margins"]["egress"].as_array().context("no margins")?;
    let described = margins.iter().filter(|margin| !margin["egress"].is_null());
    let ports: Vec<_> = described.filter(|margin| margin["to"] == TO).collect();
    expect::equal("addresses that it passes", &3, &ports.len())?;
    let now = ports[0]["now"].as_f64().context("now")?;
    expect::that((now - truth).abs() <= truth * 0.05, || format!("{now} of {truth}: {report:#}"))?;
    let takers = ports[0]["takers"].as_array().context("takers")?;
    let held: Vec<_> = takers.iter().filter_map(|taker| taker["held"].as_f64()).collect();
    expect::equal("held by each, the most with those open first", &vec![60.0, 30.0, 45.0], &held)?;
    let of_two: f64 = ports[2]["takers"]
        .as_array()
        .context("takers")?
        .iter()
        .filter_map(|taker| taker["held"].as_f64())
        .sum();
    expect::equal("held by the two namespaces that are named", &90.0, &of_two)?;
    let most = takers[0]["netns"].as_u64();
    expect::equal("who takes most", &Some(clients[1].inum()), &most)?;
    let findings = report["findings"].as_array().context("findings")?;
    let finding = findings.iter().find(|finding| finding["id"] == "TW020" && finding["peer"] == TO);
    let severity = finding.and_then(|finding| finding["severity"].as_str());
    expect::equal("TW020 of the one with few ports", &Some("critical"), &severity)
}
