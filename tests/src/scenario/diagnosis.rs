//! What `diagnose`, `explain` and `check` say: of the story, and of a host that is well.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::counters::Counters;
use crate::lab::Lab;
use crate::netns::Netns;
use crate::topology::{self, ROUTED, SERVER, ephemeral_ports};
use crate::traffic::{Behaviour, Client, Server};
use crate::twtrace::{self, Tracer};
use crate::{expect, wait};

/// Connections a second of [`paced`], at most: the ports must be gone before the first of them
/// come back after 60 s, also where software emulation does half as many.
const RATE: u32 = 40;
/// How long a port waits; `TCP_TIMEWAIT_LEN`.
const TIME_WAIT: Duration = Duration::from_secs(60);
/// Connections made when the story is diagnosed, half of the ports.
const HALF: u64 = 500;

/// Identifiers of a report's findings, in order.
pub fn ids(report: &Value) -> Result<Vec<String>> {
    let findings = report["findings"].as_array().context("findings is no array")?;
    Ok(findings.iter().map(|finding| finding["id"].as_str().unwrap_or("?").to_owned()).collect())
}

/// The finding of that identifier.
pub fn finding<'a>(report: &'a Value, id: &str) -> Result<&'a Value> {
    let findings = report["findings"].as_array().context("findings is no array")?;
    let found = findings.iter().find(|finding| finding["id"] == id);
    found.with_context(|| format!("no finding {id} in:\n{report:#}"))
}

/// A figure of a finding.
pub fn figure(finding: &Value, key: &str) -> Result<f64> {
    let value = finding.pointer(&format!("/evidence/{key}/value"));
    value.and_then(Value::as_f64).with_context(|| format!("no figure {key} in:\n{finding:#}"))
}

/// Diagnoses one namespace.
pub fn diagnose(lab: &Lab, netns: &Netns) -> Result<Tracer> {
    Tracer::report(lab, "diagnose", &["--netns", netns.name()])
}

/// Seconds since the epoch of a moment in a report.
pub fn seconds(stamp: &Value) -> Result<f64> {
    let stamp = stamp.as_str().with_context(|| format!("{stamp} is no moment"))?;
    // The day does not matter as long as all moments are of one test.
    let time = stamp.split_once('T').map(|(_, time)| time.trim_end_matches('Z'));
    let parts: Option<Vec<f64>> =
        time.and_then(|time| time.split(':').map(|part| part.parse().ok()).collect());
    match parts.as_deref() {
        Some([hours, minutes, seconds]) => Ok(hours * 3600.0 + minutes * 60.0 + seconds),
        _ => anyhow::bail!("{stamp} is no moment"),
    }
}

/// The time of day in the same seconds.
pub fn now() -> Result<f64> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    Ok((since.as_millis() % 86_400_000) as f64 / 1000.0)
}

/// Opens and closes connections at [`RATE`] until no port is left or `enough` is said; gives the
/// moment of each, that of the failure last. Nothing if the machine is too slow for the traffic ever
/// to use the ports up: from then on they come back.
pub fn paced(
    client: &Client,
    server: &Server,
    mut enough: impl FnMut() -> Result<bool> + Send,
) -> Result<Option<Vec<f64>>> {
    // On one thread: under emulation a thread a connection costs more than the connection.
    client.inside(|| {
        let started = Instant::now();
        let mut moments = Vec::new();
        while !enough()? {
            if started.elapsed() >= TIME_WAIT {
                return Ok(None);
            }
            let began = Instant::now();
            moments.push(now()?);
            if !client.short_connection(server.addr())? {
                break;
            }
            wait::pass((Duration::from_secs(1) / RATE).saturating_sub(began.elapsed()));
        }
        Ok(Some(moments))
    })
}

