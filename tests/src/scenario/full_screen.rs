//! The full screen in a real terminal: it shows what happened, obeys keys, and leaves no trace.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use anyhow::{Result, bail};
use rustix::process::Signal;
use twtrace::session::FullScreen;
use twtrace::view::tui::State;

use crate::cgroup::Cgroup;
use crate::equation::settled;
use crate::expect;
use crate::lab::Lab;
use crate::netns::Netns;
use crate::terminal::Terminal;
use crate::topology::{self, SERVER};
use crate::traffic::{Behaviour, Client, Server};

/// Types through every view while sockets enter.
pub fn full_screen(lab: &Lab) -> Result<()> {
    let net = topology::pair()?;
    let server = Server::start(&net.server, &format!("{SERVER}:8080"), Behaviour::AnswersEof)?;
    let terminal = Terminal::watch(lab, &["--netns", net.client.name()])?;
    terminal.shows("that nothing happened yet", |screen| {
        screen.contains("no socket has entered TIME_WAIT yet") && screen.contains("0 lost")
    })?;
    Client::new(&net.client).short_connections(server.addr(), 7)?;
    settled(&net.client, 7)?;
    terminal.shows("seven sockets of one peer", |screen| {
        screen.contains("7 entered  7 live  0 lost")
            && screen.lines().any(|line| words(line, "10.1.0.2:8080 client").contains(&"7"))
    })?;

    terminal.keys(&["Enter"])?;
    terminal.shows("all about the peer", |screen| {
        screen.contains("entered 7 (0 as FIN_WAIT2)") && screen.contains("> 10.1.0.2:8080")
    })?;
    terminal.keys(&["Escape"])?;
    terminal.shows("the peers again", |screen| screen.contains("ENTRIES/s"))?;
    terminal.text("/dport = 44x")?;
    terminal.shows("what is wrong, and where", |screen| {
        screen.contains("/dport = 44x") && screen.contains("         ^ expected a port")
    })?;
    terminal.keys(&["BSpace", "3", "Enter"])?;
    terminal.shows("that no row matches", |screen| {
        screen.contains("; dport = 443") && screen.contains("no row can hold sockets")
    })?;
    terminal.keys(&["Escape"])?;
    terminal.shows("the row again", |screen| screen.contains("10.1.0.2:8080 client"))?;
    let unit = format!("twt{}.service", std::process::id());
    let group = Cgroup::ending(&format!("/system.slice/{unit}"))?;
    group.connect(&net.client, server.addr(), 3)?;
    settled(&net.client, 10)?;
    terminal.keys(&["a", "a", "a", "a"])?;
    terminal.shows("the same by owner, with all that came before", |screen| {
        let row = |name, count: &str| screen.lines().any(|line| words(line, name).contains(&count));
        row(&unit, "3") && screen.contains("10 entered")
    })?;
    terminal.keys(&["a"])?;
    terminal.shows("the peers as before", |screen| screen.contains("10.1.0.2:8080 client"))?;
    drop(group);
    terminal.keys(&["2"])?;
    terminal.shows("the events", |screen| screen.matches(" entered ").count() >= 7)?;
    terminal.keys(&["4"])?;
    terminal.shows("the limits", |screen| screen.contains(" buckets"))?;
    terminal.resize(60, 12)?;
    terminal.shows("the limits on a small screen", |screen| {
        screen.lines().count() == 12 && screen.contains(" buckets")
    })?;
    terminal.resize(80, 24)?;
    terminal.keys(&["q"])?;
    terminal.shows("a question", |screen| screen.contains("q again ends"))?;
    terminal.keys(&["q"])?;
    let last = terminal.given_back(0)?;
    expect::that(last.contains("total: 10 entered"), || format!("the last table:\n{last}"))
}

/// Whatever ends it, the terminal comes back as it was: signals, and a panic, which nothing outside
/// can provoke and is therefore that of a program of ours with the same screen.
pub fn gives_the_terminal_back(lab: &Lab) -> Result<()> {
    let netns = Netns::new("ends")?;
    for signal in [Signal::TERM, Signal::HUP, Signal::INT] {
        let terminal = Terminal::watch(lab, &["--netns", netns.name()])?;
        terminal.shows("that nothing happened yet", |screen| screen.contains("0 lost"))?;
        expect::equal("a second screen is shown", &true, &terminal.shows_alternate()?)?;
        terminal.signal(signal)?;
        terminal.given_back(0)?;
    }
    let own = std::env::current_exe()?;
    // A trace would be longer than the screen.
    let panics = format!("RUST_BACKTRACE=0 {} full-screen-panic", own.display());
    let terminal = Terminal::telling(&panics)?;
    let last = terminal.given_back(101)?;
    expect::that(last.contains(PANIC), || format!("the panic does not say why:\n{last}"))
}

/// What the program of ours says.
const PANIC: &str = "this panic is a test's";

/// The hidden command `full-screen-panic`: takes the terminal and panics.
pub fn panics() -> Result<ExitCode> {
    let mut state = State::default();
    let screen = FullScreen::open(&mut state)?;
    assert!(!std::io::stdin().is_terminal(), "{PANIC}");
    drop(screen);
    bail!("this is for a terminal");
}

/// Ctrl-Z gives the shell its screen, `fg` brings ours back.
pub fn stops_and_goes_on(lab: &Lab) -> Result<()> {
    let netns = Netns::new("stops")?;
    let terminal = Terminal::running("exec bash --norc --noprofile -i")?;
    let (program, attach) = (lab.twtrace.display(), lab.attach().join(" "));
    terminal.text(&format!("{program} watch {attach} --netns {}\n", netns.name()))?;
    let ours = |screen: &str| screen.contains("0 entered  0 live  0 lost");
    terminal.shows("that nothing happened yet", ours)?;
    terminal.keys(&["C-z"])?;
    terminal.shows("the shell", |screen| screen.contains("Stopped") && !ours(screen))?;
    expect::equal("a second screen is shown", &false, &terminal.shows_alternate()?)?;
    terminal.text("fg\n")?;
    terminal.shows("ours again", ours)?;
    expect::equal("a second screen is shown", &true, &terminal.shows_alternate()?)?;
    terminal.keys(&["?"])?;
    terminal.shows("that keys are heard", |screen| screen.contains("Ctrl-C at once"))?;
    terminal.keys(&["C-c"])?;
    terminal.shows("the last table", |screen| screen.contains("entries and ends through"))?;
    terminal.text("echo ended with $?\n")?;
    terminal.shows("how it ended", |screen| screen.contains("ended with 0\n")).map(drop)
}

/// The words of a line behind its name; none if it has another name.
fn words<'a>(line: &'a str, name: &str) -> Vec<&'a str> {
    line.strip_prefix(name).map_or(Vec::new(), |rest| rest.split_whitespace().collect())
}
