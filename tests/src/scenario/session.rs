//! How a session begins and ends: with a command, after a count, after a time.

use std::net::{SocketAddr, TcpStream};
use std::thread;

use anyhow::{Context, Result, bail};

use crate::expect;
use crate::lab::Lab;
use crate::netns::Netns;
use crate::traffic::{Behaviour, Client, Server, close_first};
use crate::{twtrace, wait};

/// The hidden command `traffic ADDR COUNT`: makes connections from the namespace it runs in; with `stay`
/// behind it the process stays until it is ended.
pub fn traffic(args: &[String]) -> Result<()> {
    let (addr, count, stays) = match args {
        [addr, count] => (addr, count, false),
        [addr, count, word] if word == "stay" => (addr, count, true),
        _ => bail!("traffic takes ADDR and COUNT, and perhaps stay"),
    };
    let addr: SocketAddr = addr.parse().context("ADDR")?;
    for _ in 0..count.parse::<usize>().context("COUNT")? {
        close_first(TcpStream::connect(addr)?)?;
    }
    if stays {
        loop {
            std::thread::park();
        }
    }
    Ok(())
}

/// `-- CMD` traces for as long as the command runs, and sees all that the command did.
pub fn command_mode(lab: &Lab) -> Result<()> {
    let netns = Netns::new("cmd")?;
    let server = Server::start(&netns, "127.0.0.1:8080", Behaviour::AnswersEof)?;
    let own = std::env::current_exe()?.display().to_string();
    let addr = server.addr().to_string();
    let only = ["--netns", netns.name()];
    let command = ["--", "ip", "netns", "exec", netns.name(), &own, "traffic", &addr, "25"];
    let summary = twtrace::watch_to_its_end(lab, &only, &command)?;
    expect::equal("entered", &25, &summary.totals()?.entered)?;

    let attach = lab.attach();
    let watch = [&["watch", "-o", "json"], &only[..], &attach].concat();

    let failing = [&watch[..], &twtrace::SMALL, &["--", "sh", "-c", "exit 7"]].concat();
    let output = twtrace::run(lab, &failing)?;
    expect::that(output.status.code() == Some(7), || {
        format!("the command's exit code 7 was not passed on: {}", twtrace::shown(&output))
    })?;
    let missing = [&watch[..], &twtrace::SMALL, &["--", "/nonexistent/command"]].concat();
    let output = twtrace::run(lab, &missing)?;
    let named = String::from_utf8_lossy(&output.stderr).contains("/nonexistent/command");
    expect::that(!output.status.success() && named, || {
        format!("a command that cannot run is not named: {}", twtrace::shown(&output))
    })
}

/// `--count 5` ends by itself once five sockets have entered.
pub fn count_ends_the_session(lab: &Lab) -> Result<()> {
    ends_by_itself(lab, &["--count", "5"])
}

/// `--for 3s` ends by itself.
pub fn duration_ends_the_session(lab: &Lab) -> Result<()> {
    ends_by_itself(lab, &["--for", "3s"])
}

fn ends_by_itself(lab: &Lab, args: &[&str]) -> Result<()> {
    let netns = Netns::new("ends")?;
    let server = Server::start(&netns, "127.0.0.1:8080", Behaviour::AnswersEof)?;
    let only = ["--netns", netns.name()];
    let summary = thread::scope(|scope| {
        let run = scope.spawn(|| twtrace::watch_to_its_end(lab, &only, args));
        // Traffic goes on until the session is over: nothing here tells when it began.
        wait::until("the session to end", wait::SOON * 2, || {
            Client::new(&netns).short_connections(server.addr(), 1)?;
            Ok(run.is_finished().then_some(()))
        })?;
        run.join().ok().context("the thread that ran twtrace panicked")?
    })?;
    let entered = summary.totals()?.entered;
    expect::that(entered >= 1, || "nothing was seen during the session".to_owned())?;
    if args.contains(&"--count") {
        expect::that(entered >= 5, || format!("--count 5 ended after {entered}"))?;
    }
    Ok(())
}
