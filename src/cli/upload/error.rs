//! Errors of an upload.

use std::io;

/// The reason why lines of a source have no answer. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// The source cannot be read, or not to its end.
    #[error("{name}: {error}")]
    Source {
        /// The name of the source.
        name: String,
        /// What is wrong with it.
        error: io::Error,
    },
    /// The source is not the one that was begun.
    #[error("{0} was changed while it was sent; send it again: what is stored is known and not stored twice")]
    Changed(String),
    /// Nothing answers at this address.
    #[error("no answer from {url}; is the service running? (lnsp serve) Then {advice}")]
    Unreachable {
        /// The address of the service.
        url: String,
        /// What to do then.
        advice: &'static str,
        /// Why it cannot be reached.
        #[source]
        error: reqwest::Error,
    },
    /// The service would refuse the same request again.
    #[error("the service refused the upload: {status} {message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// What the service says.
        message: String,
    },
    /// The service has no room, for longer than the patience lasts.
    #[error("the service has no room: {message}; later, {advice}")]
    PutOff {
        /// What the service says.
        message: String,
        /// What to do then.
        advice: &'static str,
    },
    /// The service ended the upload, and would end it there again.
    #[error("the service took only a part of {name}: {message}")]
    Partly {
        /// The name of the source.
        name: String,
        /// What the service says.
        message: String,
    },
    /// The connection broke too often, or the source cannot be sent again.
    #[error("the upload was cut off: {message}; {advice}")]
    Cut {
        /// How it was cut off.
        message: String,
        /// What to do now.
        advice: &'static str,
    },
    /// Chunks came back with an error that does not go away.
    #[error("{left} chunks are not taken ({why}); {advice}")]
    NotTaken {
        /// The number of chunks.
        left: u64,
        /// The last of them, and its error.
        why: String,
        /// What to do later.
        advice: &'static str,
    },
}

impl UploadError {
    /// An error of a source with this name.
    pub fn source(name: &str, error: io::Error) -> Self {
        UploadError::Source { name: name.to_owned(), error }
    }

    /// Whether the error concerns this source only, so that the next one can be sent.
    pub fn is_of_the_source(&self) -> bool {
        matches!(self, UploadError::Source { .. } | UploadError::Changed(_) | UploadError::Partly { .. })
    }
}
