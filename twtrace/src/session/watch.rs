//! `twtrace watch`.

use std::{
    collections::HashMap,
    io::{self, BufWriter, IsTerminal, Write},
    os::unix::process::ExitStatusExt,
    process::ExitCode,
    time::{Duration, Instant},
};

use super::{
    SessionError,
    full_screen::FullScreen,
    observe::{self, Plan},
    progress::Progress,
    stop::{Stop, Stopped},
};
use crate::{
    cli::WatchArgs,
    event::{Event, Role, ip},
    feed::Core,
    filter::PeerAddress,
    names::Namer,
    peer::GroupBy,
    pipeline::{Drained, PipelineError},
    summary::{RowChoice, Summary},
    ticks::Ticks,
    units::{Clock, Hz},
    view::{
        self, Format,
        events::EventWriter,
        style::Palette,
        tui::{Request, State},
    },
};

/// Rows of a table when the user does not say.
const TABLE_TOP: usize = 20;

/// Watches until something ends it; answers the process's exit code.
///
/// # Errors
/// [`SessionError`].
pub async fn watch(args: &WatchArgs, palette: Palette) -> Result<ExitCode, SessionError> {
    let plan = Plan {
        wanted: args.selection()?,
        follow_ends: !args.no_ends,
        group_by: args.by,
        also_by_owner: args.by == GroupBy::Peer && !args.no_ends && wants_full_screen(args),
        prefixes: args.prefixes,
        max_peers: args.max_peers,
        facts: true,
        record: args.keep.record.clone().map(|path| (path, None)),
    };
    let mut namer = Namer::of(&args.names.names)?;
    let mut stop = Stop::listen()?;
    let of_events = if args.events { namer.take() } else { None };
    let mut screen = Screen::new(args, palette, of_events)?;
    let mut pipeline = observe::open(&args.observe, plan, &mut |event| screen.take(event)).await?;
    screen.begin(pipeline.core())?;

    let live = !pipeline.is_stream();
    stop.after(args.observe.duration.filter(|_| live));
    stop.with_command(&args.command, args.output.is_machine())?;
    let redraw = Ticks::every(args.interval).map_err(PipelineError::Timer)?;
    let mut shown = Duration::ZERO;
    let mut progress = Progress::unless(screen.terminal);

    let mut ended = false;

    let stopped = loop {
        let mut due = false;
        tokio::select! {
            stopped = stop.wait() => break stopped,
            readable = pipeline.readable(), if !ended => readable?,
            request = screen.input() => match request? {
                Some(Request::Quit) => break Stopped::Asked,
                Some(Request::Choose(choice)) => {
                    screen.choice = choice;
                    due = true;
                }
                Some(Request::Reset(all)) => {
                    let summary = pipeline.summary(&all, &mut |event| screen.take(event))?;
                    screen.begin_anew(&summary)?;
                }
                None => {}
            },
            ticked = redraw.tick(), if live => {
                ticked.map_err(PipelineError::Timer)?;
                due = true;
            }
        }
        // One bounded batch a turn, so that a flood cannot keep Ctrl-C waiting.
        let drained = pipeline.drain(&mut |event| screen.take(event))?;
        if live || drained != Drained::Something {
            screen.events.flush()?;
        }
        progress.show_read(&pipeline, &args.observe);
        let elapsed = pipeline.core().elapsed();
        if drained == Drained::Moment && elapsed >= shown + args.interval {
            shown = elapsed;
            due = true;
        }
        // A stream is left at a moment, whose facts are those of all events before.
        let enough = args.count.is_some_and(|count| screen.events.entered >= count)
            && (live || drained == Drained::Moment);
        let over = drained == Drained::End
            || (!live && args.observe.duration.is_some_and(|time| elapsed >= time));
        if over && screen.is_full() && !ended {
            // One wants to look at it.
            ended = true;
            due = true;
            screen.end();
        }
        if due && screen.refreshes() {
            let choice = screen.choice.clone();
            let mut summary = pipeline.summary(&choice, &mut |event| screen.take(event))?;
            // What is asked for is shown when it is known: nothing here waits.
            observe::give_names(&mut summary, namer.as_mut(), Duration::ZERO);
            screen.refresh(summary, pipeline.core().clock())?;
        }
        if enough && !stop.has_command() || over && !screen.is_full() {
            break Stopped::Asked;
        }
    };
    drop(progress);
    if !screen.is_full() {
        observe::catch_up(&mut pipeline, &args.observe, &mut |event| screen.take(event)).await?;
    }
    screen.close();
    let choice = screen.choice.clone();
    let mut take = |event: &Event| screen.take(event);
    let mut summary = observe::last_summary(&mut pipeline, &args.observe, &choice, &mut take)?;
    if !args.events {
        observe::give_names(&mut summary, namer.as_mut(), observe::PATIENCE);
    }
    screen.finish(&summary)?;
    pipeline.finish_recording()?;
    observe::ended_well(&pipeline, &args.observe)?;
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

/// Where summaries and events go, and keys come from.
struct Screen<'a> {
    args: &'a WatchArgs,
    choice: RowChoice,
    palette: Palette,
    terminal: bool,
    events: EventLines,
    /// What the full screen shows, if there is one.
    state: Option<State>,
    /// The terminal while it is taken.
    full: Option<FullScreen>,
}

