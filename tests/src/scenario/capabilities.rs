//! The daemon is not root, and has no more rights than its unit gives it.

use anyhow::{Context, Result};
use caps::{Capability, CapsHashSet};
use serde_json::Value;

use crate::daemon::{Daemon, as_nobody};
use crate::lab::{Backend, Lab};
use crate::netns::Netns;
use crate::topology;
use crate::traffic::{Behaviour, Client, Server};
use crate::{expect, http};

const UNIT: &str = include_str!("../../../packaging/twtrace.service");
const TRACEPOINT: &str = include_str!("../../../packaging/twtrace-tracepoint.conf");

/// The capabilities of the unit, with those of the drop-in where only tracepoints work.
fn capabilities(lab: &Lab) -> Result<Vec<Capability>> {
    let drop_in = if lab.backend.sees_functions() { "" } else { TRACEPOINT };
    let lines = UNIT.lines().chain(drop_in.lines());
    lines
        .filter_map(|line| line.strip_prefix("AmbientCapabilities="))
        .flat_map(str::split_whitespace)
        .map(|name| name.parse().with_context(|| format!("{name} is no capability")))
        .collect()
}

/// Entries of a peer in a namespace, as the daemon has them. No two scenarios have the same peer: a
/// namespace may have the number of one that is gone.
fn entered(daemon: &Daemon, peer: &str, netns: &Netns) -> Result<u64> {
    let document = daemon.ask(&format!("/v1/peers/{peer}"))?;
    let peers = document["peers"].as_array().context("rows")?;
    let own = peers.iter().filter(|peer| peer["netns"] == netns.inum());
    Ok(own.filter_map(|peer| peer["entered"].as_u64()).sum())
}

fn limits(daemon: &Daemon) -> Result<Vec<String>> {
    let status = daemon.ask("/v1/status")?;
    let limits = status["limits"].as_array().context("limits")?;
    Ok(limits.iter().filter_map(Value::as_str).map(str::to_owned).collect())
}

/// Whether it says that it sees refused `bind()` calls.
fn sees_binds(daemon: &Daemon) -> Result<bool> {
    let status = daemon.ask("/v1/status")?;
    let blind = status["blind_spots"].as_array().context("blind spots")?;
    Ok(!blind.iter().any(|spot| spot == "refused bind()"))
}

/// With the unit's capabilities, as nobody, it counts exactly, keeps no right that only attaching
/// needs, lets in whom the socket's mode lets in, and ends cleanly.
pub fn of_the_unit_are_enough(lab: &Lab) -> Result<()> {
    let mut daemon = Daemon::with_capabilities(lab, &capabilities(lab)?, &[])?;
    let net = topology::pair()?;
    let server = Server::start(&net.server, "10.1.0.2:8302", Behaviour::AnswersEof)?;
    Client::new(&net.client).short_connections(server.addr(), 40)?;
    crate::equation::settled(&net.client, 40)?;
    expect::equal("entered", &40, &entered(&daemon, "10.1.0.2:8302", &net.client)?)?;
    let limits = limits(&daemon)?;
    expect::that(!limits.iter().any(|limit| limit.contains("CAP_")), || format!("{limits:#?}"))?;
    expect::equal("sees refused bind()", &lab.sees_binds(), &sees_binds(&daemon)?)?;

    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid()))?;
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .context("CapEff")?;
    for given_up in [Capability::CAP_PERFMON, Capability::CAP_SYSLOG] {
        expect::that(effective & given_up.bitmask() == 0, || format!("{given_up} is still there"))?;
    }

    let nothing = CapsHashSet::new();
    let socket = daemon.socket();
    // Nobody is the socket's owner here; somebody else is in no group of its.
    as_nobody(&nothing, || http::local(&socket, "/healthz").map(drop))?;
    std::fs::set_permissions(&socket, std::os::unix::fs::PermissionsExt::from_mode(0o060))?;
    std::os::unix::fs::chown(&socket, Some(0), Some(0))?;
    let refused = as_nobody(&nothing, || Ok(http::local(&socket, "/healthz")))?;
    let error = refused.err().context("a client without the right to was answered")?;
    expect::that(format!("{error:#}").contains("Permission denied"), || format!("{error:#}"))?;
    http::local(&socket, "/healthz").context("root may always ask")?;

    let status = daemon.stop()?;
    expect::that(status.success(), || format!("{status}\n{}", daemon.log()))?;
    expect::that(daemon.state().is_file(), || "no state was written".to_owned())?;
    expect::that(!socket.exists(), || "the socket is still there".to_owned())
}

/// Without the rights to enter and to find network namespaces it counts just as well, and says
/// what it cannot read.
pub fn that_are_missing_are_named(lab: &Lab) -> Result<()> {
    let less: Vec<_> = capabilities(lab)?
        .into_iter()
        .filter(|one| !matches!(one, Capability::CAP_SYS_ADMIN | Capability::CAP_SYS_PTRACE))
        .collect();
    // There is a namespace to be kept out of from the beginning.
    let net = topology::pair()?;
    let daemon = Daemon::with_capabilities(lab, &less, &[]);
    let paranoid = std::fs::read_to_string("/proc/sys/kernel/perf_event_paranoid")?;
    if lab.backend == Backend::Kprobe && paranoid.trim().parse::<i32>()? > 2 {
        // Debian's kernels: kprobes need the one right, and it is said.
        let error = format!("{:#}", daemon.err().context("it started")?);
        let told = error.contains("perf_event_paranoid above 2") && error.contains("CAP_SYS_ADMIN");
        return expect::that(told, || error);
    }
    let daemon = daemon?;
    let server = Server::start(&net.server, "10.1.0.2:8303", Behaviour::AnswersEof)?;
    Client::new(&net.client).short_connections(server.addr(), 25)?;
    crate::equation::settled(&net.client, 25)?;
    expect::equal("entered", &25, &entered(&daemon, "10.1.0.2:8303", &net.client)?)?;
    // Programs of control groups take more than those of tracepoints.
    expect::equal("sees refused bind()", &lab.backend.sees_functions(), &sees_binds(&daemon)?)?;
    let limits = limits(&daemon)?;
    for name in ["CAP_SYS_ADMIN", "CAP_SYS_PTRACE"] {
        let named = limits.iter().any(|limit| limit.starts_with(&format!("{name} is missing")));
        expect::that(named, || format!("{name} is not named: {limits:#?}"))?;
        let log = daemon.log();
        expect::equal("warnings", &1, &log.matches(&format!("{name} is missing")).count())
            .context(log)?;
    }
    // What follows from it is said once, and not again for each thing that follows.
    let all = [limits.join("\n"), daemon.log()].join("\n");
    let again = all.contains("Operation not permitted");
    expect::that(!again, || format!("one situation is told twice:\n{all}"))
}
