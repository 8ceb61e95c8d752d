//! The arguments of `lnsp export`.

use crate::chunk::EncodingFormat;
use crate::cli::service_url::ServiceUrl;
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// The arguments of `lnsp export`.
#[derive(Debug, Args)]
pub struct Export {
    /// Where the service is.
    #[arg(long, env = "LNSP_URL", default_value = "http://127.0.0.1:8004")]
    pub(super) url: ServiceUrl,
    /// Reads this database instead, which no service has to be running for: postgres://user@host/name.
    #[arg(long, value_name = "DSN", visible_alias = "database-url")]
    pub(super) from: Option<String>,
    /// The format of the file.
    #[arg(long, value_enum, default_value_t = FileFormat::Ndjson)]
    pub(super) format: FileFormat,
    /// The file; for NDJSON also `-`, the standard output.
    #[arg(long, short)]
    pub(super) output: PathBuf,
    /// Only chunks of this dataset.
    #[arg(long)]
    pub(super) dataset: Option<String>,
    /// Only chunks of this document.
    #[arg(long)]
    pub(super) document: Option<String>,
    /// Also the vectors. Ingested again by a service with the same model, the chunks are not embedded.
    #[arg(long)]
    pub(super) with_vectors: bool,
    /// How NDJSON has its vectors: as lists of numbers, or as base64 of little-endian f32, which is half as long.
    #[arg(long, value_enum, default_value_t = VectorEncoding::Float)]
    pub(super) encoding_format: VectorEncoding,
    /// Only these columns of Parquet or NPZ, separated by commas.
    #[arg(long, value_delimiter = ',')]
    pub(super) columns: Vec<String>,
}

/// The formats of `lnsp export`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FileFormat {
    /// A chunk a line, as `lnsp ingest` takes it.
    Ndjson,
    /// A table for pandas, Spark, DuckDB and others.
    Parquet,
    /// Arrays for numpy.
    Npz,
}

/// [`EncodingFormat`] by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum VectorEncoding {
    /// A list of numbers.
    Float,
    /// Base64 of little-endian f32.
    Base64,
}

impl Export {
    /// What lines of NDJSON have, and rows that become another format.
    pub(super) fn encoding(&self) -> EncodingFormat {
        match (self.format, self.encoding_format) {
            (FileFormat::Ndjson, VectorEncoding::Float) => EncodingFormat::Float,
            _ => EncodingFormat::Base64,
        }
    }
}
