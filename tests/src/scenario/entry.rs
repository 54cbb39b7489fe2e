//! Why the fast path is closed to a socket, known at its entry.

use anyhow::Result;

use crate::expect;
use crate::lab::Lab;
use crate::summary::Summary;
use crate::topology::{self, CLIENT, SERVER};
use crate::traffic::{Behaviour, Client, Server};

/// What a row says of the fast path.
#[derive(Debug, Default, PartialEq, Eq)]
struct Path {
    eligible: u64,
    allowed: u64,
    no_peer_timestamps: u64,
    timestamps_off: u64,
    reuse_off: u64,
    reuse_loopback_only: u64,
    fin_wait2: u64,
}

fn path(summary: &Summary, netns: u64, peer: &str) -> Result<Path> {
    let row = summary.peer(netns, peer)?;
    let blocked = |reason: &str| row.number(&format!("/blocked/{reason}"));
    Ok(Path {
        eligible: row.number("/eligible")?,
        allowed: row.number("/allowed")?,
        no_peer_timestamps: blocked("no_peer_timestamps")?,
        timestamps_off: blocked("timestamps_off")?,
        reuse_off: blocked("reuse_off")?,
        reuse_loopback_only: blocked("reuse_loopback_only")?,
        fin_wait2: blocked("fin_wait2")?,
    })
}

/// One service port for each setting, and the reason that setting gives.
pub fn why_a_socket_is_blocked(lab: &Lab) -> Result<()> {
    let net = topology::pair()?;
    let (ours, theirs) = (&net.client, &net.server);
    let tracer = super::watch(lab, ours)?;
    let client = Client::new(ours);
    let mut served = 8080;
    let mut connect = |count| {
        let addr = format!("{SERVER}:{served}");
        served += 1;
        let server = Server::start(theirs, &addr, Behaviour::AnswersEof)?;
        client.short_connections(server.addr(), count)
    };
    // 2 is the default: loopback only.
    connect(3)?;
    ours.set("ipv4/tcp_tw_reuse", "0")?;
    connect(4)?;
    ours.set("ipv4/tcp_tw_reuse", "1")?;
    connect(5)?;
    theirs.set("ipv4/tcp_timestamps", "0")?;
    connect(6)?;
    theirs.set("ipv4/tcp_timestamps", "1")?;
    ours.set("ipv4/tcp_timestamps", "0")?;
    connect(7)?;
    ours.set("ipv4/tcp_timestamps", "1")?;
    ours.set("ipv4/tcp_tw_reuse", "2")?;
    let loopback = Server::start(ours, "127.0.0.1:8088", Behaviour::AnswersEof)?;
    client.short_connections(loopback.addr(), 8)?;
    // For a server only timestamps matter: nobody connects out from its port.
    let closes = Server::start(ours, &format!("{CLIENT}:8090"), Behaviour::ClosesFirst)?;
    Client::new(theirs).close_second(closes.addr(), 9)?;
    crate::equation::settled(ours, 3 + 4 + 5 + 6 + 7 + 8 + 9)?;

    let summary = tracer.finish()?;
    let none = Path::default;
    let want = [
        ("10.1.0.2:8080", Path { eligible: 3, reuse_loopback_only: 3, ..none() }),
        ("10.1.0.2:8081", Path { eligible: 4, reuse_off: 4, ..none() }),
        ("10.1.0.2:8082", Path { eligible: 5, allowed: 5, ..none() }),
        ("10.1.0.2:8083", Path { no_peer_timestamps: 6, ..none() }),
        ("10.1.0.2:8084", Path { timestamps_off: 7, ..none() }),
        ("127.0.0.1:8088", Path { eligible: 8, allowed: 8, ..none() }),
        ("10.1.0.2", Path { eligible: 9, allowed: 9, ..none() }),
    ];
    let mut got = Vec::new();
    for (peer, _) in &want {
        got.push((*peer, path(&summary, ours.inum(), peer)?));
    }
    expect::equal("paths", &want.into_iter().collect::<Vec<_>>(), &got)
}
