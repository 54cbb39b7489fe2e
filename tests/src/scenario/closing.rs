//! FINs that cross on the way.

use std::net::Shutdown;

use anyhow::Result;

use crate::equation::{Ledger, settled};
use crate::lab::Lab;
use crate::packet::{ACK, FIN};
use crate::summary::Totals;
use crate::{expect, script, ss, topology};

/// Both ends close at once: the socket enters from CLOSING, when its own FIN is acknowledged.
pub fn simultaneous_close(lab: &Lab) -> Result<()> {
    let net = topology::scripted()?;
    let ledger = Ledger::open(&net.client)?;
    let tracer = super::watch(lab, &net.client)?;
    for (round, port) in (8080..8083).enumerate() {
        let (stream, mut peer) = script::connect(&net, port, true)?;
        let local = stream.local_addr()?.port();
        stream.shutdown(Shutdown::Write)?;
        peer.hear_fin()?;
        let before_fin = peer.ack.wrapping_sub(1);
        peer.send_at(FIN | ACK, peer.seq, before_fin)?;
        peer.seq = peer.seq.wrapping_add(1);
        ss::in_state(&net.client, local, "CLOSING")?;
        expect::equal("entries while in CLOSING", &(round as u64), &ledger.counted()?.live)?;
        peer.send(ACK)?;
        settled(&net.client, round as u64 + 1)?;
    }
    let want = Totals { entered: 3, live: 3, ..Totals::default() };
    super::totals_are(tracer, &ledger, want).map(drop)
}
