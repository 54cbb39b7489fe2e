//! Observing without showing anything until the end: what all reports have in common.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::{
    SessionError,
    observe::{self, Plan},
    stop::Stop,
};
use crate::{
    cli::{ObserveArgs, PeerAddress},
    pipeline::{DRAIN_INTERVAL, Drained, Pipeline},
    summary::{RowChoice, Summary},
};

/// Observes all peers, or one, for as long as the user said or else for `usual` or until a signal,
/// or a recording to its end; then gives the summary with the rows chosen.
///
/// # Errors
/// [`SessionError`].
pub async fn gather(
    args: &ObserveArgs,
    peer: Option<PeerAddress>,
    usual: Option<Duration>,
    choice: RowChoice,
) -> Result<Summary, SessionError> {
    let wanted = peer.map(PeerAddress::selection).unwrap_or_default();
    let mut stop = Stop::listen()?;
    let mut pipeline = observe::open(args, Plan { wanted, ..Plan::default() }, &mut |_| {}).await?;
    let usual = usual.filter(|_| args.replay.is_none());
    observe_for(&mut pipeline, &mut stop, args.duration.or(usual)).await?;
    observe::tell_end(&pipeline, args);
    Ok(pipeline.summary(choice, &mut |_| {})?)
}

/// Takes in what comes until something ends it. A time is that of what is taken in: a recording
/// of a minute has a minute, however fast it is read.
pub async fn observe_for(
    pipeline: &mut Pipeline,
    stop: &mut Stop,
    duration: Option<Duration>,
) -> Result<(), SessionError> {
    let live = !pipeline.is_stream();
    stop.after(duration.filter(|_| live));
    let mut drain = interval(DRAIN_INTERVAL);
    drain.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = stop.wait() => return Ok(()),
            readable = pipeline.readable() => readable?,
            _ = drain.tick() => {}
        }
        match pipeline.drain(&mut |_| {})? {
            Drained::End => return Ok(()),
            Drained::Moment if duration.is_some_and(|time| pipeline.core().elapsed() >= time) => {
                return Ok(());
            }
            _ => {}
        }
    }
}
