//! `twtrace record`.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use tokio::time::{Duration, MissedTickBehavior, interval};

use super::{
    SessionError,
    observe::{self, Plan},
    stop::Stop,
};
use crate::{
    cli::RecordArgs,
    pipeline::{DRAIN_INTERVAL, PipelineError},
    recording::Rotation,
};

/// Time between two moments of a recording: what a crash costs at most, and the finest interval
/// that a replay can show.
const MOMENTS: Duration = Duration::from_secs(1);

/// Keeps all that happens in a file, until something ends it.
///
/// # Errors
/// [`SessionError`]; what was written before is whole.
pub async fn record(args: &RecordArgs) -> Result<ExitCode, SessionError> {
    let mut stop = Stop::listen()?;
    let rotation = args.rotate.map(|size| Rotation { bytes: size.as_u64(), keep: args.keep });
    let plan = Plan { record: Some((args.file.clone(), rotation)), ..Plan::default() };
    let mut pipeline = observe::open(&args.observe, plan, &mut |_| {}).await?;
    stop.after(args.observe.duration);
    let mut drain = interval(DRAIN_INTERVAL);
    drain.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut moments = interval(MOMENTS);
    moments.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let outcome: Result<(), PipelineError> = async {
        loop {
            tokio::select! {
                _ = stop.wait() => return Ok(()),
                readable = pipeline.readable() => readable?,
                _ = drain.tick() => {}
                _ = moments.tick() => pipeline.look(&mut |_| {})?,
            }
            pipeline.drain(&mut |_| {})?;
        }
    }
    .await;
    // The file is ended whatever happened, as far as that can be.
    let finished = outcome.and_then(|()| {
        pipeline.look(&mut |_| {})?;
        pipeline.finish_recording()
    });
    let counts = pipeline.core().aggregate().table().sum().counts;
    let _ = writeln!(
        io::stderr(),
        "twtrace: {} sockets entered and {} ended in {:.1} s, kept in {}",
        counts.entered,
        counts.ended_total(),
        pipeline.core().elapsed().as_secs_f64(),
        args.file.display()
    );
    finished?;
    Ok(ExitCode::SUCCESS)
}
