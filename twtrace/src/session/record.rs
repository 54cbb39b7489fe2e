//! `twtrace record`.

use std::process::ExitCode;

use bytesize::ByteSize;

use super::{
    SessionError,
    log::say,
    observe::{self, Plan},
    progress::Progress,
    stop::Stop,
};
use crate::{
    cli::RecordArgs,
    pipeline::{Pipeline, PipelineError},
    recording::Rotation,
    text::counted,
};

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
    let mut progress = Progress::begin();
    let outcome = keep(&mut pipeline, &mut stop, &mut progress).await;
    drop(progress);
    // The file is ended whatever happened, as far as that can be.
    let finished = pipeline.finish_recording();
    outcome?;
    finished?;
    say(&format!("{} in {}", so_far(&pipeline), args.file.display()));
    Ok(ExitCode::SUCCESS)
}

/// Takes in what comes until something ends it or it cannot be kept.
async fn keep(
    pipeline: &mut Pipeline,
    stop: &mut Stop,
    progress: &mut Progress,
) -> Result<(), PipelineError> {
    while pipeline.is_recording() {
        tokio::select! {
            _ = stop.wait() => return pipeline.look_back(&mut |_| {}),
            readable = pipeline.readable() => readable?,
        }
        pipeline.drain(&mut |_| {})?;
        progress.show(|| format!("recording: {}", so_far(pipeline)));
    }
    Ok(())
}

/// What has been kept, in words.
fn so_far(pipeline: &Pipeline) -> String {
    let counts = pipeline.core().aggregate().table().sum().counts();
    format!(
        "{} entered and {} ended in {:.1} s, {}",
        counted(counts.entered, "sockets"),
        counts.ended_total(),
        pipeline.core().elapsed().as_secs_f64(),
        ByteSize::b(pipeline.recorded()).display().iec()
    )
}
