//! `twtrace watch`.

use std::{
    io::{self, BufWriter, IsTerminal, Write},
    os::unix::process::ExitStatusExt,
    process::ExitCode,
};

use tokio::time::{MissedTickBehavior, interval};

use super::{
    SessionError, observe,
    stop::{Stop, Stopped},
};
use crate::{
    cli::WatchArgs,
    event::Event,
    pipeline::{DRAIN_INTERVAL, Pipeline},
    summary::{RowChoice, Summary},
    view::{self, Format, events::EventWriter, style::Palette},
};

/// Rows of a table when the user does not say.
const TABLE_TOP: usize = 20;

/// Watches until something ends it; answers the process's exit code.
///
/// # Errors
/// [`SessionError`].
pub async fn watch(args: &WatchArgs, palette: Palette) -> Result<ExitCode, SessionError> {
    let follow_ends = !args.no_ends;
    let selection = observe::Selection {
        networks: args.peer.clone(),
        port: args.port,
        local_port: args.local_port,
        ipv4: args.ipv4,
        ipv6: args.ipv6,
    };
    let options = observe::options(&args.observe, &selection, follow_ends)?;
    let settings =
        observe::settings(&args.observe, args.by, args.prefixes, args.max_peers, follow_ends);
    let writer = EventWriter {
        format: args.output,
        hz: settings.hz,
        recycle_exists: settings.recycle_exists,
    };
    let mut stop = Stop::listen()?;
    let mut screen = Screen::new(args, writer, palette)?;
    let mut pipeline = Pipeline::start(options, settings, &mut |event| screen.events.take(event))?;
    if let Some(diagnostics) = pipeline.tracer().diagnostics() {
        tokio::spawn(diagnostics);
    }
    announce(&mut pipeline);

    stop.after(args.observe.duration);
    stop.with_command(&args.command, args.output.is_machine())?;
    let mut drain = interval(DRAIN_INTERVAL);
    drain.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut redraw = interval(args.interval);
    redraw.set_missed_tick_behavior(MissedTickBehavior::Skip);

    let stopped = loop {
        tokio::select! {
            stopped = stop.wait() => break stopped,
            readable = pipeline.readable() => readable?,
            _ = drain.tick() => {}
            _ = redraw.tick(), if screen.refreshes() => {
                let summary = pipeline.summary(screen.choice, &mut |event| screen.events.take(event))?;
                screen.refresh(&summary)?;
            }
        }
        // One bounded batch a turn, so that a flood cannot keep Ctrl-C waiting.
        pipeline.drain(&mut |event| screen.events.take(event));
        screen.events.flush()?;
        let enough = args.count.is_some_and(|count| screen.events.entered >= count);
        if enough && !stop.has_command() {
            break Stopped::Asked;
        }
    };
    let summary = pipeline.summary(screen.choice, &mut |event| screen.events.take(event))?;
    screen.finish(&summary)?;
    Ok(match stopped {
        Stopped::Asked => ExitCode::SUCCESS,
        // As a shell would say it: a signal is 128 and its number.
        Stopped::Command(status) => status
            .code()
            .or_else(|| status.signal().map(|signal| 128 + signal))
            .and_then(|code| u8::try_from(code).ok())
            .map_or(ExitCode::FAILURE, ExitCode::from),
    })
}

/// Says on stderr what runs, and that the counting has begun.
pub(super) fn announce(pipeline: &mut Pipeline) {
    let tracer = pipeline.tracer();
    let mut line = format!("twtrace: watching through {}", tracer.backend());
    for refusal in tracer.refused() {
        line.push_str(&format!("; {} did not work: {}", refusal.backend, refusal.reason));
    }
    // A reader that went away is found out when the output is written.
    let _ = writeln!(io::stderr(), "{line}");
}

/// Where summaries and events go.
struct Screen<'a> {
    args: &'a WatchArgs,
    choice: RowChoice,
    palette: Palette,
    terminal: bool,
    events: EventLines,
}

impl<'a> Screen<'a> {
    fn new(args: &'a WatchArgs, writer: EventWriter, palette: Palette) -> io::Result<Self> {
        let top = match args.output {
            Format::Table => Some(args.top.unwrap_or(TABLE_TOP)),
            _ => args.top,
        };
        let mut events = EventLines {
            out: BufWriter::with_capacity(1 << 16, io::stdout()),
            writer: args.events.then_some(writer),
            limit: args.count,
            entered: 0,
            failed: None,
        };
        if args.events {
            writer.write_header(&mut events.out)?;
        }
        Ok(Self {
            args,
            choice: RowChoice { top, sort: args.sort },
            palette,
            terminal: io::stdout().is_terminal(),
            events,
        })
    }

    /// Whether there is something to write between start and end.
    fn refreshes(&self) -> bool {
        !self.args.events
            && match self.args.output {
                Format::Table => self.terminal,
                Format::Ndjson => true,
                Format::Json | Format::Csv => false,
            }
    }

    fn refresh(&mut self, summary: &Summary) -> io::Result<()> {
        let mut text = Vec::new();
        if self.args.output == Format::Table {
            // To the upper left corner, and clear what is below: no flicker.
            text.extend_from_slice(b"\x1b[H\x1b[J");
        }
        self.write(&mut text, summary)?;
        let mut out = io::stdout().lock();
        out.write_all(&text)?;
        out.flush()
    }

    fn finish(&mut self, summary: &Summary) -> io::Result<()> {
        if self.args.events {
            return self.events.flush();
        }
        if self.terminal && self.args.output == Format::Table {
            return self.refresh(summary);
        }
        let mut out = BufWriter::new(io::stdout().lock());
        self.write(&mut out, summary)?;
        out.flush()
    }

    fn write(&self, out: &mut impl Write, summary: &Summary) -> io::Result<()> {
        match self.args.output {
            Format::Table => view::table::write(out, summary, self.palette),
            Format::Json => view::json::write_pretty(out, summary),
            Format::Ndjson => view::json::write_line(out, summary),
            Format::Csv => view::csv::write(out, summary),
        }
    }
}

/// The events as lines, when asked for; counts the entries in any case.
struct EventLines {
    out: BufWriter<io::Stdout>,
    writer: Option<EventWriter>,
    limit: Option<u64>,
    entered: u64,
    failed: Option<io::Error>,
}

impl EventLines {
    fn take(&mut self, event: &Event) {
        let entry = matches!(event, Event::Entered(_));
        let beyond = entry && self.limit.is_some_and(|limit| self.entered >= limit);
        self.entered += u64::from(entry);
        if let (Some(writer), None, false) = (&self.writer, &self.failed, beyond) {
            self.failed = writer.write(&mut self.out, event).err();
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.failed.take() {
            Some(error) => Err(error),
            None => self.out.flush(),
        }
    }
}
