//! Observing without showing anything until the end: what all reports have in common.

use std::{
    io::{self, BufWriter, StdoutLock, Write},
    time::Duration,
};

use tokio::time::interval;

use super::{
    SessionError,
    observe::{self, Plan},
    progress::Progress,
    stop::Stop,
};
use crate::{
    cli::{KeepArgs, NamesArgs, ObserveArgs, PeerAddress},
    event::Event,
    feed::{Core, DRAIN_INTERVAL},
    names::Namer,
    pipeline::{Drained, Pipeline},
    summary::{RowChoice, Summary},
};

/// Time between two looks of a session of which it is not known how long it will be.
const HALF: Duration = Duration::from_secs(5);

/// What a report is about.
#[derive(Clone, Debug, Default)]
pub struct Question {
    /// One peer; all if `None`.
    pub peer: Option<PeerAddress>,
    /// How long is observed when the user does not say; until a signal if `None`.
    pub usual: Option<Duration>,
    /// Which rows.
    pub choice: RowChoice,
    /// What is kept.
    pub keep: KeepArgs,
    /// Where names for peers are taken from.
    pub names: NamesArgs,
}

/// Somebody who looks on while a session takes things in.
pub trait Watcher {
    /// An event was taken in.
    fn event(&mut self, _event: &Event) {}

    /// A moment was told.
    fn moment(&mut self, _core: &Core) {}

    /// How often there has to be a moment; rarely if `None`.
    fn interval(&self) -> Option<Duration> {
        None
    }
}

impl Watcher for () {}

/// Observes for as long as the user said, or else as is usual, or a recording to its end; then
/// shows the summary.
///
/// # Errors
/// [`SessionError`]; that a recording could not be written is told after the answer.
pub async fn gather<T>(
    args: &ObserveArgs,
    question: Question,
    show: impl FnOnce(&mut BufWriter<StdoutLock<'_>>, &Summary) -> io::Result<T>,
) -> Result<T, SessionError> {
    let (mut pipeline, summary) = summed_up(args, question).await?;
    let mut out = BufWriter::new(io::stdout().lock());
    let shown = show(&mut out, &summary)?;
    out.flush()?;
    drop(out);
    pipeline.finish_recording()?;
    observe::ended_well(&pipeline, args)?;
    Ok(shown)
}

/// The same without showing it; what is recorded is yet to be ended.
///
/// # Errors
/// [`SessionError`].
pub async fn summed_up(
    args: &ObserveArgs,
    question: Question,
) -> Result<(Pipeline, Summary), SessionError> {
    let plan = Plan {
        wanted: question.peer.map(PeerAddress::selection).unwrap_or_default(),
        record: question.keep.record.map(|path| (path, None)),
        ..Plan::default()
    };
    let mut namer = Namer::of(&question.names.names)?;
    let mut stop = Stop::listen()?;
    let mut pipeline = observe::open(args, plan, &mut |_| {}).await?;
    let usual = question.usual.filter(|_| args.replay.is_none());
    observe_for(&mut pipeline, &mut stop, args, args.duration.or(usual), &mut ()).await?;
    observe::catch_up(&mut pipeline, args, &mut |_| {}).await?;
    let mut summary = observe::last_summary(&mut pipeline, args, &question.choice, &mut |_| {})?;
    observe::give_names(&mut summary, namer.as_mut(), observe::PATIENCE);
    Ok((pipeline, summary))
}

/// Takes in what comes until something ends it. A time is that of what is taken in: a recording
/// of a minute has a minute, however fast it is read.
///
/// # Errors
/// [`SessionError`].
pub async fn observe_for(
    pipeline: &mut Pipeline,
    stop: &mut Stop,
    args: &ObserveArgs,
    duration: Option<Duration>,
    watcher: &mut impl Watcher,
) -> Result<(), SessionError> {
    let live = !pipeline.is_stream();
    stop.after(duration.filter(|_| live));
    let mut progress = Progress::begin();
    // What grows has to be looked at in between to tell whether it lasts.
    let halves = duration.map_or(HALF, |time| (time / 2).max(DRAIN_INTERVAL));
    let mut halves = interval(watcher.interval().unwrap_or(halves).min(halves));
    halves.reset();
    loop {
        tokio::select! {
            _ = stop.wait() => return Ok(()),
            _ = halves.tick(), if live => {
                pipeline.look(&mut |event| watcher.event(event))?;
                watcher.moment(pipeline.core());
            }
            readable = pipeline.readable() => readable?,
        }
        progress.show_read(pipeline, args);
        match pipeline.drain(&mut |event| watcher.event(event))? {
            Drained::End => return Ok(()),
            Drained::Moment => {
                watcher.moment(pipeline.core());
                if duration.is_some_and(|time| pipeline.core().elapsed() >= time) {
                    return Ok(());
                }
            }
            Drained::Nothing | Drained::Something => {}
        }
    }
}
