//! One line an event: `twtrace.event/1`.

use std::io::{self, Write};

use serde_json::{Map, Value, json};
use twtrace_common::{EndReason, Ended, Entered, TCP_FIN_WAIT2, ended_flags, entered_flags};

use super::{Format, csv::quoted};
use crate::{
    event::{Event, end_reason, ip},
    path,
    units::Hz,
};

/// Name and version of each line.
pub const SCHEMA: &str = "twtrace.event/1";

/// Columns of the CSV form, in order; each is a key of the JSON form.
const CSV_COLUMNS: [&str; 18] = [
    "event",
    "mono_ns",
    "netns",
    "role",
    "local",
    "remote",
    "state",
    "reason",
    "lifetime_ms",
    "scheduled_ms",
    "rearms",
    "rto_ms",
    "ts_recent_stamp",
    "tstamp_ok",
    "blocked",
    "uid",
    "cgroup",
    "tw",
];

/// Writes events in one format.
#[derive(Clone, Copy, Debug)]
pub struct EventWriter {
    /// The format; `json` and `ndjson` are the same here.
    pub format: Format,
    /// Tick rate of the kernel the events come from.
    pub hz: Hz,
    /// Whether that kernel has `tcp_tw_recycle`.
    pub recycle_exists: bool,
}

impl EventWriter {
    /// Writes what comes before the first event.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write_header(&self, out: &mut impl Write) -> io::Result<()> {
        match self.format {
            Format::Csv => writeln!(out, "{}", CSV_COLUMNS.join(",")),
            Format::Table => writeln!(
                out,
                "{:>14}  {:<9} {:<42} {:<42} DETAIL",
                "MONOTONIC_S", "EVENT", "LOCAL", "REMOTE"
            ),
            Format::Json | Format::Ndjson => Ok(()),
        }
    }

    /// Writes one event.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write(&self, out: &mut impl Write, event: &Event) -> io::Result<()> {
        match self.format {
            Format::Table => self.write_text(out, event),
            Format::Json | Format::Ndjson => {
                serde_json::to_writer(&mut *out, &self.document(event))?;
                writeln!(out)
            }
            Format::Csv => {
                let document = self.document(event);
                let fields = CSV_COLUMNS.map(|column| match document.get(column) {
                    None | Some(Value::Null) => String::new(),
                    Some(Value::String(text)) => quoted(text),
                    Some(other) => other.to_string(),
                });
                writeln!(out, "{}", fields.join(","))
            }
        }
    }

    fn document(&self, event: &Event) -> Map<String, Value> {
        let flow = event.flow();
        let header = event.header();
        let mut document = Map::new();
        let mut put = |key: &str, value: Value| document.insert(key.to_owned(), value);
        put("schema", json!(SCHEMA));
        put("event", json!(name(event)));
        put("mono_ns", json!(event.mono_ns()));
        put("netns", json!(header.netns));
        put("role", json!(event.role().as_str()));
        put("local", json!(endpoint(flow.local, flow.local_port)));
        put("remote", json!(endpoint(flow.remote, flow.remote_port)));
        put("state", json!(state(header.state)));
        match event {
            Event::Entered(entered) => self.put_entry(entered, event, &mut put),
            Event::Present(entered) => {
                put("tw", json!(address(entered.tw)));
                put("remaining_ms", json!(self.hz.millis(entered.armed)));
                put("ts_recent_stamp", json!(entered.ts_recent_stamp));
            }
            Event::Ended(ended) => self.put_end(ended, &mut put),
        }
        document
    }

    fn put_entry(
        &self,
        entered: &Entered,
        event: &Event,
        put: &mut impl FnMut(&str, Value) -> Option<Value>,
    ) {
        let path = path::at_entry(entered, event.role());
        put("tw", json!(address(entered.tw)));
        put("overflow", json!(entered.header.flags & entered_flags::OVERFLOW != 0));
        put("family", json!(entered.family));
        put("timeo_jiffies", json!(entered.timeo));
        put("scheduled_ms", self.millis(entered.armed));
        put("rto_ms", self.millis(entered.rto));
        put("ts_recent_stamp", json!(entered.ts_recent_stamp));
        put("tstamp_ok", json!(entered.header.flags & entered_flags::TSTAMP_OK != 0));
        put("autobound", json!(entered.header.flags & entered_flags::AUTOBOUND != 0));
        put("eligible", json!(path.eligible));
        put("blocked", json!(path.blocked.map(|block| block.key())));
        put("uid", json!(entered.uid));
        put("cgroup", json!((entered.cgroup != 0).then_some(entered.cgroup)));
        put("tw_reuse", json!(entered.tcp_tw_reuse));
        put("tcp_timestamps", json!(entered.tcp_timestamps));
        put("port_range", json!([entered.flow.port_low, entered.flow.port_high]));
    }

    fn put_end(&self, ended: &Ended, put: &mut impl FnMut(&str, Value) -> Option<Value>) {
        let outcome = path::at_end(ended, self.recycle_exists, self.hz);
        let flag = |flag: u16| json!(ended.header.flags & flag != 0);
        put("tw", json!(address(ended.tw)));
        put("reason", json!(reason(ended, outcome)));
        put("path", json!(outcome.key()));
        put("lifetime_ms", json!(lifetime_ms(ended)));
        put("scheduled_ms", self.millis(ended.last_armed));
        put("first_scheduled_ms", self.millis(ended.first_armed));
        put("rearms", json!(ended.rearms));
        put("rto_ms", self.millis(ended.rto));
        put("promoted", flag(ended_flags::PROMOTED));
        put("present_at_start", flag(ended_flags::PRESENT));
        put("bound", flag(ended_flags::BOUND));
        put("inferred", flag(ended_flags::INFERRED));
    }

    /// Jiffies as milliseconds, null for 0, which means "not seen".
    fn millis(&self, jiffies: u32) -> Value {
        if jiffies == 0 { Value::Null } else { json!(self.hz.millis(jiffies)) }
    }

    fn write_text(&self, out: &mut impl Write, event: &Event) -> io::Result<()> {
        let flow = event.flow();
        writeln!(
            out,
            "{:>14.6}  {:<9} {:<42} {:<42} {}, {}",
            event.mono_ns() as f64 / 1e9,
            name(event),
            endpoint(flow.local, flow.local_port),
            endpoint(flow.remote, flow.remote_port),
            state(event.header().state),
            self.detail(event),
        )
    }

    /// What there is to say of an event beside where and in which state it happened, for people.
    pub fn detail(&self, event: &Event) -> String {
        let mut words = Vec::new();
        match event {
            Event::Entered(entered) => {
                let path = path::at_entry(entered, event.role());
                let timestamps = if path.eligible { "with" } else { "without" };
                words.push(format!("{timestamps} timestamps"));
                words.push(format!("rto {} ms", self.hz.millis(entered.rto)));
                if entered.armed != 0 {
                    words.push(format!("timer {} ms", self.hz.millis(entered.armed)));
                }
                if entered.header.flags & entered_flags::OVERFLOW != 0 {
                    words.push("overflow: no TIME_WAIT socket".to_owned());
                }
                if let Some(block) = path.blocked {
                    words.push(format!("blocked: {}", block.key()));
                }
            }
            Event::Present(entered) => {
                words.push(format!("{} ms left", self.hz.millis(entered.armed)));
            }
            Event::Ended(ended) => {
                let outcome = path::at_end(ended, self.recycle_exists, self.hz);
                let after = lifetime_ms(ended).map(|millis| format!(" after {millis} ms"));
                words.push(format!("{}{}", reason(ended, outcome), after.unwrap_or_default()));
                if ended.rearms > 0 {
                    words.push(format!("armed again {} times", ended.rearms));
                }
            }
        }
        words.join(", ")
    }
}

