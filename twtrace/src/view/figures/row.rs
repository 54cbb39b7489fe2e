//! What is counted of a row: the one list behind JSON, CSV, metrics and their documents.

use std::sync::LazyLock;

use serde::{Serialize, Serializer, ser::SerializeMap};

use crate::{
    failures::Cause,
    needs::Needs,
    path::{Block, Class, Outcome},
    peer::{Counts, Refused},
    summary::Row,
    view::field::{Field, number},
};

/// What the values of a figure are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// How many.
    Count,
    /// Milliseconds; null when never seen.
    Millis,
    /// Yes or no.
    Flag,
}

/// How a figure is found.
enum Of {
    /// A count: it only grows, and those of rows add up.
    Counts(Box<dyn Fn(&Counts) -> u64 + Send + Sync>),
    /// Anything else.
    Row(fn(&Row) -> Field<'static>),
}

/// One figure of a row.
pub struct Figure {
    /// Its key in JSON.
    pub key: &'static str,
    /// What it is.
    pub sentence: &'static str,
    /// What its values are.
    pub unit: Unit,
    /// What it needs to be known.
    pub needs: Needs,
    /// Its column in CSV, if it has one.
    pub csv: Option<String>,
    of: Of,
}

impl Figure {
    /// Its value: what is not known is null, never 0.
    pub fn value(&self, row: &Row, known: Needs) -> Field<'static> {
        match &self.of {
            _ if !known.has(self.needs) => Field::Null,
            Of::Counts(count) => number(count(&row.counts)),
            Of::Row(of) => of(row),
        }
    }

    fn new(key: &'static str, sentence: &'static str, unit: Unit, of: Of) -> Self {
        Self { key, sentence, unit, needs: Needs::NOTHING, csv: None, of }
    }

    fn needs(self, needs: Needs) -> Self {
        Self { needs, ..self }
    }

    /// With a column in CSV, named as the key.
    fn in_csv(self) -> Self {
        let name = self.key;
        self.in_csv_as(name)
    }

    fn in_csv_as(self, name: impl Into<String>) -> Self {
        Self { csv: Some(name.into()), ..self }
    }
}

/// Figures that JSON has in an object of their own.
pub struct FigureGroup {
    /// Its key in JSON.
    pub key: &'static str,
    /// What it is.
    pub sentence: &'static str,
    /// What all of them need; the whole is null without.
    pub needs: Needs,
    /// The figures.
    pub figures: Vec<Figure>,
}

/// What a key of a row stands for.
pub enum RowKey {
    /// One figure.
    One(Figure),
    /// Several.
    Group(FigureGroup),
}

/// All figures of a row, in the order they are shown.
pub static ROW: LazyLock<Vec<RowKey>> = LazyLock::new(|| {
    let mut all = came();
    all.extend(went());
    all.extend(times());
    all
});

/// A count.
fn count(
    key: &'static str,
    sentence: &'static str,
    of: impl Fn(&Counts) -> u64 + Send + Sync + 'static,
) -> Figure {
    Figure::new(key, sentence, Unit::Count, Of::Counts(Box::new(of)))
}

/// A duration.
fn millis(key: &'static str, sentence: &'static str, of: fn(&Row) -> Field<'static>) -> Figure {
    Figure::new(key, sentence, Unit::Millis, Of::Row(of))
}

fn group(
    key: &'static str,
    needs: Needs,
    sentence: &'static str,
    figures: impl IntoIterator<Item = Figure>,
) -> RowKey {
    let figures =
        figures.into_iter().map(|figure| Figure { needs: figure.needs.and(needs), ..figure });
    RowKey::Group(FigureGroup { key, sentence, needs, figures: figures.collect() })
}

