//! Begins a session: what a user typed, as a pipeline that has read what is there.

use std::{fs::File, path::PathBuf, time::Duration};

use super::{SessionError, log::say, remote};
use crate::{
    aggregate::Settings,
    attached::ObjectKind,
    cli::{AskDaemon, ObserveArgs},
    config::{Attach, WhichObject},
    event::Event,
    feed::Core,
    filter::{BindError, Expr, Name, Selection, Term},
    host::cgroup,
    kernel::{Options, find_namespace},
    names::Namer,
    origin::{Origin, Wishes},
    peer::{GroupBy, Prefixes, minutes::Memory},
    pipeline::{Drained, Pipeline, PipelineError},
    recording::{Pace, ReadError, Recorder, Rotation, StreamEnd, StreamFeed},
    summary::{RowChoice, Summary},
    text::visible,
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
    /// Whether they may be asked for by owner as well.
    pub also_by_owner: bool,
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
            also_by_owner: false,
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
    let mut pipeline = match &args.replay {
        Some(path) => replay(args, path, plan)?,
        None => match daemon(args, &plan).await? {
            Some((stream, origin)) => read(args, stream, origin, plan)?,
            None => attach(args, plan, observe)?,
        },
    };
    pipeline.set_egress(args.egress.clone());
    announce(&pipeline, args);
    Ok(pipeline)
}

/// The feed of the host's daemon, if it is to be asked and answers.
async fn daemon(
    args: &ObserveArgs,
    plan: &Plan,
) -> Result<Option<(StreamFeed, Origin)>, SessionError> {
    let mut flags = args.of_own_programs();
    if plan.record.is_some() {
        flags.push("--record");
    }
    let own = !flags.is_empty();
    match args.daemon {
        AskDaemon::Never => return Ok(None),
        AskDaemon::Always if own => {
            return Err(SessionError::Usage(format!(
                "{} asks for kernel programs of this session's own, which --daemon always forbids: \
                 leave it out, or use --daemon never",
                flags.join(", ")
            )));
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
        object: args.object.and_then(WhichObject::only),
        attach: args.attach.and_then(Attach::only),
        follow_ends: plan.follow_ends,
        filter,
        btf: args.btf.clone().unwrap_or_default(),
        max_live: args.most_live(),
        ring_bytes: args.buffer_bytes(),
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
    let netns = args.only_netns().map(|name| Term::Netns(Name::Text(name)).into());
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
        also_by_owner: plan.also_by_owner,
        prefixes: plan.prefixes,
        max_peers: plan.max_peers,
        max_live: args.most_live() as usize,
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
            "replaying {}, recorded through {} on kernel {}",
            visible(&path.display().to_string()),
            origin.backend,
            visible(&origin.kernel)
        ),
        None if pipeline.is_stream() => format!(
            "watching through {}, by the daemon at {}",
            origin.backend,
            args.socket.display()
        ),
        None => format!("watching through {}", origin.backend),
    };
    if origin.object == ObjectKind::Perf {
        line.push_str(" with the object for old kernels");
    }
    for refusal in &origin.refused {
        let why = visible(&refusal.reason);
        line.push_str(&format!("; {} did not work: {why}", refusal.backend));
    }
    if let Some(advice) = origin.types.advice() {
        line.push_str(&format!("\n  {advice}"));
    }
    say(&line);
}

/// How long a daemon may tell nothing while it is waited for; it tells a moment every second.
const SILENCE: Duration = Duration::from_secs(10);

/// Takes in what a daemon has to say of the time up to now, as a session of its own would by
/// looking: a daemon tells things a second late at most. That it says nothing more is told.
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
    loop {
        let Ok(readable) = tokio::time::timeout(SILENCE, pipeline.readable()).await else {
            say(&format!(
                "{}: the daemon has told nothing for {} s; the answer is that of what came before",
                args.socket.display(),
                SILENCE.as_secs(),
            ));
            return Ok(());
        };
        readable?;
        let told = |pipeline: &Pipeline| {
            pipeline.core().moment().is_some_and(|moment| moment.clock.mono_ns >= asked)
        };
        match pipeline.drain(observe)? {
            Drained::End => return Ok(()),
            Drained::Moment if told(pipeline) => return Ok(()),
            _ => {}
        }
    }
}

/// The last summary of a session, which nothing that was lost is missing from.
///
/// # Errors
/// Nothing can be said: why the stream broke off, if it did.
pub fn last_summary(
    pipeline: &mut Pipeline,
    args: &ObserveArgs,
    choice: &RowChoice,
    observe: &mut dyn FnMut(&Event),
) -> Result<Summary, SessionError> {
    pipeline.look_back(observe)?;
    pipeline.core().summary(choice).or_else(|nothing| {
        ended_well(pipeline, args)?;
        Err(PipelineError::from(nothing).into())
    })
}

/// How long the last summary of a session waits for names.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// Gives what a summary shows of peers their names, as far as they are known after this long.
pub fn give_names(summary: &mut Summary, namer: Option<&mut Namer>, patience: Duration) {
    summary.peer_names = namer.map(|namer| namer.names(&summary.peers_shown(), patience));
}

/// Whether a stream ended as it should; says on stderr if a daemon stopped. To be called when the
/// answer has been given.
///
/// # Errors
/// [`SessionError::Broken`].
pub fn ended_well(pipeline: &Pipeline, args: &ObserveArgs) -> Result<(), SessionError> {
    let path = args.replay.as_ref().unwrap_or(&args.socket);
    match pipeline.end() {
        Some(StreamEnd::Broken(error)) => {
            let answered = pipeline.core().moment().is_some();
            let answer = if answered { "; the answer is that of what comes before" } else { "" };
            Err(SessionError::Broken { path: path.clone(), problem: format!("{error}{answer}") })
        }
        Some(StreamEnd::Whole) if args.replay.is_none() => {
            let path = path.display();
            say(&format!("{path}: the daemon stopped; the answer is that of what came before"));
            Ok(())
        }
        _ => Ok(()),
    }
}
