//! Chunks as a Parquet file, in row groups that are bounded in bytes.

use super::columns::{Column, ColumnCell, ColumnKind};
use super::error::ExportError;
use crate::chunk::ExportRow;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::column::writer::ColumnWriter;
use parquet::data_type::ByteArray;
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::ColumnPath;
use std::borrow::Cow;
use std::io::Write;
use std::sync::Arc;

/// The bytes that a row group holds in memory before it is written.
const GROUP_BYTES: usize = 16 * 1024 * 1024;
/// The most rows of a row group.
const GROUP_ROWS: usize = 128 * 1024;
/// The bytes of a page.
const PAGE_BYTES: usize = 1024 * 1024;

/// Writes a Parquet file.
pub struct ParquetWriter<W: Write + Send> {
    writer: SerializedFileWriter<W>,
    columns: Vec<&'static Column>,
    buffers: Vec<Buffer>,
    rows: usize,
    bytes: usize,
}

/// The values of a column in the current row group.
struct Buffer {
    values: Values,
    /// How far each value is defined: below the highest level it is absent, or its list is empty.
    definitions: Vec<i16>,
    /// 0 where a new row begins. Only of lists.
    repetitions: Vec<i16>,
}

enum Values {
    Texts(Vec<ByteArray>),
    Short(Vec<i32>),
    Whole(Vec<i64>),
    Real(Vec<f32>),
    Truth(Vec<bool>),
}

impl Buffer {
    fn of(kind: ColumnKind) -> Buffer {
        let values = match kind {
            ColumnKind::Text | ColumnKind::Uuid | ColumnKind::Texts => Values::Texts(Vec::new()),
            ColumnKind::Byte | ColumnKind::Short => Values::Short(Vec::new()),
            ColumnKind::Whole | ColumnKind::Micros => Values::Whole(Vec::new()),
            ColumnKind::Real | ColumnKind::Reals => Values::Real(Vec::new()),
            ColumnKind::Truth => Values::Truth(Vec::new()),
        };
        Buffer { values, definitions: Vec::new(), repetitions: Vec::new() }
    }

    /// Adds the value of a row; gives the bytes that it takes.
    fn push(&mut self, column: &Column, cell: ColumnCell<'_>) -> usize {
        let is_list = matches!(column.kind, ColumnKind::Texts | ColumnKind::Reals);
        let present = i16::from(column.optional);
        let before = self.definitions.len();
        let bytes = match (&mut self.values, cell) {
            (Values::Texts(values), ColumnCell::Text(text)) => {
                let bytes = text.len();
                values.push(text.into_owned().into_bytes().into());
                bytes + size_of::<ByteArray>()
            }
            (Values::Texts(values), ColumnCell::Texts(texts)) => {
                values.extend(texts.iter().map(|text| ByteArray::from(text.clone().into_bytes())));
                self.list(texts.len(), present);
                texts.iter().map(|text| text.len() + size_of::<ByteArray>()).sum()
            }
            (Values::Short(values), ColumnCell::Whole(value)) => {
                // The kinds of these columns have at most 16 bits.
                values.push(i32::try_from(value).unwrap_or_default());
                size_of::<i32>()
            }
            (Values::Whole(values), ColumnCell::Whole(value)) => {
                values.push(value);
                size_of::<i64>()
            }
            (Values::Real(values), ColumnCell::Real(value)) => {
                values.push(value);
                size_of::<f32>()
            }
            (Values::Truth(values), ColumnCell::Truth(value)) => {
                values.push(value);
                size_of::<bool>()
            }
            (Values::Real(values), ColumnCell::Reals(vector)) => {
                values.extend_from_slice(&vector);
                self.list(vector.len(), present);
                size_of_val(&*vector)
            }
            // Absent. A column gives no cell of another kind than its own.
            _ => {
                self.definitions.push(0);
                if is_list {
                    self.repetitions.push(0);
                }
                0
            }
        };
        if self.definitions.len() == before && !is_list {
            self.definitions.push(present);
        }
        bytes + size_of::<[i16; 2]>() * (self.definitions.len() - before)
    }

    /// The levels of a list with so many elements.
    fn list(&mut self, elements: usize, present: i16) {
        if elements == 0 {
            self.definitions.push(present);
            self.repetitions.push(0);
            return;
        }
        self.definitions.resize(self.definitions.len() + elements, present + 1);
        self.repetitions.push(0);
        self.repetitions.resize(self.definitions.len(), 1);
    }

