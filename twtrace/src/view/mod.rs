//! What people and programs read. Each renderer writes to any writer, asks no clock and knows no
//! terminal.

pub mod causes;
pub mod check;
pub mod columns;
pub mod csv;
pub mod diagnosis;
pub mod events;
pub mod explain;
pub mod failed;
pub mod field;
pub mod figures;
pub mod history;
pub mod json;
pub mod metrics;
pub mod parquet;
pub mod peer;
pub mod report;
pub mod status;
pub mod style;
pub mod table;
pub mod tui;
pub mod what_if;

/// Output formats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// One JSON document at the end.
    Json,
    /// One JSON document a line: with each interval, or with each event.
    Ndjson,
    /// Comma-separated, with a header line.
    Csv,
}

/// Output formats of reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ReportFormat {
    /// For people, on 80 columns.
    #[default]
    Text,
    /// One JSON document.
    Json,
}

/// Forms of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ExportFormat {
    /// One JSON object a line.
    Ndjson,
    /// Comma-separated, with a header line.
    Csv,
    /// Apache Parquet, compressed with Zstandard.
    Parquet,
}

impl Format {
    /// Whether programs read it.
    pub const fn is_machine(self) -> bool {
        !matches!(self, Self::Table)
    }
}
