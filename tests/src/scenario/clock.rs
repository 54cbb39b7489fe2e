//! The time of day is set while the daemon runs. Only inside a virtual machine, with no other
//! scenario beside it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use rustix::time::{ClockId, Timespec, clock_settime};
use serde_json::Value;

use super::daemon::totals_in;
use crate::counters::Counters;
use crate::daemon::Daemon;
use crate::equation::{Ledger, settled};
use crate::lab::Lab;
use crate::netns::Netns;
use crate::summary::Totals;
use crate::topology::{self, CLIENT, SERVER};
use crate::traffic::{Behaviour, Client, Server};
use crate::{expect, guest, http, wait};

/// The daemon's clock is taken anew once it is so far off.
const OFF: Duration = Duration::from_secs(1);

/// The format that says when counters began.
const OPENMETRICS: &str = "application/openmetrics-text;version=1.0.0";

/// Most connections that come meanwhile: the machine keeps 8,192 sockets in TIME_WAIT.
const MOST: u64 = 2000;

/// The server of this scenario, which no other one has.
const PORT: &str = "8310";

/// The machine's time of day, which is right again when this is dropped.
struct TimeOfDay {
    begun: (SystemTime, Instant),
    set_by: i64,
}

impl TimeOfDay {
    fn new() -> Result<Self> {
        ensure!(guest::is_here(), "the clock is set in virtual machines alone");
        Ok(Self { begun: (SystemTime::now(), Instant::now()), set_by: 0 })
    }

    /// Sets it so many hours off the right one.
    fn set(&mut self, hours: i64) -> Result<()> {
        self.set_by = hours * 3600;
        let right =
            (self.begun.0 + self.begun.1.elapsed()).duration_since(SystemTime::UNIX_EPOCH)?;
        let tv_sec = i64::try_from(right.as_secs())? + self.set_by;
        let time = Timespec { tv_sec, tv_nsec: right.subsec_nanos().into() };
        clock_settime(ClockId::Realtime, time).context("setting the time of day")
    }

    /// What the clock, as it is set now, would have shown at a right time.
    fn seen(&self, right: SystemTime) -> SystemTime {
        let by = Duration::from_secs(self.set_by.unsigned_abs());
        if self.set_by < 0 { right - by } else { right + by }
    }
}

impl Drop for TimeOfDay {
    fn drop(&mut self) {
        let _ = self.set(0);
    }
}

/// A daemon with the right times between which its counting began.
struct Observed {
    daemon: Daemon,
    from: SystemTime,
    to: SystemTime,
}

impl Observed {
    fn start(time: &TimeOfDay, start: impl FnOnce() -> Result<Daemon>) -> Result<Self> {
        let right = || time.begun.0 + time.begun.1.elapsed();
        let from = right();
        let daemon = start()?;
        Ok(Self { daemon, from, to: right() })
    }

    /// That it began is told by the clock as it is set now: in its status, and by all counters.
    fn began_when_it_did(&self, time: &TimeOfDay) -> Result<()> {
        let (from, to) = (time.seen(self.from) - OFF, time.seen(self.to) + OFF);
        let between = |what: &str, moment: SystemTime| {
            expect::that((from..=to).contains(&moment), || {
                format!("{what} is {moment:?}, not between {from:?} and {to:?}")
            })
        };
        let status = self.daemon.ask("/v1/status")?;
        between("since", moment(&status["since"])?)?;
        let metrics = http::local_as(&self.daemon.socket(), "/metrics", OPENMETRICS)?;
        let created: Vec<_> = metrics.lines().filter(|line| line.contains("_created")).collect();
        expect::that(created.len() > 10, || {
            format!("few counters say when they began:\n{metrics}")
        })?;
        for line in created {
            let seconds: f64 = line.rsplit(' ').next().context("a value")?.parse()?;
            between(line, SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds))?;
        }
        Ok(())
    }
}

/// A moment in a document.
fn moment(value: &Value) -> Result<SystemTime> {
    let text = value.as_str().with_context(|| format!("{value} is no moment"))?;
    humantime::parse_rfc3339(text).with_context(|| format!("{text} is no moment"))
}

/// The minutes of the only peer: in order, none of them later than now, and with all its entries.
fn minutes_hold(daemon: &Daemon, time: &TimeOfDay, begun: SystemTime, want: u64) -> Result<()> {
    let document = daemon.ask(&format!("/v1/peers/{SERVER}:{PORT}/history"))?;
    let told = || format!("{document:#}\n{}", daemon.log());
    let minutes = document.pointer("/histories/0/minutes").and_then(Value::as_array);
    let minutes = minutes.with_context(told)?;
    let begins =
        minutes.iter().map(|minute| moment(&minute["from"])).collect::<Result<Vec<_>>>()?;
    expect::that(begins.is_sorted_by(|one, next| one < next), told)?;
    let (first, last) = begins.first().zip(begins.last()).with_context(told)?;
    let minute = Duration::from_secs(60);
    expect::that(*last <= SystemTime::now(), || format!("in the future: {}", told()))?;
    expect::that(*first >= time.seen(begun) - minute - OFF, || format!("long ago: {}", told()))?;
    let entered = minutes.iter().filter_map(|minute| minute["entered"].as_u64()).sum();
    expect::equal("entered in all minutes", &want, &entered).with_context(told)
}

