//! The metrics before a real Prometheus.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::alertmanager::Alertmanager;
use crate::daemon::Daemon;
use crate::dashboard;
use crate::lab::{Backend, Lab};
use crate::prometheus::{Prometheus, RULES};
use crate::service;
use crate::topology;
use crate::traffic::{Behaviour, Client, Server};
use crate::{expect, http, twtrace};

/// No other scenario has this peer: a namespace may have the number of one that is gone.
const PEER: &str = "10.1.0.2:8301";

/// Time between two scrapes, seconds.
const SCRAPE: u32 = 5;

/// A Prometheus that scrapes a daemon, and sends what fires to an Alertmanager.
fn scraping(target: &str, alertmanager: Option<&str>) -> Result<Prometheus> {
    let mut config = format!(
        "scrape_configs:\n\
         - {{job_name: twtrace, static_configs: [{{targets: ['{target}']}}]}}\n"
    );
    if let Some(address) = alertmanager {
        config += "alerting:\n  alertmanagers:\n";
        config += &format!("  - {{static_configs: [{{targets: ['{address}']}}]}}\n");
    }
    Prometheus::start(SCRAPE, &config, &[])
}

/// Prometheus finds no fault in the metrics, scrapes them, and counts what happened.
pub fn prometheus_scrapes_the_counts(lab: &Lab) -> Result<()> {
    let target = service::free_address()?;
    let net = topology::pair()?;
    // Of this namespace alone: beside other scenarios the peer would not be among the busiest.
    let netns = net.client.name();
    let daemon = Daemon::start(lab, &["--listen", &target, "--netns", netns])?;
    let prometheus = scraping(&target, None)?;
    prometheus.await_value("up", 1.0)?;

    let server = Server::start(&net.server, PEER, Behaviour::AnswersEof)?;
    Client::new(&net.client).short_connections(server.addr(), 30)?;
    crate::equation::settled(&net.client, 30)?;
    let own = format!("netns=\"{}\"", net.client.inum());
    let entered = format!("sum(twtrace_entered_total{{peer=\"{PEER}\",{own}}})");
    prometheus.await_value(&entered, 30.0)?;
    prometheus.await_value(&format!("sum(twtrace_live{{peer=\"{PEER}\",{own}}})"), 30.0)?;
    prometheus.await_value(&format!("twtrace_time_wait_buckets_used{{{own}}}"), 30.0)?;
    prometheus.await_value("twtrace_events_lost_total", 0.0)?;
    prometheus.await_value("count(twtrace_lifetime_seconds_bucket)", 13.0)?;
    let backend = format!("twtrace_backend_info{{backend=\"{}\"}}", lab.backend.name());
    prometheus.await_value(&backend, 1.0)?;

    let metrics = http::local(&daemon.socket(), "/metrics")?;
    let mut linter = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting promtool, of the package prometheus")?;
    linter.stdin.take().context("its input")?.write_all(metrics.as_bytes())?;
    let said = linter.wait_with_output()?;
    let words = [said.stdout, said.stderr].concat();
    expect::that(said.status.success() && words.is_empty(), || {
        format!("promtool: {}\n{metrics}", String::from_utf8_lossy(&words))
    })
}

/// Whatever the dashboard asks has an answer, but what this way to attach does not see.
fn dashboard_shows(lab: &Lab, prometheus: &Prometheus) -> Result<()> {
    let asked = |panel: &str| -> Result<String> {
        let questions = dashboard::questions()?;
        let found = questions.iter().find(|question| question.panel == panel);
        Ok(found.with_context(|| format!("no panel {panel}"))?.asked(SCRAPE))
    };
    prometheus.await_value(&asked("Calls that fail now")?, 1.0)?;
    prometheus.await_value(&asked("Live")?, 20.0)?;
    prometheus.await_value(&asked("Ports, the shortest")?, 1.0)?;
    for question in dashboard::questions()? {
        let expression = question.asked(SCRAPE);
        let mut unseen = dashboard::UNSEEN_BY_TRACEPOINTS.iter();
        if lab.backend == Backend::Tracepoint && unseen.any(|name| expression.contains(name))
            || !lab.sees_binds() && expression.contains(dashboard::OF_BINDS)
        {
            let what = format!("{}: what tracepoints do not see", question.panel);
            expect::equal(&what, &None, &prometheus.query(&expression)?)?;
        } else {
            prometheus.await_data(&expression).with_context(|| question.panel.clone())?;
        }
    }
    Ok(())
}

