//! The story that twtrace is for, played on this machine: `cargo xtask lab`.
//!
//! The hidden command `lab [--twtrace PATH] [--hold | --picture FILE]`. A client reaches one server
//! directly and another one through a router that strips TCP timestamps; all of it in network
//! namespaces that are gone in the end, whatever ended it.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::counters::Counters;
use crate::lab;
use crate::netns::{self, Netns};
use crate::terminal::Terminal;
use crate::topology::{self, ROUTED, Routed, SERVER};
use crate::traffic::{Behaviour, Client, Outcome, Server};
use crate::wait;

/// Ports that the client may use.
const PORTS: u16 = 1000;
/// Connections of each act.
const CONNECTIONS: usize = 3000;
/// Connections between two looks at whether somebody wants it to end.
const AT_ONCE: usize = 50;
/// Time between two such series: about 800 connections a second.
const PAUSE: Duration = Duration::from_millis(55);

/// Height of the picture: two peers need no more.
const PICTURE_LINES: u16 = 9;
/// Traffic before it.
const PICTURE_AFTER: Duration = Duration::from_secs(12);

/// Plays the story.
pub fn main(args: &[String]) -> Result<ExitCode> {
    let (mut named, mut hold, mut picture) = (None, false, None);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--twtrace" => named = Some(args.next().context("--twtrace needs a path")?.as_str()),
            "--hold" => hold = true,
            "--picture" => picture = Some(args.next().context("--picture needs a file")?),
            other => bail!("lab takes --twtrace PATH, --hold and --picture FILE, not {other}"),
        }
    }
    sweep()?;
    let twtrace = lab::find_twtrace(named)?;
    let story = Story::begin(&twtrace)?;
    if let Some(file) = picture {
        fs::write(file, story.picture()?)?;
    } else {
        story.direct()?;
        story.stripped()?;
        if hold {
            story.hold()?;
        }
    }
    say("the namespaces are deleted, and with them all that was in them");
    Ok(ExitCode::SUCCESS)
}

/// Says one line of ours; what twtrace says is its own.
fn say(line: &str) {
    println!("lab: {line}");
}

/// Deletes what a lab that was killed left behind.
fn sweep() -> Result<()> {
    let list = netns::run("ip", &["netns", "list"])?;
    for name in String::from_utf8_lossy(&list.stdout).split_whitespace() {
        let owner = name.strip_prefix("twt").and_then(|rest| rest.split_once('-'));
        let Some((owner, _)) = owner.filter(|(pid, _)| pid.parse::<u32>().is_ok()) else {
            continue;
        };
        if !Path::new("/proc").join(owner).exists() {
            netns::run("ip", &["netns", "del", name])?;
            say(&format!("deleted {name}, left by a run that was killed"));
        }
    }
    Ok(())
}

struct Story<'a> {
    twtrace: &'a Path,
    net: Routed,
    direct: Server,
    behind: Server,
    /// Whether somebody wants it to end.
    over: Arc<AtomicBool>,
}

