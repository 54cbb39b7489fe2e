//! What comes with the program for a shell and a manual, judged by those who will read it.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::expect;
use crate::lab::Lab;
use crate::terminal::Terminal;
use crate::twtrace;

/// Neither formatter of the two that systems have warns of anything in any man page.
pub fn pages_are_without_fault(lab: &Lab) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let to = directory.path().to_str().context("a path")?;
    let output = twtrace::run(lab, &["man", to])?;
    expect::that(output.status.success(), || twtrace::shown(&output))?;
    let mut pages = 0;
    for entry in directory.path().read_dir()? {
        let page = entry?.path();
        let page = page.to_str().context("a path")?;
        formats("mandoc", &["-T", "lint", "-W", "warning", page])?;
        formats("groff", &["-man", "-Tutf8", "-ww", "-z", page])?;
        pages += 1;
    }
    expect::that(pages > 10, || format!("only {pages} man pages were written"))
}

/// A formatter has nothing to say.
fn formats(program: &str, args: &[&str]) -> Result<()> {
    let output = twtrace::finished(Command::new(program).args(args))?;
    let silent = output.stdout.is_empty() && output.stderr.is_empty();
    expect::that(output.status.success() && silent, || twtrace::shown(&output))
}

/// Each shell, started without its user's settings, completes a command, an option and a value.
pub fn completions_work_in_each_shell(lab: &Lab) -> Result<()> {
    completes(lab, "bash", "bash --norc --noprofile", "source")?;
    completes(lab, "zsh", "zsh -f", "autoload -Uz compinit && compinit -D -u && source")?;
    completes(lab, "fish", "fish", "source")
}

fn completes(lab: &Lab, shell: &str, start: &str, load: &str) -> Result<()> {
    let output = twtrace::run(lab, &["completions", shell])?;
    expect::that(output.status.success(), || twtrace::shown(&output))?;
    let directory = tempfile::tempdir()?;
    let script = directory.path().join("script");
    std::fs::write(&script, &output.stdout)?;

    let program = std::path::absolute(&lab.twtrace)?;
    let beside = program.parent().unwrap_or(Path::new("/")).display();
    let home = directory.path().display();
    let terminal = Terminal::running(&format!(
        "cd / && HOME={home} XDG_CONFIG_HOME={home} XDG_DATA_HOME={home} PATH={beside}:$PATH \
         exec {start}"
    ))?;
    let typed = |text: &str, becomes: &str| -> Result<()> {
        terminal.text(text)?;
        terminal.keys(&["Tab"])?;
        // Zsh sets the sign before a value as well.
        let line = |line: &str| line.trim_end_matches([' ', '=']).ends_with(becomes);
        let whole = |screen: &str| screen.lines().any(line);
        terminal.shows(&format!("{becomes:?} in {shell}"), whole).map(drop)
    };
    terminal.text(&format!("{load} {} && echo it is loaded\n", script.display()))?;
    terminal.shows(&format!("the script loaded by {shell}"), |screen| {
        screen.lines().any(|line| line.trim_end() == "it is loaded")
    })?;
    typed("twtrace expl", "twtrace explain")?;
    terminal.keys(&["C-u"])?;
    typed("twtrace watch --inter", "twtrace watch --interval")?;
    terminal.keys(&["C-u"])?;
    typed("twtrace export some.file --format parq", "--format parquet")
}
