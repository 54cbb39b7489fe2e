//! Reading the TIME_WAIT sockets that are there, beside the other ways to read them.

use std::fs;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use twtrace::{
    attached::ObjectKind,
    kernel::{Namespace, Options, Tracer},
};

use super::agent::Agent;
use super::load::Site;
use super::{Bench, sample};
use crate::lab::Backend;

/// Makes the sockets, then reads them again and again in each way.
pub fn run(bench: &Bench) -> Result<()> {
    let count: u32 = bench.size(200_000, 500);
    let site = Site::loopback()?;
    site.visit(0..count)?;
    let namespace = Namespace {
        inum: u32::try_from(site.client.inum())?,
        path: site.client.path(),
        name: None,
        pids: Vec::new(),
    };
    // The tracer registers its buffer with a runtime.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let _inside = runtime.enter();
    let tracer = Tracer::start(&options(bench, namespace.inum))?;
    let netns = site.client.name().to_owned();
    for _ in 0..bench.size(5, 1) {
        let live = site.live()?;
        time("snapshot/twtrace's iterator", live, || {
            Ok(tracer.list_live()?.read(&namespace, |socket| Some(socket.tw))?.len() as u64)
        })?;
        time("snapshot/ss -tan state time-wait", live, || {
            let said = site.client.exec(&["ss", "-Htan", "state", "time-wait"])?;
            Ok(said.lines().count() as u64)
        })?;
        time("snapshot//proc/net/tcp", live, || {
            let text = site.client.run(|| Ok(fs::read_to_string("/proc/thread-self/net/tcp")?))?;
            // The fourth column is the state, 06 TIME_WAIT.
            let in_time_wait = |line: &&str| line.split_ascii_whitespace().nth(3) == Some("06");
            Ok(text.lines().filter(in_time_wait).count() as u64)
        })?;
        let started = Instant::now();
        let agent = Agent::twtrace(bench, &["--netns", &netns, "--max-live", "524288"])?;
        let spent = started.elapsed();
        sample("snapshot/twtrace, from exec to all followed", "ms", spent.as_secs_f64() * 1e3);
        let document: serde_json::Value = serde_json::from_str(&agent.finish()?)?;
        let present =
            document["totals"]["present_at_start"].as_u64().context("present_at_start")?;
        let lost = document["totals"]["lost"].as_u64().context("lost")?;
        sample("snapshot/sockets not seen", "", live.saturating_sub(present) as f64);
        sample("snapshot/events lost", "", lost as f64);
    }
    Ok(())
}

fn options(bench: &Bench, netns: u32) -> Options {
    Options {
        object: Some(ObjectKind::RingBuf),
        attach: Some(match bench.lab.backend {
            Backend::Fentry => twtrace::attached::Backend::Fentry,
            Backend::Kprobe => twtrace::attached::Backend::Kprobe,
            Backend::Tracepoint => twtrace::attached::Backend::Tracepoint,
        }),
        follow_ends: true,
        filter: twtrace_common::Filter { netns, ..Default::default() },
        btf: twtrace::attached::TypesFrom::Kernel,
        max_live: 524_288,
        ring_bytes: 8 << 20,
    }
}

/// Times one reading. Some sockets may expire before it, so how many it found is told as well.
fn time(name: &str, live: u64, read: impl FnOnce() -> Result<u64>) -> Result<()> {
    let started = Instant::now();
    let found = read().with_context(|| name.to_owned())?;
    sample(name, "ms", started.elapsed().as_secs_f64() * 1e3);
    if found > live {
        bail!("{name} found {found} of {live} sockets");
    }
    sample(&format!("{name}, sockets found"), "", found as f64);
    Ok(())
}