/// Fails unless what was foretold at `at` to come in `predicted` seconds did, at the moment `real`,
/// within a tenth of the time and half a second, which a look may take on a loaded machine.
///
/// "At the present rate": a loaded machine does not keep its own pace, which is no error.
pub fn foretold(what: &str, moments: &[f64], at: f64, predicted: f64, real: f64) -> Result<()> {
    expect::that(real > at, || format!("{what} before it was said"))?;
    let (before, after) = (rate(moments, at - 10.0, at), rate(moments, at, real));
    let expected = (real - at) * after / before;
    let told = format!(
        "{what} was predicted in {predicted:.1} s and came in {:.1} s, at {after:.1} connections/s \
         after {before:.1} connections/s",
        real - at
    );
    eprintln!("{told}");
    expect::that((predicted - expected).abs() <= expected * 0.1 + 0.5, || told)
}

/// Moments a second between two others.
fn rate(moments: &[f64], from: f64, to: f64) -> f64 {
    let from = from.max(moments.first().copied().unwrap_or(from));
    let between = moments.iter().filter(|moment| (from..to).contains(*moment)).count();
    between as f64 / (to - from)
}

/// The seeds' story: diagnosed before it fails, its end predicted, its healing explained.
pub fn of_the_story(lab: &Lab) -> Result<()> {
    super::until_as_meant(|| story(lab))
}

/// Ends the run as soon as `reached`, while the traffic goes on to its own end; gives its report and
/// what became of the traffic.
pub fn report_amid<T: Send>(
    tracer: Tracer,
    traffic: impl FnOnce() -> Result<T> + Send,
    reached: impl FnOnce() -> Result<()>,
) -> Result<(Value, T)> {
    thread::scope(|scope| {
        let traffic = scope.spawn(traffic);
        let report = reached().and_then(|()| tracer.finish_report());
        let made = traffic.join().map_err(|_| anyhow::anyhow!("the traffic panicked"))?;
        Ok((report?, made?))
    })
}

fn story(lab: &Lab) -> Result<Option<()>> {
    let net = topology::routed()?;
    let variant = topology::strip_timestamps(&net.router)?;
    net.client.set("ipv4/tcp_tw_reuse", "1")?;
    ephemeral_ports(&net.client, 20_000, 20_999)?;
    let server = Server::start(&net.behind, &format!("{ROUTED}:8080"), Behaviour::AnswersEof)?;
    let client = Client::new(&net.client);

    let tracer = diagnose(lab, &net.client)?;
    let (half, reached) = mpsc::channel();
    let traffic = || {
        let mut made = 0;
        paced(&client, &server, || {
            // Whoever waits for it may have given up.
            let _ = (made == HALF).then(|| half.send(()));
            made += 1;
            Ok(false)
        })
    };
    // No look at counters meanwhile: under emulation that would slow the traffic down.
    let half = || reached.recv_timeout(wait::SOON).context("half of the ports");
    let (report, moments) = report_amid(tracer, traffic, half)?;
    let Some(moments) = moments else { return Ok(None) };
    let first = &report["findings"][0];
    expect::equal("first finding", &Some("TW001"), &first["id"].as_str())
        .with_context(|| format!("{report:#}"))?;
    expect::equal("its severity", &Some("critical"), &first["severity"].as_str())?;
    expect::equal("its peer", &Some("10.2.0.2:8080"), &first["peer"].as_str())?;
    expect::equal("usable ports", &1000.0, &figure(first, "usable_ports")?)?;
    let open = figure(first, "ports_open")?;
    expect::that((0.0..=1.0).contains(&open), || format!("{open} open connections at a time"))?;
    let live = figure(first, "live_sockets")?;
    expect::that((500.0..600.0).contains(&live), || format!("{live} live sockets"))?;
    let takeover = figure(first, "highest_rate_with_takeover")?;
    expect::that((999.0..=1000.0).contains(&takeover), || {
        format!("{takeover}/s, were ports reused")
    })?;
    let at = seconds(&report["at"])?;
    let predicted = figure(first, "seconds_to_exhaustion")?;
    let failed = *moments.last().context("no connection")?;
    foretold("exhaustion", &moments, at, predicted, failed)?;
    let history = &report["histories"][0];
    expect::that(history["with_timestamps"]["last"].is_null(), || format!("{history:#}"))?;

    // More ports, so that there are connections; for a while still without timestamps.
    ephemeral_ports(&net.client, 20_000, 22_999)?;
    // Other scenarios have a peer of that address as well.
    let peer = server.addr().to_string();
    let tracer = Tracer::report(lab, "explain", &[&peer, "--netns", net.client.name()])?;
    client.short_connections(server.addr(), 20)?;
    let before = now()?;
    let flush = [variant, "-w", "-t", "mangle", "-F", "FORWARD"];
    net.router.exec(&flush)?;
    client.short_connections(server.addr(), 20)?;
    let after = now()?;
    let explained = tracer.finish_report()?;
    let history = &explained["histories"][0];
    let changes = history["changes"].as_array().context("changes")?;
    expect::equal("changes", &1, &changes.len()).with_context(|| format!("{history:#}"))?;
    expect::equal("the new kind", &Some(true), &changes[0]["timestamps"].as_bool())?;
    let moment = seconds(&changes[0]["at"])?;
    expect::that((before - 0.1..=after + 0.1).contains(&moment), || {
        format!("the router stopped between {before} and {after}, explained as {moment}")
    })?;
    let story = history["story"].as_str().unwrap_or_default();
    expect::that(story.starts_with("Timestamps were missing until"), || story.to_owned())?;

    let tracer = diagnose(lab, &net.client)?;
    client.short_connections(server.addr(), 100)?;
    let report = tracer.finish_report()?;
    expect::equal("findings once it passes them", &Vec::<String>::new(), &ids(&report)?)
        .with_context(|| format!("{report:#}"))?;
    Ok(Some(()))
}

