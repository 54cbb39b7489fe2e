//! Events as Apache Parquet: a file that DuckDB, ClickHouse and Spark read as a table.

use std::{
    fmt::Write as _,
    io::{self, Write},
    sync::Arc,
};

use bytes::Bytes;
use parquet::{
    basic::{
        Compression, Encoding, LogicalType, Repetition, TimeUnit, Type as Physical, ZstdLevel,
    },
    data_type::{BoolType, ByteArray, ByteArrayType, Int64Type},
    errors::ParquetError,
    file::{
        properties::WriterProperties,
        writer::{SerializedColumnWriter, SerializedFileWriter},
    },
    schema::types::{ColumnPath, Type as SchemaType, TypePtr},
};

use super::events::EventWriter;
use super::{
    columns::{Column, Provenance, Type, columns},
    field::Field,
};
use crate::event::Event;

/// Events held before they are written, column by column: some 10 MB.
const ROWS_AT_ONCE: usize = 1 << 16;

/// Columns that hardly have a value twice, and mostly one a little above the one before.
const TIMES: [&str; 3] = ["time", "mono_ns", "entered_ns"];

/// Writes events, with their provenance, as one table.
pub struct ParquetWriter<W: Write + Send> {
    file: SerializedFileWriter<W>,
    reader: EventWriter,
    events: Vec<Event>,
    /// Where events come from, each from the event with that index on.
    from: Vec<(usize, Provenance)>,
}

impl<W: Write + Send> ParquetWriter<W> {
    /// A table without rows; `reader` knows how to read the events.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn new(out: W, reader: EventWriter) -> io::Result<Self> {
        let fields = columns(true).map(field).collect::<Result<_, _>>();
        let schema = fields.and_then(|fields| {
            SchemaType::group_type_builder("twtrace_event").with_fields(fields).build()
        });
        let file = schema.and_then(|schema| {
            SerializedFileWriter::new(out, Arc::new(schema), Arc::new(properties()))
        });
        let file = file.map_err(io_error)?;
        Ok(Self { file, reader, events: Vec::with_capacity(ROWS_AT_ONCE), from: Vec::new() })
    }

    /// Takes one event.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write(&mut self, event: &Event, from: &Provenance) -> io::Result<()> {
        if self.from.last().is_none_or(|(_, last)| last != from) {
            self.from.push((self.events.len(), from.clone()));
        }
        self.events.push(*event);
        if self.events.len() == ROWS_AT_ONCE { self.write_rows() } else { Ok(()) }
    }

    /// Writes what is left, and what makes the file whole.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn finish(mut self) -> io::Result<W> {
        self.write_rows()?;
        let mut out = self.file.into_inner().map_err(io_error)?;
        out.flush()?;
        Ok(out)
    }

    fn write_rows(&mut self) -> io::Result<()> {
        if self.events.is_empty() {
            return Ok(());
        }
        self.write_group().map_err(io_error)?;
        self.events.clear();
        self.from.clear();
        Ok(())
    }

    fn write_group(&mut self) -> Result<(), ParquetError> {
        let ends = self.from.iter().skip(1).map(|(begin, _)| *begin).chain([self.events.len()]);
        let runs: Vec<_> =
            self.from.iter().zip(ends).map(|((begin, from), end)| (*begin..end, from)).collect();
        let mut group = self.file.next_row_group()?;
        let owners: Vec<_> = self.events.iter().map(|event| self.reader.owner(event)).collect();
        // One column after the other, since each is code of its own.
        for column in columns(true) {
            let mut values = Values::of(column.kind);
            for (range, from) in &runs {
                let owned = self.events.iter().zip(&owners);
                for (event, owner) in owned.take(range.end).skip(range.start) {
                    let seen = self.reader.seen(event, Some(from), owner.as_deref());
                    values.push(column.value(&seen).unwrap_or(Field::Null));
                }
            }
            if let Some(writer) = group.next_column()? {
                values.write(writer)?;
            }
        }
        group.close().map(drop)
    }
}

