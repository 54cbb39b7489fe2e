//! `twtrace support`: what a report of a fault needs, in one file.

mod bundle;
mod system;

use std::{
    fs,
    io::{self, Read},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use bytesize::ByteSize;
use clap::CommandFactory;

use super::{
    SessionError,
    gather::{Question, summed_up},
    log, remote,
};
use crate::{
    cli::{Cli, KeepArgs, ObserveArgs, SupportArgs},
    config, files,
    summary::Summary,
    text::visible,
    view::{self, causes::causes, style::Palette},
};
use bundle::Bundle;

/// How long is observed when the user does not say: a few looks, and a recording that is mailed.
const OBSERVE: Duration = Duration::from_secs(10);
/// Most bytes of what others wrote: settings, and a daemon's answers.
const MOST: usize = 4 << 20;

/// What a daemon is asked, and the file that it goes to.
const DAEMON: [(&str, &str, &str); 2] = [
    ("/v1/status", "daemon-status.json", "how the daemon is, and what it cannot do"),
    ("/metrics", "daemon-metrics.txt", "the daemon's metrics, with the busiest peers' addresses"),
];

/// Observes for a while, and puts what was seen, and all that a report of a fault needs beside it,
/// into one file. That the kernel programs do not attach is what such a file is for, and no failure.
///
/// # Errors
/// [`SessionError`]: the file cannot be written, or the flags make no sense.
pub async fn support(args: &SupportArgs) -> Result<ExitCode, SessionError> {
    if args.observe.replay.is_some() {
        let problem = "a bundle is about this host: leave --replay out, and send the recording";
        return Err(SessionError::Usage(problem.into()));
    }
    // Before anything is looked at, so that who cannot write it is told at once.
    let file = files::create(&args.file).map_err(|source| unwritable(&args.file, &source))?;
    let mut bundle = Bundle::default();
    let version = Cli::command().render_long_version();
    bundle.add("version.txt", "this program, its commit and its kernel programs", version);
    bundle.add("host.txt", "the kernel, what it allows, and what this process may", system::told());
    match read_at_most(Path::new(config::DEFAULT_FILE)) {
        Ok(text) => bundle.add("twtrace.toml", "the daemon's settings, as they are", text),
        Err(error) => bundle.lacks("twtrace.toml", &error),
    }
    for (target, name, what) in DAEMON {
        match remote::text(&args.observe.socket, target, MOST).await {
            Ok(text) => bundle.add(name, what, text),
            Err(error) => bundle.lacks(name, &error),
        }
    }
    match observe(&args.observe, &mut bundle).await {
        Ok(()) => {}
        Err(error @ (SessionError::Usage(_) | SessionError::Filter(_))) => {
            // Nothing was found out, so nothing is left behind.
            if file.metadata().is_ok_and(|file| file.is_file()) {
                let _ = fs::remove_file(&args.file);
            }
            return Err(error);
        }
        Err(error) => {
            let why = causes([&error as &(dyn std::error::Error + 'static)]);
            log::say(&format!("{why}\n  The bundle says so, and has no answer and no recording."));
            bundle.lacks("answer.txt, summary.json, recording.twtrace", &error);
        }
    }
    bundle.add("log.txt", "what twtrace said meanwhile, as by -vv", log::kept());
    let listed = bundle.write(file).map_err(|source| unwritable(&args.file, &source))?;
    let size = fs::metadata(&args.file).map_or(0, |file| file.len());
    println!("{listed}");
    log::say(&format!(
        "{}, {}: nothing was sent. Look at it before you send it: tar -xf {}",
        visible(&args.file.display().to_string()),
        ByteSize::b(size).display().iec(),
        visible(&args.file.display().to_string()),
    ));
    Ok(ExitCode::SUCCESS)
}

/// Adds what was seen for a while, by kernel programs of this session's own.
async fn observe(args: &ObserveArgs, bundle: &mut Bundle) -> Result<(), SessionError> {
    let directory = tempfile::tempdir()?;
    let recording = directory.path().join("recording.twtrace");
    let question = Question {
        usual: Some(OBSERVE),
        keep: KeepArgs { record: Some(recording.clone()) },
        ..Question::default()
    };
    let (mut pipeline, summary) = summed_up(args, question).await?;
    pipeline.finish_recording()?;
    bundle.add(
        "answer.txt",
        "how it attached, why not better, and what is wrong",
        answer(&summary)?,
    );
    let mut json = Vec::new();
    view::json::write_pretty(&mut json, &summary)?;
    bundle.add("summary.json", "all counts, with the audit and every peer's address", json);
    let kept = fs::read(&recording)?;
    let what = "every socket of this time, with addresses, and names of programs: twtrace replay";
    bundle.add("recording.twtrace", what, kept);
    Ok(())
}

/// What a user would have been shown.
fn answer(summary: &Summary) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    view::table::write(&mut text, summary, Palette::PLAIN)?;
    text.push(b'\n');
    view::diagnosis::write(&mut text, summary, Palette::PLAIN)?;
    Ok(text)
}

/// The beginning of a file that is somebody else's.
fn read_at_most(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    files::open(path)?.take(MOST as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn unwritable(path: &Path, source: &io::Error) -> io::Error {
    io::Error::new(source.kind(), format!("{}: {source}", path.display()))
}
