//! Parquet files, row by row: the values of all columns as JSON.

use super::compression::ReadCount;
use super::error::{InputError, damaged};
use super::mapping::{Mapping, RowKind};
use super::parquet_values::ColumnReading;
use super::piece::{PieceWriter, RowReader};
use super::record::{Cell, Record};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::reader::RowIter;
use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::sync::Arc;

/// The columns of a Parquet file.
pub struct ParquetColumns {
    /// Their names, without the index that pandas adds.
    pub names: Vec<String>,
    /// The number of rows.
    pub rows: u64,
}

/// The index of a pandas table without a name of its own.
fn is_pandas_index(name: &str) -> bool {
    name.starts_with("__index_level_")
}

impl ParquetColumns {
    /// Reads the end of a file, where they are named.
    ///
    /// # Errors
    /// The file is damaged.
    pub fn of(file: File) -> Result<ParquetColumns, InputError> {
        let reader =
            SerializedFileReader::new(file).map_err(|error| InputError::Unusable(unreadable(&error)))?;
        let metadata = reader.metadata().file_metadata();
        let fields = metadata.schema().get_fields();
        let names = fields
            .iter()
            .map(|field| field.name().to_owned())
            .filter(|name| !is_pandas_index(name))
            .collect();
        Ok(ParquetColumns { names, rows: u64::try_from(metadata.num_rows()).unwrap_or(0) })
    }
}

fn unreadable(error: &parquet::errors::ParquetError) -> String {
    format!("cannot be read as Parquet: {error}. Write it again")
}

/// The rows of a Parquet file.
pub struct ParquetRows {
    rows: RowIter<'static>,
    columns: Vec<ColumnReading>,
    mapping: Arc<Mapping>,
    row: u64,
    count: ReadCount,
}

impl ParquetRows {
    /// The rows of a file. `count` counts the rows that were read.
    ///
    /// # Errors
    /// The file is damaged.
    pub fn new(file: File, mapping: Arc<Mapping>, count: ReadCount) -> io::Result<Self> {
        let reader = SerializedFileReader::new(file).map_err(|error| damaged(unreadable(&error)))?;
        let schema = reader.metadata().file_metadata().schema();
        let columns = schema.get_fields().iter().map(|field| ColumnReading::of(field)).collect();
        Ok(ParquetRows { rows: RowIter::from_file_into(Box::new(reader)), columns, mapping, row: 0, count })
    }
}

impl RowReader for ParquetRows {
    fn read_row(&mut self, pieces: &mut PieceWriter) -> io::Result<bool> {
        let Some(row) = self.rows.next() else { return Ok(false) };
        self.row += 1;
        let row = row.map_err(|error| damaged(format!("cannot be read at row {}: {error}", self.row)))?;
        self.count.add(1);
        let mut fields = Vec::with_capacity(row.len());
        for (at, (name, value)) in row.into_columns().into_iter().enumerate() {
            if is_pandas_index(&name) {
                continue;
            }
            let reading = self.columns.get(at).copied().unwrap_or_default();
            if let Some(json) = reading.json(&value) {
                fields.push((Cow::Owned(name), Cell::Json(Cow::Owned(json.to_string().into_bytes()))));
            }
        }
        pieces.row(self.row, |out| self.mapping.write(Record { fields }, RowKind::Table, out));
        Ok(true)
    }
}
