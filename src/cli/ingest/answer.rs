//! The lines of the service's answer, as far as this command reads them.

use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;

/// A line of the answer.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum UploadResponse {
    /// What became of a chunk.
    Result {
        /// Its line in what was sent, from 1.
        line: u64,
        /// `stored`, `replaced`, `duplicate` or `error`.
        status: String,
        /// The failure, with the status `error`.
        error: Option<UploadFailure>,
    },
    /// The last line of the answer.
    Summary {
        /// The upload was read to its end.
        complete: bool,
        /// Why it was not.
        error: Option<UploadFailure>,
        /// Fields that are not known, with the number of chunks that have them.
        #[serde(default)]
        unknown_fields: BTreeMap<String, u64>,
    },
}

/// Why something failed.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct UploadFailure {
    /// The stable name.
    pub code: String,
    /// One sentence for people.
    pub message: String,
    /// Sending it again can help.
    pub retryable: bool,
}

impl fmt::Display for UploadFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

/// The object that explains an answer which is no stream.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ServerRefusal {
    /// The explanation.
    pub error: UploadFailure,
}
