//! Scenario tests of twtrace: real TCP in network namespaces, against the kernel's own counters.
//!
//! As process 1 this program is the init of a virtual machine; otherwise it is a test harness
//! that takes libtest's arguments and its own: `--attach LIST`, `--object LIST`, `--twtrace PATH`,
//! `--only NAMES`, and `--once` for what is enough in one machine of several.

mod bench;
mod cgroup;
mod counters;
mod daemon;
mod equation;
mod expect;
mod guest;
mod http;
mod lab;
mod netns;
mod packet;
mod scenario;
mod script;
mod server;
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

use std::process::ExitCode;
use std::sync::{PoisonError, RwLock};

use anyhow::{Context, Result};
use libtest_mimic::{Arguments, Failed, Trial};

use crate::lab::{Backend, Lab, Object};

/// Scenarios mostly wait for timers, so there are more of them at once than processors.
const THREADS: usize = 6;

/// Held for reading by every scenario, and for writing by one that disturbs all others.
static MACHINE: RwLock<()> = RwLock::new(());

/// Times a scenario may try to make happen what it is about.
const TRIES: usize = 3;

fn main() -> ExitCode {
    let mut args: Vec<String> = std::env::args().collect();
    if std::process::id() == 1 && args.get(1).is_none_or(|word| word != systemd::WORD) {
        guest::init();
    }
    let outcome = match args.get(1).map(String::as_str) {
        Some("lab") => story::main(&args[2..]),
        Some("full-screen-panic") => scenario::full_screen::panics(),
        Some("traffic") => scenario::session::traffic(&args[2..]).map(|()| ExitCode::SUCCESS),
        Some(systemd::WORD) => systemd::become_it(),
        Some("bench") => bench::main(args.split_off(2)).map(|()| ExitCode::SUCCESS),
        _ => harness(args),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("twtrace-tests: {error:#}");
        ExitCode::from(2)
    })
}

fn harness(mut args: Vec<String>) -> Result<ExitCode> {
    let backends = take_option(&mut args, "--attach")?.unwrap_or_else(|| "tracepoint".to_owned());
    let backends = Backend::list(&backends)?;
    let objects = take_option(&mut args, "--object")?.unwrap_or_else(|| "ringbuf,perf".to_owned());
    let objects = Object::list(&objects)?;
    let named = take_option(&mut args, "--twtrace")?;
    let only = take_option(&mut args, "--only")?;
    let once = take_flag(&mut args, "--once");
    let mut args = Arguments::from_iter(args);
    args.test_threads.get_or_insert(THREADS);
    let twtrace = if args.list { "twtrace".into() } else { lab::find_twtrace(named.as_deref())? };
    let trials = scenario::ALL
        .iter()
        .flat_map(|scenario| backends.iter().map(move |backend| (scenario, *backend)))
        .flat_map(|(scenario, backend)| {
            objects.iter().map(move |object| (scenario, backend, *object))
        })
        .filter(|(scenario, backend, object)| scenario.applies(*backend, *object, once))
        .map(|(scenario, backend, object)| {
            // On old kernels the types come in a file: here it is the kernel's own.
            let btf = (object == Object::Perf).then(|| "/sys/kernel/btf/vmlinux".to_owned());
            (scenario, Lab { backend, object, btf, twtrace: twtrace.clone() })
        })
        .filter(|(scenario, lab)| {
            let name = full_name(scenario, lab);
            only.as_ref().is_none_or(|only| only.split(',').any(|wanted| wanted == name))
        })
        .map(|(scenario, lab)| trial(scenario, lab))
        .collect();
    Ok(libtest_mimic::run(&args, trials).exit_code())
}

fn full_name(scenario: &scenario::Scenario, lab: &Lab) -> String {
    let object = match lab.object {
        Object::RingBuf => "",
        Object::Perf => "-perf",
    };
    format!("{}{object}::{}", lab.backend.name(), scenario.name)
}

fn trial(scenario: &'static scenario::Scenario, lab: Lab) -> Trial {
    Trial::test(full_name(scenario, &lab), move || {
        // A scenario that panics leaves nothing half done in a lock without contents.
        let (_alone, _beside);
        if scenario.is_alone() {
            _alone = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
        } else {
            _beside = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
        }
        let mut tries = 1;
        loop {
            match (scenario.run)(&lab) {
                Err(error) if tries < TRIES && is_spoilt(&error) => tries += 1,
                outcome => return outcome.map_err(|error| Failed::from(causes(&error))),
            }
        }
    })
}

/// Whether it was the scenario itself that failed to make happen what it is about, by the kernel's
/// own counters.
fn is_spoilt(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.to_string() == scenario::SPOILT)
}

/// The error and what it came from, one below the other; blocks stay blocks.
fn causes(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).collect::<Vec<_>>().join("\nbecause: ")
}

/// Takes a word out of the arguments; whether it was there.
fn take_flag(args: &mut Vec<String>, name: &str) -> bool {
    let before = args.len();
    args.retain(|arg| arg != name);
    args.len() < before
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