/// What entered, and what is known of it then.
fn came() -> Vec<RowKey> {
    let blocked = |block: Block| {
        count(block.key(), block.sentence(), move |counts| counts.blocked(block))
            .in_csv_as(format!("blocked_{}", block.key()))
    };
    let refused = |(index, key): (usize, &'static &'static str)| {
        count(key, Refused::SENTENCES[index], move |counts| counts.refused.by_reason[index])
            .in_csv_as(format!("refused_{key}"))
    };
    let failed = |cause: Cause| {
        let needs = match cause {
            Cause::AddressInUse => Needs::BINDS.and(Needs::NO_PEERS),
            Cause::NoPort | Cause::PortBusy => Needs::FAILURES,
        };
        count(cause.key(), cause.words(), move |counts| counts.failed.of(cause))
            .needs(needs)
            .in_csv_as(format!("failed_{}", cause.key()))
    };
    vec![
        RowKey::One(
            count("entered", "Calls of tcp_time_wait().", |counts| counts.entered).in_csv(),
        ),
        RowKey::One(
            count(
                "fin_wait2",
                "Of them, as FIN_WAIT2 mini-sockets, which become TIME_WAIT when the peer's FIN \
                 comes.",
                |counts| counts.fin_wait2,
            )
            .in_csv(),
        ),
        RowKey::One(
            count(
                "bound",
                "Entries whose port the program had bound before it called connect(): held for all \
                 peers, and not for this one alone.",
                |counts| counts.bound,
            )
            .needs(Needs::TYPES)
            .in_csv(),
        ),
        RowKey::One(
            count(
                "present_at_start",
                "Sockets that were there before; never part of `entered`.",
                |counts| counts.present,
            )
            .needs(Needs::ENDS)
            .in_csv(),
        ),
        group(
            "timestamps",
            Needs::TYPES,
            "Whether the peer sent timestamps on the connection. null where the kernel's types are unknown.",
            [
                count("with", "Entries with tstamp_ok: the option was negotiated.", |counts| {
                    counts.with_timestamps
                })
                .in_csv_as("with_timestamps"),
                count("without", "Entries without.", |counts| counts.without_timestamps)
                    .in_csv_as("without_timestamps"),
            ],
        ),
        RowKey::One(
            count(
                "eligible",
                "Entries the fast path could take: ts_recent_stamp is set. It differs from \
                 `timestamps.with` for a client that took a port over.",
                |counts| counts.eligible,
            )
            .needs(Needs::TYPES)
            .in_csv(),
        ),
        RowKey::One(
            count("allowed", "Of them, those the sysctls permit as well.", |counts| counts.allowed)
                .needs(Needs::TYPES)
                .in_csv(),
        ),
        group(
            "blocked",
            Needs::TYPES,
            "Entries whose fast path is closed, by reason. `fin_wait2` is known at the end only. \
             null where the kernel's types are unknown.",
            Block::ALL.map(blocked),
        ),
        group(
            "refused",
            Needs::REFUSALS,
            "Times an outgoing connect() could not take a TIME_WAIT socket's port over, by reason; \
             one connect() may be refused at thousands of ports. null where this is not seen.",
            Refused::KEYS.iter().enumerate().map(refused),
        ),
        group(
            "failed",
            Needs::FAILURES,
            "Calls that got no port: connect() that found none, connect() whose port was busy, \
             bind() that was refused. A bind() has no peer: it is null in rows that stand for \
             peers, and where it is not seen. null as a whole in recordings made before this was \
             counted.",
            Cause::ALL.map(failed),
        ),
    ]
}

/// What lives, and how the others ended.
fn went() -> Vec<RowKey> {
    let ended = |outcome: Outcome| {
        count(outcome.key(), outcome.sentence(), move |counts| counts.outcome(outcome))
            .needs(Needs::ENDS)
            .in_csv()
    };
    let (fast, others): (Vec<_>, Vec<_>) =
        Outcome::ALL.into_iter().partition(|outcome| outcome.class() == Class::Fast);
    let total = count("total", "All of them.", |counts| counts.class(Class::Fast));
    let mut all = vec![
        RowKey::One(
            Figure::new(
                "live",
                "Sockets in TIME_WAIT or FIN_WAIT2 mini-sockets now.",
                Unit::Count,
                Of::Row(|row| number(row.live)),
            )
            .needs(Needs::ENDS)
            .in_csv(),
        ),
        group(
            "fast",
            Needs::ENDS,
            "Ends before 2MSL, the port free again.",
            [total].into_iter().chain(fast.into_iter().map(ended)),
        ),
    ];
    all.extend(others.into_iter().map(ended).map(RowKey::One));
    all.push(RowKey::One(
        count("overflow", "Entries for which no TIME_WAIT socket could be allocated.", |counts| {
            counts.overflow
        })
        .needs(Needs::OVERFLOW)
        .in_csv(),
    ));
    all.push(RowKey::One(
        count("rearmed", "Times the timer was set again, over ended sockets.", |counts| {
            counts.rearms
        })
        .needs(Needs::ENDS),
    ));
    all.push(RowKey::One(
        count(
            "promoted",
            "Ended sockets that were FIN_WAIT2 mini-sockets first: the peer closed late.",
            |counts| counts.promoted,
        )
        .needs(Needs::ENDS)
        .in_csv(),
    ));
    all
}