/// 4,000 sockets far from any limit are no finding, and the text fits a terminal.
pub fn of_a_healthy_host(lab: &Lab) -> Result<()> {
    const SOCKETS: usize = 4000;
    let net = topology::pair()?;
    let server = Server::start(&net.server, &format!("{SERVER}:8080"), Behaviour::AnswersEof)?;
    let client = Client::new(&net.client);
    client.short_connections(server.addr(), SOCKETS)?;

    let tracer = diagnose(lab, &net.client)?;
    client.short_connections(server.addr(), 10)?;
    let report = tracer.finish_report()?;
    expect::equal("findings", &Vec::<String>::new(), &ids(&report)?)?;
    let namespace = &report["margins"]["namespaces"][0];
    expect::equal("namespace", &Some(net.client.inum()), &namespace["netns"].as_u64())?;
    let ports = &namespace["ports"];
    expect::equal("usable", &Some(28_232), &ports["usable"].as_u64())?;
    let stuck = ports["stuck"].as_u64().unwrap_or(0);
    expect::that(stuck > 0 && stuck <= SOCKETS as u64 + 10, || format!("{ports:#}"))?;
    let live = namespace["buckets"]["live"].as_u64().unwrap_or(0);
    expect::that(live >= stuck, || format!("{namespace:#}"))?;

    let base = ["diagnose", "--netns", net.client.name(), "--for", "1s"];
    let args = [&base[..], &lab.attach()].concat();
    let output = twtrace::run(lab, &args)?;
    let text = String::from_utf8_lossy(&output.stdout);
    expect::that(text.contains("No finding"), || twtrace::shown(&output))?;
    expect::that(text.lines().all(|line| line.chars().count() <= 80), || twtrace::shown(&output))
}

/// TW008: buckets that fill, told before the first connection finds none.
pub fn of_filling_buckets(lab: &Lab) -> Result<()> {
    super::until_as_meant(|| filling_buckets(lab))
}

