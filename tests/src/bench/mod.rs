//! What twtrace costs: measurements, as `cargo xtask bench` runs them here and in virtual machines.
//!
//! `twtrace-tests bench AREA... [--quick] [--attach WAYS] [--object OBJECTS] [--connections N]`
//! writes one JSON object a line to stdout: a sample, a point of a curve, or a remark. Nothing is judged here. Quick runs do everything
//! once and small, and prove only that it works.

mod agent;
mod audit;
mod burst;
mod endtoend;
mod fleet;
mod growth;
mod idle;
mod kernel;
mod load;
mod screen;
mod snapshot;
mod soak;
mod start;
mod tools;

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use crate::lab::{self, Backend, Lab, Object, Way};

/// What every area is given.
pub struct Bench {
    /// The way to attach and the program.
    pub lab: Lab,
    /// Small, for a look whether it works.
    pub quick: bool,
    /// Connections that the area `kernel` looks at, where not its own number: for machines that
    /// are slow.
    pub connections: Option<usize>,
}

/// One area of measurement.
type Area = (&'static str, fn(&Bench) -> Result<()>);

/// All areas, in the order they are run.
const AREAS: [Area; 9] = [
    ("start", start::run),
    ("idle", idle::run),
    ("kernel", kernel::run),
    ("endtoend", endtoend::run),
    ("snapshot", snapshot::run),
    ("burst", burst::run),
    ("growth", growth::run),
    ("audit", audit::run),
    ("screen", screen::run),
];

/// Runs the areas asked for, or all.
pub fn main(mut args: Vec<String>) -> Result<()> {
    let attach = crate::take_option(&mut args, "--attach")?;
    let attach = Backend::list(attach.as_deref().unwrap_or("tracepoint"))?;
    let objects = crate::take_option(&mut args, "--object")?;
    let objects = Object::list(objects.as_deref().unwrap_or("ringbuf"))?;
    let connections = crate::take_option(&mut args, "--connections")?;
    let connections = connections.map(|count| count.parse()).transpose()?;
    let named = crate::take_option(&mut args, "--twtrace")?;
    let (flags, areas): (Vec<_>, Vec<_>) = args.iter().partition(|arg| arg.starts_with("--"));
    if let Some(unknown) = flags.iter().find(|flag| **flag != "--quick") {
        bail!("bench does not know {unknown}");
    }
    if let Some(unknown) = areas.iter().find(|area| AREAS.iter().all(|(name, _)| name != *area)) {
        bail!("there is no area {unknown}");
    }
    for Way { backend, object } in Way::among(&attach, &objects) {
        let twtrace = lab::find_twtrace(named.as_deref())?;
        let lab = Lab { backend, object, btf: None, twtrace };
        let bench = Bench { lab, quick: !flags.is_empty(), connections };
        for (name, run) in AREAS {
            if areas.is_empty() || areas.iter().any(|area| *area == name) {
                eprintln!("bench: {name}, {}", backend.name());
                run(&bench).with_context(|| format!("measuring {name}"))?;
            }
        }
    }
    Ok(())
}

/// `twtrace-tests fleet [--hosts N] [--minutes N] [--attach WAY] [--twtrace PATH]`.
pub fn fleet(mut args: Vec<String>) -> Result<()> {
    let hosts = crate::take_option(&mut args, "--hosts")?;
    let hosts = hosts.as_deref().unwrap_or("1000").parse().context("--hosts")?;
    let minutes = crate::take_option(&mut args, "--minutes")?;
    let minutes: f64 = minutes.as_deref().unwrap_or("6").parse().context("--minutes")?;
    let attach = crate::take_option(&mut args, "--attach")?;
    let attach = Backend::list(attach.as_deref().unwrap_or("tracepoint"))?;
    let twtrace = lab::find_twtrace(crate::take_option(&mut args, "--twtrace")?.as_deref())?;
    if let Some(unknown) = args.first() {
        bail!("fleet does not know {unknown}");
    }
    let lab = Lab { backend: attach[0], object: Object::RingBuf, btf: None, twtrace };
    fleet::run(&lab, hosts, Duration::from_secs_f64(minutes * 60.0))
}

/// `twtrace-tests soak [--minutes N] [--attach WAYS] [--object OBJECTS] [--twtrace PATH]`.
pub fn soak(mut args: Vec<String>) -> Result<()> {
    let minutes = crate::take_option(&mut args, "--minutes")?;
    let minutes: f64 = minutes.as_deref().unwrap_or("3").parse().context("--minutes")?;
    let attach = crate::take_option(&mut args, "--attach")?;
    let attach = Backend::list(attach.as_deref().unwrap_or("tracepoint"))?;
    let objects = crate::take_option(&mut args, "--object")?;
    let objects = Object::list(objects.as_deref().unwrap_or("ringbuf"))?;
    let twtrace = lab::find_twtrace(crate::take_option(&mut args, "--twtrace")?.as_deref())?;
    if let Some(unknown) = args.first() {
        bail!("soak does not know {unknown}");
    }
    for Way { backend, object } in Way::among(&attach, &objects) {
        let lab = Lab { backend, object, btf: None, twtrace: twtrace.clone() };
        let bench = Bench { lab, quick: false, connections: None };
        soak::run(&bench, Duration::from_secs_f64(minutes * 60.0))?;
    }
    Ok(())
}

impl Bench {
    /// A number for a real run, or that of a quick one.
    fn size<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }
}

/// Writes one sample of a figure. Samples of one name belong together, in their order.
fn sample(name: &str, unit: &str, value: f64) {
    println!("{}", json!({ "name": name, "unit": unit, "value": value }));
}

/// Writes one point of a curve.
fn point(name: &str, unit: &str, x: f64, value: f64) {
    println!("{}", json!({ "name": name, "unit": unit, "x": x, "value": value }));
}

/// Writes a remark for the reader of the figures.
fn note(text: &str) {
    println!("{}", json!({ "note": text }));
}