/// Set back by hours and forward again while connections come and go, the daemon counts exactly,
/// measures lifetimes, keeps the minutes in order and the history over restarts, and tells times
/// that go with the clock.
pub fn set_back_and_forward(lab: &Lab) -> Result<()> {
    let mut time = TimeOfDay::new()?;
    let begun = time.begun.0;
    let net = topology::pair()?;
    // A port that is bound is taken over all the same, and no other one.
    net.client.set("ipv4/tcp_tw_reuse", "0")?;
    topology::ephemeral_ports(&net.client, 40_000, 60_000)?;
    let server = Server::start(&net.server, &format!("{SERVER}:{PORT}"), Behaviour::AnswersEof)?;
    let mut first = Observed::start(&time, || Daemon::start(lab, &[]))?;
    let ledger = Ledger::open(&net.client)?;
    let began = Instant::now();
    first.began_when_it_did(&time)?;

    // Ten ports are used again, under a clock that is five hours behind when they are.
    let again = |count: u16| (0..count).map(|port| format!("{CLIENT}:{}", 40_000 + port));
    for from in again(10) {
        Client::new(&net.client).bound_to(&from).short_connections(server.addr(), 1)?;
    }
    let made = while_they_come(&net.client, &server, || time.set(-5))?;
    wait::pass(Duration::from_millis(1500));
    for from in again(10) {
        Client::new(&net.client).bound_to(&from).short_connections(server.addr(), 1)?;
    }
    let totals = Totals { entered: made + 20, reused: 10, live: made + 10, ..Totals::default() };
    settled(&net.client, totals.live)?;
    ledger.agrees_with(&totals)?;
    counted(&first.daemon, &net.client, totals)?;
    let document = first.daemon.ask(&format!("/v1/peers/{SERVER}:{PORT}"))?;
    let lifetime = |what: &str| {
        let figure = document.pointer(&format!("/peers/0/lifetime_ms/{what}"));
        figure.and_then(Value::as_u64).with_context(|| format!("no {what} in {document:#}"))
    };
    expect::equal("lifetimes measured", &10, &lifetime("count")?)
        .with_context(|| format!("{document:#}"))?;
    let (longest, so_far) = (lifetime("max")?, began.elapsed().as_millis());
    expect::that((1_500..=so_far).contains(&u128::from(longest)), || {
        format!("a lifetime of {longest} ms, {so_far} ms after the start:\n{document:#}")
    })?;
    first.began_when_it_did(&time)?;
    minutes_hold(&first.daemon, &time, begun, totals.entered)?;

    // What is written under the wrong clock is read under it, and under another one.
    let stopped = first.daemon.stop()?;
    expect::that(stopped.success(), || format!("{stopped}\n{}", first.daemon.log()))?;
    let mut second = Observed::start(&time, || Daemon::after(lab, &first.daemon))?;
    minutes_hold(&second.daemon, &time, begun, totals.entered)?;
    let more = while_they_come(&net.client, &server, || time.set(3))?;
    settled(&net.client, totals.live + more)?;
    let since = Totals { entered: more, live: totals.live + more, ..Totals::default() };
    counted(&second.daemon, &net.client, since)?;
    second.began_when_it_did(&time)?;
    minutes_hold(&second.daemon, &time, begun, totals.entered + more)?;

    second.daemon.stop()?;
    time.set(-2)?;
    let third = Daemon::after(lab, &second.daemon)?;
    minutes_hold(&third, &time, begun, totals.entered + more)?;
    expect::that(!third.log().contains("set aside"), || third.log())
}

/// Does something while connections come, one after the other, before and after it; gives their
/// number.
fn while_they_come(
    client: &Netns,
    server: &Server,
    job: impl FnOnce() -> Result<()>,
) -> Result<u64> {
    let over = AtomicBool::new(false);
    let before = Counters::read(client)?.live;
    thread::scope(|scope| {
        let traffic = scope.spawn(|| {
            let mut made = 0;
            while !over.load(Ordering::Relaxed) {
                if made < MOST {
                    Client::new(client).short_connections(server.addr(), 10)?;
                    made += 10;
                } else {
                    wait::pass(Duration::from_millis(10));
                }
            }
            anyhow::Ok(made)
        });
        let some = wait::until("the first connections", wait::SOON, || {
            Ok((Counters::read(client)?.live >= before + 20).then_some(()))
        });
        let done = some.and_then(|()| job());
        over.store(true, Ordering::Relaxed);
        let made = traffic.join().map_err(|_| anyhow::anyhow!("the traffic panicked"))??;
        done.map(|()| made)
    })
}

/// What the daemon has of the client, with nothing lost.
fn counted(daemon: &Daemon, client: &Netns, want: Totals) -> Result<()> {
    let totals = totals_in(&daemon.ask("/v1/peers?top=1000")?, client)?;
    expect::equal("totals", &want, &totals).map_err(|error| daemon.told(error))?;
    let lost = daemon.ask("/v1/summary")?["totals"]["lost"].as_u64();
    expect::equal("lost", &Some(0), &lost)
}