/// How columns are written: most have few values, which a dictionary holds once.
fn properties() -> WriterProperties {
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_created_by(concat!("twtrace ", env!("CARGO_PKG_VERSION")).into());
    for time in TIMES.map(ColumnPath::from) {
        properties = properties
            .set_column_dictionary_enabled(time.clone(), false)
            .set_column_encoding(time, Encoding::DELTA_BINARY_PACKED);
    }
    properties.set_column_dictionary_enabled(ColumnPath::from("tw"), false).build()
}

/// What comes from the writer below stays as it is.
fn io_error(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(cause) => match cause.downcast::<io::Error>() {
            Ok(cause) => *cause,
            Err(cause) => io::Error::other(cause),
        },
        error => io::Error::other(error),
    }
}

fn field(column: &Column) -> Result<TypePtr, ParquetError> {
    let (physical, logical) = match column.kind {
        Type::Text => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
        Type::Number => (Physical::INT64, None),
        Type::Flag => (Physical::BOOLEAN, None),
        Type::Time => {
            let logical = LogicalType::timestamp(true, TimeUnit::MICROS);
            (Physical::INT64, Some(logical))
        }
    };
    let built = SchemaType::primitive_type_builder(column.name, physical)
        .with_repetition(Repetition::OPTIONAL)
        .with_logical_type(logical)
        .build()?;
    Ok(Arc::new(built))
}

/// The values of a column.
struct Values {
    /// 1 where there is a value, 0 where it is null.
    defined: Vec<i16>,
    known: Defined,
}

enum Defined {
    Texts(Texts),
    Numbers(Vec<i64>),
    Flags(Vec<bool>),
}

impl Values {
    fn of(kind: Type) -> Self {
        let known = match kind {
            Type::Text => Defined::Texts(Texts::default()),
            Type::Number | Type::Time => Defined::Numbers(Vec::new()),
            Type::Flag => Defined::Flags(Vec::new()),
        };
        Self { defined: Vec::new(), known }
    }

    /// Takes a value; one of another type than the column's is null.
    fn push(&mut self, field: Field<'_>) {
        let known = match (&mut self.known, field) {
            (_, Field::Null) => false,
            (Defined::Texts(texts), field) => {
                texts.push(field);
                true
            }
            (Defined::Numbers(numbers), Field::Number(number) | Field::Time(number)) => {
                numbers.push(number);
                true
            }
            (Defined::Flags(flags), Field::Flag(flag)) => {
                flags.push(flag);
                true
            }
            (_, field) => {
                debug_assert!(false, "{field:?} is not of the column's type");
                false
            }
        };
        self.defined.push(known.into());
    }

    /// Writes the values.
    fn write(self, mut column: SerializedColumnWriter<'_>) -> Result<(), ParquetError> {
        let defined = Some(&self.defined[..]);
        match self.known {
            Defined::Texts(texts) => {
                column.typed::<ByteArrayType>().write_batch(&texts.take(), defined, None)?;
            }
            Defined::Numbers(numbers) => {
                column.typed::<Int64Type>().write_batch(&numbers, defined, None)?;
            }
            Defined::Flags(flags) => {
                column.typed::<BoolType>().write_batch(&flags, defined, None)?;
            }
        }
        column.close()
    }
}

/// Texts, those that are not words one behind the other in memory: millions by themselves would be
/// most of the work.
#[derive(Default)]
struct Texts {
    /// All of them, empty where they are in `text`.
    all: Vec<ByteArray>,
    text: String,
    /// Which are in `text`, and where each ends.
    ends: Vec<(usize, usize)>,
}

impl Texts {
    fn push(&mut self, field: Field<'_>) {
        let word = match field {
            Field::Word(word) => Bytes::from_static(word.as_bytes()),
            Field::Text(text) => {
                self.text.push_str(text);
                self.end()
            }
            field => {
                write!(self.text, "{field}").expect("a string takes everything");
                self.end()
            }
        };
        self.all.push(word.into());
    }

    /// Ends a text, in whose place nothing is as yet.
    fn end(&mut self) -> Bytes {
        self.ends.push((self.all.len(), self.text.len()));
        Bytes::new()
    }

    fn take(mut self) -> Vec<ByteArray> {
        let text = Bytes::from(self.text);
        let mut begin = 0;
        for (index, end) in self.ends {
            self.all[index] = text.slice(begin..end).into();
            begin = end;
        }
        self.all
    }
}
