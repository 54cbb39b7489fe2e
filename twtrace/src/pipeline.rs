//! The one owner of a session's state: a feed in, summaries out, and a recorder that may listen.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use twtrace_common::{Counter, Decode, Entered, Kind, entered_flags};

use crate::{
    aggregate::{Aggregate, Settings},
    event::{BatchBuilder, Event},
    feed::{self, Core, Input, KernelFeed, NoMoment, Origin, StreamEnd, StreamFeed, Wishes},
    filter::Selection,
    kernel::{KernelError, Options, Totals},
    peer::{Past, minutes::Memory},
    recording::{Recorder, WriteError},
    summary::{RowChoice, Summary},
};

/// How often the buffer is looked into when it is too empty to be woken for.
pub const DRAIN_INTERVAL: Duration = Duration::from_millis(50);
/// Time between two moments of a recording: what a crash costs at most, and the finest interval
/// that a replay can show.
const MOMENTS: Duration = Duration::from_secs(1);
/// How often a moment is looked for in which nothing happens.
const QUIET_TRIES: usize = 64;
/// Sockets that go into one input.
const SOCKETS_AT_ONCE: usize = 16_384;

/// Why a session cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// The kernel side.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The recording being written.
    #[error(transparent)]
    Recording(#[from] WriteError),
    /// The stream ended before anything could be said.
    #[error(transparent)]
    NoMoment(#[from] NoMoment),
}

/// What was taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Nothing was there.
    Nothing,
    /// Something; there may be more.
    Something,
    /// The facts of a moment, told by whoever wrote the stream.
    Moment,
    /// Nothing will come any more.
    End,
}

/// Where inputs come from.
enum Feed {
    Kernel(Box<KernelFeed>),
    Stream(Box<StreamFeed>),
}

/// Somebody who is told every input before it is taken in.
pub trait Tap {
    /// This is next.
    fn told(&mut self, input: &Input);
}

/// Where inputs go.
struct Sink {
    core: Core,
    tap: Option<Box<dyn Tap>>,
    recorder: Option<Recorder>,
    /// Bytes recorded so far.
    recorded: u64,
    /// Why recording stopped before the end. The session goes on without it.
    failed: Option<WriteError>,
}

impl Sink {
    fn take(&mut self, input: Input, observe: &mut dyn FnMut(&Event)) {
        if let Some(tap) = &mut self.tap {
            tap.told(&input);
        }
        self.record(|recorder| recorder.write(&input));
        self.core.take(input, observe);
    }

    /// Does something to the recording, if there is one still.
    fn record(&mut self, write: impl FnOnce(&mut Recorder) -> Result<(), WriteError>) {
        let Some(recorder) = &mut self.recorder else { return };
        let written = write(recorder);
        self.recorded = recorder.bytes();
        if let Err(error) = written {
            self.failed = Some(error);
            self.recorder = None;
        }
    }
}

/// A session's machinery.
pub struct Pipeline {
    feed: Feed,
    sink: Sink,
    /// What every summary needs.
    wishes: Wishes,
    /// When a moment was last looked at.
    looked: Instant,
}

impl Pipeline {
    /// Attaches, then reads the sockets that are in TIME_WAIT already, showing each to `observe`.
    /// `settings` are asked for once the origin is known.
    ///
    /// # Errors
    /// Those of attaching and of the reading.
    pub fn attach(
        options: Options,
        selection: Selection,
        wishes: Wishes,
        settings: impl FnOnce(&Origin) -> Settings,
        observe: &mut dyn FnMut(&Event),
    ) -> Result<Self, PipelineError> {
        Self::attach_recording(options, selection, wishes, settings, |_| Ok(None), observe)
    }

    /// Like [`Pipeline::attach`], with a recorder that is told everything from the first input on.
    ///
    /// # Errors
    /// Those of attaching, of the reading, and of the recorder.
    pub fn attach_recording(
        options: Options,
        selection: Selection,
        wishes: Wishes,
        settings: impl FnOnce(&Origin) -> Settings,
        recorder: impl FnOnce(&Origin) -> Result<Option<Recorder>, WriteError>,
        observe: &mut dyn FnMut(&Event),
    ) -> Result<Self, PipelineError> {
        let follow_ends = options.follow_ends;
        let (mut kernel, origin) = KernelFeed::attach(options, selection, wishes)?;
        let recorder = recorder(&origin)?;
        let settings = settings(&origin);
        let core = Core::new(origin, settings);
        let mut sink = Sink { core, tap: None, recorder, recorded: 0, failed: None };
        if follow_ends {
            kernel.follow_present(&mut |input| sink.take(input, observe))?;
        }
        sink.take(Input::Ready(feed::monotonic_ns()), observe);
        let mut pipeline =
            Self { feed: Feed::Kernel(Box::new(kernel)), sink, wishes, looked: Instant::now() };
        pipeline.look(observe)?;
        Ok(pipeline)
    }

