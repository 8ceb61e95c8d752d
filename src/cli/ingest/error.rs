//! Errors of `lnsp ingest`.

use std::io;
use std::path::Path;

/// The reason why lines of a file have no answer. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    #[error("{file}: {error}")]
    File { file: String, error: io::Error },
    #[error(
        "{file} was changed while it was sent; send it again: what is stored is known and not stored twice"
    )]
    Changed { file: String },
    #[error("no answer from {url}; is the service running? (lnsp serve) Then {advice}")]
    Unreachable {
        url: String,
        advice: &'static str,
        #[source]
        error: reqwest::Error,
    },
    #[error("the service refused the upload: {status} {message}")]
    Refused { status: u16, message: String },
    #[error("the service has no room: {message}; later, {advice}")]
    PutOff { message: String, advice: &'static str },
    #[error("the service took only a part of the file: {message}")]
    Partly { message: String },
    #[error("the upload was cut off: {message}; {advice}")]
    Cut { message: String, advice: &'static str },
    #[error("{left} chunks are not taken ({why}); {advice}")]
    NotTaken { left: u64, why: String, advice: &'static str },
}

impl IngestError {
    /// An error of a file.
    pub fn file(path: &Path, error: io::Error) -> Self {
        IngestError::File { file: path.display().to_string(), error }
    }

    /// Whether the error concerns this file only, so that the next file can be sent.
    pub fn is_of_the_file(&self) -> bool {
        matches!(self, IngestError::File { .. } | IngestError::Changed { .. } | IngestError::Partly { .. })
    }
}
