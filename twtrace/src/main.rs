//! twtrace: parse, set up logging, run, and turn the outcome into an exit code.

use std::{
    io::{IsTerminal, Write},
    process::ExitCode,
};

use anyhow::Context;
use clap::FromArgMatches;
use tracing_subscriber::{
    EnvFilter, Layer, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};
use twtrace::{
    cli::{Cli, Color, Command, CompletedShell, DaemonArgs},
    config::{self, ConfigError},
    daemon::{self, life::SettingsFrom},
    manual,
    session::{self, SessionError},
    view::{causes::causes, check::Status, style::Palette},
};

/// Exit code for a command line that asks for what cannot be.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let matches = manual::command().try_get_matches();
    let cli = match matches.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    // The daemon's log is a matter of its settings.
    if !matches!(cli.command, Command::Daemon(_)) {
        begin_log(cli.verbose, matches!(cli.command, Command::Support(_)));
    }
    match enter_host(&cli).and_then(|()| run(&cli)) {
        Ok(code) => code,
        Err(error) => {
            let session = error.downcast_ref::<SessionError>();
            if session.is_some_and(SessionError::is_closed_pipe) {
                return ExitCode::SUCCESS;
            }
            session::log::say(&causes(error.chain()));
            let usage = matches!(session, Some(SessionError::Usage(_) | SessionError::Filter(_)))
                || error.is::<ConfigError>();
            if usage { ExitCode::from(USAGE) } else { ExitCode::FAILURE }
        }
    }
}

/// Prints what clap has to say. A monitoring plugin that was called wrongly is UNKNOWN, and says
/// so on stdout, since 2 would read as CRITICAL.
fn usage(error: &clap::Error) -> ExitCode {
    // Nobody to tell if printing fails.
    let _ = error.print();
    let is_check = std::env::args_os().nth(1).is_some_and(|argument| argument == "check");
    match (error.use_stderr(), is_check) {
        (false, _) => ExitCode::SUCCESS,
        (true, true) => {
            let _ = writeln!(std::io::stdout(), "TWTRACE UNKNOWN - wrong usage, see stderr");
            ExitCode::from(Status::Unknown as u8)
        }
        (true, false) => ExitCode::from(USAGE),
    }
}

/// Makes the host's root this process's own, if it is mounted somewhere.
fn enter_host(cli: &Cli) -> anyhow::Result<()> {
    let Some(root) = &cli.host_root else { return Ok(()) };
    twtrace::kernel::enter_root(root).with_context(|| format!("--host-root {}", root.display()))
}

fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")?;
    let palette = palette(cli.color);
    match &cli.command {
        Command::Completions { shell } => return completions(*shell),
        Command::Man { directory } => return man(directory),
        _ => {}
    }
    let code = runtime.block_on(async {
        match &cli.command {
            Command::Watch(args) => session::watch(args, palette).await,
            Command::Peer(args) => session::peer(args, palette).await,
            Command::Record(args) => session::record(args).await,
            Command::Replay(args) => session::replay(args, palette).await,
            Command::Export(args) => session::export(args).await,
            Command::Diagnose(args) => session::diagnose(args, palette).await,
            Command::Explain(args) => session::explain(args, palette).await,
            Command::Report(args) => session::report(args).await,
            Command::WhatIf(args) => session::what_if(args, palette).await,
            Command::Check(args) => session::check(args).await,
            Command::Support(args) => session::support(args).await,
            Command::Daemon(args) => return daemon(args).await,
            Command::Config(_) => {
                config::print::default_file(&mut std::io::stdout().lock())?;
                return Ok(ExitCode::SUCCESS);
            }
            Command::Completions { .. } | Command::Man { .. } => Ok(ExitCode::SUCCESS),
        }
        .map_err(anyhow::Error::from)
    })?;
    Ok(code)
}

/// Runs as the host's daemon, or only checks the settings.
async fn daemon(args: &DaemonArgs) -> anyhow::Result<ExitCode> {
    let settings = SettingsFrom { file: args.config.clone(), flags: args.flags.clone() };
    let config = settings.load()?;
    if !args.check_config {
        let volume = daemon::log::begin(config.log);
        daemon::life::run(settings, config, volume).await?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints a shell's completions.
fn completions(shell: CompletedShell) -> anyhow::Result<ExitCode> {
    manual::write_completions(shell, &mut std::io::stdout().lock())
        .context("cannot write the completions")?;
    Ok(ExitCode::SUCCESS)
}

/// Writes the man pages.
fn man(directory: &std::path::Path) -> anyhow::Result<ExitCode> {
    let pages = manual::write_man(directory)
        .with_context(|| format!("cannot write man pages to {}", directory.display()))?;
    session::log::say(&format!("{pages} man pages in {}", directory.display()));
    Ok(ExitCode::SUCCESS)
}

/// Colour on a terminal unless NO_COLOR says otherwise, or as the user wants it.
fn palette(color: Color) -> Palette {
    let wanted = match color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => {
            let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
            std::io::stdout().is_terminal() && !no_color
        }
    };
    if wanted { Palette::COLOURED } else { Palette::PLAIN }
}

/// Warnings on stderr, and more on request; all of it into a support bundle. The kernel programs' own
/// lines come through here too.
fn begin_log(verbose: u8, is_kept: bool) {
    let level = match verbose {
        0 => "warn",
        1 => "info,twtrace=debug",
        _ => "debug",
    };
    let filter = EnvFilter::try_from_env("TWTRACE_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let shown = fmt::layer().with_writer(|| session::log::Log).with_ansi(false);
    let kept = is_kept.then(|| {
        session::log::keep();
        let all = fmt::layer().with_writer(|| session::log::Kept).with_ansi(false);
        all.with_filter(EnvFilter::new("debug,aya_obj=info"))
    });
    tracing_subscriber::registry().with(shown.with_filter(filter)).with(kept).init();
}