fn filling_buckets(lab: &Lab) -> Result<Option<()>> {
    const BUCKETS: u64 = 400;
    let net = topology::pair()?;
    net.client.set("ipv4/tcp_max_tw_buckets", &BUCKETS.to_string())?;
    let server = Server::start(&net.server, &format!("{SERVER}:8080"), Behaviour::AnswersEof)?;
    let client = Client::new(&net.client);
    let tracer = diagnose(lab, &net.client)?;
    let overflows = || Ok(Counters::read(&net.client)?.overflow > 0);
    let half = || {
        wait::until("half of the buckets to be taken", wait::SOON, || {
            Ok((Counters::read(&net.client)?.live >= BUCKETS / 2).then_some(()))
        })
    };
    let traffic = || paced(&client, &server, overflows);
    let (report, moments) = report_amid(tracer, traffic, half)?;
    let Some(moments) = moments else { return Ok(None) };
    expect::equal("findings", &vec!["TW008".to_owned()], &ids(&report)?)
        .with_context(|| format!("{report:#}"))?;
    let full = finding(&report, "TW008")?;
    expect::equal("severity", &Some("warning"), &full["severity"].as_str())?;
    let predicted = figure(full, "seconds_to_full")?;
    let margin = &report["margins"]["namespaces"][0]["buckets"]["seconds_to_full"];
    expect::equal("the margin", &Some(predicted), &margin.as_f64())?;
    // The last connection is the first that found no bucket.
    let overflowed = moments.last().context("no connection")?;
    foretold("overflow", &moments, seconds(&report["at"])?, predicted, *overflowed).map(Some)
}

/// One line, performance data, and an exit code for each state.
pub fn check_is_a_monitoring_plugin(lab: &Lab) -> Result<()> {
    let net = topology::pair()?;
    ephemeral_ports(&net.client, 20_000, 20_099)?;
    let server = Server::start(&net.server, &format!("{SERVER}:8080"), Behaviour::AnswersEof)?;
    Client::new(&net.client).short_connections(server.addr(), 50)?;
    let attach = lab.attach();
    let netns = net.client.name();
    let check = [&["check", "--netns", netns, "--for", "100ms"], &attach[..]].concat();
    for (warn, crit, code, word) in
        [("50", "90", 0, "OK"), ("49", "90", 1, "WARNING"), ("10", "49", 2, "CRITICAL")]
    {
        let args = [&check[..], &["--warn", warn, "--crit", crit]].concat();
        let output = twtrace::run(lab, &args)?;
        let text = String::from_utf8_lossy(&output.stdout);
        expect::that(output.status.code() == Some(code), || twtrace::shown(&output))?;
        let beginning = format!("TWTRACE {word} - 50% of ports 10.1.0.1 -> 10.1.0.2:8080");
        let fits = text.starts_with(&beginning) && text.lines().count() == 1;
        expect::that(fits, || twtrace::shown(&output))?;
        let limits = format!("{warn};{crit};0");
        let shares = format!("| worst=50.0%;{limits} ports=50.0%;{limits} buckets=");
        let counts =
            " time_wait=50;;;0 entered_rate=0.0;;;0 overflow=0;;;0 lost=0;;;0 missing=0;;;0";
        let complete = text.contains(&shares) && text.ends_with(counts);
        expect::that(complete, || twtrace::shown(&output))?;
    }
    for wrong in
        [&["--warn", "90", "--crit", "70"][..], &["--warn", "high"], &["--netns", "absent"]]
    {
        let args = [&["check"], &attach[..], wrong].concat();
        let output = twtrace::run(lab, &args)?;
        let text = String::from_utf8_lossy(&output.stdout);
        expect::that(output.status.code() == Some(3), || twtrace::shown(&output))?;
        expect::that(text.starts_with("TWTRACE UNKNOWN - "), || twtrace::shown(&output))?;
    }
    Ok(())
}
