//! The errors of writing a file.

use std::io;

/// Why a file could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The disk, or another reader of the output.
    #[error("the output cannot be written: {0}")]
    Output(#[from] io::Error),
    /// The library for Parquet.
    #[error("the output cannot be written as Parquet: {0}")]
    Parquet(#[from] parquet::errors::ParquetError),
    /// The library for zip archives.
    #[error("the output cannot be written as NPZ: {0}")]
    Zip(#[from] zip::result::ZipError),
    /// A line of a service that is no exported chunk.
    #[error("line {line} of the service cannot be read: {problem}; are both of one version?")]
    Line {
        /// The number of the line, from 1.
        line: u64,
        /// The problem, as the parser says it.
        problem: String,
    },
    /// A name that is no column.
    #[error("unknown column '{name}': expected some of {expected}")]
    UnknownColumn {
        /// The name that was given.
        name: String,
        /// The names of all columns.
        expected: String,
    },
    /// Vectors of different lengths.
    #[error("the vector of row {row} has {received} numbers, those before it {expected}")]
    Dimensions {
        /// The number of the row, from 1.
        row: u64,
        /// The numbers of the vectors before it.
        expected: usize,
        /// The numbers of this one.
        received: usize,
    },
}
