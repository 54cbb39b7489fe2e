//! Begins a session: what a user typed, as a pipeline that has read what is there.

use std::{fs::File, io::Write, path::PathBuf, time::Duration};

use super::{SessionError, remote};
use crate::{
    aggregate::Settings,
    cli::{AskDaemon, ObserveArgs},
    event::Event,
    feed::{Core, Origin, Pace, StreamEnd, StreamFeed, Wishes},
    filter::{BindError, Expr, Name, Selection, Term},
    host::cgroup,
    kernel::{ObjectKind, Options, find_namespace},
    peer::{GroupBy, Prefixes, minutes::Memory},
    pipeline::{Drained, Pipeline, PipelineError},
    recording::{ReadError, Recorder, Rotation},
};

/// Rows when only one address is asked for: each of its ports, and this host's roles.
pub const MAX_ROWS: usize = 65_536;

/// What a session wants beside what every session may be told.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Which sockets; [`ObserveArgs`] may name a network namespace beside.
    pub wanted: Expr,
    /// Whether ends are followed.
    pub follow_ends: bool,
    /// What rows stand for.
    pub group_by: GroupBy,
    /// Prefix lengths of the subnet grouping.
    pub prefixes: Prefixes,
    /// Most rows.
    pub max_peers: usize,
    /// Whether findings are wanted of every summary.
    pub facts: bool,
    /// A file to keep everything in, and when to begin another.
    pub record: Option<(PathBuf, Option<Rotation>)>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            wanted: Expr::ANY,
            follow_ends: true,
            group_by: GroupBy::Peer,
            prefixes: Prefixes::default(),
            max_peers: MAX_ROWS,
            facts: true,
            record: None,
        }
    }
}

/// Begins, showing the sockets present to `observe`, and says so on stderr.
///
/// # Errors
/// [`SessionError`].
pub async fn open(
    args: &ObserveArgs,
    plan: Plan,
    observe: &mut dyn FnMut(&Event),
) -> Result<Pipeline, SessionError> {
    let pipeline = match &args.replay {
        Some(path) => replay(args, path, plan)?,
        None => match daemon(args, &plan).await? {
            Some((stream, origin)) => read(args, stream, origin, plan)?,
            None => attach(args, plan, observe)?,
        },
    };
    announce(&pipeline, args);
    Ok(pipeline)
}

