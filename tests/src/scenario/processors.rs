//! A processor goes offline and comes back. Only inside a virtual machine, with no other scenario
//! beside it.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::equation::{Ledger, settled};
use crate::lab::{Lab, Object, Way};
use crate::summary::Totals;
use crate::topology::{self, CLIENT, SERVER};
use crate::traffic::{Behaviour, Client, Server};
use crate::{counters, expect, guest};

/// The processor that goes, and what takes it off.
const GOES: usize = 1;
const ONLINE: &str = "/sys/devices/system/cpu/cpu1/online";

/// A ring buffer of the kernel's own tracing, of this scenario alone.
const TRACING: &str = "/sys/kernel/tracing/instances/twtrace-tests";

/// Sockets made at a time.
const SOCKETS: u16 = 100;

/// Timers that move to another processor end nothing and enter nothing; what comes while it is away
/// and after it is back is counted as before.
pub fn timers_move(lab: &Lab) -> Result<()> {
    ensure!(guest::is_here(), "processors are taken off in virtual machines alone");
    if !Path::new(ONLINE).exists() {
        // A machine has one where no other ever starts: see `cargo xtask vm`.
        return Ok(());
    }
    for way in Way::ALL {
        through(&Lab::new(way, &lab.twtrace)).with_context(|| format!("through {}", way.name()))?;
    }
    Ok(())
}

fn through(lab: &Lab) -> Result<()> {
    let net = topology::pair()?;
    let ledger = Ledger::open(&net.client)?;
    let tracer = super::watch(lab, &net.client)?;
    // A packet is received, and a timer set, where it was sent from: both ends are there.
    let addr = format!("{SERVER}:8080");
    let server = there(|| Server::start(&net.server, &addr, Behaviour::AnswersEof))?;
    let connect = |first: u16| {
        (first..first + SOCKETS).try_for_each(|port| {
            let from = format!("{CLIENT}:{port}");
            Client::new(&net.client).bound_to(&from).short_connections(server.addr(), 1)
        })
    };
    let sockets = u64::from(SOCKETS);
    there(|| connect(20_000))?;

    let away = Away::begin()?;
    expect::that(away.moved >= SOCKETS.into(), || format!("{} timers moved", away.moved))?;
    settled(&net.client, sockets)?;
    connect(21_000)?;
    // Each takes the port of one whose timer moved, which is its end.
    connect(20_000)?;
    let (mut entered, mut reused, mut live) = (3 * sockets, sockets, 2 * sockets);
    // A perf buffer is gone for good with its processor.
    let stays_away = (lab.object == Object::Perf).then_some(away);
    if stays_away.is_none() {
        there(|| connect(22_000))?;
        there(|| connect(22_000))?;
        (entered, reused, live) = (entered + 2 * sockets, reused + sockets, live + sockets);
    }

    let want = Totals { entered, reused, live, ..Totals::default() };
    let summary = super::totals_are(tracer, &ledger, want)?;
    let rearmed = summary.peer(net.client.inum(), &addr)?.number("/rearmed")?;
    // A machine that stands still longer than an RTO sends a FIN again, which does start a timer
    // anew: at most one for each, where timers that move are a hundred.
    let again = counters::retransmitted(&net.client)? + counters::retransmitted(&net.server)?;
    expect::that(rearmed <= again, || {
        format!("{rearmed} re-armed, {again} segments were sent again")
    })
}

/// Does something on the processor that goes.
fn there<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    super::on_processor(GOES, work)
}

/// The processor is offline until this is dropped.
struct Away {
    /// Timers of TIME_WAIT sockets that were set anew by its going.
    moved: usize,
}

impl Away {
    fn begin() -> Result<Self> {
        let tracing = Path::new(TRACING);
        fs::create_dir(tracing).with_context(|| format!("{}", tracing.display()))?;
        let counted = Self::counting(tracing);
        fs::remove_dir(tracing).with_context(|| format!("{}", tracing.display()))?;
        counted
    }

    fn counting(tracing: &Path) -> Result<Self> {
        let starts = tracing.join("events/timer/timer_start/enable");
        fs::write(&starts, "1").context("tracing timers")?;
        fs::write(ONLINE, "0").with_context(|| format!("0 to {ONLINE}"))?;
        let mut away = Self { moved: 0 };
        fs::write(&starts, "0").context("tracing timers no more")?;
        let trace = fs::read_to_string(tracing.join("trace")).context("what was traced")?;
        away.moved = trace.lines().filter(|line| line.contains("tw_timer_handler")).count();
        Ok(away)
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        let _ = fs::write(ONLINE, "1");
    }
}
