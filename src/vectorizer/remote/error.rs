//! What can go wrong with an embedding server, each as the end of a sentence that begins with "the embedding server
//! at ...".

use std::time::Duration;

/// Why there are no vectors.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RemoteError {
    /// No connection, or it broke.
    #[error(
        "cannot be reached ({problem}): start it, or unset LNSP_EMBEDDING_ENDPOINT to use a model of this service"
    )]
    Connect {
        /// What the system said.
        problem: String,
    },
    /// Nothing in time.
    #[error("did not answer within {} s", limit.as_secs_f64())]
    Timeout {
        /// The deadline of the request.
        limit: Duration,
    },
    /// An HTTP status that is no answer.
    #[error("answered {path} with {status}: {said}")]
    Status {
        /// What was asked.
        path: &'static str,
        /// The status.
        status: u16,
        /// The beginning of what came with it.
        said: String,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// Something else listens there.
    #[error(
        "is none: {path} gave \"{said}\"; LNSP_EMBEDDING_ENDPOINT is the base address of a server with POST /embed and a GET /health that names its encoder and its dimension"
    )]
    Foreign {
        /// What was asked.
        path: &'static str,
        /// The beginning of the answer.
        said: String,
    },
    /// It is not what it was when this service started.
    #[error(
        "has another model than at the start: {what} expected {expected}, received {received}; start the old one there again, or start this service with an empty store"
    )]
    OtherModel {
        /// What tells them apart.
        what: &'static str,
        /// At the start.
        expected: String,
        /// Now.
        received: String,
    },
    /// Not one vector for each text.
    #[error("gave a wrong number of vectors: expected {expected}, received {received}")]
    Count {
        /// Texts.
        expected: usize,
        /// Vectors.
        received: usize,
    },
    /// More than any answer has.
    #[error("sent more than {limit} bytes for one answer")]
    TooLong {
        /// The limit.
        limit: usize,
    },
    /// Our own side.
    #[error("cannot be asked: the HTTP client failed: {problem}")]
    Client {
        /// What the client said.
        problem: String,
    },
}

impl RemoteError {
    /// The closed set of names used in metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            RemoteError::Connect { .. } => "connect",
            RemoteError::Timeout { .. } => "timeout",
            RemoteError::Status { status: 429, .. } => "http_429",
            RemoteError::Status { status: 500.., .. } => "http_5xx",
            RemoteError::Status { status: 400.., .. } => "http_4xx",
            RemoteError::Status { .. } | RemoteError::Foreign { .. } => "foreign",
            RemoteError::OtherModel { .. } => "other_model",
            RemoteError::Count { .. } => "count",
            RemoteError::TooLong { .. } => "too_long",
            RemoteError::Client { .. } => "client",
        }
    }

    /// The same request can fare better a moment later.
    pub fn may_pass(&self) -> bool {
        match self {
            RemoteError::Connect { .. } | RemoteError::Timeout { .. } => true,
            RemoteError::Status { status, .. } => *status == 429 || *status >= 500,
            _ => false,
        }
    }

    /// The server refuses what it was sent, and not to be asked at all.
    pub fn blames_a_text(&self) -> bool {
        matches!(self, RemoteError::Status { status: 400 | 413 | 422, .. })
    }

    /// The server broke over the request: over one of its texts, it may be.
    pub fn is_internal(&self) -> bool {
        matches!(self, RemoteError::Status { status: 500, .. })
    }

    /// When it wants to be asked again.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            RemoteError::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}