/// Whether the full screen is wanted and there is a terminal for it.
fn wants_full_screen(args: &WatchArgs) -> bool {
    let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb" || term.is_empty());
    let both = io::stdin().is_terminal() && io::stdout().is_terminal();
    let shows = args.output == Format::Table && !args.events && !args.plain;
    // A command has the terminal to itself.
    shows && both && !dumb && args.command.is_empty()
}

impl<'a> Screen<'a> {
    fn new(args: &'a WatchArgs, palette: Palette, namer: Option<Namer>) -> io::Result<Self> {
        let top = match args.output {
            Format::Table => Some(args.top.unwrap_or(TABLE_TOP)),
            _ => args.top,
        };
        // What is present is shown before the origin is known to the caller, and is of this host.
        let mut writer = EventWriter::bare(args.output, Hz::of_running_kernel(), false);
        writer.named = namer.is_some();
        let mut events = EventLines {
            out: BufWriter::with_capacity(1 << 16, io::stdout()),
            writer: args.events.then(|| writer.clone()),
            names: namer.map(EventNames::new),
            limit: args.count,
            entered: 0,
            failed: None,
        };
        if args.events {
            writer.write_header(&mut events.out)?;
        }
        let mut screen = Self {
            args,
            choice: RowChoice { top, sort: args.sort, ..RowChoice::default() },
            palette,
            terminal: io::stdout().is_terminal(),
            events,
            state: None,
            full: None,
        };
        if wants_full_screen(args) {
            let coloured = palette.is_coloured();
            let state = State::new(args.by, args.sort, args.top, writer, coloured);
            screen.choice = state.choice();
            screen.state = Some(state);
        }
        Ok(screen)
    }

    fn take(&mut self, event: &Event) {
        self.events.take(event);
        if let Some(state) = &mut self.state {
            state.take(event);
        }
    }

    /// Whether the full screen is there.
    const fn is_full(&self) -> bool {
        self.full.is_some()
    }

    /// Waits for a key; for ever where there is no full screen.
    async fn input(&mut self) -> io::Result<Option<Request>> {
        match (&mut self.full, &mut self.state) {
            (Some(full), Some(state)) => full.input(state).await,
            _ => std::future::pending().await,
        }
    }

    /// Counts from now on.
    fn begin_anew(&mut self, all: &Summary) -> io::Result<()> {
        if let Some(state) = &mut self.state {
            state.begin_anew(all);
        }
        self.draw()
    }

    /// Tells that nothing will come any more.
    fn end(&mut self) {
        if let Some(state) = &mut self.state {
            state.end();
        }
    }

    fn draw(&mut self) -> io::Result<()> {
        match (&mut self.full, &self.state) {
            (Some(full), Some(state)) => full.draw(state),
            _ => Ok(()),
        }
    }

    /// Gives the terminal back. The last table stays on it.
    fn close(&mut self) {
        if self.full.take().is_some() {
            self.terminal = false;
            self.choice.top = Some(self.args.top.unwrap_or(TABLE_TOP));
        }
    }

    /// Tells where the events come from.
    fn begin(&mut self, core: &Core) -> io::Result<()> {
        let origin = core.origin();
        let shown = self.state.as_mut().map(|state| &mut state.writer);
        for writer in self.events.writer.iter_mut().chain(shown) {
            writer.hz = origin.hz;
            writer.recycle_exists = origin.recycle_exists;
            writer.owners = core.aggregate().owners().clone();
        }
        self.full = self.state.as_mut().map(FullScreen::open).transpose()?;
        Ok(())
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

    fn refresh(&mut self, summary: Summary, clock: Clock) -> io::Result<()> {
        if let Some(state) = self.state.as_mut().filter(|_| self.full.is_some()) {
            state.update(summary, clock);
            return self.draw();
        }
        self.rewrite(&summary)
    }

    /// Writes the table over the one before.
    fn rewrite(&mut self, summary: &Summary) -> io::Result<()> {
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
            return self.rewrite(summary);
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

/// Names for the peers of events, which are not waited for: a name that DNS has is told of the events
/// behind its answer.
struct EventNames {
    namer: Namer,
    /// What each was called when it was asked for.
    known: HashMap<PeerAddress, (Option<String>, Instant)>,
}

impl EventNames {
    /// Most peers whose names are kept.
    const MOST: usize = 4096;
    /// Time after which one is asked for again.
    const AGAIN: Duration = Duration::from_secs(1);

    fn new(namer: Namer) -> Self {
        Self { namer, known: HashMap::new() }
    }

    fn of(&mut self, event: &Event) -> Option<&str> {
        let flow = event.flow();
        let port = (event.role() == Role::Client).then_some(flow.remote_port);
        let peer = PeerAddress { ip: ip(flow.remote), port };
        let now = Instant::now();
        let fresh = self.known.get(&peer).is_some_and(|(_, asked)| now - *asked < Self::AGAIN);
        if !fresh {
            if self.known.len() >= Self::MOST {
                self.known.clear();
            }
            let names = self.namer.names(&[peer], Duration::ZERO);
            self.known.insert(peer, (names.of(&peer).map(str::to_owned), now));
        }
        self.known.get(&peer)?.0.as_deref()
    }
}

/// The events as lines, when asked for; counts the entries in any case.
struct EventLines {
    out: BufWriter<io::Stdout>,
    writer: Option<EventWriter>,
    /// Names of peers, if they are wanted.
    names: Option<EventNames>,
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
            let name = self.names.as_mut().and_then(|names| names.of(event));
            self.failed = writer.write_named(&mut self.out, event, name).err();
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.failed.take() {
            Some(error) => Err(error),
            None => self.out.flush(),
        }
    }
}
