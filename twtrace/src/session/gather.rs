//! Observing without showing anything until the end: what all reports have in common.

use std::time::Duration;

use ipnet::IpNet;
use tokio::time::{MissedTickBehavior, interval};

use super::{SessionError, observe, stop::Stop, watch::announce};
use crate::{
    cli::{ObserveArgs, PeerAddress},
    peer::{GroupBy, Prefixes},
    pipeline::{DRAIN_INTERVAL, Pipeline},
};

/// Rows when only one address is asked for: each of its ports, and this host's roles.
pub const MAX_ROWS: usize = 65_536;

/// Observes all peers, or one, for `duration` or until a signal; then gives the pipeline, still
/// attached.
///
/// # Errors
/// [`SessionError`].
pub async fn gather(
    args: &ObserveArgs,
    peer: Option<PeerAddress>,
    duration: Option<Duration>,
) -> Result<Pipeline, SessionError> {
    let selection = observe::Selection {
        networks: peer.map(|peer| IpNet::from(peer.ip)).into_iter().collect(),
        port: peer.and_then(|peer| peer.port),
        ..observe::Selection::default()
    };
    let options = observe::options(args, &selection, true)?;
    let settings = observe::settings(args, GroupBy::Peer, Prefixes::default(), MAX_ROWS, true);
    let mut stop = Stop::listen()?;
    let mut pipeline = Pipeline::start(options, settings, &mut |_| {})?;
    if let Some(diagnostics) = pipeline.tracer().diagnostics() {
        tokio::spawn(diagnostics);
    }
    announce(&mut pipeline);
    stop.after(duration);
    let mut drain = interval(DRAIN_INTERVAL);
    drain.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = stop.wait() => return Ok(pipeline),
            readable = pipeline.readable() => readable?,
            _ = drain.tick() => {}
        }
        pipeline.drain(&mut |_| {});
    }
}
