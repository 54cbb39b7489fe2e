//! The unit of `packaging/` under a real systemd.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result};
use caps::Capability;
use serde_json::Value;

use super::daemon::{held, let_go, totals_in};
use super::owners::by_owner;
use crate::equation::{Ledger, settled};
use crate::expect;
use crate::lab::Lab;
use crate::netns::Netns;
use crate::summary::Totals;
use crate::systemd::{Systemd, UNIT};
use crate::topology::{self, SERVER};
use crate::traffic::{Behaviour, Client, Server};
use crate::twtrace::{Tracer, finished, shown};

/// Where the documentation has the settings.
const CONFIG: &str = "/etc/twtrace/twtrace.toml";
/// Where the unit keeps the history.
const STATE: &str = "/var/lib/twtrace/state";

/// A field of a process's `/proc/PID/status`.
fn of_process(pid: u32, field: &str) -> Result<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let value = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    Ok(value.with_context(|| format!("no {field} in\n{status}"))?.trim().to_owned())
}

fn totals_of(systemd: &Systemd, netns: &Netns) -> Result<Totals> {
    totals_in(&systemd.ask("/v1/peers?top=1000")?, netns)
}

/// The status, with the words of `limits`.
fn limits(systemd: &Systemd) -> Result<Vec<String>> {
    let status = systemd.ask("/v1/status")?;
    let limits = status["limits"].as_array().context("limits")?;
    Ok(limits.iter().filter_map(Value::as_str).map(str::to_owned).collect())
}

/// Started, it counts with the rights of the unit and no others; reloaded, it goes on; stopped, it
/// leaves the history and nothing else.
pub fn counts_reloads_and_stops(_: &Lab) -> Result<()> {
    let systemd = Systemd::start()?;
    fs::write(systemd.path(CONFIG), "metrics_peers = 5\n")?;
    // Comes back once the daemon has said that it counts.
    systemd.ctl(&["enable", "--now", "twtrace"])?;
    let pid = systemd.main()?;
    is_confined(&systemd, pid)?;

    let net = topology::pair()?;
    let server = Server::start(&net.server, &format!("{SERVER}:8080"), Behaviour::AnswersEof)?;
    let client = Client::new(&net.client);
    let ledger = Ledger::open(&net.client)?;
    client.short_connections(server.addr(), 40)?;
    settled(&net.client, 40)?;
    let totals = Totals { entered: 40, live: 40, ..Totals::default() };
    ledger.agrees_with(&totals)?;
    expect::equal("totals", &totals, &totals_of(&systemd, &net.client)?)?;
    expect::equal("limits", &Vec::<String>::new(), &limits(&systemd)?)?;

    thread::scope(|scope| {
        let traffic = scope.spawn(|| client.short_connections(server.addr(), 160));
        for times in 1..=3 {
            fs::write(systemd.path(CONFIG), format!("metrics_peers = {}\n", 5 + times))?;
            systemd.ctl(&["reload", "twtrace"])?;
            systemd.await_journal("read again; changed: metrics_peers", times)?;
        }
        fs::write(systemd.path(CONFIG), "metrics_peers = \"many\"\n")?;
        let output = systemd.run(&["systemctl", "reload", "twtrace"])?;
        expect::that(!output.status.success(), || "a faulty file was taken".to_owned())?;
        systemd.await_journal("twtrace.toml:1:17", 1)?;
        traffic.join().map_err(|_| anyhow::anyhow!("the traffic panicked"))?
    })?;
    settled(&net.client, 200)?;
    let totals = Totals { entered: 200, live: 200, ..Totals::default() };
    ledger.agrees_with(&totals)?;
    expect::equal("totals after reloads", &totals, &totals_of(&systemd, &net.client)?)?;
    let lost = systemd.ask("/v1/summary")?["totals"]["lost"].as_u64();
    expect::equal("lost", &Some(0), &lost)?;
    systemd.await_property("ActiveState", "active")?;
    expect::equal("main process after reloads", &pid, &systemd.main()?)?;

    a_second_one_is_refused(&systemd)?;
    let held = held(pid)?;
    expect::that(held.0.len() >= 4 && held.1.len() >= 4, || format!("held: {held:?}"))?;
    systemd.ctl(&["stop", "twtrace"])?;
    expect::equal("result", &"success".to_owned(), &systemd.property("Result")?)?;
    expect::that(systemd.path(STATE).is_file(), || systemd.journal())?;
    expect::that(!systemd.path("/run/twtrace").exists(), || "/run/twtrace is there".to_owned())?;
    let_go(&held)?;

    // The settings are faulty still, and stay so: it does not come up, and is not tried again.
    let output = systemd.run(&["systemctl", "start", "twtrace"])?;
    expect::that(!output.status.success(), || "it started with faulty settings".to_owned())?;
    expect::equal("exit status", &"2".to_owned(), &systemd.property("ExecMainStatus")?)?;
    expect::equal("state", &"failed".to_owned(), &systemd.property("SubState")?)?;
    expect::equal("restarts", &"0".to_owned(), &systemd.property("NRestarts")?)
}

