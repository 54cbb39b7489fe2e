//! The page of an incident, as a real browser sees it: Chromium, driven by Playwright, at three widths,
//! light and dark.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::expect;
use crate::lab::Lab;
use crate::recordings::{EGRESS, MARKUP, Traffic, origin, record, record_catalogue};
use crate::topology::{self, ROUTED, SERVER, ephemeral_ports};
use crate::traffic::{Behaviour, Client, Server};
use crate::twtrace::{self, Running};

/// Names a Python that has Playwright.
const PYTHON: &str = "TWTRACE_PYTHON";
/// What it does with the browser.
const LOOK: &str = include_str!("../../browser/look.py");
/// What the pages that are always the same have to look like.
const REFERENCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/browser/references");
/// A page is not larger, whatever is on it.
const MOST_BYTES: u64 = 300_000;

/// Writes the page of a recording; `whole` says whether that has its end, `more` what else is asked for.
fn page_of(lab: &Lab, recording: &Path, whole: bool, more: &[&str]) -> Result<PathBuf> {
    let page = recording.with_extension("html");
    let [out, file] = [&page, recording].map(|path| path.to_str().unwrap_or_default().to_owned());
    let output = twtrace::run(lab, &[&["report", &out, "--replay", &file], more].concat())?;
    let status = i32::from(!whole);
    expect::equal("exit status", &Some(status), &output.status.code())
        .with_context(|| twtrace::shown(&output))?;
    Ok(page)
}

/// The two services of the lab, and a page of what happens meanwhile.
fn of_the_story(lab: &Lab, page: &Path) -> Result<()> {
    let net = topology::routed()?;
    topology::strip_timestamps(&net.router)?;
    net.client.set("ipv4/tcp_tw_reuse", "1")?;
    ephemeral_ports(&net.client, 20_000, 20_199)?;
    let direct = Server::start(&net.direct, &format!("{SERVER}:8080"), Behaviour::AnswersEof)?;
    let behind = Server::start(&net.behind, &format!("{ROUTED}:8080"), Behaviour::AnswersEof)?;
    let out = page.to_str().context("a path")?;
    let args = ["report", out, "--for", "1h", "--netns", net.client.name()];
    let running = Running::start(lab, &[&args[..], &twtrace::SMALL].concat())?;
    let client = Client::new(&net.client);
    let mut failed = 0;
    for _ in 0..15 {
        client.try_connections(direct.addr(), 10)?;
        failed += client.try_connections(behind.addr(), 20)?.no_port;
        crate::wait::pass(std::time::Duration::from_millis(150));
    }
    running.stop()?;
    let text = fs::read_to_string(page)?;
    expect::equal("calls that failed", &100, &failed)?;
    for said in ["TW001 critical", "100 calls failed for want of a port", "timestamps=1"] {
        let said_so = text.contains(said) || text.replace("</strong>", "").contains(said);
        expect::that(said_so, || format!("it does not say {said:?}:\n{text}"))?;
    }
    Ok(())
}

/// A few connections, and nothing wrong.
fn of_a_healthy_host(lab: &Lab, page: &Path) -> Result<()> {
    let net = topology::pair()?;
    let server = Server::start(&net.server, &format!("{SERVER}:8080"), Behaviour::AnswersEof)?;
    let out = page.to_str().context("a path")?;
    let args = ["report", out, "--for", "1h", "--netns", net.client.name()];
    let running = Running::start(lab, &[&args[..], &twtrace::SMALL].concat())?;
    Client::new(&net.client).short_connections(server.addr(), 5)?;
    running.stop()?;
    let text = fs::read_to_string(page)?;
    expect::that(text.contains("No finding"), || format!("a finding on a healthy host:\n{text}"))
}

