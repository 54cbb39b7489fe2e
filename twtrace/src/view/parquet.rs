//! Events as Apache Parquet: a file that DuckDB, ClickHouse and Spark read as a table.

use std::{
    io::{self, Write},
    sync::Arc,
};

use parquet::{
    basic::{Compression, LogicalType, Repetition, TimeUnit, Type as Physical, ZstdLevel},
    data_type::{BoolType, ByteArray, ByteArrayType, Int64Type},
    errors::ParquetError,
    file::{
        properties::WriterProperties,
        writer::{SerializedColumnWriter, SerializedFileWriter},
    },
    schema::types::{Type as SchemaType, TypePtr},
};

use super::columns::{Column, Field, Provenance, Type, columns};
use super::events::EventWriter;
use crate::event::Event;

/// Rows held before they are written: what a writer needs of memory, some 30 MB.
const ROWS_AT_ONCE: usize = 1 << 16;

/// Writes events, with their provenance, as one table.
pub struct ParquetWriter<W: Write + Send> {
    file: SerializedFileWriter<W>,
    reader: EventWriter,
    columns: Vec<(&'static Column, Values)>,
    rows: usize,
}

impl<W: Write + Send> ParquetWriter<W> {
    /// A table without rows; `reader` knows how to read the events.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn new(out: W, reader: EventWriter) -> io::Result<Self> {
        let columns: Vec<_> =
            columns(true).map(|column| (column, Values::of(column.kind))).collect();
        let fields = columns.iter().map(|(column, _)| field(column)).collect::<Result<_, _>>();
        let schema = fields.and_then(|fields| {
            SchemaType::group_type_builder("twtrace_event").with_fields(fields).build()
        });
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_created_by(concat!("twtrace ", env!("CARGO_PKG_VERSION")).into())
            .build();
        let file = schema.and_then(|schema| {
            SerializedFileWriter::new(out, Arc::new(schema), Arc::new(properties))
        });
        Ok(Self { file: file.map_err(io_error)?, reader, columns, rows: 0 })
    }

    /// Takes one event.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write(&mut self, event: &Event, from: &Provenance) -> io::Result<()> {
        let seen = self.reader.seen(event, Some(from));
        for (column, values) in &mut self.columns {
            values.push(column.value(&seen).unwrap_or(Field::Null));
        }
        self.rows += 1;
        if self.rows == ROWS_AT_ONCE { self.write_rows() } else { Ok(()) }
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
        if self.rows == 0 {
            return Ok(());
        }
        self.rows = 0;
        self.write_group().map_err(io_error)
    }

    fn write_group(&mut self) -> Result<(), ParquetError> {
        let mut group = self.file.next_row_group()?;
        for (_, values) in &mut self.columns {
            if let Some(column) = group.next_column()? {
                values.write(column)?;
            }
        }
        group.close().map(drop)
    }
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

/// The values of a column that are not written yet.
struct Values {
    /// 1 where there is a value, 0 where it is null.
    defined: Vec<i16>,
    known: Known,
}

enum Known {
    Texts(Vec<ByteArray>),
    Numbers(Vec<i64>),
    Flags(Vec<bool>),
}

impl Values {
    fn of(kind: Type) -> Self {
        let known = match kind {
            Type::Text => Known::Texts(Vec::new()),
            Type::Number | Type::Time => Known::Numbers(Vec::new()),
            Type::Flag => Known::Flags(Vec::new()),
        };
        Self { defined: Vec::new(), known }
    }

    /// Takes a value; one of another type than the column's is null.
    fn push(&mut self, field: Field) {
        let known = match (&mut self.known, field) {
            (Known::Texts(texts), Field::Word(word)) => {
                texts.push(bytes::Bytes::from_static(word.as_bytes()).into());
                true
            }
            (Known::Texts(texts), Field::Text(text)) => {
                texts.push(text.into_bytes().into());
                true
            }
            (Known::Texts(texts), field @ Field::Ports(..)) => {
                texts.push(field.to_string().into_bytes().into());
                true
            }
            (Known::Numbers(numbers), Field::Number(number) | Field::Time(number)) => {
                numbers.push(number);
                true
            }
            (Known::Flags(flags), Field::Flag(flag)) => {
                flags.push(flag);
                true
            }
            (_, field) => {
                debug_assert_eq!(field, Field::Null, "a column's values are of its type");
                false
            }
        };
        self.defined.push(known.into());
    }

    /// Writes the values and forgets them.
    fn write(&mut self, mut column: SerializedColumnWriter<'_>) -> Result<(), ParquetError> {
        let defined = Some(&self.defined[..]);
        match &mut self.known {
            Known::Texts(texts) => {
                column.typed::<ByteArrayType>().write_batch(texts, defined, None)?;
                texts.clear();
            }
            Known::Numbers(numbers) => {
                column.typed::<Int64Type>().write_batch(numbers, defined, None)?;
                numbers.clear();
            }
            Known::Flags(flags) => {
                column.typed::<BoolType>().write_batch(flags, defined, None)?;
                flags.clear();
            }
        }
        self.defined.clear();
        column.close()
    }
}
