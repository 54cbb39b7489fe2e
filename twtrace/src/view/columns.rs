//! What an event has to say, column by column: the one list behind every format that programs
//! read.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    time::{Duration, SystemTime},
};

use serde::{Serialize, Serializer};
use twtrace_common::{Ended, Entered, ended_flags, entered_flags};

use super::events::{SCHEMA, endpoint, lifetime_ms, name, reason, state};
use crate::{
    event::{Event, ip},
    feed::Origin,
    path,
    units::{Clock, Hz},
};

/// One value. It owns nothing, and what it looks like is written where it is wanted: there are
/// millions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field<'a> {
    /// Not known.
    Null,
    /// A word of a small vocabulary.
    Word(&'static str),
    /// Any text.
    Text(&'a str),
    /// An address.
    Address(IpAddr),
    /// An address and a port.
    Endpoint(SocketAddr),
    /// A kernel address.
    Pointer(u64),
    /// A number.
    Number(i64),
    /// Yes or no.
    Flag(bool),
    /// First and last port of a range.
    Ports(u16, u16),
    /// A time of day, microseconds since 1970.
    Time(i64),
}

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
            Event::Ended(_) => None,
        }
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

fn number(number: impl TryInto<i64>) -> Field<'static> {
    Field::Number(number.try_into().unwrap_or(i64::MAX))
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

/// Columns that tell what happened: `twtrace.event/1`.
static EVENT: [Column; 36] = [
    csv("event", Type::Text, |seen| Some(Field::Word(name(seen.event)))),
    csv("mono_ns", Type::Number, |seen| Some(number(seen.event.mono_ns()))),
    csv("netns", Type::Number, |seen| Some(number(seen.event.header().netns))),
    csv("role", Type::Text, |seen| Some(Field::Word(seen.event.role().as_str()))),
    csv("local", Type::Text, |seen| {
        let flow = seen.event.flow();
        Some(Field::Endpoint(endpoint(flow.local, flow.local_port)))
    }),
    csv("remote", Type::Text, |seen| {
        let flow = seen.event.flow();
        Some(Field::Endpoint(endpoint(flow.remote, flow.remote_port)))
    }),
    csv("state", Type::Text, |seen| Some(Field::Word(state(seen.event.header().state)))),
    csv("reason", Type::Text, |seen| Some(Field::Word(reason(seen.end()?, seen.outcome()?)))),
    column("path", Type::Text, |seen| Some(Field::Word(seen.outcome()?.key()))),
    csv("lifetime_ms", Type::Number, |seen| {
        Some(lifetime_ms(seen.end()?).map_or(Field::Null, number))
    }),
    csv("scheduled_ms", Type::Number, |seen| match seen.event {
        Event::Entered(entered) => Some(seen.millis(entered.armed)),
        Event::Present(_) => None,
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
        Event::Present(_) => None,
        Event::Ended(ended) => Some(seen.millis(ended.rto)),
    }),
    csv("ts_recent_stamp", Type::Number, |seen| {
        let socket = seen.socket()?;
        Some(known(socket, entered_flags::TIMESTAMPS_UNKNOWN, number(socket.ts_recent_stamp)))
    }),
    csv("tstamp_ok", Type::Flag, |seen| {
        let negotiated = seen.entry_flag(entered_flags::TSTAMP_OK)?;
        Some(known(seen.entry()?, entered_flags::TIMESTAMPS_UNKNOWN, negotiated))
    }),
    column("eligible", Type::Flag, |seen| {
        Some(seen.entry_path()?.eligible.map_or(Field::Null, Field::Flag))
    }),
    csv("blocked", Type::Text, |seen| {
        Some(seen.entry_path()?.blocked.map_or(Field::Null, |block| Field::Word(block.key())))
    }),
    csv("uid", Type::Number, |seen| {
        let entered = seen.entry()?;
        Some(known(entered, entered_flags::OWNER_UNKNOWN, number(entered.uid)))
    }),
    csv("cgroup", Type::Number, |seen| match seen.entry()?.cgroup {
        0 => Some(Field::Null),
        cgroup => Some(number(cgroup)),
    }),
    column("overflow", Type::Flag, |seen| seen.entry_flag(entered_flags::OVERFLOW)),
    column("autobound", Type::Flag, |seen| seen.entry_flag(entered_flags::AUTOBOUND)),
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
        let flow = seen.entry()?.flow;
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

impl Serialize for Field<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Word(word) => serializer.serialize_str(word),
            Self::Text(text) => serializer.serialize_str(text),
            Self::Number(number) => serializer.serialize_i64(*number),
            Self::Flag(flag) => serializer.serialize_bool(*flag),
            Self::Ports(low, high) => [low, high].serialize(serializer),
            Self::Address(_) | Self::Endpoint(_) | Self::Pointer(_) | Self::Time(_) => {
                serializer.collect_str(self)
            }
        }
    }
}

/// The text of a field outside JSON.
impl fmt::Display for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => Ok(()),
            Self::Word(word) => f.write_str(word),
            Self::Text(text) => f.write_str(text),
            Self::Address(address) => address.fmt(f),
            Self::Endpoint(endpoint) => endpoint.fmt(f),
            Self::Pointer(pointer) => write!(f, "{pointer:#x}"),
            Self::Number(number) => number.fmt(f),
            Self::Flag(flag) => flag.fmt(f),
            Self::Ports(low, high) => write!(f, "{low}-{high}"),
            Self::Time(micros) => {
                let since = Duration::from_micros(u64::try_from(*micros).unwrap_or(0));
                match SystemTime::UNIX_EPOCH.checked_add(since) {
                    // Beyond the year 9999 there is no such notation.
                    Some(time) if since.as_secs() < 253_402_300_800 => {
                        humantime::format_rfc3339_micros(time).fmt(f)
                    }
                    _ => micros.fmt(f),
                }
            }
        }
    }
}
