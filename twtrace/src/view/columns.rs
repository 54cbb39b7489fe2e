//! What an event has to say, column by column: the one list behind every format that programs
//! read.

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use twtrace_common::{
    Ended, Entered, Failed, PortChoice, TCP_FIN_WAIT2, ended_flags, entered_flags,
};

use super::field::{Field, number};
use crate::{
    event::{Event, ip},
    failures::{Cause, Program},
    origin::Origin,
    owner::Owner,
    path,
    units::{Clock, Hz},
};

/// Name and version of each line.
pub const SCHEMA: &str = "twtrace.event/2";

/// What the values of a column are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// All but the following.
    Text,
    /// [`Field::Number`].
    Number,
    /// [`Field::Flag`].
    Flag,
    /// [`Field::Time`].
    Time,
}

/// A column.
pub struct Column {
    /// Its name, as a key of the JSON form.
    pub name: &'static str,
    /// What its values are.
    pub kind: Type,
    /// Whether the CSV form has it.
    pub csv: bool,
    /// Its value; `None` for an event that has no such thing.
    of: Value,
}

/// How a value is found.
type Value = for<'a> fn(&Seen<'a>) -> Option<Field<'a>>;

impl Column {
    /// The value of an event; `None` if an event of this kind has no such thing.
    pub fn value<'a>(&self, seen: &Seen<'a>) -> Option<Field<'a>> {
        (self.of)(seen)
    }
}

/// Where and when events happened, as files from several hosts have to tell them apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provenance {
    /// Name of the host.
    pub host: String,
    /// Its kernel, `uname -r`.
    pub kernel: String,
    /// That kernel's boot.
    pub boot_id: String,
    /// A moment near the events.
    pub clock: Clock,
}

impl Provenance {
    /// Of what comes from there.
    pub fn of(origin: &Origin) -> Self {
        Self {
            host: origin.host.clone(),
            kernel: origin.kernel.clone(),
            boot_id: origin.boot_id.clone(),
            clock: origin.clock,
        }
    }
}

/// An event, and what is needed to read it.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// The event.
    pub event: &'a Event,
    /// Tick rate of its kernel.
    pub hz: Hz,
    /// Whether that kernel has `tcp_tw_recycle`.
    pub recycle_exists: bool,
    /// Where it comes from; `None` for this host, now.
    pub from: Option<&'a Provenance>,
    /// Whose its socket is, if that is known.
    pub owner: Option<&'a Owner>,
}

impl Seen<'_> {
    fn entry(&self) -> Option<&Entered> {
        match self.event {
            Event::Entered(entered) => Some(entered),
            _ => None,
        }
    }

    /// An entry, or a socket that was there at the start.
    fn socket(&self) -> Option<&Entered> {
        match self.event {
            Event::Entered(entered) | Event::Present(entered) => Some(entered),
            Event::Ended(_) | Event::Failed(_) => None,
        }
    }

    fn failure(&self) -> Option<&Failed> {
        match self.event {
            Event::Failed(failed) => Some(failed),
            _ => None,
        }
    }

    fn program(&self) -> Option<Program> {
        self.failure().map(Program::from)
    }

    fn end(&self) -> Option<&Ended> {
        match self.event {
            Event::Ended(ended) => Some(ended),
            _ => None,
        }
    }

    fn entry_path(&self) -> Option<path::EntryPath> {
        self.entry().map(|entered| path::at_entry(entered, self.event.role()))
    }

    fn outcome(&self) -> Option<path::Outcome> {
        self.end().map(|ended| path::at_end(ended, self.recycle_exists, self.hz))
    }

    fn entry_flag(&self, flag: u16) -> Option<Field<'static>> {
        self.entry().map(|entered| Field::Flag(entered.header.flags & flag != 0))
    }

    fn end_flag(&self, flag: u16) -> Option<Field<'static>> {
        self.end().map(|ended| Field::Flag(ended.header.flags & flag != 0))
    }

    /// Jiffies as milliseconds, null for 0, which means "not seen".
    fn millis(&self, jiffies: u32) -> Field<'static> {
        if jiffies == 0 { Field::Null } else { number(self.hz.millis(jiffies)) }
    }
}

/// Why a call failed.
const fn cause(cause: Cause) -> Field<'static> {
    Field::Word(cause.key())
}

/// A field, or null where the socket says of itself that it does not know.
fn known<'a>(entered: &Entered, unknown: u16, field: Field<'a>) -> Field<'a> {
    if entered.header.flags & unknown == 0 { field } else { Field::Null }
}