impl<'a> Story<'a> {
    fn begin(twtrace: &'a Path) -> Result<Self> {
        let over = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&over)).context("signals")?;
        }
        let net = topology::routed()?;
        topology::strip_timestamps(&net.router)?;
        net.client.set("ipv4/tcp_tw_reuse", "1")?;
        topology::ephemeral_ports(&net.client, 20_000, 19_999 + PORTS)?;
        let direct = Server::start(&net.direct, &format!("{SERVER}:8080"), Behaviour::AnswersEof)?;
        let behind = Server::start(&net.behind, &format!("{ROUTED}:8080"), Behaviour::AnswersEof)?;
        say(&format!(
            "a client with {PORTS} ports and tcp_tw_reuse=1 in namespace {}",
            net.client.name()
        ));
        say(&format!("{} is reached directly", direct.addr()));
        say(&format!("{} behind a router that erases TCP timestamps", behind.addr()));
        Ok(Self { twtrace, net, direct, behind, over })
    }

    /// With timestamps the ports come back after a second.
    fn direct(&self) -> Result<()> {
        say(&format!("1. {CONNECTIONS} short connections, directly"));
        let watch = self.tracer(&["watch", "--plain", "-o", "table"])?;
        let outcome = self.connect(&self.direct, CONNECTIONS)?;
        finish(watch)?;
        self.tell(outcome)
    }

    /// Without them none does, and nothing else was changed.
    fn stripped(&self) -> Result<()> {
        say(&format!("2. {CONNECTIONS} short connections, through the router"));
        let diagnose = self.tracer(&["diagnose", "--for", "1h"])?;
        let outcome = self.connect(&self.behind, CONNECTIONS)?;
        finish(diagnose)?;
        self.tell(outcome)
    }

    /// Goes on for whoever wants to look at it from another terminal.
    fn hold(&self) -> Result<()> {
        say(&format!(
            "it goes on; in another terminal: sudo {} watch --netns {}",
            self.twtrace.display(),
            self.net.client.name()
        ));
        say("Ctrl-C ends it");
        while !self.is_over() {
            self.connect(&self.direct, AT_ONCE)?;
            self.connect(&self.behind, 1)?;
        }
        Ok(())
    }

    /// What is on the full screen after a while of traffic to both servers, of which what goes
    /// through the router will use up all ports but has not yet.
    fn picture(&self) -> Result<String> {
        let watch = format!("{} watch --netns {}", self.twtrace.display(), self.net.client.name());
        let terminal = Terminal::telling(&watch)?;
        terminal.resize(80, PICTURE_LINES)?;
        terminal.shows("that nothing happened yet", |screen| screen.contains("0 lost"))?;
        let started = Instant::now();
        while started.elapsed() < PICTURE_AFTER && !self.is_over() {
            self.connect(&self.direct, AT_ONCE)?;
            self.connect(&self.behind, 3)?;
        }
        terminal.shows("the finding", |screen| screen.contains("TW001"))
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Makes connections at some 800 a second, until somebody wants it to end.
    fn connect(&self, to: &Server, count: usize) -> Result<Outcome> {
        let client = Client::new(&self.net.client);
        let mut sum = Outcome::default();
        for _ in 0..count.div_ceil(AT_ONCE) {
            if self.is_over() {
                break;
            }
            let outcome = client.try_connections(to.addr(), AT_ONCE.min(count))?;
            sum.connected += outcome.connected;
            sum.no_port += outcome.no_port;
            wait::pass(PAUSE);
        }
        Ok(sum)
    }

    /// How it went for the program that connects, and what the kernel counted.
    fn tell(&self, outcome: Outcome) -> Result<()> {
        let counters = Counters::read(&self.net.client)?;
        say(&format!(
            "{} connected, {} failed: Cannot assign requested address",
            outcome.connected, outcome.no_port
        ));
        say(&format!(
            "the kernel's own counts so far: TW {}, TWRecycled {}, in TIME_WAIT now {}",
            counters.tw, counters.tw_recycled, counters.live
        ));
        Ok(())
    }

    /// Starts twtrace on the client's namespace and waits until it watches.
    fn tracer(&self, args: &[&str]) -> Result<Child> {
        let namespace: &Netns = &self.net.client;
        say(&format!("$ twtrace {} --netns {}", args.join(" "), namespace.name()));
        let mut child = Command::new(self.twtrace)
            .args(args)
            .args(["--netns", namespace.name()])
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("{} could not be started", self.twtrace.display()))?;
        let stderr = child.stderr.take().context("no standard error")?;
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(stderr));
        for line in lines.by_ref() {
            let line = line?;
            eprintln!("{line}");
            if line.starts_with("twtrace: watching") {
                // Whatever else it says must not fill the pipe.
                std::thread::spawn(move || {
                    lines.map_while(Result::ok).for_each(|line| eprintln!("{line}"))
                });
                return Ok(child);
            }
        }
        bail!("twtrace ended before it watched: {}", child.wait()?)
    }
}

/// Ends it as Ctrl-C does; it says what it has to say.
fn finish(mut child: Child) -> Result<()> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("process id")?;
    if child.try_wait()?.is_none() {
        kill_process(pid, Signal::INT).context("interrupting twtrace")?;
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("twtrace ended with {status}");
    }
    Ok(())
}
