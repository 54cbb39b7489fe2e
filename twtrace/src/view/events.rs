//! One line an event: `twtrace.event/2`.

use std::{
    io::{self, Write},
    sync::Arc,
};

use twtrace_common::{TCP_FIN_WAIT2, entered_flags};

use super::{
    Format,
    columns::{Column, Provenance, Seen, columns, endpoint, lifetime_ms, name},
    csv::quoted,
    field::Field,
};
use crate::text::{counted, visible};
use crate::{
    event::Event,
    failures::{Cause, Program, comm_text},
    owner::{Book, Owner},
    path,
    units::Hz,
};

/// Writes events in one format.
#[derive(Clone, Debug)]
pub struct EventWriter {
    /// The format; `json` and `ndjson` are the same here.
    pub format: Format,
    /// Tick rate of the kernel the events come from.
    pub hz: Hz,
    /// Whether that kernel has `tcp_tw_recycle`.
    pub recycle_exists: bool,
    /// Whose sockets are.
    pub owners: Book,
    /// Whether peers are given names.
    pub named: bool,
}

impl EventWriter {
    /// One that knows of no owner yet.
    pub fn bare(format: Format, hz: Hz, recycle_exists: bool) -> Self {
        Self { format, hz, recycle_exists, owners: Book::default(), named: false }
    }

    /// Writes what comes before the first event.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write_header(&self, out: &mut impl Write) -> io::Result<()> {
        self.write_header_of(out, false)
    }

    /// The same for events that are told with their provenance.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write_header_of(&self, out: &mut impl Write, provenance: bool) -> io::Result<()> {
        match self.format {
            Format::Csv => {
                let names: Vec<_> = csv_columns(provenance).map(|column| column.name).collect();
                let last = if self.named { ",name" } else { "" };
                writeln!(out, "{}{last}", names.join(","))
            }
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
        self.write_from(out, event, None)
    }

    /// Writes one event with the name of its peer, if one is known; last, and only where names are given.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write_named(
        &self,
        out: &mut impl Write,
        event: &Event,
        name: Option<&str>,
    ) -> io::Result<()> {
        self.write_whole(out, event, None, name)
    }

    /// Writes one event with its provenance, if that is told. A table has no room for it.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write_from(
        &self,
        out: &mut impl Write,
        event: &Event,
        from: Option<&Provenance>,
    ) -> io::Result<()> {
        self.write_whole(out, event, from, None)
    }

    fn write_whole(
        &self,
        out: &mut impl Write,
        event: &Event,
        from: Option<&Provenance>,
        peer_name: Option<&str>,
    ) -> io::Result<()> {
        let owner = self.owner(event);
        let seen = self.seen(event, from, owner.as_deref());
        match self.format {
            Format::Table => self.write_text(out, event, peer_name),
            Format::Json | Format::Ndjson => {
                let mut before = '{';
                for column in columns(from.is_some()) {
                    if let Some(field) = column.value(&seen) {
                        write!(out, "{before}\"{}\":", column.name)?;
                        serde_json::to_writer(&mut *out, &field)?;
                        before = ',';
                    }
                }
                if self.named {
                    write!(out, "{before}\"name\":")?;
                    serde_json::to_writer(&mut *out, &peer_name)?;
                }
                writeln!(out, "}}")
            }
            Format::Csv => {
                for (at, column) in csv_columns(from.is_some()).enumerate() {
                    let field = column.value(&seen).unwrap_or(Field::Null);
                    let comma = if at == 0 { "" } else { "," };
                    match field {
                        Field::Text(text) => write!(out, "{comma}{}", quoted(text))?,
                        Field::Comm(comm) => {
                            write!(out, "{comma}{}", quoted(&comm_text(&comm)))?;
                        }
                        field => write!(out, "{comma}{field}")?,
                    }
                }
                if self.named {
                    write!(out, ",{}", quoted(&visible(peer_name.unwrap_or_default())))?;
                }
                writeln!(out)
            }
        }
    }

    /// An event, to be asked column by column.
    pub fn seen<'a>(
        &self,
        event: &'a Event,
        from: Option<&'a Provenance>,
        owner: Option<&'a Owner>,
    ) -> Seen<'a> {
        Seen { event, hz: self.hz, recycle_exists: self.recycle_exists, from, owner }
    }

    /// Whose the socket of an event is. The end of one does not tell.
    pub fn owner(&self, event: &Event) -> Option<Arc<Owner>> {
        let cgroup = match event {
            Event::Entered(entered) => entered.cgroup,
            Event::Failed(failed) => failed.cgroup,
            Event::Present(_) => 0,
            Event::Ended(_) => return None,
        };
        let (inum, cookie) = (event.header().netns, event.netns_cookie().unwrap_or(0));
        let owners = self.owners.read();
        owners.of(Some(cgroup), inum, cookie).map(|known| Arc::clone(&known.owner))
    }

    fn write_text(
        &self,
        out: &mut impl Write,
        event: &Event,
        peer_name: Option<&str>,
    ) -> io::Result<()> {
        let flow = event.flow();
        let peer_name = peer_name.map(|name| format!(", {}", visible(name))).unwrap_or_default();
        writeln!(
            out,
            "{:>14.6}  {:<9} {:<42} {:<42} {}{}{peer_name}",
            event.mono_ns() as f64 / 1e9,
            name(event),
            endpoint(flow.local, flow.local_port),
            endpoint(flow.remote, flow.remote_port),
            match event {
                Event::Failed(_) => "",
                _ if event.header().state == TCP_FIN_WAIT2 => "FIN_WAIT2, ",
                _ => "TIME_WAIT, ",
            },
            self.detail(event),
        )
    }

    /// What there is to say of an event beside where and in which state it happened, for people.
    pub fn detail(&self, event: &Event) -> String {
        let mut words = Vec::new();
        match event {
            Event::Entered(entered) => {
                let path = path::at_entry(entered, event.role());
                let timestamps = match path.timestamps {
                    Some(true) => "with timestamps",
                    Some(false) => "without timestamps",
                    None => "timestamps unknown",
                };
                words.push(timestamps.to_owned());
                // They go together, but for a takeover: it inherits a timestamp of the connection before.
                match path.eligible {
                    eligible if eligible == path.timestamps => {}
                    Some(true) => words.push("eligible".to_owned()),
                    Some(false) => words.push("not eligible".to_owned()),
                    None => words.push("eligible or not unknown".to_owned()),
                }
                if entered.rto != 0 {
                    words.push(format!("rto {} ms", self.hz.millis(entered.rto)));
                }
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
                words.push(format!("{}{}", outcome.key(), after.unwrap_or_default()));
                if ended.rearms > 0 {
                    words.push(format!("armed again {}", counted(ended.rearms.into(), "times")));
                }
            }
            Event::Failed(failed) => {
                let program = Program::from(failed);
                words.push(Cause::of(failed.result).map_or("failed", Cause::words).to_owned());
                words.push(visible(&program.to_string()).into_owned());
                if failed.stands_for > 1 {
                    words.push(format!("{} of these, told together", failed.stands_for));
                }
            }
        }
        words.join(", ")
    }
}

fn csv_columns(provenance: bool) -> impl Iterator<Item = &'static Column> {
    columns(provenance).filter(|column| column.csv)
}
