//! The lines of the service's answer, as far as this command reads them.

use super::ledger::Fate;
use serde::Deserialize;
use std::fmt;

/// A line of the answer.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Answer {
    /// What became of a chunk.
    Result {
        /// Its line in what was sent, from 1.
        line: u64,
        /// `stored`, `duplicate` or `error`.
        status: String,
        /// With `error`.
        error: Option<Failure>,
    },
    /// The last one.
    Summary {
        /// The upload was read to its end.
        complete: bool,
        /// Why it was not.
        error: Option<Failure>,
    },
}

/// Why something failed.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Failure {
    /// The stable name.
    pub code: String,
    /// One sentence.
    pub message: String,
    /// Sending it again can help.
    pub retryable: bool,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

/// What the answer to a line means: it is settled, or it is to be sent again.
pub fn fate(status: &str, error: Option<Failure>) -> Result<Fate, Failure> {
    match (status, error) {
        ("stored", _) => Ok(Fate::Stored),
        ("duplicate", _) => Ok(Fate::Duplicate),
        (_, Some(error)) if error.retryable => Err(error),
        (_, error) => Ok(Fate::Failed(error.unwrap_or_else(|| Failure {
            code: "error".to_owned(),
            message: "no reason given".to_owned(),
            retryable: false,
        }))),
    }
}

/// The object that explains an answer which is no stream.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Refusal {
    /// The explanation.
    pub error: Failure,
}