    /// Takes in a recording, or what a daemon sends.
    pub fn read(stream: StreamFeed, core: Core) -> Self {
        let sink = Sink { core, tap: None, recorder: None, recorded: 0, failed: None };
        Self {
            feed: Feed::Stream(Box::new(stream)),
            sink,
            wishes: Wishes::default(),
            looked: Instant::now(),
        }
    }

    /// The kernel side, where this session has it.
    pub fn kernel(&mut self) -> Option<&mut KernelFeed> {
        match &mut self.feed {
            Feed::Kernel(kernel) => Some(kernel),
            Feed::Stream(_) => None,
        }
    }

    /// Whether somebody else tells what happens, and when a moment is.
    pub fn is_stream(&self) -> bool {
        matches!(self.feed, Feed::Stream(_))
    }

    /// What was taken in.
    pub fn core(&self) -> &Core {
        &self.sink.core
    }

    /// Tells somebody every input from now on.
    pub fn set_tap(&mut self, tap: Box<dyn Tap>) {
        self.sink.tap = Some(tap);
    }

    /// The kernel programs' own diagnostics, to be sent to the log until the future is dropped.
    pub fn diagnostics(&mut self) -> Option<impl Future<Output = ()> + use<>> {
        self.kernel()?.tracer().diagnostics()
    }

    /// Remembers as much from now on.
    pub fn set_memory(&mut self, memory: Memory) {
        self.sink.core.set_memory(memory);
    }

    /// Takes in what was known before.
    pub fn remember(&mut self, past: Vec<Past>) {
        self.sink.take(Input::Past(past), &mut |_| {});
    }

    /// How the stream ended, if it has.
    pub fn end(&self) -> Option<&StreamEnd> {
        match &self.feed {
            Feed::Kernel(_) => None,
            Feed::Stream(stream) => stream.end(),
        }
    }

    /// Bytes read of the stream, if it is one.
    pub fn bytes_read(&self) -> Option<u64> {
        match &self.feed {
            Feed::Kernel(_) => None,
            Feed::Stream(stream) => Some(stream.bytes_read()),
        }
    }

    /// Waits until something is there to be taken in.
    ///
    /// # Errors
    /// [`KernelError::Ring`].
    pub async fn readable(&mut self) -> Result<(), PipelineError> {
        match &mut self.feed {
            Feed::Kernel(kernel) => kernel.readable().await?,
            Feed::Stream(stream) => stream.readable().await,
        }
        Ok(())
    }

    /// Takes in one bounded batch, showing each event to `observe`. While a recording is written
    /// it sees to it that the recording has its moments.
    ///
    /// # Errors
    /// The kernel's totals could not be read for the recording.
    pub fn drain(&mut self, observe: &mut dyn FnMut(&Event)) -> Result<Drained, PipelineError> {
        if self.sink.recorder.is_some() && self.looked.elapsed() >= MOMENTS {
            self.look(observe)?;
        }
        let input = match &mut self.feed {
            Feed::Kernel(kernel) => kernel.records(),
            Feed::Stream(stream) => stream.take(),
        };
        let Some(input) = input else {
            return Ok(if self.end().is_some() { Drained::End } else { Drained::Nothing });
        };
        let drained = match &input {
            Input::Moment(_) => Drained::Moment,
            _ => Drained::Something,
        };
        self.sink.take(input, observe);
        Ok(drained)
    }

    /// Finds out everything a summary of this moment needs, healing what was lost before. In a
    /// stream somebody else did.
    ///
    /// # Errors
    /// The kernel's totals could not be read.
    pub fn look(&mut self, observe: &mut dyn FnMut(&Event)) -> Result<(), PipelineError> {
        let wishes = self.wishes;
        self.look_for(wishes, observe)
    }

    /// The same, finding out only what is wished for.
    ///
    /// # Errors
    /// As for [`Pipeline::look`].
    pub fn look_for(
        &mut self,
        wishes: Wishes,
        observe: &mut dyn FnMut(&Event),
    ) -> Result<(), PipelineError> {
        let Self { feed: Feed::Kernel(kernel), sink, .. } = self else { return Ok(()) };
        self.looked = Instant::now();
        let (totals, skipped) = kernel.totals()?;
        // After the totals, so that whatever they count is in the rows as well, unless it is lost.
        drain_all(kernel, sink, observe);
        if let Some(refusals) = kernel.refusals() {
            sink.take(refusals, observe);
        }
        if kernel.is_in_trouble(&totals, skipped) {
            let vanished = kernel.vanished(sink.core.aggregate());
            // Ends that were merely on their way.
            drain_all(kernel, sink, observe);
            sink.take(vanished, observe);
        }
        let moment = kernel.moment(&sink.core, totals, skipped, wishes);
        sink.take(Input::Moment(Box::new(moment)), observe);
        self.rotate(observe)
    }

