//! What `what-if` foretells, against what then really happens: the same traffic is recorded once, and
//! run again with the setting changed.
//!
//! The truth is the kernel's: the calls' own answers, and the ports held by the sockets that
//! `/proc/net/tcp` lists while it runs, with the age that their timers tell.

mod calls;
mod cases;

use std::thread;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::expect;
use crate::lab::Lab;
use crate::twtrace::{self, Running};
use calls::{How, Truth, run, watched};
use cases::{CASES, Case, Change, Recorded, Stage, Traffic};

/// Kinds of traffic that are recorded, and cases that are run, at a time: of more, calls come late.
const AT_ONCE: usize = 6;

/// Traffic that was recorded, and how many of its calls failed.
struct Played {
    stage: Stage,
    failed: u64,
}

/// What is foretold of a namespace: with nothing changed, and with what is set.
fn foretold(lab: &Lab, file: &str, netns: &str, set: &[&str]) -> Result<[Truth; 2]> {
    let sets = set.iter().flat_map(|setting| ["--set", setting]);
    let args = ["what-if", "--replay", file, "--netns", netns, "-o", "json"];
    let args: Vec<&str> = args.into_iter().chain(sets).collect();
    let output = twtrace::run(lab, &args)?;
    expect::that(output.status.success(), || twtrace::shown(&output))?;
    let document: Value = serde_json::from_slice(&output.stdout)?;
    let told = |index: usize| {
        let told = &document["predictions"][index];
        let failed = told["failed"].as_u64();
        let failed = failed.with_context(|| format!("no prediction in {document:#}"))?;
        let peak = told["port_spaces"][0]["peak"].as_u64().unwrap_or(0);
        Ok::<_, anyhow::Error>(Truth { failed, peak })
    };
    Ok([told(0)?, told(1)?])
}

/// Does all at the same time, each on a thread of its own.
fn together<T: Sync, R: Send>(all: &[T], play: impl Fn(&T) -> Result<R> + Sync) -> Result<Vec<R>> {
    thread::scope(|scope| {
        let plays: Vec<_> = all.iter().map(|one| scope.spawn(|| play(one))).collect();
        let join = |play: thread::ScopedJoinHandle<'_, Result<R>>| {
            play.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a client panicked")))
        };
        plays.into_iter().map(join).collect()
    })
}

/// Traffic of these kinds, recorded together; nothing of that in which a call was late.
fn recorded(lab: &Lab, file: &str, kinds: &[Recorded]) -> Result<Vec<Option<Played>>> {
    let stages: Vec<Stage> =
        kinds.iter().map(|from| Stage::recorded(*from)).collect::<Result<_>>()?;
    let recording = Running::start(lab, &[&["record", file][..], &twtrace::SMALL].concat())?;
    let failed = together(&stages, |stage| {
        let bound = stage.from.traffic == Traffic::BoundFirst;
        let how = if bound { How::BoundFirst } else { How::Plain };
        run(&stage.net.client, &stage.to, how).with_context(|| format!("{:?}", stage.from))
    })?;
    recording.stop()?;
    let played = |(stage, failed): (Stage, Option<u64>)| Some(Played { stage, failed: failed? });
    Ok(stages.into_iter().zip(failed).map(played).collect())
}

/// Does this of each, [`AT_ONCE`] at a time, and again of those that were not as meant.
fn each<T: Copy, R>(all: &[T], of: impl Fn(&[T]) -> Result<Vec<Option<R>>>) -> Result<Vec<R>> {
    let mut done: Vec<Option<R>> = all.iter().map(|_| None).collect();
    super::until_as_meant(|| {
        let left: Vec<usize> = (0..all.len()).filter(|one| done[*one].is_none()).collect();
        for left in left.chunks(AT_ONCE) {
            let these: Vec<T> = left.iter().map(|one| all[*one]).collect();
            left.iter().zip(of(&these)?).for_each(|(one, result)| done[*one] = result);
        }
        Ok(done.iter().all(Option::is_some).then_some(()))
    })?;
    Ok(done.into_iter().flatten().collect())
}

/// Whether two counts are as near as a tenth, or a few.
fn near(foretold: u64, truth: u64, few: u64) -> bool {
    foretold.abs_diff(truth) <= (truth / 10).max(few)
}

/// Whether it was foretold wrongly.
fn wrong(case: &Case, foretold: &Truth, truth: &Truth) -> bool {
    let as_meant = (truth.failed > 0) == case.still_fails;
    // Which call comes too early for a port is a matter of a millisecond where ports come back meanwhile.
    let timed = case.taken_over() || matches!(case.how, How::Kept(_));
    let failed = match timed && case.still_fails {
        true => foretold.failed > 0 && near(foretold.failed, truth.failed, 1),
        false => foretold.failed == truth.failed,
    };
    // A connection under way, and one that was when the open ones were listed: they come and go between
    // two looks.
    !(as_meant && failed && near(foretold.peak, truth.peak, 2))
}

/// Each setting, foretold from one recording and then run.
pub fn foretells_what_then_happens(lab: &Lab) -> Result<()> {
    compare(lab, |case| lab.sees_binds() || !case.needs_refused_binds())
}

/// What depends on the kernel: ports that are wanted by `bind()`, and when a port may be taken over.
pub fn foretells_refused_binds_and_takeovers(lab: &Lab) -> Result<()> {
    compare(lab, |case| case.needs_refused_binds() || case.change == Change::Reuse)
}

/// Each of these cases, foretold from one recording and then run.
fn compare(lab: &Lab, is_meant: impl Fn(&Case) -> bool) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("r.twt");
    let file = file.to_str().context("a path")?;
    let cases: Vec<&Case> = CASES.iter().filter(|case| is_meant(case)).collect();
    let mut kinds: Vec<Recorded> = Vec::new();
    for case in &cases {
        if !kinds.contains(&case.from) {
            kinds.push(case.from);
        }
    }
    // Of each kind what its cases come to by the recording in which it was in time.
    let foretold_of = each(&kinds, |kinds| {
        let told = |played: Played| {
            let netns = played.stage.net.client.name();
            let of = cases.iter().filter(|case| case.from == played.stage.from);
            let of = of.map(|case| foretold(lab, file, netns, case.set));
            Ok::<_, anyhow::Error>((played.failed, of.collect::<Result<Vec<_>>>()?))
        };
        let played = recorded(lab, file, kinds)?.into_iter();
        played.map(|played| played.map(told).transpose()).collect()
    })?;
    let truths = each(&cases, |cases| {
        together(cases, |case| {
            let Stage { net, to, .. } = &Stage::changed(case)?;
            watched(&net.client, to, case.how, case.taken_over())
        })
    })?;
    let mut table = String::new();
    let mut any = false;
    for (kind, (failed, told)) in kinds.iter().zip(&foretold_of) {
        let of = cases.iter().zip(&truths).filter(|(case, _)| case.from == *kind);
        for ((case, truth), [as_it_was, foretold]) in of.zip(told) {
            let bad = as_it_was.failed != *failed || wrong(case, foretold, truth);
            any |= bad;
            table += &format!(
                "{}{:?} of {kind:?}, of which {failed} failed and {} by the model: {foretold:?}, \
                 really {truth:?}\n",
                if bad { "WRONG " } else { "" },
                case.set,
                as_it_was.failed,
            );
        }
    }
    expect::that(!any, || table)
}