/// The feed of the host's daemon, if it is to be asked and answers.
async fn daemon(
    args: &ObserveArgs,
    plan: &Plan,
) -> Result<Option<(StreamFeed, Origin)>, SessionError> {
    let own = args.needs_own_programs() || plan.record.is_some();
    match args.daemon {
        AskDaemon::Never => return Ok(None),
        AskDaemon::Always if own => {
            return Err(SessionError::Usage(
                "--attach, --btf and --record need programs of this session's own, which --daemon \
                 always forbids"
                    .into(),
            ));
        }
        AskDaemon::Auto if own => return Ok(None),
        AskDaemon::Auto | AskDaemon::Always => {}
    }
    match remote::feed(&args.socket).await {
        Ok(body) => Ok(Some(remote::open(&args.socket, body).await?)),
        Err(error) if args.daemon == AskDaemon::Auto => {
            tracing::debug!(%error, "no daemon to ask");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Attaches to the kernel.
fn attach(
    args: &ObserveArgs,
    plan: Plan,
    observe: &mut dyn FnMut(&Event),
) -> Result<Pipeline, SessionError> {
    let netns = |name: &str| find_namespace(name).map(u64::from).map_err(|error| error.to_string());
    let cgroup = |path: &str| cgroup::id(path).map_err(|error| error.to_string());
    let (filter, selection) = Selection::split(wanted(args, &plan, &netns, &cgroup)?);
    let options = Options {
        object: args.object.only(),
        attach: args.attach.only(),
        follow_ends: plan.follow_ends,
        filter,
        btf: args.btf.clone(),
        max_live: args.max_live,
        ring_bytes: (args.buffer << 20).next_power_of_two(),
    };
    let recording = plan.record.is_some();
    let wishes = Wishes {
        facts: plan.follow_ends && plan.facts && plan.group_by == GroupBy::Peer || recording,
        cgroup_names: plan.group_by == GroupBy::Cgroup || recording,
    };
    let record = plan.record.clone();
    let mut pipeline = Pipeline::attach_recording(
        options,
        selection,
        wishes,
        |origin| settings(args, &plan, origin.selection.clone(), origin),
        |origin| {
            record.map(|(path, rotation)| Recorder::create(&path, origin, rotation)).transpose()
        },
        observe,
    )?;
    if let Some(diagnostics) = pipeline.diagnostics() {
        tokio::spawn(diagnostics);
    }
    Ok(pipeline)
}

/// Opens a recording.
fn replay(args: &ObserveArgs, path: &PathBuf, plan: Plan) -> Result<Pipeline, SessionError> {
    if plan.record.is_some() {
        return Err(SessionError::Usage("a recording being replayed is not recorded again".into()));
    }
    let failed = |error| SessionError::Recording { path: path.clone(), error };
    let file = File::open(path).map_err(|source| failed(ReadError::Unopened { source }))?;
    let pace = args.speed.map_or(Pace::Unbounded, Pace::Times);
    let (stream, origin) = StreamFeed::open(file, pace).map_err(failed)?;
    read(args, stream, origin, plan)
}

/// A pipeline that takes a stream in.
fn read(
    args: &ObserveArgs,
    stream: StreamFeed,
    origin: Origin,
    plan: Plan,
) -> Result<Pipeline, SessionError> {
    // Names are those of the host it comes from, and a path there means no more than its name.
    let netns = |asked: &str| {
        let name = asked.strip_prefix("/run/netns/").unwrap_or(asked);
        let named = origin.netns_names.iter().find(|(_, known)| *known == name);
        let inum = named.map(|(inum, _)| *inum).or_else(|| name.parse().ok());
        inum.map(u64::from).ok_or_else(|| format!("no network namespace {asked} when it began"))
    };
    let cgroup = |asked: &str| {
        let name = cgroup::name(asked);
        let named = origin.cgroup_names.iter().find(|(_, known)| **known == name);
        named.map(|(id, _)| *id).ok_or_else(|| match origin.cgroup_names.is_empty() {
            true => "names of control groups were not kept: give its number".to_owned(),
            false => "there was no such control group when it began; of one made later, give the \
                      number"
                .to_owned(),
        })
    };
    let selection = origin.selection.and(&wanted(args, &plan, &netns, &cgroup)?);
    let plan = Plan { follow_ends: plan.follow_ends && origin.follow_ends, ..plan };
    let settings = settings(args, &plan, selection, &origin);
    Ok(Pipeline::read(stream, Core::new(origin, settings)))
}

/// Which sockets are wanted, with numbers in the place of names.
fn wanted(
    args: &ObserveArgs,
    plan: &Plan,
    netns_named: &dyn Fn(&str) -> Result<u64, String>,
    cgroup_named: &dyn Fn(&str) -> Result<u64, String>,
) -> Result<Expr, SessionError> {
    let netns = args.netns.clone().map(|name| Term::Netns(Name::Text(name)).into());
    let whole = Expr::all(netns.into_iter().chain([plan.wanted.clone()]));
    whole.bind(netns_named, cgroup_named).map_err(|BindError { what, name, why }| {
        SessionError::Usage(if what == "netns" { why } else { format!("{what} {name}: {why}") })
    })
}

/// Settings of the aggregate.
fn settings(args: &ObserveArgs, plan: &Plan, selection: Selection, origin: &Origin) -> Settings {
    Settings {
        selection,
        group_by: plan.group_by,
        prefixes: plan.prefixes,
        max_peers: plan.max_peers,
        max_live: args.max_live as usize,
        memory: Memory::default(),
        hz: origin.hz,
        recycle_exists: origin.recycle_exists,
        follow_ends: plan.follow_ends,
    }
}

/// Says on stderr what runs, and that the counting has begun.
fn announce(pipeline: &Pipeline, args: &ObserveArgs) {
    let origin = pipeline.core().origin();
    let mut line = match &args.replay {
        Some(path) => format!(
            "twtrace: replaying {}, recorded through {} on kernel {}",
            path.display(),
            origin.backend,
            origin.kernel
        ),
        None if pipeline.is_stream() => format!(
            "twtrace: watching through {}, by the daemon at {}",
            origin.backend,
            args.socket.display()
        ),
        None => format!("twtrace: watching through {}", origin.backend),
    };
    if origin.object == ObjectKind::Perf {
        line.push_str(" with the object for old kernels");
    }
    for refusal in &origin.refused {
        line.push_str(&format!("; {} did not work: {}", refusal.backend, refusal.reason));
    }
    if let Some(advice) = origin.types.advice() {
        line.push_str(&format!("\n  {advice}"));
    }
    // A reader that went away is found out when the output is written.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// How long a daemon may take to tell the next moment; it does every second.
const NEXT_MOMENT: Duration = Duration::from_secs(10);

/// Takes in what a daemon has to say of the time up to now, as a session of its own would by
/// looking: a daemon tells things a second late at most.
///
/// # Errors
/// [`PipelineError`].
pub async fn catch_up(
    pipeline: &mut Pipeline,
    args: &ObserveArgs,
    observe: &mut dyn FnMut(&Event),
) -> Result<(), PipelineError> {
    if !pipeline.is_stream() || args.replay.is_some() {
        return Ok(());
    }
    let asked = crate::feed::monotonic_ns();
    let caught_up = async {
        loop {
            pipeline.readable().await?;
            let told = |pipeline: &Pipeline| {
                pipeline.core().moment().is_some_and(|moment| moment.clock.mono_ns >= asked)
            };
            match pipeline.drain(observe)? {
                Drained::End => return Ok(()),
                Drained::Moment if told(pipeline) => return Ok(()),
                _ => {}
            }
        }
    };
    // A daemon that says nothing is busy: the answer is that of what it said last.
    tokio::time::timeout(NEXT_MOMENT, caught_up).await.unwrap_or(Ok(()))
}

/// Says on stderr how a stream ended, unless it did as it should.
pub fn tell_end(pipeline: &Pipeline, args: &ObserveArgs) {
    let source = args.replay.as_ref().unwrap_or(&args.socket).display();
    let line = match pipeline.end() {
        Some(StreamEnd::Broken(error)) => {
            format!("{source}: {error}; the answer is that of what comes before")
        }
        Some(StreamEnd::Whole) if args.replay.is_none() => {
            format!("{source}: the daemon stopped; the answer is that of what came before")
        }
        _ => return,
    };
    let _ = writeln!(std::io::stderr(), "twtrace: {line}");
}
