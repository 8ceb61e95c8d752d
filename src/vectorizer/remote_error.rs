//! The errors of calls to an embedding server. Each message completes a sentence that begins with "the embedding server
//! at ...".

use crate::server_pool::{Effect, Repeatable, ServerFault};
use std::time::Duration;

/// Why a request to an embedding server gave no vectors.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RemoteError {
    /// The connection could not be opened, or broke.
    #[error(
        "cannot be reached ({problem}): start it, or unset LNSP_EMBEDDING_ENDPOINT to use a model of this service"
    )]
    Connect {
        /// The innermost error of the HTTP client.
        problem: String,
    },
    /// No complete response before the deadline.
    #[error("did not answer within {} s", limit.as_secs_f64())]
    Timeout {
        /// The time limit of the request.
        limit: Duration,
    },
    /// An HTTP status other than 200.
    #[error("answered {path} with {status}: {said}")]
    Status {
        /// The path of the request.
        path: &'static str,
        /// The HTTP status code.
        status: u16,
        /// The first characters of the response body.
        said: String,
        /// The value of `Retry-After`, if it is a number of seconds.
        retry_after: Option<Duration>,
    },
    /// The response has another form: the server is no embedding server.
    #[error(
        "is none: {path} gave \"{said}\"; LNSP_EMBEDDING_ENDPOINT is the base address of a server with \
         POST /embed and a GET /health that names its encoder and its dimension"
    )]
    Foreign {
        /// The path of the request.
        path: &'static str,
        /// The first characters of the response body.
        said: String,
    },
    /// The model differs from the one of the store, or of the other servers.
    #[error(
        "has another model than this service uses: {what} expected {expected}, received {received}; start that one \
         there, or take the server out of LNSP_EMBEDDING_ENDPOINT; a new model needs an empty store"
    )]
    OtherModel {
        /// The property that differs.
        what: &'static str,
        /// Its value at startup.
        expected: String,
        /// Its value in this response.
        received: String,
    },
    /// Not one vector has the dimensions reported at startup.
    #[error("gave a vector of another length: expected {expected} numbers, received {received}")]
    Dimensions {
        /// The number of dimensions.
        expected: usize,
        /// The length of the first vector, or 0.
        received: usize,
    },
    /// The vectors have other dimensions than `/health` says.
    #[error(
        "contradicts itself: /health says {expected} dimensions, and /embed gave {received}; mend it, or name another \
         in LNSP_EMBEDDING_ENDPOINT"
    )]
    Contradiction {
        /// The dimensions in the response of `/health`.
        expected: usize,
        /// The length of the vector.
        received: usize,
    },
    /// The number of vectors differs from the number of texts.
    #[error("gave a wrong number of vectors: expected {expected}, received {received}")]
    Count {
        /// The number of texts.
        expected: usize,
        /// The number of vectors.
        received: usize,
    },
    /// The response body is longer than any valid one.
    #[error("sent more than {limit} bytes for one answer")]
    TooLong {
        /// The limit, in bytes.
        limit: usize,
    },
    /// It has no usable vector for the text that it is probed with.
    #[error("gives no usable vector: {problem}")]
    NoVector {
        /// What is wrong with the vector.
        problem: String,
    },
    /// It fails for every text, also for one that it could embed before: the error of the request.
    #[error(transparent)]
    Broken(Box<RemoteError>),
    /// All servers rest after failures in a row; none was asked.
    #[error("has failed many times in a row and is asked again in a while")]
    Resting,
    /// The HTTP client could not be built.
    #[error("cannot be asked: the HTTP client failed: {problem}")]
    Client {
        /// The error of the HTTP client.
        problem: String,
    },
}

impl RemoteError {
    /// The name of the error in metrics, from a closed set.
    pub fn kind(&self) -> &'static str {
        match self {
            RemoteError::Connect { .. } => "connect",
            RemoteError::Timeout { .. } => "timeout",
            RemoteError::Status { status: 429, .. } => "http_429",
            RemoteError::Status { status: 500.., .. } => "http_5xx",
            RemoteError::Status { status: 400.., .. } => "http_4xx",
            RemoteError::Status { .. } | RemoteError::Foreign { .. } => "foreign",
            RemoteError::OtherModel { .. } | RemoteError::Contradiction { .. } => "other_model",
            RemoteError::Dimensions { .. } => "dimensions",
            RemoteError::Count { .. } => "count",
            RemoteError::TooLong { .. } => "too_long",
            RemoteError::NoVector { .. } => "no_vector",
            RemoteError::Broken(error) => error.kind(),
            RemoteError::Resting => "resting",
            RemoteError::Client { .. } => "client",
        }
    }

    /// Whether the same request can succeed a moment later.
    pub fn is_transient(&self) -> bool {
        match self {
            RemoteError::Connect { .. } | RemoteError::Timeout { .. } | RemoteError::Resting => true,
            RemoteError::Status { status, .. } => *status == 429 || *status >= 500,
            _ => false,
        }
    }

    /// Whether a text of the request may be the cause. Not if the error says that the server cannot be reached, is
    /// busy, has another model, or refuses this client or this address.
    pub fn may_be_a_text(&self) -> bool {
        match self {
            RemoteError::Status { status, .. } => match status {
                401..=405 | 407 | 408 | 410 | 421 | 425 | 426 | 429 | 503 => false,
                status => *status >= 400,
            },
            RemoteError::Foreign { .. }
            | RemoteError::Count { .. }
            | RemoteError::Dimensions { .. }
            | RemoteError::TooLong { .. } => true,
            RemoteError::Connect { .. }
            | RemoteError::Timeout { .. }
            | RemoteError::OtherModel { .. }
            | RemoteError::Contradiction { .. }
            | RemoteError::NoVector { .. }
            | RemoteError::Broken(_)
            | RemoteError::Resting
            | RemoteError::Client { .. } => false,
        }
    }
}

impl ServerFault for RemoteError {
    fn effect(&self) -> Effect {
        match self {
            RemoteError::Connect { .. } => Effect::Unreachable,
            RemoteError::Timeout { .. } | RemoteError::Status { status: 429 | 503, .. } => Effect::Overloaded,
            RemoteError::OtherModel { .. } | RemoteError::Contradiction { .. } => Effect::Unfit,
            error if error.may_be_a_text() => Effect::Request,
            _ => Effect::Faulty,
        }
    }

    fn again(&self) -> Repeatable {
        match self {
            RemoteError::Timeout { .. } => Repeatable::Once,
            error if error.is_transient() => Repeatable::Often,
            _ => Repeatable::Never,
        }
    }

    fn kind(&self) -> &'static str {
        RemoteError::kind(self)
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            RemoteError::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}