/// Every kind of page is opened; a hostile one does nothing.
pub fn in_a_browser(lab: &Lab) -> Result<()> {
    let python = std::env::var(PYTHON).with_context(|| {
        format!(
            "{PYTHON} names no Python with Playwright; `cargo xtask test` makes one and names it"
        )
    })?;
    let directory = tempfile::tempdir()?;
    let place = |name: &str| directory.path().join(name);
    let story = place("story.html");
    of_the_story(lab, &story)?;
    let healthy = place("healthy.html");
    of_a_healthy_host(lab, &healthy)?;
    let faults = Traffic { seconds: 20, rate: 100, peers: 40, faults: true };
    let crowd = Traffic { seconds: 8, rate: 8_200, peers: 65_536, faults: false };
    let cut = Traffic { seconds: 20, rate: 50, peers: 3, faults: false };
    record(&place("hostile.twt"), &origin(MARKUP), &faults);
    record(&place("faults.twt"), &origin("host"), &faults);
    record(&place("crowd.twt"), &origin("host"), &crowd);
    record(&place("cut.twt"), &origin("host"), &cut);
    let bytes = fs::read(place("cut.twt"))?;
    fs::write(place("cut.twt"), &bytes[..bytes.len() - 40])?;
    let mut pages = vec![("story", story), ("healthy", healthy)];
    for name in ["hostile", "faults", "crowd", "cut"] {
        pages.push((name, page_of(lab, &place(name).with_extension("twt"), name != "cut", &[])?));
    }
    record_catalogue(&place("catalogue.twt"));
    let catalogue = page_of(lab, &place("catalogue.twt"), true, &["--egress", EGRESS])?;
    pages.push(("catalogue", catalogue));
    for (name, page) in &pages {
        let bytes = fs::metadata(page)?.len();
        expect::that(bytes < MOST_BYTES, || format!("{name}: {bytes} bytes"))?;
    }
    let shots =
        std::env::var_os("TWTRACE_SCREENSHOTS").map_or_else(|| place("shots"), PathBuf::from);
    let seen = look(&python, &pages, &shots)?;
    for (name, _) in &pages {
        let page = &seen[name];
        expect::equal(name, &json!([]), &page["faults"])?;
        for (what, least) in [("links", 8), ("figures", 3)] {
            let count = page[what].as_u64().unwrap_or(0);
            expect::that(count >= least, || format!("{name}: {count} {what}"))?;
        }
    }
    Ok(())
}

/// What the browser says of pages.
fn look(python: &str, pages: &[(&str, PathBuf)], shots: &Path) -> Result<Value> {
    let whole = |name: &str| ["story", "faults"].contains(&name);
    // Made up, they are the same each time.
    let kept = |name: &str| ["faults", "crowd", "cut"].contains(&name);
    let page = |(name, path): &(&str, PathBuf)| json!({ "name": name, "path": path, "whole": whole(name), "kept": kept(name) });
    let pages: Vec<Value> = pages.iter().map(page).collect();
    let mut child = Command::new(python)
        .args(["-c", LOOK])
        .arg(shots)
        .arg(REFERENCES)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{python} could not be started"))?;
    let mut stdin = child.stdin.take().context("standard input")?;
    stdin.write_all(Value::from(pages).to_string().as_bytes())?;
    drop(stdin);
    let output = child.wait_with_output()?;
    expect::that(output.status.success(), || twtrace::shown(&output))?;
    serde_json::from_slice(&output.stdout).context("what the browser said")
}

/// What a daemon remembers is told by the minute, though the page was asked for later.
pub fn of_what_a_daemon_remembers(lab: &Lab) -> Result<()> {
    let net = topology::pair()?;
    let server = Server::start(&net.server, &format!("{SERVER}:8080"), Behaviour::AnswersEof)?;
    let daemon = Daemon::start(lab, &[])?;
    Client::new(&net.client).short_connections(server.addr(), 37)?;
    let directory = tempfile::tempdir()?;
    let page = directory.path().join("a.html");
    let out = page.to_str().context("a path")?;
    let socket = daemon.socket().to_str().context("a path")?.to_owned();
    let netns = net.client.name();
    let args = ["report", out, "--since", "2h", "--socket", &socket, "--netns", netns];
    let output = twtrace::run(lab, &args)?;
    expect::that(output.status.success(), || twtrace::shown(&output))?;
    let text = fs::read_to_string(&page)?;
    for said in ["10.1.0.2:8080", "37 entered in this time", "by the minute"] {
        expect::that(text.contains(said), || format!("it does not say {said:?}:\n{text}"))?;
    }
    let refused = twtrace::run(lab, &["report", out, "--since", "2h", "--daemon", "never"])?;
    expect::equal("usage", &Some(2), &refused.status.code())
}
