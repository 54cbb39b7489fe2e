//! The clocks of this process are not those of the kernel programs.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::lab::Lab;
use crate::traffic::{Behaviour, Client, Server};
use crate::{expect, topology, twtrace};

/// How far times of day may be off: what the recording's moments are apart.
const OFF: Duration = Duration::from_secs(2);

/// In a time namespace a day ahead, everything is told of the time of day at which it happened.
pub fn a_day_ahead(lab: &Lab) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let ahead = directory.path().join("a-day-ahead");
    let script = format!(
        "#!/bin/sh\nexec unshare --time --monotonic 86400 '{}' \"$@\"\n",
        lab.twtrace.display()
    );
    fs::write(&ahead, script)?;
    fs::set_permissions(&ahead, fs::Permissions::from_mode(0o755))?;
    let lab = Lab { twtrace: ahead, ..lab.clone() };

    let net = topology::pair()?;
    let server = Server::start(&net.server, "10.1.0.2:8080", Behaviour::AnswersEof)?;
    let began = SystemTime::now();
    let kept = directory.path().join("kept");
    let kept = kept.to_str().context("a path that is no text")?;
    let question = ["watch", "-o", "json", "--netns", net.client.name(), "--record", kept];
    let running = twtrace::Running::start(&lab, &question)?;
    Client::new(&net.client).short_connections(server.addr(), 5)?;
    crate::equation::settled(&net.client, 5)?;
    running.stop()?;
    let (from, to) = (began - OFF, SystemTime::now() + OFF);

    let exported = twtrace::run(&lab, &["export", kept, "--format", "ndjson"])?;
    let text = String::from_utf8(exported.stdout)?;
    let events: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    expect::equal("events", &5, &events.len())?;
    for event in &events {
        let time = event["time"].as_str().unwrap_or_default();
        let then = (from..=to).contains(&humantime::parse_rfc3339(time)?);
        expect::that(then, || format!("{time} is not between {from:?} and {to:?}"))?;
        expect::equal("cookie", &net.client.cookie()?, &event["netns_cookie"].as_u64())?;
    }
    Ok(())
}
