//! The one owner of a session's state: a feed in, summaries out, and a recorder that may listen.

use std::{
    io,
    time::{Duration, Instant},
};

use tokio::time::timeout_at;
use twtrace_common::Entered;

use crate::{
    aggregate::Settings,
    diagnose::egress::Egress,
    event::Event,
    feed::{
        self, Core, DRAIN_INTERVAL, KernelFeed, NoMoment, Opening,
        beside::{Beside, Progress},
        healing::{Found, Haste, Healing},
        walk::Vanished,
    },
    filter::Selection,
    kernel::{KernelError, Options},
    origin::{Input, Origin, Wishes},
    peer::{Past, minutes::Memory},
    recording::{Recorder, StreamEnd, StreamFeed, WriteError},
    summary::{RowChoice, Summary},
    totals::Totals,
};

/// Time between two moments of a recording: what a crash costs at most, and the finest interval
/// that a replay can show.
const MOMENTS: Duration = Duration::from_secs(1);
/// How often a moment is looked for in which nothing happens.
const QUIET_TRIES: usize = 64;
/// Walks a session waits for at its end: the one under way, and one for what was lost since it began.
const LAST_WALKS: usize = 2;

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
    /// The sockets that live could not be looked for.
    #[error("cannot look for the sockets that live: {0}")]
    Walk(io::Error),
    /// There is nothing to tell when the next second has come.
    #[error("no timer: {0}")]
    Timer(io::Error),
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
    /// Tells of an input that is about to be taken in.
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
    /// The sockets that entered while those that live are sought.
    entered: Option<Vec<Entered>>,
}

impl Sink {
    fn new(core: Core, recorder: Option<Recorder>) -> Self {
        Self { core, tap: None, recorder, recorded: 0, failed: None, entered: None }
    }

    fn take(&mut self, input: Input, observe: &mut dyn FnMut(&Event)) {
        if let Some(tap) = &mut self.tap {
            tap.told(&input);
        }
        self.record(|recorder| recorder.write(&input));
        let kept = &mut self.entered;
        self.core.take(input, &mut |event| {
            if let (Some(kept), Event::Entered(entered)) = (kept.as_mut(), event) {
                kept.push(*entered);
            }
            observe(event);
        });
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
    /// The look for sockets that ended unseen.
    healing: Healing,
    /// The walk over the sockets that live, for somebody who begins to listen.
    opening: Option<Beside<Vec<Entered>>>,
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
        let mut sink = Sink::new(core, recorder);
        if follow_ends {
            kernel.follow_present(&mut |input| sink.take(input, observe))?;
        }
        sink.take(Input::Ready(feed::monotonic_ns()), observe);
        let mut pipeline = Self::of(Feed::Kernel(Box::new(kernel)), sink, wishes);
        pipeline.look(observe)?;
        Ok(pipeline)
    }

    fn of(feed: Feed, sink: Sink, wishes: Wishes) -> Self {
        let healing = Healing::default();
        Self { feed, sink, wishes, looked: Instant::now(), healing, opening: None }
    }