/// Every alert goes to whom its severity asks for, the one that fires was told to the pager, and by it
/// others of the host are held back.
fn routed(alertmanager: &Alertmanager, target: &str) -> Result<()> {
    let alerts: Vec<_> = RULES[0].1.split("- alert: ").skip(1).collect();
    expect::that(alerts.len() >= 8, || format!("too few alerts: {alerts:?}"))?;
    for alert in alerts {
        let (name, behind) = alert.split_once('\n').context("a name")?;
        let (_, behind) = behind.split_once("severity: ").context("a severity")?;
        let (severity, _) = behind.split_once('}').context("a label")?;
        let want = if severity == "critical" { "pager" } else { "tickets" };
        let labels = [&format!("alertname={name}"), &format!("severity={severity}"), "job=twtrace"];
        expect::equal(name, &want, &alertmanager.receiver(&labels)?.as_str())?;
    }
    let page = alertmanager.page()?;
    expect::equal("how many alerts in a page", &Some(1), &page["alerts"].as_array().map(Vec::len))?;
    let alert = &page["alerts"][0];
    let told = |part: &str, name: &str| alert[part][name].as_str().map(str::to_owned);
    let firing = Some("TwtraceCallsFail".to_owned());
    expect::equal("which alert", &firing, &told("labels", "alertname"))?;
    expect::equal("of whom", &Some(target.to_owned()), &told("labels", "instance"))?;
    let runbook = Some("docs/findings/TW019.md".to_owned());
    expect::equal("runbook", &runbook, &told("annotations", "runbook"))?;
    alertmanager.await_state("TwtraceCallsFail", "active")?;
    let instance = format!("instance={target}");
    let short = ["alertname=TwtracePortsRunShort", "severity=warning", "job=twtrace", &instance];
    alertmanager.raise(&short)?;
    alertmanager.await_state("TwtracePortsRunShort", "suppressed")
}

/// The alerts are as their own tests say, ask for metrics that there are, and the first of them fires
/// in a real Prometheus when connect() fails on a real host, of which the dashboard shows all and a real
/// Alertmanager tells the pager.
pub fn alerts_fire(lab: &Lab) -> Result<()> {
    let target = service::free_address()?;
    let net = topology::pair()?;
    topology::ephemeral_ports(&net.client, 20_000, 20_019)?;
    net.client.set("ipv4/tcp_tw_reuse", "0")?;
    let daemon = Daemon::start(lab, &["--listen", &target, "--netns", net.client.name()])?;
    let alertmanager = Alertmanager::start()?;
    let prometheus = scraping(&target, Some(alertmanager.address()))?;
    let tried = twtrace::finished(
        Command::new("promtool")
            .args(["test", "rules", RULES[1].0])
            .current_dir(prometheus.0.directory.path()),
    )?;
    expect::that(tried.status.success(), || twtrace::shown(&tried))?;
    let firing = "count(ALERTS{alertname=\"TwtraceCallsFail\", alertstate=\"firing\"})";
    prometheus.await_value("up", 1.0)?;
    expect::equal("alerts of a host that is well", &None, &prometheus.query("count(ALERTS)")?)?;

    let server = Server::start(&net.server, PEER, Behaviour::AnswersEof)?;
    let client = Client::new(&net.client);
    let outcome = client.try_connections(server.addr(), 25)?;
    expect::equal("connections that came about", &20, &outcome.connected)?;
    prometheus.await_value(firing, 1.0)?;
    dashboard_shows(lab, &prometheus)?;
    // However long that took, calls fail now.
    client.try_connections(server.addr(), 25)?;
    prometheus.await_value(firing, 1.0)?;
    routed(&alertmanager, &target)?;

    let metrics = http::local(&daemon.socket(), "/metrics")?;
    let is_part = |char: char| char.is_ascii_alphanumeric() || char == '_' || char == ':';
    let words = RULES[0].1.split(|char| !is_part(char));
    for name in words.filter(|word| word.starts_with("twtrace_")) {
        expect::that(metrics.contains(&format!("\n{name}")), || format!("{name}: {metrics}"))?;
    }
    Ok(())
}