/// Two services that this systemd runs have exactly their own sockets, also once they are gone; the same of
/// a service started again is the same owner's.
pub fn sockets_by_service(lab: &Lab) -> Result<()> {
    let systemd = Systemd::start()?;
    let net = topology::pair()?;
    let server = Server::start(&net.server, &format!("{SERVER}:8080"), Behaviour::AnswersEof)?;
    let own = std::env::current_exe()?.display().to_string();
    let serial = std::process::id();
    let services = [("till", 7), ("shop", 12)].map(|(name, count)| {
        let text = format!(
            "[Service]\nType=exec\nNetworkNamespacePath={}\nExecStart={own} traffic {} {count} stay\n",
            net.client.path().display(),
            server.addr()
        );
        (format!("{name}{serial}.service"), text, count)
    });
    let units = systemd.path("/etc/systemd/system");
    for (name, text, _) in &services {
        fs::write(units.join(name), text)?;
    }
    systemd.ctl(&["daemon-reload"])?;
    let only = ["--netns", net.client.name(), "--by", "owner"];
    let tracer = Tracer::watch(lab, &only)?;
    let mut all = 0;
    for (name, _, count) in &services {
        systemd.ctl(&["start", name])?;
        all += count;
        settled(&net.client, all).with_context(|| systemd.journal())?;
    }
    systemd.ctl(&["restart", &services[0].0])?;
    settled(&net.client, all + 7).with_context(|| systemd.journal())?;
    let rows = by_owner(&tracer.finish()?)?;
    let want = [(services[0].0.clone(), 14), (services[1].0.clone(), 12)].into();
    expect::equal("entered by service", &want, &rows)?;
    for (name, ..) in &services {
        systemd.ctl(&["stop", name])?;
    }
    Ok(())
}

/// It is nobody but the unit's user, with no right but the unit's, less what only attaching needs.
fn is_confined(systemd: &Systemd, pid: u32) -> Result<()> {
    let passwd = fs::read_to_string(systemd.path("/etc/passwd"))?;
    let line = passwd.lines().find(|line| line.starts_with("twtrace:")).context("no user")?;
    let uid = line.split(':').nth(2).context("uid")?;
    expect::equal("users", &[uid; 4].join("\t"), &of_process(pid, "Uid")?)?;
    expect::equal("NoNewPrivs", &"1".to_owned(), &of_process(pid, "NoNewPrivs")?)?;
    expect::equal("Seccomp, 2 being a filter", &"2".to_owned(), &of_process(pid, "Seccomp")?)?;
    let mask = |names: &str| -> Result<String> {
        let masks = names.split_whitespace().map(|name| Ok(name.parse::<Capability>()?.bitmask()));
        Ok(format!("{:016x}", masks.sum::<Result<u64>>()?))
    };
    let given = UNIT.lines().find_map(|line| line.strip_prefix("AmbientCapabilities="));
    let given = given.context("the unit's capabilities")?;
    let kept: Vec<_> = given.split(' ').filter(|name| *name != "CAP_PERFMON").collect();
    expect::equal("bounding set", &mask(given)?, &of_process(pid, "CapBnd")?)?;
    for set in ["CapEff", "CapPrm"] {
        expect::equal(set, &mask(&kept.join(" "))?, &of_process(pid, set)?)?;
    }
    let namespace = |pid: &str, kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}"));
    let own = namespace("self", "net")?;
    expect::equal("network namespace", &own, &namespace(&pid.to_string(), "net")?)?;
    Ok(())
}

/// A daemon that is started beside the unit says who is there already.
fn a_second_one_is_refused(systemd: &Systemd) -> Result<()> {
    let config = systemd.path(CONFIG);
    fs::write(&config, "")?;
    let second = systemd.run(&["/usr/bin/twtrace", "daemon"])?;
    fs::write(&config, "metrics_peers = \"many\"\n")?;
    expect::equal("exit status of a second one", &Some(1), &second.status.code())?;
    let said = String::from_utf8_lossy(&second.stderr);
    let holder = format!("process {} (/usr/bin/twtrace daemon)", systemd.property("MainPID")?);
    expect::that(said.contains(&holder), || format!("{holder} is not named:\n{said}"))
}

