//! Figures as data: what is counted of a row. JSON, CSV, the JSON Schemas and the tables in the
//! documents are made from these lists.

mod row;

pub use row::{Figure, Figures, ROW, RowKey, Unit, csv_figures, row_figures};
