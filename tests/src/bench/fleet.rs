//! What many hosts cost Prometheus: each has the page of a real daemon, and one server gives them all.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::load::Site;
use super::sample;
use crate::daemon::Daemon;
use crate::lab::Lab;
use crate::prometheus::Prometheus;
use crate::{http, service, wait};

/// Peers with series of their own: what the documents advise for many hosts.
const PEERS: u32 = 20;
/// Seconds between two scrapes of a host.
const SCRAPE: u32 = 30;
/// Pages given out at once.
const SERVERS: usize = 4;

/// Has a Prometheus with the released rules scrape this many hosts for a while, and tells what it took.
pub fn run(lab: &Lab, hosts: usize, time: Duration) -> Result<()> {
    let page = Arc::new(Page::of_a_daemon(lab)?);
    let address = serve(&page)?;
    let host = |number| {
        let labels = json!({ "__metrics_path__": format!("/{number}"), "instance": format!("host-{number}") });
        json!({ "targets": [address], "labels": labels })
    };
    let targets = json!((0..hosts).map(host).collect::<Vec<_>>()).to_string();
    let config =
        "scrape_configs:\n- {job_name: twtrace, file_sd_configs: [{files: [targets.json]}]}\n";
    let prometheus = Prometheus::start(SCRAPE, config, &[("targets.json", &targets)])?;
    let began = Instant::now();
    prometheus.await_value("sum(up{job=\"twtrace\"})", hosts as f64)?;
    wait::pass(time.saturating_sub(began.elapsed()));

    let up = prometheus.query("sum(up{job=\"twtrace\"})")?;
    ensure!(up == Some(hosts as f64), "of {hosts} hosts {up:?} are up: {}", prometheus.0.log());
    let own = http::network(&prometheus.0.address, "/metrics")?;
    let of = |name: &str| value(&own, name).with_context(|| format!("Prometheus has no {name}"));
    let failed =
        own.lines().filter(|line| line.starts_with("prometheus_rule_evaluation_failures_total"));
    for line in failed {
        ensure!(line.ends_with(" 0"), "a rule failed: {line}\n{}", prometheus.0.log());
    }
    sample("fleet/hosts", "", hosts as f64);
    sample("fleet/series in memory", "", of("prometheus_tsdb_head_series")?);
    sample("fleet/resident", "MiB", of("process_resident_memory_bytes")? / f64::from(1 << 20));
    let used = of("process_cpu_seconds_total")? / began.elapsed().as_secs_f64();
    sample("fleet/processor", "of one", used);
    for line in
        own.lines().filter(|line| line.starts_with("prometheus_rule_group_last_duration_seconds"))
    {
        let (name, seconds) = line.split_once("} ").context("a value")?;
        let group = name.rsplit(';').next().unwrap_or(name).trim_end_matches('"');
        sample(&format!("fleet/evaluation of {group}"), "s", seconds.parse()?);
    }
    Ok(())
}

/// A value of a page without labels.
fn value(page: &str, name: &str) -> Option<f64> {
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    line.parse().ok()
}

/// The page of a daemon, whose counters go on.
struct Page {
    lines: Vec<Line>,
    began: Instant,
}

enum Line {
    /// As it is.
    Fixed(String),
    /// What is before the value, and the value at the beginning.
    Counter(String, f64),
}

impl Page {
    /// That of a daemon with as many peers as have series of their own.
    fn of_a_daemon(lab: &Lab) -> Result<Self> {
        let site = Site::loopback()?;
        let config = tempfile::tempdir()?;
        let file = config.path().join("twtrace.toml");
        fs::write(&file, format!("metrics_peers = {PEERS}\n"))?;
        let file = file.to_str().context("a path of characters")?;
        let daemon = Daemon::start(lab, &["--netns", site.client.name(), "--config", file])?;
        site.visit(0..PEERS)?;
        let text = wait::until("the daemon to tell of all peers", wait::SOON, || {
            let text = http::local(&daemon.socket(), "/metrics")?;
            let peers = text.lines().filter(|line| line.starts_with("twtrace_live{")).count();
            Ok((peers >= PEERS as usize).then_some(text))
        })?;
        site.delete()?;
        let mut counts = false;
        let line = |line: &str| {
            if let Some(kind) = line.strip_prefix("# TYPE ") {
                counts = kind.ends_with(" counter") || kind.ends_with(" histogram");
            }
            match line.rsplit_once(' ') {
                Some((before, value)) if counts && !line.starts_with('#') => match value.parse() {
                    Ok(value) => Line::Counter(before.to_owned(), value),
                    Err(_) => Line::Fixed(line.to_owned()),
                },
                _ => Line::Fixed(line.to_owned()),
            }
        };
        Ok(Self { lines: text.lines().map(line).collect(), began: Instant::now() })
    }

    /// As it is now: what counts has counted one a second.
    fn now(&self) -> String {
        let grown = self.began.elapsed().as_secs() as f64;
        self.lines.iter().fold(String::new(), |mut page, line| {
            let _ = match line {
                Line::Fixed(line) => writeln!(page, "{line}"),
                Line::Counter(before, value) => writeln!(page, "{before} {}", value + grown),
            };
            page
        })
    }
}

/// Gives the page to whoever asks, whatever host is meant; answers where.
fn serve(page: &Arc<Page>) -> Result<String> {
    let address = service::free_address()?;
    let listener = TcpListener::bind(&address)?;
    for _ in 0..SERVERS {
        let (listener, page) = (listener.try_clone()?, Arc::clone(page));
        // Whoever asks and goes away is no fault of the server's.
        thread::spawn(move || {
            listener.incoming().flatten().for_each(|asks| drop(answer(asks, &page)));
        });
    }
    Ok(address)
}

fn answer(asks: TcpStream, page: &Page) -> Result<()> {
    let mut lines = BufReader::new(&asks).lines();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let page = page.now();
    let kind = "Content-Type: text/plain; version=0.0.4\r\nConnection: close";
    write!(&asks, "HTTP/1.1 200 OK\r\n{kind}\r\nContent-Length: {}\r\n\r\n{page}", page.len())?;
    Ok(())
}
