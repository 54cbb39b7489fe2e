//! `twtrace report`.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use super::{
    SessionError,
    gather::{Watcher, observe_for},
    log::say,
    observe::{self, Plan},
    stop::Stop,
    what_if::{OBSERVE, Worlds},
};
use crate::{
    chronicle::Chronicle,
    cli::{AskDaemon, ObserveArgs, ReportArgs},
    event::Event,
    feed::Core,
    files,
    names::Namer,
    peer::minutes::Minute,
    recording::StreamEnd,
    summary::{RowChoice, Summary},
    text::visible,
    view::report::{self, Report},
    what_if::Remedy,
};

/// What is kept of a session beside what a summary knows.
#[derive(Debug)]
struct Observed {
    chronicle: Chronicle,
    worlds: Worlds,
}

impl Watcher for Observed {
    fn event(&mut self, event: &Event) {
        self.chronicle.event(event);
        self.worlds.event(event);
    }

    fn moment(&mut self, core: &Core) {
        self.worlds.moment(core);
        let Some(moment) = core.moment() else { return };
        if let Some(facts) = &moment.facts {
            self.chronicle.facts(moment.clock, facts);
        }
        if self.chronicle.wants(moment.clock.mono_ns, core.aggregate().table().rows().len()) {
            // No row: what is wanted are the totals, the findings and the limits.
            let choice = RowChoice { top: Some(0), ..RowChoice::default() };
            if let Ok(summary) = core.summary(&choice) {
                self.chronicle.sample(&summary, moment.clock, core.ready_ns());
            }
        }
    }

    fn interval(&self) -> Option<Duration> {
        Some(Duration::from_secs(1))
    }
}

/// Observes for a while, or takes a recording in, or asks the daemon what it remembers; then writes
/// the page.
///
/// # Errors
/// [`SessionError`]; that a recording is not whole is told after the page was written.
pub async fn report(args: &ReportArgs) -> Result<ExitCode, SessionError> {
    let mut asked = args.observe.clone();
    if args.since.is_some() {
        // Nobody else remembers anything.
        if asked.daemon == AskDaemon::Never {
            let problem = "--since tells what the daemon remembers, which --daemon never forbids";
            return Err(SessionError::Usage(problem.into()));
        }
        asked.daemon = AskDaemon::Always;
    }
    // Before anything is observed for a minute: whether there will be a page.
    let out = files::create(&args.out).map_err(|source| unwritable(&args.out, &source))?;
    let made = make(args, &asked, out).await;
    // Of a session that came to nothing there is no page, not an empty one.
    if made.is_err() && std::fs::metadata(&args.out).is_ok_and(|it| it.is_file() && it.len() == 0) {
        let _ = std::fs::remove_file(&args.out);
    }
    made
}

/// Observes, and writes the page.
async fn make(args: &ReportArgs, asked: &ObserveArgs, out: File) -> Result<ExitCode, SessionError> {
    let plan =
        Plan { record: args.keep.record.clone().map(|path| (path, None)), ..Plan::default() };
    let mut stop = Stop::listen()?;
    let mut namer = Namer::of(&args.names.names)?;
    let worlds = Worlds::of(Remedy::usual());
    let mut seen = Observed { chronicle: Chronicle::default(), worlds };
    let mut pipeline = observe::open(asked, plan, &mut |event| seen.event(event)).await?;
    seen.worlds.begin(pipeline.core().origin());
    let duration = match (asked.duration, &asked.replay, args.since) {
        (Some(duration), ..) => Some(duration),
        (None, None, None) => Some(OBSERVE),
        (None, None, Some(_)) => Some(Duration::ZERO),
        (None, Some(_), _) => None,
    };
    if duration != Some(Duration::ZERO) {
        seen.moment(pipeline.core());
        observe_for(&mut pipeline, &mut stop, asked, duration, &mut seen).await?;
    }
    observe::catch_up(&mut pipeline, asked, &mut |event| seen.event(event)).await?;
    let choice = RowChoice { with_past: args.since.is_some(), ..RowChoice::default() };
    let mut summary =
        observe::last_summary(&mut pipeline, asked, &choice, &mut |event| seen.event(event))?;
    observe::give_names(&mut summary, namer.as_mut(), observe::PATIENCE);
    let core = pipeline.core();
    seen.worlds.moment(core);
    seen.chronicle.finish(&summary, core.clock(), core.ready_ns());
    let minutes_from = args.since.map(|since| {
        sort_by_past(&mut summary);
        let since_ns = i64::try_from(since.as_nanos()).unwrap_or(i64::MAX);
        Minute::at(core.clock().mono_ns.cast_signed().saturating_sub(since_ns))
    });
    let broken = broken(asked, pipeline.end());
    let page = Report {
        summary: &summary,
        origin: core.origin(),
        chronicle: &seen.chronicle,
        minutes_from,
        what_if: seen.worlds.told().filter(|_| duration != Some(Duration::ZERO)),
        broken: broken.as_deref(),
    };
    let mut out = BufWriter::new(out);
    report::write(&mut out, &page)
        .and_then(|()| out.flush())
        .map_err(|source| unwritable(&args.out, &source))?;
    say(&format!("the report is in {}", visible(&args.out.display().to_string())));
    pipeline.finish_recording()?;
    observe::ended_well(&pipeline, asked)?;
    Ok(ExitCode::SUCCESS)
}

/// Puts the rows that had most entries in a daemon's memory first.
fn sort_by_past(summary: &mut Summary) {
    summary.rows.sort_by_cached_key(|row| {
        let past: u64 = row.minutes.iter().map(|minute| u64::from(minute.entered)).sum();
        std::cmp::Reverse(past.max(row.counts.entered))
    });
}

/// Why the page does not tell all, if it does not.
fn broken(args: &ObserveArgs, end: Option<&StreamEnd>) -> Option<String> {
    match end {
        Some(StreamEnd::Broken(error)) => {
            Some(format!("{error}. This page is of what comes before."))
        }
        Some(StreamEnd::Whole) if args.replay.is_none() => {
            Some("the daemon stopped. This page is of what came before.".into())
        }
        _ => None,
    }
}

fn unwritable(path: &Path, source: &io::Error) -> SessionError {
    let named = format!("{}: {source}", visible(&path.display().to_string()));
    SessionError::Output(io::Error::new(source.kind(), named))
}