/// How long sockets lived, and how long they were to.
fn times() -> Vec<RowKey> {
    vec![
        group(
            "lifetime_ms",
            Needs::ENDS,
            "Entry to end. Percentiles are within 3.2 % (exact up to 8 sockets); max is exact.",
            [
                Figure::new(
                    "count",
                    "How many are known.",
                    Unit::Count,
                    Of::Row(|row| number(row.lifetimes.count)),
                )
                .in_csv_as("lifetime_count"),
                millis("p50", "Half lived no longer.", |row| known(row.lifetimes.p50))
                    .in_csv_as("lifetime_p50_ms"),
                millis("p90", "Nine in ten lived no longer.", |row| known(row.lifetimes.p90)),
                millis("p99", "Ninety-nine in a hundred lived no longer.", |row| {
                    known(row.lifetimes.p99)
                })
                .in_csv_as("lifetime_p99_ms"),
                millis("max", "The longest.", |row| known(row.lifetimes.max))
                    .in_csv_as("lifetime_max_ms"),
            ],
        ),
        group(
            "scheduled_ms",
            Needs::ENDS,
            "What TIME_WAIT timers were really armed with.",
            [
                millis("last", "The last one.", |row| seen(row.scheduled_ms)),
                millis("max", "The longest.", |row| seen(row.scheduled_max_ms)),
            ],
        ),
        group(
            "rto_ms",
            Needs::NOTHING,
            "The connections' retransmission timeouts.",
            [
                millis("last", "Of the last one.", |row| seen(row.rto_ms)),
                millis("max", "The longest.", |row| seen(row.rto_max_ms)),
            ],
        ),
        RowKey::One(millis(
            "recycle_ms",
            "3.5 x the longest RTO: what a kernel that recycles would wait.",
            |row| seen(row.recycle_ms()),
        )),
        RowKey::One(
            Figure::new(
                "recycle_over_2msl",
                "Whether that is longer than 60 s.",
                Unit::Flag,
                Of::Row(|row| Field::Flag(row.recycle_over_two_msl())),
            )
            .needs(Needs::TYPES),
        ),
    ]
}

/// A duration, null when it was never seen.
fn seen(millis: u64) -> Field<'static> {
    known((millis != 0).then_some(millis))
}

fn known(value: Option<u64>) -> Field<'static> {
    value.map_or(Field::Null, number)
}

/// The figures themselves, one after the other.
pub fn row_figures() -> impl Iterator<Item = &'static Figure> {
    ROW.iter().flat_map(|entry| match entry {
        RowKey::One(figure) => std::slice::from_ref(figure),
        RowKey::Group(group) => &group.figures,
    })
}

/// Those that CSV has, with the names of their columns.
pub fn csv_figures() -> impl Iterator<Item = (&'static Figure, &'static str)> {
    row_figures().filter_map(|figure| Some((figure, figure.csv.as_deref()?)))
}

/// All figures of a row as entries of an object.
pub struct Figures<'a> {
    /// The row.
    pub row: &'a Row,
    /// What the session has.
    pub known: Needs,
}

impl Figures<'_> {
    /// Adds them to an object.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn write<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        for entry in ROW.iter() {
            match entry {
                RowKey::One(figure) => {
                    map.serialize_entry(figure.key, &figure.value(self.row, self.known))?;
                }
                RowKey::Group(group) if self.known.has(group.needs) => {
                    map.serialize_entry(group.key, &Members { group, figures: self })?;
                }
                RowKey::Group(group) => map.serialize_entry(group.key, &())?,
            }
        }
        Ok(())
    }
}

/// The figures of a group.
struct Members<'a> {
    group: &'static FigureGroup,
    figures: &'a Figures<'a>,
}

impl Serialize for Members<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Figures { row, known } = self.figures;
        serializer.collect_map(self.group.figures.iter().map(|f| (f.key, f.value(row, *known))))
    }
}