/// Microseconds since 1970.
fn micros(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

const fn column(name: &'static str, kind: Type, of: Value) -> Column {
    Column { name, kind, csv: false, of }
}

const fn csv(name: &'static str, kind: Type, of: Value) -> Column {
    Column { name, kind, csv: true, of }
}

/// Columns that tell where and when; there if [`Seen::from`] is.
static PROVENANCE: [Column; 4] = [
    csv("time", Type::Time, |seen| {
        Some(Field::Time(micros(seen.from?.clock.wall(seen.event.mono_ns()))))
    }),
    csv("host", Type::Text, |seen| Some(Field::Text(&seen.from?.host))),
    csv("kernel", Type::Text, |seen| Some(Field::Text(&seen.from?.kernel))),
    csv("boot_id", Type::Text, |seen| Some(Field::Text(&seen.from?.boot_id))),
];

/// Columns that tell what happened: `twtrace.event/2`.
static EVENT: [Column; 43] = [
    csv("event", Type::Text, |seen| Some(Field::Word(name(seen.event)))),
    csv("mono_ns", Type::Number, |seen| Some(number(seen.event.mono_ns()))),
    csv("netns", Type::Number, |seen| Some(number(seen.event.header().netns))),
    csv("netns_cookie", Type::Number, |seen| {
        Some(seen.event.netns_cookie().map_or(Field::Null, number))
    }),
    csv("role", Type::Text, |seen| Some(Field::Word(seen.event.role().as_str()))),
    csv("local", Type::Text, |seen| {
        let flow = seen.event.flow();
        Some(Field::Endpoint(endpoint(flow.local, flow.local_port)))
    }),
    csv("remote", Type::Text, |seen| {
        let flow = seen.event.flow();
        Some(Field::Endpoint(endpoint(flow.remote, flow.remote_port)))
    }),
    csv("state", Type::Text, |seen| match seen.event {
        // It is about no socket in either state.
        Event::Failed(_) => None,
        event => Some(Field::Word(state(event.header().state))),
    }),
    csv("reason", Type::Text, |seen| match seen.event {
        Event::Failed(failed) => Some(Cause::of(failed.result).map_or(Field::Null, cause)),
        _ => Some(Field::Word(seen.outcome()?.key())),
    }),
    csv("stands_for", Type::Number, |seen| Some(number(seen.failure()?.stands_for))),
    csv("pid", Type::Number, |seen| Some(number(seen.failure()?.pid))),
    csv("comm", Type::Text, |seen| Some(Field::Comm(seen.failure()?.comm))),
    column("kernel_thread", Type::Flag, |seen| {
        Some(seen.program()?.kernel_thread.map_or(Field::Null, Field::Flag))
    }),
    csv("path", Type::Text, |seen| Some(Field::Word(seen.outcome()?.class().key()))),
    csv("lifetime_ms", Type::Number, |seen| {
        Some(lifetime_ms(seen.end()?).map_or(Field::Null, number))
    }),
    csv("scheduled_ms", Type::Number, |seen| match seen.event {
        Event::Entered(entered) => Some(seen.millis(entered.armed)),
        Event::Present(_) | Event::Failed(_) => None,
        Event::Ended(ended) => Some(seen.millis(ended.last_armed)),
    }),
    column("first_scheduled_ms", Type::Number, |seen| Some(seen.millis(seen.end()?.first_armed))),
    column("remaining_ms", Type::Number, |seen| match seen.event {
        Event::Present(present) => Some(number(seen.hz.millis(present.armed))),
        _ => None,
    }),
    csv("rearms", Type::Number, |seen| Some(number(seen.end()?.rearms))),
    csv("rto_ms", Type::Number, |seen| match seen.event {
        Event::Entered(entered) => Some(seen.millis(entered.rto)),
        Event::Present(_) | Event::Failed(_) => None,
        Event::Ended(ended) => Some(seen.millis(ended.rto)),
    }),
    csv("ts_recent_stamp", Type::Number, |seen| {
        let socket = seen.socket()?;
        Some(known(socket, entered_flags::TIMESTAMPS_UNKNOWN, number(socket.ts_recent_stamp)))
    }),
    csv("tstamp_ok", Type::Flag, |seen| {
        Some(seen.entry_path()?.timestamps.map_or(Field::Null, Field::Flag))
    }),
    column("eligible", Type::Flag, |seen| {
        Some(seen.entry_path()?.eligible.map_or(Field::Null, Field::Flag))
    }),
    csv("blocked", Type::Text, |seen| {
        Some(seen.entry_path()?.blocked.map_or(Field::Null, |block| Field::Word(block.key())))
    }),
    csv("uid", Type::Number, |seen| {
        if let Some(program) = seen.program() {
            return Some(program.uid.map_or(Field::Null, number));
        }
        let entered = seen.entry()?;
        Some(known(entered, entered_flags::OWNER_UNKNOWN, number(entered.uid)))
    }),
    csv("cgroup", Type::Number, |seen| {
        let cgroup = match seen.failure() {
            Some(failed) => failed.cgroup,
            None => seen.entry()?.cgroup,
        };
        Some(if cgroup == 0 { Field::Null } else { number(cgroup) })
    }),
    csv("owner", Type::Text, |seen| match seen.event {
        Event::Ended(_) => None,
        _ => Some(seen.owner.map_or(Field::Null, |owner| Field::Text(&owner.name))),
    }),
    column("container", Type::Text, |seen| match seen.event {
        Event::Ended(_) => None,
        _ => {
            let container = seen.owner.and_then(|owner| owner.container.as_deref());
            Some(container.map_or(Field::Null, Field::Text))
        }
    }),
    column("overflow", Type::Flag, |seen| seen.entry_flag(entered_flags::OVERFLOW)),
    column("autobound", Type::Flag, |seen| {
        let choice = PortChoice::from_u8(seen.entry()?.chosen);
        Some(match choice {
            PortChoice::Unknown => Field::Null,
            choice => Field::Flag(choice == PortChoice::Connect),
        })
    }),
    column("family", Type::Number, |seen| Some(number(seen.entry()?.family))),
    column("timeo_jiffies", Type::Number, |seen| Some(number(seen.entry()?.timeo))),
    column("tw_reuse", Type::Number, |seen| {
        let entered = seen.entry()?;
        Some(known(entered, entered_flags::SETTINGS_UNKNOWN, number(entered.tcp_tw_reuse)))
    }),
    column("tcp_timestamps", Type::Number, |seen| {
        let entered = seen.entry()?;
        Some(known(entered, entered_flags::SETTINGS_UNKNOWN, number(entered.tcp_timestamps)))
    }),
    column("port_range", Type::Text, |seen| {
        let flow = match seen.failure() {
            Some(failed) => failed.flow,
            None => seen.entry()?.flow,
        };
        Some(Field::Ports(flow.port_low, flow.port_high))
    }),
    column("promoted", Type::Flag, |seen| seen.end_flag(ended_flags::PROMOTED)),
    column("present_at_start", Type::Flag, |seen| seen.end_flag(ended_flags::PRESENT)),
    column("bound", Type::Flag, |seen| seen.end_flag(ended_flags::BOUND)),
    column("inferred", Type::Flag, |seen| seen.end_flag(ended_flags::INFERRED)),
    csv("tw", Type::Text, |seen| {
        let tw = match seen.event {
            Event::Entered(entered) | Event::Present(entered) => entered.tw,
            Event::Ended(ended) => ended.tw,
            Event::Failed(_) => return None,
        };
        Some(if tw == 0 { Field::Null } else { Field::Pointer(tw) })
    }),
    column("entered_ns", Type::Number, |seen| match seen.end()?.entered_ns {
        0 => Some(Field::Null),
        entered_ns => Some(number(entered_ns)),
    }),
    column("remote_addr", Type::Text, |seen| Some(Field::Address(ip(seen.event.flow().remote)))),
    column("schema", Type::Text, |_| Some(Field::Word(SCHEMA))),
];

/// The columns, in order: those that tell where and when only if `provenance` is known.
pub fn columns(provenance: bool) -> impl Iterator<Item = &'static Column> {
    PROVENANCE.iter().filter(move |_| provenance).chain(&EVENT)
}

/// What happened.
pub fn name(event: &Event) -> &'static str {
    match event {
        Event::Entered(_) => "entered",
        Event::Present(_) => "present",
        Event::Ended(_) => "ended",
        Event::Failed(_) => "failed",
    }
}

/// The state's name.
pub fn state(state: u8) -> &'static str {
    if state == TCP_FIN_WAIT2 { "FIN_WAIT2" } else { "TIME_WAIT" }
}

/// Milliseconds from entry to end, if the entry was seen.
pub fn lifetime_ms(ended: &Ended) -> Option<u64> {
    let lived = ended.mono_ns.saturating_sub(ended.entered_ns) / 1_000_000;
    (ended.entered_ns != 0).then_some(lived)
}

/// An address and port as the field writes them.
pub fn endpoint(address: [u8; 16], port: u16) -> SocketAddr {
    SocketAddr::new(ip(address), port)
}
