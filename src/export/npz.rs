//! Chunks as an NPZ file: a zip archive of arrays, which `numpy.load` reads without pickle.
//!
//! The number of rows is known only at the end, and an archive has one array after the other. So each array is a file
//! of its own beside the output until the end, and is then copied into the archive.

use super::columns::{Column, ColumnCell, ColumnKind};
use super::error::ExportError;
use crate::chunk::ExportRow;
use std::fs::File;
use std::io::{self, BufWriter, Seek, Write};
use std::path::Path;
use tempfile::TempDir;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// The bytes of an array that wait to be written.
const BUFFER: usize = 32 * 1024;
/// The bytes of a header are a multiple of this, as the format asks for.
const ALIGNMENT: usize = 64;
/// The characters of a UUID.
const UUID_CHARS: usize = 36;

/// Writes an NPZ file.
pub struct NpzWriter {
    folder: TempDir,
    columns: Vec<ColumnArrays>,
    vector_model: Option<String>,
    rows: u64,
}

/// The arrays of one column.
struct ColumnArrays {
    column: &'static Column,
    values: SpilledArray,
    /// Where the bytes of each text end. Only of texts.
    offsets: Option<SpilledArray>,
    /// Whether a row has a value. Only where a value of the type cannot say that it is absent.
    valid: Option<SpilledArray>,
    /// The end of the last text.
    end: i64,
    /// The numbers of a vector, once one was there.
    dims: Option<usize>,
    /// Rows without a vector before the first vector.
    undefined: usize,
}

/// An array that grows in a file.
struct SpilledArray {
    name: String,
    dtype: &'static str,
    file: BufWriter<File>,
}

impl SpilledArray {
    fn new(folder: &Path, name: String, dtype: &'static str) -> io::Result<SpilledArray> {
        let file = File::options().read(true).write(true).create_new(true).open(folder.join(&name))?;
        Ok(SpilledArray { name, dtype, file: BufWriter::with_capacity(BUFFER, file) })
    }
}

impl ColumnArrays {
    fn new(folder: &Path, column: &'static Column) -> io::Result<ColumnArrays> {
        let dtype = match column.kind {
            ColumnKind::Text | ColumnKind::Texts | ColumnKind::Byte => "|u1",
            ColumnKind::Uuid => "<U36",
            ColumnKind::Short => "<u2",
            ColumnKind::Whole => "<i8",
            ColumnKind::Real | ColumnKind::Reals => "<f4",
            ColumnKind::Truth => "|b1",
            ColumnKind::Micros => "<M8[us]",
        };
        let array = |suffix, dtype| SpilledArray::new(folder, format!("{}{suffix}", column.array), dtype);
        let is_text = matches!(column.kind, ColumnKind::Text | ColumnKind::Texts);
        let mut offsets = is_text.then(|| array("_offsets", "<i8")).transpose()?;
        if let Some(offsets) = &mut offsets {
            offsets.file.write_all(&0_i64.to_le_bytes())?;
        }
        let says_absence = matches!(column.kind, ColumnKind::Real | ColumnKind::Reals);
        let valid = (column.optional && !says_absence).then(|| array("_valid", "|b1")).transpose()?;
        let values = array("", dtype)?;
        Ok(ColumnArrays { column, values, offsets, valid, end: 0, dims: None, undefined: 0 })
    }

    fn push(&mut self, row: u64, cell: &ColumnCell<'_>) -> Result<(), ExportError> {
        if let Some(valid) = &mut self.valid {
            valid.file.write_all(&[u8::from(*cell != ColumnCell::Absent)])?;
        }
        match cell {
            ColumnCell::Text(text) if self.column.kind == ColumnKind::Uuid => {
                let padded = text.chars().chain(std::iter::repeat('\0')).take(UUID_CHARS);
                let units: Vec<u8> = padded.flat_map(|c| u32::from(c).to_le_bytes()).collect();
                self.values.file.write_all(&units)?;
            }
            ColumnCell::Text(text) => self.text(text.as_bytes())?,
            // Lists have no shape of their own here: they are written as JSON.
            ColumnCell::Texts(texts) => self.text(serde_json::json!(texts).to_string().as_bytes())?,
            ColumnCell::Whole(value) => self.whole(*value)?,
            ColumnCell::Real(value) => self.values.file.write_all(&value.to_le_bytes())?,
            ColumnCell::Truth(value) => self.values.file.write_all(&[u8::from(*value)])?,
            ColumnCell::Reals(vector) => self.vector(row, vector)?,
            ColumnCell::Absent => match (self.column.kind, self.dims) {
                (ColumnKind::Text | ColumnKind::Texts, _) => self.text(b"")?,
                (ColumnKind::Reals, Some(dims)) => self.not_a_number(dims)?,
                (ColumnKind::Reals, None) => self.undefined += 1,
                (ColumnKind::Real, _) => self.not_a_number(1)?,
                (ColumnKind::Uuid, _) => self.values.file.write_all(&[0; 4 * UUID_CHARS])?,
                (ColumnKind::Truth, _) => self.values.file.write_all(&[0])?,
                (ColumnKind::Byte | ColumnKind::Short | ColumnKind::Whole | ColumnKind::Micros, _) => {
                    self.whole(0)?;
                }
            },
        }
        Ok(())
    }

    fn text(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.values.file.write_all(bytes)?;
        self.end += bytes.len() as i64;
        match &mut self.offsets {
            Some(offsets) => offsets.file.write_all(&self.end.to_le_bytes()),
            None => Ok(()),
        }
    }

