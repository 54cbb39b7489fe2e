//! The ports of a NAT that run out, foretold while half of them are left.

use std::io;
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::net::connect;
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use super::behind::{Behind, PORTS, TO, found_in};
use super::diagnosis::{foretold, now, report_amid, seconds};
use crate::lab::Lab;
use crate::netns::Netns;
use crate::traffic::{Behaviour, Server, close_first, stream_socket};
use crate::twtrace::Tracer;
use crate::{expect, wait};

/// Connections a second of each client, at most.
const RATE: u32 = 3;
/// Connections that there are no ports for, if none is given away.
const BEYOND: usize = 30;
/// Time in which they have to be gone, so that none comes back before.
const IN_TIME: Duration = Duration::from_secs(55);
/// Time after which a call waits for its second try: of the first nothing came.
const PATIENCE: Duration = Duration::from_secs(1);

/// Both ways to use the ports up at once: by connections that stay open, and by those that are closed.
/// Whether the kernel gives the ports of the latter away is seen, and has to be what twtrace says.
pub fn as_foretold(lab: &Lab) -> Result<()> {
    super::until_as_meant(|| {
        thread::scope(|scope| {
            let open = scope.spawn(|| play(lab, 6, true));
            let closed = play(lab, 7, false).context("closed")?;
            let open = open.join().map_err(|_| anyhow::anyhow!("it panicked"))?.context("open")?;
            Ok(open.and(closed))
        })
    })
}

/// Nothing if the machine is too slow to use the ports up before the first of them come back.
fn play(lab: &Lab, net: u8, stays_open: bool) -> Result<Option<()>> {
    let net = Behind::new(net)?;
    let last = 20_000 + PORTS - 1;
    net.nft(&format!("meta l4proto tcp masquerade to :20000-{last}"))?;
    let behaviour = if stays_open { Behaviour::Holds } else { Behaviour::AnswersEof };
    let server = Server::start(&net.server, TO, behaviour)?;
    let tracer = Tracer::report(lab, "diagnose", &[])?;
    let (half, reached) = mpsc::channel();
    let traffic = || until_refused(&net, &server, stays_open, &half);
    let reached = || reached.recv_timeout(wait::SOON).context("half of the ports");
    let (report, made) = report_amid(tracer, traffic, reached)?;
    let Some((moments, failed)) = made else { return Ok(None) };
    let margins = found_in(&report, &net.router);
    let told = || format!("{:#}", report["margins"]["egress"]);
    expect::equal("destinations", &1, &margins.len()).with_context(told)?;
    let margin = margins[0];
    expect::equal("ports", &Some(PORTS), &margin["ports"].as_u64())?;
    let predicted = margin["seconds_to_exhaustion"].as_f64();
    let given_away = !stays_open && failed.is_none();
    let says = margin["gives_away"].as_bool() == Some(true);
    expect::that(stays_open || says == given_away, || {
        format!("ports are given away: {given_away}\n{margin:#}")
    })?;
    let Some(failed) = failed else {
        expect::that(!stays_open, || "there was always a port".to_owned())?;
        expect::equal("a failure that does not come", &None, &predicted)?;
        return Ok(Some(()));
    };
    let predicted = predicted.with_context(|| format!("no forecast in {margin:#}"))?;
    let what = if stays_open { "open" } else { "closed" };
    // The kernel looks at no more than 128 ports in a row from one drawn by chance (NF_NAT_MAX_ATTEMPTS,
    // net/netfilter/nf_nat_core.c), so that calls may fail when nearly all are held; what is foretold is
    // when all are.
    let held = moments.iter().filter(|moment| **moment < failed).count() as f64;
    let left = (PORTS as f64 - held).max(0.0);
    expect::that(left <= 0.2 * PORTS as f64, || format!("{left} ports were left at the failure"))?;
    let pace = held / (failed - moments[0]);
    let predicted = predicted - left / pace;
    let told = foretold(what, &moments, seconds(&report["at"])?, predicted, failed);
    told.with_context(|| format!("{margin:#}")).map(Some)
}

/// What all clients did, and the moment of the first failure.
#[derive(Default)]
struct Made {
    moments: Vec<f64>,
    failed: Option<f64>,
}

/// All clients connect at [`RATE`] each, until there is no port or should have been none; gives the
/// moments of their connections, and that of the failure if there was one.
fn until_refused(
    net: &Behind,
    server: &Server,
    stays_open: bool,
    half: &mpsc::Sender<()>,
) -> Result<Option<(Vec<f64>, Option<f64>)>> {
    let (made, done) = (Mutex::new(Made::default()), AtomicBool::new(false));
    let started = Instant::now();
    let play = |client: &Netns| {
        client.run(|| {
            let mut kept = Vec::new();
            while !done.load(Ordering::Relaxed) && started.elapsed() < IN_TIME {
                let (began, at) = (Instant::now(), now()?);
                let stream = one(server)?;
                let count = {
                    let mut made = made.lock().map_err(|_| anyhow::anyhow!("a client panicked"))?;
                    match &stream {
                        Some(_) => made.moments.push(at),
                        None if refused(&net.router)? => {
                            made.failed = Some(made.failed.map_or(at, |first| first.min(at)));
                        }
                        // It was the machine that was slow.
                        None => {}
                    }
                    done.fetch_or(made.failed.is_some(), Ordering::Relaxed);
                    made.moments.len()
                };
                match stream {
                    Some(stream) if stays_open => kept.push(stream),
                    Some(stream) => close_first(stream)?,
                    None => {}
                }
                if count == PORTS as usize / 2 {
                    // Whoever waits for it may have given up.
                    let _ = half.send(());
                }
                done.fetch_or(count > PORTS as usize + BEYOND, Ordering::Relaxed);
                wait::pass((Duration::from_secs(1) / RATE).saturating_sub(began.elapsed()));
            }
            Ok(kept)
        })
    };
    let kept = thread::scope(|scope| {
        let clients: Vec<_> =
            net.clients.iter().map(|client| scope.spawn(move || play(client))).collect();
        let ended = clients.into_iter().map(|client| client.join());
        ended.collect::<Result<Vec<_>, _>>().map_err(|_| anyhow::anyhow!("a client panicked"))
    })?;
    kept.into_iter().collect::<Result<Vec<_>>>()?;
    let made = made.into_inner().map_err(|_| anyhow::anyhow!("a client panicked"))?;
    Ok(done.into_inner().then_some((made.moments, made.failed)))
}

/// Connects from a thread in the client's namespace; nothing if no answer came in time.
fn one(server: &Server) -> Result<Option<TcpStream>> {
    let socket = stream_socket(server.addr())?;
    set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE))?;
    match connect(&socket, &server.addr()).map_err(io::Error::from) {
        Ok(()) => Ok(Some(TcpStream::from(socket))),
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(None),
        Err(error) => Err(error).context("connecting"),
    }
}

/// Whether the router dropped what it found no port for, by its own count.
fn refused(router: &Netns) -> Result<bool> {
    let path = "/proc/thread-self/net/stat/nf_conntrack";
    let table = router.run(|| Ok(std::fs::read_to_string(path)?))?;
    let mut lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let names = lines.next().context("a heading")?;
    let at = names.iter().position(|name| *name == "insert_failed").context("insert_failed")?;
    Ok(lines.any(|line| line.get(at).is_some_and(|count| count.chars().any(|char| char != '0'))))
}