/// What happened.
pub fn name(event: &Event) -> &'static str {
    match event {
        Event::Entered(_) => "entered",
        Event::Present(_) => "present",
        Event::Ended(_) => "ended",
    }
}

/// The state's name.
fn state(state: u8) -> &'static str {
    if state == TCP_FIN_WAIT2 { "FIN_WAIT2" } else { "TIME_WAIT" }
}

/// Why it ended, in one word.
fn reason(ended: &Ended, outcome: path::Outcome) -> &'static str {
    match (end_reason(ended), outcome) {
        (EndReason::Expired, path::Outcome::TwoMsl) => "expired",
        (EndReason::Aborted, _) => "aborted",
        (_, outcome) => outcome.key(),
    }
}

/// Milliseconds from entry to end, if the entry was seen.
fn lifetime_ms(ended: &Ended) -> Option<u64> {
    let lived = ended.mono_ns.saturating_sub(ended.entered_ns) / 1_000_000;
    (ended.entered_ns != 0).then_some(lived)
}

/// An address and port as the field writes them.
pub fn endpoint(address: [u8; 16], port: u16) -> String {
    std::net::SocketAddr::new(ip(address), port).to_string()
}

/// A kernel address, which tells two sockets with the same ports apart.
fn address(tw: u64) -> Option<String> {
    (tw != 0).then(|| format!("{tw:#x}"))
}
