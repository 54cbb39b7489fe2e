//! A TIME_WAIT timer that starts again.

use std::net::Shutdown;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::equation::{Ledger, settled};
use crate::lab::Lab;
use crate::netns::Netns;
use crate::packet::{ACK, FIN, RST};
use crate::script::{self, Conversation};
use crate::summary::Totals;
use crate::topology::Scripted;
use crate::{expect, ss, topology, wait};

/// Longer than a bucket of the timer wheel at 60 s, which is 4.096 s at most (HZ=1000): a re-arm
/// into the same bucket is invisible to tracepoints.
const ANOTHER_BUCKET: Duration = Duration::from_secs(5);

/// A FIN that comes again shows that the last ACK was lost: the 60 s begin anew.
pub fn by_a_retransmitted_fin(lab: &Lab) -> Result<()> {
    let net = topology::scripted()?;
    let ledger = Ledger::open(&net.client)?;
    let tracer = super::watch(lab, &net.client)?;
    let (stream, mut peer) = script::connect(&net, 8080, true)?;
    let port = stream.local_addr()?.port();
    stream.shutdown(Shutdown::Write)?;
    peer.close_second()?;
    let before = wait::until("the timer to run down", wait::SOON, || {
        let left = left(&net.client, port)?;
        Ok((left < Duration::from_secs(60) - ANOTHER_BUCKET).then_some(left))
    })?;
    peer.send_at(FIN | ACK, peer.seq.wrapping_sub(1), peer.ack)?;
    peer.hear_ack()?;
    let after = left(&net.client, port)?;
    expect::that(after > before, || format!("{before:?} left before, {after:?} after"))?;
    kill(&net, &mut peer)?;

    let want = Totals { entered: 1, killed: 1, ..Totals::default() };
    let summary = super::totals_are(tracer, &ledger, want)?;
    let row = summary.peer(net.client.inum(), "10.1.0.2:8080")?;
    expect::equal("re-armed", &1, &row.number("/rearmed")?)?;
    expect::equal("last scheduled", &60_000, &row.number("/scheduled_ms/last")?)
}

/// A mini-socket was armed for `tcp_fin_timeout`; the peer's FIN makes it 60 s.
pub fn by_promotion(lab: &Lab) -> Result<()> {
    let net = topology::scripted()?;
    // Far from 60 s, so that the new timer lands in another bucket of the timer wheel.
    net.client.set("ipv4/tcp_fin_timeout", "20")?;
    let ledger = Ledger::open(&net.client)?;
    let tracer = super::watch(lab, &net.client)?;
    let (stream, mut peer) = script::connect(&net, 8080, true)?;
    drop(stream);
    peer.hear_fin()?;
    peer.send(ACK)?;
    let mini = ss::in_state(&net.client, peer.heard.from.port(), "FIN-WAIT-2")?;
    settled(&net.client, 1)?;
    expect::that(mini.time_left.is_none_or(|left| left <= Duration::from_secs(20)), || {
        format!("not armed for tcp_fin_timeout: {mini:#?}")
    })?;
    peer.send(FIN | ACK)?;
    peer.hear_ack()?;
    let after = left(&net.client, peer.heard.from.port())?;
    // Armed for 20 s before; emulation may take seconds between the FIN and this look.
    expect::that(after > Duration::from_secs(50), || format!("{after:?} left after promotion"))?;
    kill(&net, &mut peer)?;

    let want = Totals { entered: 1, fin_wait2: 1, killed: 1, ..Totals::default() };
    let summary = super::totals_are(tracer, &ledger, want)?;
    let row = summary.peer(net.client.inum(), "10.1.0.2:8080")?;
    expect::equal("re-armed", &1, &row.number("/rearmed")?)?;
    expect::equal("promoted", &1, &row.number("/promoted")?)?;
    expect::equal("last scheduled", &60_000, &row.number("/scheduled_ms/last")?)
}

/// Ends the socket, since its history is told with its end.
fn kill(net: &Scripted, peer: &mut Conversation) -> Result<()> {
    net.client.set("ipv4/tcp_rfc1337", "0")?;
    peer.send(RST)?;
    settled(&net.client, 0)
}

fn left(netns: &Netns, port: u16) -> Result<Duration> {
    let socket = ss::in_state(netns, port, "TIME-WAIT")?;
    socket.time_left.context("ss shows no timer")
}