    /// Takes in a recording, or what a daemon sends.
    pub fn read(stream: StreamFeed, core: Core) -> Self {
        Self::of(Feed::Stream(Box::new(stream)), Sink::new(core, None), Wishes::default())
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

    /// Changes how much is remembered; what is too much now is forgotten.
    pub fn set_memory(&mut self, memory: Memory) {
        self.sink.core.set_memory(memory);
    }

    /// Tells through which addresses connections leave.
    pub fn set_egress(&mut self, egress: Vec<Egress>) {
        self.sink.core.set_egress(egress);
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

    /// Waits until something is there to be taken in, or to be seen to in [`Pipeline::drain`].
    ///
    /// # Errors
    /// [`KernelError::Ring`].
    pub async fn readable(&mut self) -> Result<(), PipelineError> {
        let beside = self.opening.is_some() || !self.healing.is_over();
        match &mut self.feed {
            Feed::Kernel(kernel) => {
                let due = kernel.due(beside);
                if self.sink.recorder.is_none() {
                    return Ok(due.await?);
                }
                timeout_at((self.looked + MOMENTS).into(), due).await.unwrap_or(Ok(()))?;
            }
            Feed::Stream(stream) => stream.readable().await,
        }
        Ok(())
    }

    /// Takes in one bounded batch, showing each event to `observe`, and what was found out beside.
    /// While a recording is written it sees to it that the recording has its moments.
    ///
    /// # Errors
    /// The kernel's totals could not be read for the recording.
    pub fn drain(&mut self, observe: &mut dyn FnMut(&Event)) -> Result<Drained, PipelineError> {
        if self.sink.recorder.is_some() && self.looked.elapsed() >= MOMENTS {
            self.look(observe)?;
        }
        self.heal(Haste::None, Duration::ZERO, observe);
        self.rotate(observe)?;
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

    /// Finds out everything a summary of this moment needs. In a stream somebody else did.
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
        // Whatever happened until here is told before the moment that bears this time.
        let clock = feed::now();
        let (totals, skipped) = kernel.totals()?;
        // After the totals, so that whatever they count is in the rows as well, unless it is lost.
        drain_all(kernel, sink, observe);
        if let Some(refusals) = kernel.refusals() {
            sink.take(refusals, observe);
        }
        for input in kernel.failures() {
            sink.take(input, observe);
        }
        if kernel.is_in_trouble(&totals, skipped) {
            self.healing.want();
        }
        let moment = kernel.moment(&sink.core, clock, (totals, skipped), wishes);
        if kernel.disagrees_more(moment.audit.as_ref()) {
            self.healing.want();
        }
        sink.take(Input::Moment(Box::new(moment)), observe);
        Ok(())
    }

    /// The last look of a session: what was lost is found missing, however long that takes.
    ///
    /// # Errors
    /// As for [`Pipeline::look`].
    pub fn look_back(&mut self, observe: &mut dyn FnMut(&Event)) -> Result<(), PipelineError> {
        self.look(observe)?;
        let mut walks = 0;
        while walks < LAST_WALKS && !self.healing.is_over() {
            walks += usize::from(self.heal(Haste::Last, DRAIN_INTERVAL, observe));
            if let Feed::Kernel(kernel) = &mut self.feed {
                drain_all(kernel, &mut self.sink, observe);
            }
        }
        // The moment after, for whoever takes the inputs in later.
        if walks > 0 { self.look(observe) } else { Ok(()) }
    }

    /// Books the sockets as gone whose end was lost and that were found missing by now; answers
    /// whether a walk has ended.
    fn heal(&mut self, haste: Haste, time: Duration, observe: &mut dyn FnMut(&Event)) -> bool {
        let Self { feed: Feed::Kernel(kernel), sink, healing, .. } = self else { return false };
        let begin = || {
            let walk = kernel.walk().map_err(io::Error::other)?;
            let aggregate = sink.core.aggregate();
            let followed: Vec<_> = aggregate.live().collect();
            let missing = kernel.missing();
            let unfollowed_before = aggregate.unfollowed_ever();
            Beside::begin("healing", move || {
                let Vanished { gone, missed, unfollowed } = walk.vanished(&followed);
                let adopted = walk.adopt(&missing);
                Found { vanished: gone, missed, unfollowed, unfollowed_before, adopted }
            })
        };
        let Some(found) = healing.step(haste, time, begin) else { return false };
        // Ends that were merely on their way.
        drain_all(kernel, sink, observe);
        sink.take(Input::Vanished(found.vanished), observe);
        let aggregate = sink.core.aggregate();
        if aggregate.unfollowed() > 0 {
            // Those that came since the walk began may be among those it saw or not.
            let since = aggregate.unfollowed_ever() - found.unfollowed_before;
            let most = found.unfollowed.into_iter().map(|(netns, count)| (netns, count + since));
            sink.take(Input::Unfollowed(most.collect()), observe);
        }
        kernel.vanish(&found.missed);
        if let Some(adopted) = kernel.adopt(found.adopted) {
            sink.take(adopted, observe);
        }
        true
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
        self.begin_opening()?;
        let Some(opening) = self.opening(observe)? else { return Ok(()) };
        let (origin, mut inputs) = opening.into_inputs();
        self.sink.record(|recorder| {
            recorder.rotate(&origin)?;
            inputs.try_for_each(|input| recorder.write(&input))
        });
        Ok(())
    }

    /// Begins to find the sockets that live, for somebody who begins to listen, unless that has
    /// begun already.
    ///
    /// # Errors
    /// There can be no walk, or this is a stream.
    pub fn begin_opening(&mut self) -> Result<(), PipelineError> {
        let Self { feed: Feed::Kernel(kernel), sink, opening, .. } = self else {
            return Err(NoMoment.into());
        };
        if opening.is_none() {
            let walk = kernel.walk()?;
            // What comes from now on is newer than what the walk sees.
            sink.entered = Some(Vec::new());
            let sockets = move || walk.sockets(|socket| socket).into_values().flatten().collect();
            *opening = Some(Beside::begin("opening", sockets).map_err(PipelineError::Walk)?);
        }
        Ok(())
    }

    /// Nobody wants to begin to listen any more.
    pub fn forget_opening(&mut self) {
        (self.opening, self.sink.entered) = (None, None);
    }

    /// What somebody who begins to listen now has to take in first, if the sockets that live have
    /// been found: where it all comes from, what is known of peers, and those sockets. What is taken
    /// in after this call happened after it.
    ///
    /// # Errors
    /// The kernel's totals could not be read, or the walk failed.
    pub fn opening(
        &mut self,
        observe: &mut dyn FnMut(&Event),
    ) -> Result<Option<Opening>, PipelineError> {
        let Self { feed: Feed::Kernel(kernel), sink, opening, .. } = self else {
            return Err(NoMoment.into());
        };
        let mut sockets = match opening.as_ref().map(Beside::look) {
            None | Some(Progress::Under) => return Ok(None),
            Some(Progress::Done(sockets)) => sockets,
            Some(Progress::Failed) => {
                self.forget_opening();
                return Err(PipelineError::Walk(io::Error::other("the thread failed")));
            }
        };
        *opening = None;
        let (totals, skipped) = quiet_totals(kernel, sink, observe)?;
        sockets.extend(sink.entered.take().unwrap_or_default());
        let clock = feed::now();
        let wishes = Wishes { facts: true, cgroup_names: true };
        let moment = kernel.moment(&sink.core, clock, (totals, skipped), wishes);
        let aggregate = sink.core.aggregate();
        Ok(Some(Opening {
            origin: sink.core.origin().clone(),
            clock,
            totals,
            pasts: aggregate.table().pasts(),
            failures: aggregate.failures().retold(),
            followed: aggregate.live().collect(),
            sockets,
            owners: aggregate.owners().read().retold(),
            moment,
        }))
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
