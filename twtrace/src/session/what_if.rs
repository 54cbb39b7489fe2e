//! `twtrace what-if`.

use std::{
    io::{self, BufWriter, Write},
    process::ExitCode,
    time::Duration,
};

use super::{
    SessionError,
    gather::{Watcher, observe_for},
    observe::{self, Plan},
    stop::Stop,
};
use crate::{
    cli::WhatIfArgs,
    event::Event,
    feed::Core,
    origin::Origin,
    view::{self, ReportFormat, style::Palette},
    what_if::{Remedy, WhatIf},
};

/// How long is observed when the user does not say.
pub const OBSERVE: Duration = Duration::from_secs(60);

/// What happens, under other settings as well; nothing before it is known of which kernel.
#[derive(Debug, Default)]
pub struct Worlds {
    /// Those that are tried.
    remedies: Vec<Remedy>,
    what_if: Option<WhatIf>,
    /// What came before the origin was known: the sockets present at the start.
    early: Vec<Event>,
}

impl Worlds {
    /// With these settings each.
    pub const fn of(remedies: Vec<Remedy>) -> Self {
        Self { remedies, what_if: None, early: Vec::new() }
    }

    /// Tells of which kernel the events are.
    pub fn begin(&mut self, origin: &Origin) {
        let remedies = std::mem::take(&mut self.remedies);
        let sees_binds = origin.sees_binds();
        let what_if = self.what_if.get_or_insert_with(|| {
            WhatIf::new(remedies, origin.hz, origin.recycle_exists, sees_binds)
        });
        std::mem::take(&mut self.early).iter().for_each(|event| what_if.event(event));
    }

    /// What would have been, once it began.
    pub const fn told(&self) -> Option<&WhatIf> {
        self.what_if.as_ref()
    }
}

impl Watcher for Worlds {
    fn event(&mut self, event: &Event) {
        match &mut self.what_if {
            Some(what_if) => what_if.event(event),
            None => self.early.push(*event),
        }
    }

    fn moment(&mut self, core: &Core) {
        if let (Some(what_if), Some(moment)) = (&mut self.what_if, core.moment()) {
            what_if.moment(
                moment.clock.mono_ns,
                moment.facts.as_ref(),
                core.aggregate().failures(),
            );
        }
    }
}

/// Replays what happens, or happened, under other settings; then says what would have been.
///
/// # Errors
/// [`SessionError`].
pub async fn what_if(args: &WhatIfArgs, palette: Palette) -> Result<ExitCode, SessionError> {
    let mut stop = Stop::listen()?;
    let mut worlds = Worlds::of(remedies(&args.set)?);
    let observed = &args.observe;
    let plan = Plan::default();
    let mut pipeline = observe::open(observed, plan, &mut |event| worlds.event(event)).await?;
    worlds.begin(pipeline.core().origin());
    worlds.moment(pipeline.core());
    let usual = observed.replay.is_none().then_some(OBSERVE);
    let duration = observed.duration.or(usual);
    observe_for(&mut pipeline, &mut stop, observed, duration, &mut worlds).await?;
    observe::catch_up(&mut pipeline, observed, &mut |event| worlds.event(event)).await?;
    pipeline.look_back(&mut |event| worlds.event(event))?;
    worlds.moment(pipeline.core());
    if let Some(what_if) = worlds.told() {
        let mut out = BufWriter::new(io::stdout().lock());
        match args.output {
            ReportFormat::Json => view::what_if::write_json(&mut out, what_if)?,
            ReportFormat::Text => view::what_if::write(&mut out, what_if, palette)?,
        }
        out.flush()?;
    }
    observe::ended_well(&pipeline, observed)?;
    Ok(ExitCode::SUCCESS)
}

/// What is tried: nothing, and what the user set; or what is worth a try anywhere.
fn remedies(set: &[String]) -> Result<Vec<Remedy>, SessionError> {
    if set.is_empty() {
        return Ok(Remedy::usual());
    }
    let mut remedy = Remedy::default();
    set.iter().try_for_each(|setting| remedy.set(setting)).map_err(SessionError::Usage)?;
    Ok(vec![Remedy::default(), remedy])
}
