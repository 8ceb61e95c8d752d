//! Stored chunks as files for other programs: NDJSON, Parquet and NPZ, written in flat memory.
//!
//! [`columns`] says what each column of a table holds; [`parquet`] and [`npz`] write those columns.

mod columns;
mod error;
mod line;
mod npz;
mod parquet;

pub use columns::{COLUMNS, Column, ColumnCell, ColumnKind, choose};
pub use error::ExportError;
pub use line::row_of_line;
pub use npz::NpzWriter;
pub use parquet::ParquetWriter;