/// Halted, it is ended and started again, and knows what was kept.
pub fn is_started_again(_: &Lab) -> Result<()> {
    let systemd = Systemd::start()?;
    let drop_in = systemd.path("/etc/systemd/system/twtrace.service.d");
    fs::create_dir(&drop_in)?;
    // Halted, it does not heed the abort either.
    fs::write(drop_in.join("watchdog.conf"), "[Service]\nWatchdogSec=8s\nTimeoutAbortSec=2s\n")?;
    systemd.ctl(&["daemon-reload"])?;
    systemd.ctl(&["start", "twtrace"])?;

    let net = topology::pair()?;
    let server = Server::start(&net.server, &format!("{SERVER}:8309"), Behaviour::AnswersEof)?;
    let client = Client::new(&net.client);
    client.short_connections(server.addr(), 20)?;
    settled(&net.client, 20)?;
    systemd.ctl(&["restart", "twtrace"])?;
    expect::equal("restarts", &"0".to_owned(), &systemd.property("NRestarts")?)?;
    client.short_connections(server.addr(), 5)?;
    settled(&net.client, 25)?;
    expect::equal("entered", &5, &totals_of(&systemd, &net.client)?.entered)?;

    let first = systemd.main()?;
    systemd.ctl(&["kill", "--kill-who=main", "--signal=STOP", "twtrace"])?;
    systemd.await_property("NRestarts", "1")?;
    systemd.await_property("ActiveState", "active")?;
    systemd.await_journal("Watchdog timeout", 1)?;
    expect::that(systemd.main()? != first, || "it is the same process".to_owned())?;

    client.short_connections(server.addr(), 10)?;
    settled(&net.client, 35)?;
    let totals = totals_of(&systemd, &net.client)?;
    expect::equal("entered since, and live", &(10, 35), &(totals.entered, totals.live))?;
    // What the first one counted was kept when it was started anew, what the second one counted
    // went with it; the third one's is there.
    let history = systemd.ask(&format!("/v1/peers/{SERVER}:8309/history"))?;
    let minutes = history.pointer("/histories/0/minutes").and_then(Value::as_array);
    let minutes = minutes.with_context(|| format!("no minutes in {history:#}"))?;
    let entered: u64 = minutes.iter().filter_map(|minute| minute["entered"].as_u64()).sum();
    expect::equal("entered in the minutes kept", &30, &entered)
        .with_context(|| format!("{history:#}\n{}", systemd.journal()))
}

/// By systemd's own measure the unit can do little harm: under 2.0, of 10.
pub fn is_exposed_little(_: &Lab) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let unit = directory.path().join("twtrace.service");
    fs::write(&unit, UNIT)?;
    let mut command = Command::new("systemd-analyze");
    command.args(["security", "--no-pager", "--offline=true", "--threshold=19"]).arg(&unit);
    let output = finished(&mut command)?;
    expect::that(output.status.success(), || shown(&output))?;
    drop_ins_are_understood(directory.path(), &unit)
}

/// systemd takes each line of the unit and of its drop-ins.
fn drop_ins_are_understood(directory: &Path, unit: &Path) -> Result<()> {
    // Wherever the program is: it need not be installed.
    fs::write(unit, UNIT.replace("/usr/bin/twtrace", "/bin/true"))?;
    let drop_ins = directory.join("twtrace.service.d");
    fs::create_dir(&drop_ins)?;
    for (name, text) in DROP_INS {
        let file = drop_ins.join(name);
        fs::write(&file, text)?;
        let mut command = Command::new("systemd-analyze");
        command.args(["verify", "--man=no"]).arg(unit).env("SYSTEMD_UNIT_PATH", search(directory));
        let output = finished(&mut command)?;
        let said = shown(&output);
        // Of other units of this host it may say what it will.
        expect::that(!said.contains("twtrace"), || format!("{name}: {said}"))?;
        fs::remove_file(&file)?;
    }
    Ok(())
}

/// That directory before all others.
fn search(directory: &Path) -> String {
    format!("{}:", directory.display())
}

/// The drop-ins as they are delivered.
const DROP_INS: [(&str, &str); 3] = [
    ("twtrace-tracepoint.conf", include_str!("../../../packaging/twtrace-tracepoint.conf")),
    ("twtrace-listen.conf", include_str!("../../../packaging/twtrace-listen.conf")),
    ("twtrace-kprobe-events.conf", include_str!("../../../packaging/twtrace-kprobe-events.conf")),
];
