//! A real terminal: tmux, in which a program is started, typed to, and looked at.

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::expect;
use crate::lab::Lab;
use crate::netns;
use crate::wait;

static MADE: AtomicU32 = AtomicU32::new(0);

/// A terminal of 80 columns and 24 lines.
pub struct Terminal {
    /// Name of the tmux server, which is this terminal's own.
    server: String,
}

impl Terminal {
    /// Starts one in which a shell runs a line.
    pub fn running(line: &str) -> Result<Self> {
        let serial = MADE.fetch_add(1, Ordering::Relaxed);
        let server = format!("twt{}-{serial}", std::process::id());
        let terminal = Self { server };
        terminal.tmux(&["-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24", line])?;
        Ok(terminal)
    }

    /// Starts one whose shell runs `twtrace watch` with more arguments, then says how it ended and
    /// what it left behind.
    pub fn watch(lab: &Lab, args: &[&str]) -> Result<Self> {
        let attach = lab.attach().join(" ");
        let twtrace = lab.twtrace.display();
        Self::telling(&format!("{twtrace} watch {attach} {}", args.join(" ")))
    }

    /// Starts one whose shell runs a command, then says how it ended and what it left behind.
    pub fn telling(command: &str) -> Result<Self> {
        // `stty` says whether the terminal was given back as it was.
        Self::running(&format!("{command}; echo ended with $?; stty -a; exec cat"))
    }

    /// Waits for the end of what tells how it ended, and asserts that the terminal is as it was
    /// before.
    pub fn given_back(&self, status: u8) -> Result<String> {
        // Both words are settings that the full screen takes away.
        let settings = |screen: &str| {
            let words: Vec<&str> = screen.split([' ', ';', '\n']).collect();
            words.contains(&"icanon") && words.contains(&"echo")
        };
        let ended = format!("ended with {status}\n");
        let screen = self.shows("the shell again, and the terminal as it was", |screen| {
            screen.contains(&ended) && settings(screen)
        })?;
        expect::equal("a second screen is shown", &false, &self.shows_alternate()?)?;
        Ok(screen)
    }

    /// Whether the screen shown is the second one, which programs that fill it ask for.
    pub fn shows_alternate(&self) -> Result<bool> {
        let said = self.tmux(&["display-message", "-p", "#{alternate_on} #{cursor_flag}"])?;
        match said.trim() {
            // Such programs hide the cursor as well.
            "1 0" => Ok(true),
            "0 1" => Ok(false),
            other => bail!("alternate screen and cursor are {other}"),
        }
    }

    /// Types keys by the names that tmux has for them.
    pub fn keys(&self, keys: &[&str]) -> Result<()> {
        self.tmux(&[&["send-keys"], keys].concat()).map(drop)
    }

    /// Types a text letter by letter.
    pub fn text(&self, text: &str) -> Result<()> {
        self.tmux(&["send-keys", "-l", text]).map(drop)
    }

    /// Changes the size.
    pub fn resize(&self, columns: u16, lines: u16) -> Result<()> {
        let (columns, lines) = (columns.to_string(), lines.to_string());
        self.tmux(&["resize-window", "-x", &columns, "-y", &lines]).map(drop)
    }

    /// What is on the screen.
    pub fn screen(&self) -> Result<String> {
        self.tmux(&["capture-pane", "-p"])
    }

    /// Looks until `seen` is true of the screen, and gives it.
    pub fn shows(&self, what: &str, seen: impl Fn(&str) -> bool) -> Result<String> {
        let look = || Ok(Some(self.screen()?).filter(|screen| seen(screen)));
        wait::until(&format!("the screen to show {what}"), wait::SOON, look).map_err(|error| {
            error.context(format!("the screen:\n{}", self.screen().unwrap_or_default()))
        })
    }

    /// The process that the shell runs.
    pub fn child(&self) -> Result<u32> {
        let shell = self.tmux(&["display-message", "-p", "#{pane_pid}"])?;
        let shell = shell.trim();
        let children = fs::read_to_string(format!("/proc/{shell}/task/{shell}/children"))?;
        let child = children.split_whitespace().next().context("the shell runs nothing")?;
        child.parse().context("process id")
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child()?).ok().and_then(Pid::from_raw);
        kill_process(pid.context("process id")?, signal).context("signalling twtrace")
    }

    fn tmux(&self, args: &[&str]) -> Result<String> {
        let output = netns::run("tmux", &[&["-u", "-L", &self.server], args].concat())?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // A server that is gone already needs no ending.
        let _ = Command::new("tmux").args(["-L", &self.server, "kill-server"]).output();
    }
}
