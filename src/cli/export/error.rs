//! Why an export did not come to its end. Each message says what to do.

use crate::export::ExportError;
use crate::store::StoreError;
use std::io;

/// The reason why there is no file.
#[derive(Debug, thiserror::Error)]
pub enum ExportFailure {
    #[error("no answer from {url}; is the service running? (lnsp serve)")]
    Unreachable {
        url: String,
        #[source]
        error: reqwest::Error,
    },
    #[error("the service refused the export: {status} {message}")]
    Refused { status: u16, message: String },
    #[error("the stream of the service broke off after {rows} chunks; export again")]
    Broken {
        rows: u64,
        #[source]
        error: Option<reqwest::Error>,
    },
    #[error("the service ended the export after {rows} chunks: {message}")]
    Ended { rows: u64, message: String },
    #[error("the service sent {sent} chunks, and {received} have come; export again")]
    Miscounted { sent: u64, received: u64 },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Format(#[from] ExportError),
    #[error("{file}: {error}")]
    File { file: String, error: io::Error },
}
