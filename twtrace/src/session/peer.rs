//! `twtrace peer`.

use std::{
    io::{self, BufWriter, Write},
    process::ExitCode,
};

use ipnet::IpNet;
use tokio::time::{MissedTickBehavior, interval};

use super::{SessionError, observe, stop::Stop, watch::announce};
use crate::{
    cli::PeerArgs,
    peer::{GroupBy, Prefixes},
    pipeline::{DRAIN_INTERVAL, Pipeline},
    summary::RowChoice,
    view::{self, Format, style::Palette},
};

/// Rows for one address: each of its ports, and this host's roles.
const MAX_ROWS: usize = 65_536;

/// Watches one peer until something ends it, then tells all about it.
///
/// # Errors
/// [`SessionError`].
pub async fn peer(args: &PeerArgs, palette: Palette) -> Result<ExitCode, SessionError> {
    if matches!(args.output, Format::Csv | Format::Ndjson) {
        return Err(SessionError::Usage("peer writes table or json".into()));
    }
    let selection = observe::Selection {
        networks: vec![IpNet::from(args.peer.ip)],
        port: args.peer.port,
        ..observe::Selection::default()
    };
    let options = observe::options(&args.observe, &selection, true)?;
    let settings =
        observe::settings(&args.observe, GroupBy::Peer, Prefixes::default(), MAX_ROWS, true);
    let mut pipeline = Pipeline::start(options, settings, &mut |_| {})?;
    if let Some(diagnostics) = pipeline.tracer().diagnostics() {
        tokio::spawn(diagnostics);
    }
    announce(&mut pipeline);
    let mut stop = Stop::begin(args.observe.duration, &[], false)?;
    let mut drain = interval(DRAIN_INTERVAL);
    drain.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = stop.wait() => break,
            readable = pipeline.readable() => readable?,
            _ = drain.tick() => {}
        }
        pipeline.drain(&mut |_| {});
    }
    let summary = pipeline.finish(RowChoice::default(), &mut |_| {})?;
    let mut out = BufWriter::new(io::stdout().lock());
    match args.output {
        Format::Json => view::json::write_pretty(&mut out, &summary)?,
        _ => view::peer::write(&mut out, &summary, palette)?,
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
