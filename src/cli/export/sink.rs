//! The rows of an export on their way into a file of one of the formats.

use super::arguments::{Export, FileFormat};
use super::error::ExportFailure;
use super::output::Output;
use crate::chunk::{ExportRow, LineOptions};
use crate::export::{ExportError, NpzWriter, ParquetWriter, choose, row_of_line};
use std::io::{self, Seek, Write};

/// A file that is being written, with the rows so far.
pub struct Sink {
    format: FormatWriter,
    rows: u64,
}

enum FormatWriter {
    Ndjson { output: Counted, line: Vec<u8> },
    Parquet(Box<ParquetWriter<Counted>>),
    Npz { writer: NpzWriter, output: Counted },
}

/// Counts the bytes that an output has.
struct Counted {
    output: Output,
    end: u64,
    at: u64,
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.output.write(bytes)?;
        self.at += written as u64;
        self.end = self.end.max(self.at);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

impl Seek for Counted {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        self.at = self.output.seek(to)?;
        Ok(self.at)
    }
}

impl Sink {
    /// Begins a file in the format that is asked for.
    pub fn new(export: &Export, output: Output) -> Result<Sink, ExportFailure> {
        let columns = choose(&export.columns, export.with_vectors)?;
        let beside = output.folder().to_owned();
        let output = Counted { output, end: 0, at: 0 };
        let format = match export.format {
            FileFormat::Ndjson => FormatWriter::Ndjson { output, line: Vec::new() },
            FileFormat::Parquet => FormatWriter::Parquet(Box::new(ParquetWriter::new(output, columns)?)),
            FileFormat::Npz => FormatWriter::Npz { writer: NpzWriter::new(&beside, &columns)?, output },
        };
        Ok(Sink { format, rows: 0 })
    }

    /// The rows so far.
    pub fn count(&self) -> u64 {
        self.rows
    }

    /// The fingerprint of the model of the vectors, which a service tells only at the end.
    pub fn set_vector_model(&mut self, model: Option<&str>) {
        match &mut self.format {
            FormatWriter::Ndjson { .. } => {}
            FormatWriter::Parquet(writer) => writer.set_vector_model(model),
            FormatWriter::Npz { writer, .. } => writer.set_vector_model(model),
        }
    }

    /// Adds rows of a database.
    pub fn rows(&mut self, rows: &[ExportRow], options: &LineOptions) -> Result<(), ExportFailure> {
        for row in rows {
            self.rows += 1;
            if let FormatWriter::Ndjson { output, line } = &mut self.format {
                line.clear();
                row.write_line(options, line).map_err(io::Error::from).map_err(ExportError::from)?;
                output.write_all(line).map_err(ExportError::from)?;
            } else {
                self.row(row)?;
            }
        }
        Ok(())
    }

    /// Adds whole lines of a service.
    pub fn lines(&mut self, lines: &[u8]) -> Result<(), ExportFailure> {
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            self.rows += 1;
            if let FormatWriter::Ndjson { output, .. } = &mut self.format {
                output.write_all(line).map_err(ExportError::from)?;
                continue;
            }
            let unreadable = |problem| ExportError::Line { line: self.rows, problem };
            let row = row_of_line(line).map_err(unreadable)?;
            self.row(&row)?;
        }
        Ok(())
    }

    fn row(&mut self, row: &ExportRow) -> Result<(), ExportError> {
        match &mut self.format {
            FormatWriter::Ndjson { .. } => Ok(()),
            FormatWriter::Parquet(writer) => writer.write(row),
            FormatWriter::Npz { writer, .. } => writer.write(row),
        }
    }

    /// Completes the file; gives its bytes.
    pub fn finish(self) -> Result<u64, ExportFailure> {
        let output = match self.format {
            FormatWriter::Ndjson { output, .. } => output,
            FormatWriter::Parquet(writer) => writer.finish()?,
            FormatWriter::Npz { writer, output } => writer.finish(output)?,
        };
        let bytes = output.end;
        output.output.finish()?;
        Ok(bytes)
    }
}