    /// Takes the summary of this moment, or of the last one a stream told.
    ///
    /// # Errors
    /// Those of [`Pipeline::look`], and [`NoMoment`] in a stream.
    pub fn summary(
        &mut self,
        choice: &RowChoice,
        observe: &mut dyn FnMut(&Event),
    ) -> Result<Summary, PipelineError> {
        self.look(observe)?;
        Ok(self.sink.core.summary(choice)?)
    }

    /// Whether a recording is being written: not, if that failed.
    pub fn is_recording(&self) -> bool {
        self.sink.recorder.is_some()
    }

    /// Bytes of the recording so far, in all its files.
    pub const fn recorded(&self) -> u64 {
        self.sink.recorded
    }

    /// Ends the recording, if there is one.
    ///
    /// # Errors
    /// [`WriteError`], of now or of before.
    pub fn finish_recording(&mut self) -> Result<(), PipelineError> {
        self.sink.record(Recorder::finish);
        self.sink.recorder = None;
        self.sink.failed.take().map_or(Ok(()), |error| Err(error.into()))
    }

    /// Begins the next file of a recording when one is due, with all that is known and lives now.
    fn rotate(&mut self, observe: &mut dyn FnMut(&Event)) -> Result<(), PipelineError> {
        if !self.sink.recorder.as_ref().is_some_and(Recorder::is_full) {
            return Ok(());
        }
        let (origin, inputs) = self.begin_in_the_middle(observe)?;
        self.sink.record(|recorder| {
            recorder.rotate(&origin)?;
            inputs.iter().try_for_each(|input| recorder.write(input))
        });
        Ok(())
    }

    /// What somebody who begins to listen now has to take in first: where it all comes from, what
    /// is known of peers, and the sockets that live.
    ///
    /// # Errors
    /// The kernel's totals could not be read.
    pub fn begin_in_the_middle(
        &mut self,
        observe: &mut dyn FnMut(&Event),
    ) -> Result<(Origin, Vec<Input>), PipelineError> {
        let Self { feed: Feed::Kernel(kernel), sink, .. } = self else {
            return Err(NoMoment.into());
        };
        let mut sockets: HashMap<u64, Entered> =
            kernel.live_now(|socket| (socket.tw, socket)).into_values().flatten().collect();
        // What came since the walk began is newer than what the walk saw.
        let (totals, skipped) = quiet_totals(kernel, sink, &mut |event| {
            if let Event::Entered(entered) = event {
                sockets.insert(entered.tw, *entered);
            }
            observe(event);
        })?;
        let clock = feed::now();
        let aggregate = sink.core.aggregate();
        let (present, count) = present(aggregate, &sockets);
        let before = totals.of(Counter::Present).wrapping_sub(count);
        let before = totals.with(Counter::Present, before);
        let mut inputs: Vec<Input> =
            Past::parts(aggregate.table().past()).map(Input::Past).collect();
        inputs.extend(present);
        inputs.push(Input::Ready(feed::monotonic_ns()));
        let wishes = Wishes { facts: true, cgroup_names: true };
        let moment = kernel.moment(&sink.core, totals, skipped, wishes);
        let origin = sink.core.origin().begun_again(clock, before, &moment);
        inputs.push(Input::Moment(Box::new(moment)));
        Ok((origin, inputs))
    }
}

/// Takes in everything that waits.
fn drain_all(kernel: &mut KernelFeed, sink: &mut Sink, observe: &mut dyn FnMut(&Event)) {
    while let Some(input) = kernel.records() {
        sink.take(input, observe);
    }
}

/// The totals of a moment before which everything that they count has been taken in, as far as
/// there is such a moment.
fn quiet_totals(
    kernel: &mut KernelFeed,
    sink: &mut Sink,
    observe: &mut dyn FnMut(&Event),
) -> Result<(Totals, u64), KernelError> {
    let mut before = kernel.totals()?;
    for _ in 0..QUIET_TRIES {
        drain_all(kernel, sink, observe);
        let after = kernel.totals()?;
        if after.0 == before.0 {
            break;
        }
        before = after;
    }
    Ok(before)
}

/// The sockets followed, as records of sockets that were there at the start, and their number.
fn present(aggregate: &Aggregate, sockets: &HashMap<u64, Entered>) -> (Vec<Input>, u64) {
    let mut builder = BatchBuilder::default();
    let mut inputs = Vec::new();
    let mut count = 0;
    for (tw, tracked) in aggregate.live() {
        // One that the walk did not see ended while it went on; its end is on its way.
        let Some(socket) = sockets.get(&tw) else { continue };
        let mut socket = *socket;
        socket.header.kind = Kind::Present as u8;
        socket.header.flags |= entered_flags::FOLLOWED;
        if tracked.entered_ns != 0 {
            socket.header.flags |= entered_flags::ENTRY_KNOWN;
            socket.mono_ns = tracked.entered_ns;
        }
        builder.push(socket.as_bytes());
        count += 1;
        if builder.len() == SOCKETS_AT_ONCE {
            inputs.push(Input::Records(builder.take()));
        }
    }
    if !builder.is_empty() {
        inputs.push(Input::Records(builder.take()));
    }
    (inputs, count)
}