    fn whole(&mut self, value: i64) -> io::Result<()> {
        let bytes = value.to_le_bytes();
        let width = match self.column.kind {
            ColumnKind::Byte => 1,
            ColumnKind::Short => 2,
            _ => 8,
        };
        self.values.file.write_all(&bytes[..width])
    }

    fn vector(&mut self, row: u64, vector: &[f32]) -> Result<(), ExportError> {
        let dims = *self.dims.get_or_insert(vector.len());
        if dims != vector.len() {
            return Err(ExportError::Dimensions { row, expected: dims, received: vector.len() });
        }
        let undefined = std::mem::take(&mut self.undefined);
        self.not_a_number(undefined * dims)?;
        let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
        Ok(self.values.file.write_all(&bytes)?)
    }

    fn not_a_number(&mut self, count: usize) -> io::Result<()> {
        (0..count).try_for_each(|_| self.values.file.write_all(&f32::NAN.to_le_bytes()))
    }

    /// The arrays with their shapes.
    fn into_arrays(self, rows: u64) -> Vec<(SpilledArray, String)> {
        let shape = match (self.column.kind, self.dims) {
            (ColumnKind::Text | ColumnKind::Texts, _) => format!("({},)", self.end),
            (ColumnKind::Reals, dims) => format!("({rows}, {})", dims.unwrap_or(0)),
            _ => format!("({rows},)"),
        };
        let mut arrays = vec![(self.values, shape)];
        arrays.extend(self.offsets.map(|offsets| (offsets, format!("({},)", rows + 1))));
        arrays.extend(self.valid.map(|valid| (valid, format!("({rows},)"))));
        arrays
    }
}

impl NpzWriter {
    /// Begins a file with these columns, whose arrays grow in a folder within `beside`.
    ///
    /// # Errors
    /// The disk.
    pub fn new(beside: &Path, columns: &[&'static Column]) -> Result<NpzWriter, ExportError> {
        let folder = tempfile::Builder::new().prefix(".lnsp-export-").tempdir_in(beside)?;
        let arrays = columns.iter().map(|column| ColumnArrays::new(folder.path(), column));
        let columns = arrays.collect::<io::Result<_>>()?;
        Ok(NpzWriter { folder, columns, vector_model: None, rows: 0 })
    }

    /// Sets the fingerprint of the model that made the vectors: the array `vector_model`.
    pub fn set_vector_model(&mut self, model: Option<&str>) {
        self.vector_model = model.map(str::to_owned);
    }

    /// Adds a row.
    ///
    /// # Errors
    /// The disk; a vector of another length than those before it.
    pub fn write(&mut self, row: &ExportRow) -> Result<(), ExportError> {
        self.rows += 1;
        for arrays in &mut self.columns {
            arrays.push(self.rows, &(arrays.column.cell)(row))?;
        }
        Ok(())
    }

    /// Copies all arrays into the archive; gives the output back.
    ///
    /// # Errors
    /// The disk.
    pub fn finish<W: Write + Seek>(self, output: W) -> Result<W, ExportError> {
        let mut archive = ZipWriter::new(output);
        // Arrays may be longer than 4 GiB. They are not compressed, as numpy writes them.
        let options =
            SimpleFileOptions::default().compression_method(CompressionMethod::Stored).large_file(true);
        for arrays in self.columns {
            for (array, shape) in arrays.into_arrays(self.rows) {
                let mut file = array.file.into_inner().map_err(io::IntoInnerError::into_error)?;
                file.rewind()?;
                archive.start_file(format!("{}.npy", array.name), options)?;
                archive.write_all(&header(array.dtype, &shape))?;
                io::copy(&mut file, &mut archive)?;
                drop(file);
                // The archive takes its place on the disk.
                std::fs::remove_file(self.folder.path().join(&array.name))?;
            }
        }
        if let Some(model) = &self.vector_model {
            archive.start_file("vector_model.npy", options)?;
            archive.write_all(&header(&format!("<U{}", model.chars().count().max(1)), "()"))?;
            let units: Vec<u8> = model.chars().flat_map(|c| u32::from(c).to_le_bytes()).collect();
            archive.write_all(if units.is_empty() { &[0; 4] } else { &units })?;
        }
        self.folder.close()?;
        Ok(archive.finish()?)
    }
}

/// The header of an array, version 1.0 of the format.
fn header(dtype: &str, shape: &str) -> Vec<u8> {
    let mut text = format!("{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}");
    // Magic, version and length take 10 bytes, and the text ends with a line feed.
    let length = (10 + text.len() + 1).next_multiple_of(ALIGNMENT) - 10;
    text.extend(std::iter::repeat_n(' ', length - text.len() - 1));
    text.push('\n');
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    // A dtype and a shape take a hundred characters.
    header.extend_from_slice(&u16::try_from(length).unwrap_or(u16::MAX).to_le_bytes());
    header.extend_from_slice(text.as_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_padded_and_says_its_length() {
        for shape in ["()", "(0,)", "(1000000, 768)", "(123456789012,)"] {
            let header = header("<M8[us]", shape);
            assert_eq!(header.len() % ALIGNMENT, 0);
            assert_eq!(usize::from(u16::from_le_bytes([header[8], header[9]])) + 10, header.len());
            assert!(header.ends_with(b"\n") && String::from_utf8_lossy(&header).contains(shape));
        }
    }
}
