//! An address that several namespaces leave through: what the NAT's own table holds is the truth.

use std::fs;

use anyhow::{Context, Result};

use crate::daemon::Daemon;
use crate::equation::settled;
use crate::expect;
use crate::http;
use crate::lab::Lab;
use crate::netns::Netns;
use crate::topology::{address, link};
use crate::traffic::{Behaviour, Client, Server};
use crate::twtrace::Tracer;
use crate::wait;

/// Ports that the router has.
const PORTS: u64 = 300;
/// Short connections of each client.
const SHORT: [usize; 3] = [30, 60, 45];
/// Connections of the first that stay open.
const OPEN: usize = 20;
/// The server, behind the router.
const TO: &str = "10.9.0.2:8080";

/// Three clients behind a router that masquerades: what is estimated is what its table of connections has,
/// to within 5 %, and who takes how much. With fewer ports than are held none is left.
pub fn shared_address(lab: &Lab) -> Result<()> {
    let (router, server) = (Netns::new("router")?, Netns::new("server")?);
    link(&router, "out", &server, "eth0")?;
    address(&router, "out", "10.9.0.1/24")?;
    address(&server, "eth0", "10.9.0.2/24")?;
    router.set("ipv4/ip_forward", "1")?;
    let last = 20_000 + PORTS - 1;
    let rule = format!(
        "iptables -w -t nat -A POSTROUTING -p tcp -o out -j MASQUERADE --to-ports 20000-{last}"
    );
    router.exec(&rule.split(' ').collect::<Vec<_>>()).context("masquerading")?;
    let mut clients = Vec::new();
    for n in 1..=SHORT.len() {
        let client = Netns::new("client")?;
        let inside = format!("in{n}");
        link(&client, "eth0", &router, &inside)?;
        address(&client, "eth0", &format!("10.4.{n}.2/24"))?;
        address(&router, &inside, &format!("10.4.{n}.1/24"))?;
        client.ip(&format!("route add default via 10.4.{n}.1"))?;
        clients.push(client);
    }
    let listens = Server::start(&server, TO, Behaviour::AnswersEof)?;
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
    let tracked = router.run(|| Ok(fs::read_to_string("/proc/thread-self/net/nf_conntrack")?))?;
    drop(open);

    let truth = tracked.lines().filter(|line| line.contains("src=10.4.")).count() as f64;
    expect::equal("connections in the router's table", &made, &truth)?;
    let margins = report["margins"]["egress"].as_array().context("no margins")?;
    let ports: Vec<_> = margins.iter().filter(|margin| margin["to"] == TO).collect();
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
