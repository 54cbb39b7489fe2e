//! `twtrace export`.

use std::{
    fs::File,
    io::{self, BufWriter, IsTerminal, Write},
    process::ExitCode,
};

use super::{
    SessionError,
    log::say,
    observe::{self, Plan},
    progress::Progress,
    stop::Stop,
};
use crate::{
    cli::{ExportArgs, ObserveArgs},
    event::Event,
    feed::Core,
    pipeline::{Drained, Pipeline},
    text::counted,
    view::{
        ExportFormat, Format, columns::Provenance, events::EventWriter, parquet::ParquetWriter,
    },
};

/// Turns the events of a recording into rows.
///
/// # Errors
/// [`SessionError`].
pub async fn export(args: &ExportArgs) -> Result<ExitCode, SessionError> {
    let to_stdout = args.output.is_none();
    if to_stdout && args.format == ExportFormat::Parquet && io::stdout().is_terminal() {
        let problem = "Parquet is not for a terminal: give a file with --output";
        return Err(SessionError::Usage(problem.into()));
    }
    let mut stop = Stop::listen()?;
    let observe = ObserveArgs::of_recording(args.file.clone());
    let plan = Plan { wanted: args.expression.join(" ").parse()?, ..Plan::default() };
    let mut pipeline = observe::open(&observe, plan, &mut |_| {}).await?;
    let out: Box<dyn Write + Send> = match &args.output {
        Some(path) => Box::new(File::create(path).map_err(|source| named(path, source))?),
        None => Box::new(io::stdout()),
    };
    let mut rows = Rows::new(args.format, out, pipeline.core())?;
    let mut progress = Progress::unless(to_stdout && io::stdout().is_terminal());
    let whole = write(&mut pipeline, &mut stop, &mut rows, |pipeline| {
        progress.show_read(pipeline, &observe);
    })
    .await?;
    drop(progress);
    let count = rows.finish()?;
    let interrupted = if whole { "" } else { ", interrupted" };
    say(&format!("{} exported{interrupted}", counted(count, "events")));
    observe::ended_well(&pipeline, &observe)?;
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Takes the recording in to its end; answers whether nobody interrupted that.
async fn write(
    pipeline: &mut Pipeline,
    stop: &mut Stop,
    rows: &mut Rows,
    mut look: impl FnMut(&Pipeline),
) -> Result<bool, SessionError> {
    loop {
        tokio::select! {
            _ = stop.wait() => return Ok(false),
            readable = pipeline.readable() => readable?,
        }
        // Times of day are told by the moment before the event, since clocks are set.
        if let Some(moment) = pipeline.core().moment() {
            rows.from.clock = moment.clock;
        }
        let drained = pipeline.drain(&mut |event| rows.take(event))?;
        rows.failed.take().map_or(Ok(()), Err)?;
        if drained == Drained::End {
            return Ok(true);
        }
        look(pipeline);
    }
}

fn named(path: &std::path::Path, source: io::Error) -> io::Error {
    io::Error::new(source.kind(), format!("{}: {source}", path.display()))
}

/// Where rows go.
struct Rows {
    from: Provenance,
    form: Form,
    count: u64,
    failed: Option<io::Error>,
}

enum Form {
    Lines(EventWriter, BufWriter<Box<dyn Write + Send>>),
    Parquet(Box<ParquetWriter<BufWriter<Box<dyn Write + Send>>>>),
}

impl Rows {
    fn new(format: ExportFormat, out: Box<dyn Write + Send>, core: &Core) -> io::Result<Self> {
        let origin = core.origin();
        let mut out = BufWriter::with_capacity(1 << 16, out);
        let writer = |format| EventWriter {
            owners: core.aggregate().owners().clone(),
            ..EventWriter::bare(format, origin.hz, origin.recycle_exists)
        };
        let form = match format {
            ExportFormat::Ndjson => Form::Lines(writer(Format::Ndjson), out),
            ExportFormat::Csv => {
                writer(Format::Csv).write_header_of(&mut out, true)?;
                Form::Lines(writer(Format::Csv), out)
            }
            ExportFormat::Parquet => {
                Form::Parquet(Box::new(ParquetWriter::new(out, writer(Format::Ndjson))?))
            }
        };
        Ok(Self { from: Provenance::of(origin), form, count: 0, failed: None })
    }

    fn take(&mut self, event: &Event) {
        if self.failed.is_some() {
            return;
        }
        self.count += 1;
        let written = match &mut self.form {
            Form::Lines(writer, out) => writer.write_from(out, event, Some(&self.from)),
            Form::Parquet(writer) => writer.write(event, &self.from),
        };
        self.failed = written.err();
    }

    /// Writes what is left; answers how many rows there are.
    fn finish(self) -> io::Result<u64> {
        match self.form {
            Form::Lines(_, mut out) => out.flush()?,
            Form::Parquet(writer) => writer.finish().map(drop)?,
        }
        Ok(self.count)
    }
}
