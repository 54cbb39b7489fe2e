//! Scenario tests of twtrace: real TCP in network namespaces, against the kernel's own counters.
//!
//! As process 1 this program is the init of a virtual machine; otherwise it is a test harness
//! that takes libtest's arguments and its own: `--attach LIST`, `--object LIST`, `--twtrace PATH`,
//! `--kernel NAME` for which kernel this is, `--core` for the core alone, and `--covering KERNELS` for its share of what covers
//! the scenarios on all of those.

mod alertmanager;
mod bench;
mod cgroup;
mod counters;
mod daemon;
mod dashboard;
mod equation;
mod evidence;
mod expect;
mod guest;
mod http;
mod lab;
mod netns;
mod packet;
mod prometheus;
mod recordings;
mod room;
mod scenario;
mod script;
mod select;
mod server;
mod service;
mod sockopt;
mod ss;
mod story;
mod summary;
mod systemd;
mod terminal;
mod topology;
mod traffic;
mod twtrace;
mod wait;

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use libtest_mimic::{Arguments, Failed, FormatSetting, Trial};

use crate::lab::{Backend, Lab, Object, Way};
use crate::room::PLACES;
use crate::scenario::Weight;
use crate::select::{Case, Extent, Kernel};

fn main() -> ExitCode {
    let mut args: Vec<String> = std::env::args().collect();
    if std::process::id() == 1 && args.get(1).is_none_or(|word| word != systemd::WORD) {
        guest::init();
    }
    let outcome = match args.get(1).map(String::as_str) {
        Some("lab") => story::main(&args[2..]),
        Some("full-screen-panic") => scenario::full_screen::panics(),
        Some(scenario::owners::WORD) => {
            scenario::owners::through_groups(&args[2..]).map(|()| ExitCode::SUCCESS)
        }
        Some("traffic") => scenario::session::traffic(&args[2..]).map(|()| ExitCode::SUCCESS),
        Some(systemd::WORD) => systemd::become_it(),
        Some("fleet") => bench::fleet(args.split_off(2)).map(|()| ExitCode::SUCCESS),
        Some("soak") => bench::soak(args.split_off(2)).map(|()| ExitCode::SUCCESS),
        Some("bench") => bench::main(args.split_off(2)).map(|()| ExitCode::SUCCESS),
        _ => harness(args),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("twtrace-tests: {error:#}");
        ExitCode::from(2)
    })
}

fn harness(mut args: Vec<String>) -> Result<ExitCode> {
    let own = take_option(&mut args, "--kernel")?.unwrap_or_else(|| select::HOST.to_owned());
    let covering = take_option(&mut args, "--covering")?;
    let ways = take_ways(&mut args, &own)?;
    let named = take_option(&mut args, "--twtrace")?;
    let kernels = match &covering {
        Some(list) => list.split(',').map(Kernel::named).collect(),
        None => vec![Kernel { label: own.clone(), ways: ways.clone() }],
    };
    let core = args.iter().position(|arg| arg == "--core").map(|at| args.remove(at));
    let extent = match (core, &covering) {
        (Some(_), _) => Extent::Core,
        (None, Some(_)) => Extent::Covering,
        (None, None) => Extent::All,
    };
    let mut cases = select::select(&kernels, extent);
    cases.retain(|case| case.kernel.label == own && ways.contains(&case.way));
    let mut args = Arguments::from_iter(args);
    let waiting = cases.iter().filter(|case| case.scenario.weight == Weight::LongWait).count();
    args.test_threads.get_or_insert(PLACES + waiting);
    let twtrace = if args.list { "twtrace".into() } else { lab::find_twtrace(named.as_deref())? };
    let tells = args.format == Some(FormatSetting::Json);
    let trials: Vec<_> = cases.into_iter().map(|case| trial(case, &twtrace, tells)).collect();
    if tells {
        trials
            .iter()
            .filter(|trial| wanted(&args, trial))
            .for_each(|trial| note("plan", trial.name()));
    }
    Ok(libtest_mimic::run(&args, trials).exit_code())
}

/// The ways that the arguments leave: on a host the tracepoints unless they say otherwise.
fn take_ways(args: &mut Vec<String>, kernel: &str) -> Result<Vec<Way>> {
    let all = if kernel == select::HOST { "tracepoint" } else { "fentry,kprobe,tracepoint" };
    let backends = take_option(args, "--attach")?;
    let objects = take_option(args, "--object")?;
    let backends = Backend::list(backends.as_deref().unwrap_or(all))?;
    Ok(Way::among(&backends, &Object::list(objects.as_deref().unwrap_or("ringbuf,perf"))?))
}

/// Whether a trial is run with these arguments, as far as anybody here uses them.
fn wanted(args: &Arguments, trial: &Trial) -> bool {
    let fits = |filter: &String| {
        if args.exact { trial.name() == filter } else { trial.name().contains(filter) }
    };
    args.filter.as_ref().is_none_or(fits) && !args.skip.iter().any(fits)
}

fn trial(Case { scenario, way, .. }: Case<'_>, twtrace: &Path, tells: bool) -> Trial {
    let lab = Lab::new(way, twtrace);
    let name = format!("{}::{}", way.name(), scenario.name);
    Trial::test(name.clone(), move || {
        let _room = room::take(way, scenario.weight);
        evidence::begin();
        if tells {
            note("begun", &name);
        }
        let began = Instant::now();
        let outcome = (scenario.run)(&lab);
        if tells {
            note(&format!("took {:.1}", began.elapsed().as_secs_f64()), &name);
        }
        outcome.map_err(|error| Failed::from(evidence::of(&error)))
    })
}

/// Tells `cargo xtask` of a scenario: libtest's own events say too late what runs, and not how long.
fn note(word: &str, name: &str) {
    // In one piece, since others write there as well; that nobody listens is no failure.
    let _ = std::io::stderr().write_all(format!("twtrace-tests: {word} {name}\n").as_bytes());
}

/// Takes `NAME VALUE` or `NAME=VALUE` out of the arguments, which libtest would refuse.
fn take_option(args: &mut Vec<String>, name: &str) -> Result<Option<String>> {
    let Some(at) = args.iter().position(|arg| {
        arg == name || arg.strip_prefix(name).is_some_and(|rest| rest.starts_with('='))
    }) else {
        return Ok(None);
    };
    let arg = args.remove(at);
    if let Some((_, value)) = arg.split_once('=') {
        return Ok(Some(value.to_owned()));
    }
    (at < args.len())
        .then(|| Some(args.remove(at)))
        .with_context(|| format!("{name} needs a value"))
}
