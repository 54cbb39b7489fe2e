//! Entries that the kernel programs missed. Only inside a virtual machine, with no other scenario
//! beside it: there is one switch for all kprobes of a machine.

use std::fs;

use anyhow::{Context, Result, ensure};

use crate::daemon::Daemon;
use crate::equation::{Ledger, settled};
use crate::lab::{Backend, Lab, Object, Way};
use crate::summary::Totals;
use crate::topology::{self, CLIENT, SERVER};
use crate::traffic::{Behaviour, Client, Server};
use crate::{expect, guest, wait};

/// Disarms all kprobes with 0, and arms them again with 1.
const KPROBES: &str = "/sys/kernel/debug/kprobes/enabled";

/// Entries seen, and as many that are not.
const SOCKETS: u16 = 30;

/// They are found among the sockets that live, count as entries, and their ends are seen.
pub fn found_among_those_that_live(lab: &Lab) -> Result<()> {
    ensure!(guest::is_here(), "kprobes are disarmed in virtual machines alone");
    for way in Way::among(&[Backend::Kprobe], &[Object::RingBuf, Object::Perf]) {
        through(&Lab::new(way, &lab.twtrace)).with_context(|| format!("through {}", way.name()))?;
    }
    Ok(())
}

fn through(lab: &Lab) -> Result<()> {
    let net = topology::pair()?;
    let server = Server::start(&net.server, &format!("{SERVER}:8080"), Behaviour::AnswersEof)?;
    let daemon = Daemon::start(lab, &["--netns", net.client.name()])?;
    let ledger = Ledger::open(&net.client)?;
    let connect = |first: u16| {
        (first..first + SOCKETS).try_for_each(|port| {
            let from = format!("{CLIENT}:{port}");
            Client::new(&net.client).bound_to(&from).short_connections(server.addr(), 1)
        })
    };
    let sockets = u64::from(SOCKETS);
    connect(20_000)?;
    let blind = Disarmed::begin()?;
    connect(21_000)?;
    settled(&net.client, 2 * sockets)?;
    drop(blind);
    wait::until("what was missed to be found", wait::SOON, || {
        let found = daemon.ask("/v1/summary")?["totals"]["adopted"].as_u64();
        Ok((found == Some(sockets)).then_some(()))
    })
    .map_err(|error| daemon.told(error))?;
    let entered = 2 * sockets;
    counted(&daemon, &ledger, Totals { entered, live: entered, ..Totals::default() })?;

    // Each takes the port of one that was missed, which is its end.
    connect(21_000)?;
    let (entered, live) = (3 * sockets, 2 * sockets);
    counted(&daemon, &ledger, Totals { entered, reused: sockets, live, ..Totals::default() })
}

/// The kernel's counts are these, and so are the daemon's, as soon as it has looked again: of what
/// was missed nothing is missing, and no more was found than that.
fn counted(daemon: &Daemon, ledger: &Ledger, want: Totals) -> Result<()> {
    ledger.agrees_with(&want)?;
    let totals = wait::until("the daemon to count the same", wait::SOON, || {
        let totals = daemon.ask("/v1/summary")?["totals"].take();
        Ok((Totals::of(&totals)? == want).then_some(totals))
    })
    .map_err(|error| daemon.told(error))?;
    let told = || format!("{totals:#}\n{}", daemon.log());
    expect::equal("found", &Some(u64::from(SOCKETS)), &totals["adopted"].as_u64())?;
    expect::equal("missing", &Some(0), &totals["audit"]["missing"].as_u64()).with_context(told)
}

/// No kprobe is hit until this is dropped.
struct Disarmed;

impl Disarmed {
    fn begin() -> Result<Self> {
        fs::write(KPROBES, "0").with_context(|| format!("0 to {KPROBES}"))?;
        Ok(Self)
    }
}

impl Drop for Disarmed {
    fn drop(&mut self) {
        let _ = fs::write(KPROBES, "1");
    }
}