    fn write(&mut self, column: &Column, writer: &mut ColumnWriter<'_>) -> Result<(), ParquetError> {
        let is_list = matches!(column.kind, ColumnKind::Texts | ColumnKind::Reals);
        let definitions = (is_list || column.optional).then_some(&*self.definitions);
        let repetitions = is_list.then_some(&*self.repetitions);
        match (&mut self.values, writer) {
            (Values::Texts(values), ColumnWriter::ByteArrayColumnWriter(writer)) => {
                writer.write_batch(values, definitions, repetitions)?;
                values.clear();
            }
            (Values::Short(values), ColumnWriter::Int32ColumnWriter(writer)) => {
                writer.write_batch(values, definitions, repetitions)?;
                values.clear();
            }
            (Values::Whole(values), ColumnWriter::Int64ColumnWriter(writer)) => {
                writer.write_batch(values, definitions, repetitions)?;
                values.clear();
            }
            (Values::Real(values), ColumnWriter::FloatColumnWriter(writer)) => {
                writer.write_batch(values, definitions, repetitions)?;
                values.clear();
            }
            (Values::Truth(values), ColumnWriter::BoolColumnWriter(writer)) => {
                writer.write_batch(values, definitions, repetitions)?;
                values.clear();
            }
            _ => return Err(ParquetError::General(format!("{} has another type", column.name))),
        }
        self.definitions.clear();
        self.repetitions.clear();
        Ok(())
    }
}

impl<W: Write + Send> ParquetWriter<W> {
    /// Begins a file with these columns.
    ///
    /// # Errors
    /// The output.
    pub fn new(output: W, columns: Vec<&'static Column>) -> Result<ParquetWriter<W>, ExportError> {
        let fields: String = columns.iter().map(|column| field(column)).collect();
        let schema = Arc::new(parse_message_type(&format!("message chunk {{ {fields} }}"))?);
        // The metadata of all row groups is held to the end: what is not needed is left out of it.
        let mut properties = WriterProperties::builder()
            .set_created_by(concat!("lnsp-ingest ", env!("CARGO_PKG_VERSION")).to_owned())
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
            .set_statistics_enabled(EnabledStatistics::Chunk)
            .set_statistics_truncate_length(Some(64))
            .set_offset_index_disabled(true)
            .set_data_page_size_limit(PAGE_BYTES)
            .set_dictionary_page_size_limit(PAGE_BYTES);
        for column in columns.iter().filter(|column| column.kind == ColumnKind::Reals) {
            // Floats of vectors do not repeat, and do not compress.
            let path =
                ColumnPath::from(vec![column.name.to_owned(), "list".to_owned(), "element".to_owned()]);
            properties = properties
                .set_column_dictionary_enabled(path.clone(), false)
                .set_column_encoding(path.clone(), Encoding::PLAIN)
                .set_column_statistics_enabled(path.clone(), EnabledStatistics::None)
                .set_column_compression(path, Compression::UNCOMPRESSED);
        }
        let writer = SerializedFileWriter::new(output, schema, Arc::new(properties.build()))?;
        let buffers = columns.iter().map(|column| Buffer::of(column.kind)).collect();
        Ok(ParquetWriter { writer, columns, buffers, rows: 0, bytes: 0 })
    }

    /// Sets the fingerprint of the model that made the vectors: `vector_model` in the metadata of the file.
    pub fn set_vector_model(&mut self, model: Option<&str>) {
        if let Some(model) = model {
            let entry = KeyValue::new("vector_model".to_owned(), model.to_owned());
            self.writer.append_key_value_metadata(entry);
        }
    }

    /// Adds a row.
    ///
    /// # Errors
    /// The output.
    pub fn write(&mut self, row: &ExportRow) -> Result<(), ExportError> {
        for (column, buffer) in self.columns.iter().zip(&mut self.buffers) {
            self.bytes += buffer.push(column, (column.cell)(row));
        }
        self.rows += 1;
        if self.bytes >= GROUP_BYTES || self.rows >= GROUP_ROWS { self.end_group() } else { Ok(()) }
    }

    fn end_group(&mut self) -> Result<(), ExportError> {
        let mut group = self.writer.next_row_group()?;
        for (column, buffer) in self.columns.iter().zip(&mut self.buffers) {
            let Some(mut writer) = group.next_column()? else { break };
            buffer.write(column, writer.untyped())?;
            writer.close()?;
        }
        group.close()?;
        (self.rows, self.bytes) = (0, 0);
        Ok(())
    }

    /// Writes the rest and the footer; gives the output back.
    ///
    /// # Errors
    /// The output.
    pub fn finish(mut self) -> Result<W, ExportError> {
        if self.rows > 0 {
            self.end_group()?;
        }
        Ok(self.writer.into_inner()?)
    }
}

/// A column in the language of schemas.
fn field(column: &Column) -> String {
    let repetition = if column.optional { "optional" } else { "required" };
    let name = column.name;
    let list = |element: &str| {
        format!("{repetition} group {name} (LIST) {{ repeated group list {{ required {element}; }} }} ")
    };
    let plain: Cow<'_, str> = match column.kind {
        ColumnKind::Text | ColumnKind::Uuid => format!("binary {name} (STRING)").into(),
        ColumnKind::Byte => format!("int32 {name} (INTEGER(8,false))").into(),
        ColumnKind::Short => format!("int32 {name} (INTEGER(16,false))").into(),
        ColumnKind::Whole => format!("int64 {name}").into(),
        ColumnKind::Real => format!("float {name}").into(),
        ColumnKind::Truth => format!("boolean {name}").into(),
        ColumnKind::Micros => format!("int64 {name} (TIMESTAMP(MICROS,true))").into(),
        ColumnKind::Texts => return list("binary element (STRING)"),
        ColumnKind::Reals => return list("float element"),
    };
    format!("{repetition} {plain}; ")
}
