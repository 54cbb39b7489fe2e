//! An event's fields against what the kernel itself says of the same socket.

use std::fs;
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result};
use rustix::process::Uid;
use rustix::time::{ClockId, clock_gettime};
use serde_json::Value;

use crate::expect;
use crate::lab::Lab;
use crate::netns::Netns;
use crate::ss::{self, Socket};
use crate::topology;
use crate::traffic::{Behaviour, Client, Server, read_to_end};
use crate::twtrace::Tracer;

/// The owner of the sockets: anyone but root, whose number is also that of "not read".
const OWNER: u32 = 65_534;

/// What both sides know of a socket.
#[derive(Debug, PartialEq)]
struct Fields {
    local: String,
    remote: String,
    state: String,
    netns: u64,
    uid: u64,
    rto_ms: f64,
    tstamp_ok: bool,
    peer_sent_timestamps: bool,
    tw_reuse: u64,
    tcp_timestamps: u64,
    scheduled_ms: f64,
    cgroup: Option<u64>,
}

/// IPv4, IPv6, v4-mapped and a peer without timestamps; addresses, RTO, owner, namespace.
pub fn event_fields_match_the_socket(lab: &Lab) -> Result<()> {
    let net = topology::pair()?;
    let tracer = Tracer::events(lab, &["--netns", net.client.name()])?;
    let ipv4 = Server::start(&net.server, "10.1.0.2:8080", Behaviour::Holds)?;
    let ipv6 = Server::start(&net.server, "[fd01::2]:8080", Behaviour::Holds)?;
    let client = Client::new(&net.client);
    let began = monotonic_seconds();

    let mut want = vec![
        one_socket(&net.client, &client, &ipv4)?,
        one_socket(&net.client, &client, &ipv6)?,
        one_socket(&net.client, &client.clone().mapped(), &ipv4)?,
    ];
    net.server.set("ipv4/tcp_timestamps", "0")?;
    want.push(one_socket(&net.client, &client, &ipv4)?);
    tracer.await_events("4 entries", |events| of_kind(events, "entered").count() >= 4)?;

    let ended = monotonic_seconds();
    let events = tracer.finish_events()?;
    let entered: Vec<_> = of_kind(&events, "entered").collect();
    let got = entered.iter().map(|event| fields(event)).collect::<Result<Vec<_>>>()?;
    if got.iter().all(|fields| fields.cgroup.is_none()) {
        want.iter_mut().for_each(|fields| fields.cgroup = None);
    }
    expect::equal("entered events", &want, &got)?;
    for event in entered {
        let stamp = event["ts_recent_stamp"].as_i64().context("ts_recent_stamp")?;
        let plausible = stamp == 0 || (began..=ended).contains(&stamp);
        expect::that(plausible, || {
            format!("ts_recent_stamp {stamp} is not a second of {began}..={ended}: {event:#}")
        })?;
    }
    Ok(())
}

/// Takes one socket into TIME_WAIT and gives what the kernel said of it just before.
fn one_socket(netns: &Netns, client: &Client, server: &Server) -> Result<Fields> {
    let stream: TcpStream = netns.run(|| {
        rustix::thread::set_thread_uid(Uid::from_raw(OWNER)).context("setuid")?;
        Ok(client.dial(server.addr())?)
    })?;
    let held = server.take(1)?;
    stream.shutdown(Shutdown::Write)?;
    // Between here and the peer's FIN nothing is acknowledged that would move the RTO.
    let port = stream.local_addr()?.port();
    let socket = ss::in_state(netns, port, "FIN-WAIT-2")?;
    drop(held);
    read_to_end(&stream)?;
    expected(netns, &socket)
}

fn expected(netns: &Netns, socket: &Socket) -> Result<Fields> {
    Ok(Fields {
        local: socket.local.to_string(),
        remote: socket.remote.to_string(),
        state: "TIME_WAIT".to_owned(),
        netns: netns.inum(),
        uid: socket.uid.into(),
        rto_ms: socket.rto_ms.context("ss shows no rto")?,
        tstamp_ok: socket.timestamps,
        peer_sent_timestamps: socket.timestamps,
        tw_reuse: netns.get("ipv4/tcp_tw_reuse")?.parse()?,
        tcp_timestamps: netns.get("ipv4/tcp_timestamps")?.parse()?,
        scheduled_ms: 60_000.0,
        cgroup: own_cgroup(),
    })
}

fn fields(event: &Value) -> Result<Fields> {
    let text = |key: &str| event[key].as_str().map(str::to_owned).context(key.to_owned());
    let number = |key: &str| event[key].as_u64().context(key.to_owned());
    let read = || -> Result<Fields> {
        Ok(Fields {
            local: text("local")?,
            remote: text("remote")?,
            state: text("state")?,
            netns: number("netns")?,
            uid: number("uid")?,
            rto_ms: event["rto_ms"].as_f64().context("rto_ms")?,
            tstamp_ok: event["tstamp_ok"].as_bool().context("tstamp_ok")?,
            peer_sent_timestamps: event["ts_recent_stamp"].as_i64() != Some(0),
            tw_reuse: number("tw_reuse")?,
            tcp_timestamps: number("tcp_timestamps")?,
            scheduled_ms: event["scheduled_ms"].as_f64().context("scheduled_ms")?,
            cgroup: own_cgroup().and(event["cgroup"].as_u64()),
        })
    };
    read().with_context(|| format!("missing in {event:#}"))
}

/// Events of one kind.
fn of_kind<'a>(events: &'a [Value], kind: &'a str) -> impl Iterator<Item = &'a Value> {
    events.iter().filter(move |event| event["event"] == kind)
}

/// This process' cgroup id, where the unified hierarchy is mounted in its usual place.
fn own_cgroup() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let directory = std::path::Path::new("/sys/fs/cgroup").join(path);
    directory.join("cgroup.procs").exists().then(|| Some(fs::metadata(&directory).ok()?.ino()))?
}

fn monotonic_seconds() -> i64 {
    clock_gettime(ClockId::Monotonic).tv_sec
}
