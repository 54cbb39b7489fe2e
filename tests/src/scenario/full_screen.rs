//! The full screen in a real terminal: it shows what happened, obeys keys, and leaves no trace.

use anyhow::Result;
use rustix::process::Signal;

use crate::equation::settled;
use crate::expect;
use crate::lab::Lab;
use crate::terminal::Terminal;
use crate::topology::{self, SERVER};
use crate::traffic::{Behaviour, Client, Server};

/// Types through every view while sockets enter, and ends it with a signal the second time.
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
    let last = given_back(&terminal)?;
    expect::that(last.contains("total: 7 entered"), || format!("the last table:\n{last}"))?;
    drop(terminal);

    let terminal = Terminal::watch(lab, &["--netns", net.client.name()])?;
    terminal.shows("the sockets present", |screen| screen.contains("0 entered  7 live"))?;
    terminal.signal(Signal::TERM)?;
    given_back(&terminal).map(drop)
}

/// Waits for the end and asserts that the terminal is as it was before.
fn given_back(terminal: &Terminal) -> Result<String> {
    // Both words are settings that the full screen takes away.
    let settings = |screen: &str| {
        let words: Vec<&str> = screen.split([' ', ';', '\n']).collect();
        words.contains(&"icanon") && words.contains(&"echo")
    };
    terminal.shows("the shell again, and the terminal as it was", |screen| {
        screen.contains("ended with 0") && settings(screen)
    })
}

/// The words of a line behind its name; none if it has another name.
fn words<'a>(line: &'a str, name: &str) -> Vec<&'a str> {
    line.strip_prefix(name).map_or(Vec::new(), |rest| rest.split_whitespace().collect())
}
