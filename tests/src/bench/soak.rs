//! Minutes or hours at the machine's limit: whatever the kernel counted is counted or told to be
//! missing, and memory does not grow.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::agent::Agent;
use super::load::Site;
use super::{Bench, point};
use crate::counters::Counters;
use crate::expect;

/// Connections of each kind in one round.
const ROUND: u32 = 4_000;
/// Peers, so that their table is full after a while.
const PEERS: u32 = 1 << 20;
/// Memory is looked at again and again from here on: before, the sockets of a minute come together.
const WARM: Duration = Duration::from_secs(180);
/// How much more memory may be in use at the end than at the first such look.
const GROWTH: f64 = 1.2;

/// Opens connections, meets new peers, makes and deletes namespaces, and starts and stops other
/// tracers, all at once and for as long as said, with an agent that looks at the whole host.
pub fn run(bench: &Bench, time: Duration) -> Result<()> {
    let site = Site::loopback()?;
    let before = Counters::read(&site.client)?;
    let agent = Agent::twtrace(bench, &["--max-live", "1048576"])?;
    let began = Instant::now();
    let (mut rounds, mut warm) = (0, None);
    while began.elapsed() < time {
        round(bench, &site, rounds)?;
        rounds += 1;
        let resident = agent.resident()?;
        point("soak/resident", "B", began.elapsed().as_secs_f64(), resident);
        if began.elapsed() >= WARM {
            warm.get_or_insert(resident);
        }
    }
    if let Some(warm) = warm {
        let now = agent.resident()?;
        ensure!(now <= warm * GROWTH, "memory grew from {warm} to {now} bytes");
    }
    let document: Value = serde_json::from_str(&agent.finish()?)?;
    let kernel = Counters::read(&site.client)?.since(before);
    judge(&document, site.client.inum(), kernel)?;
    eprintln!("soak: {rounds} rounds; {:#}", document["totals"]["audit"]);
    site.delete()?;
    Ok(())
}

fn round(bench: &Bench, site: &Site, number: u32) -> Result<()> {
    thread::scope(|scope| {
        let jobs = [
            scope.spawn(|| site.connections_per_second(ROUND as usize).map(drop)),
            scope.spawn(move || {
                let first = number * ROUND % PEERS;
                site.visit(first..first + ROUND)
            }),
            scope.spawn(|| {
                let other = Site::loopback()?;
                other.visit(0..100)?;
                other.delete().map(drop)
            }),
            scope.spawn(|| {
                Agent::twtrace(bench, &["--netns", site.client.name()])?.finish().map(drop)
            }),
        ];
        jobs.into_iter().try_for_each(|job| match job.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })
}

/// Fails unless all that came is accounted for, and all that the kernel counted is counted or told
/// to be missing.
fn judge(document: &Value, netns: u64, kernel: Counters) -> Result<()> {
    let number = |pointer: &str| {
        let value = document.pointer(pointer).and_then(Value::as_u64);
        value.with_context(|| format!("no {pointer} in:\n{:#}", document["totals"]))
    };
    let totals = crate::summary::Totals::of(&document["totals"])?;
    let accounted = totals.accounted() + number("/trust/lost_sockets")?;
    expect::equal("present + entered against live + all ends + lost", &totals.came(), &accounted)?;
    let namespaces = document["totals"]["audit"]["namespaces"].as_array().context("no audit")?;
    let ours = namespaces.iter().find(|namespace| namespace["netns"] == netns);
    let ours = ours.context("the namespace was not compared")?;
    let count = |key: &str| ours[key].as_u64().with_context(|| format!("{key} of {ours}"));
    expect::equal("the kernel's count", &(kernel.tw + kernel.tw_killed), &count("kernel")?)?;
    let told = count("counted")? + count("missing")?;
    expect::equal("counted and missing against the kernel's count", &count("kernel")?, &told)
}
