//! The errors of calls to a TMD router. Each message completes a sentence that begins with "the TMD router at ...".

use crate::server_pool::{Effect, Repeatable, ServerFault};
use crate::tmd::CodeOutOfRange;
use std::time::Duration;

/// Why a call gave no codes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouterError {
    /// The connection could not be opened, or broke.
    #[error("cannot be reached ({problem}): start it, or set LNSP_TMD_ROUTER_ENDPOINT")]
    Connect {
        /// The innermost error of the HTTP client.
        problem: String,
    },
    /// No complete response before the deadline.
    #[error(
        "did not answer within {} s: give it more time with LNSP_LLM_TIMEOUT_S, or fewer calls at once with \
         LNSP_MAX_PARALLEL_WORKERS",
        limit.as_secs_f64()
    )]
    Timeout {
        /// The time limit of the call.
        limit: Duration,
    },
    /// The time is over that a chunk waits: for its turn and for all attempts.
    #[error(
        "has not answered in the {} s that a chunk waits for it, its turn and all attempts included: let chunks wait \
         longer with LNSP_CHUNK_DEADLINE_S, or share the calls among more routers with LNSP_TMD_ROUTER_ENDPOINT",
        limit.as_secs_f64()
    )]
    Deadline {
        /// The longest time that a chunk waits.
        limit: Duration,
    },
    /// An HTTP status other than 200.
    #[error("answered {status}: {said}")]
    Status {
        /// The HTTP status code.
        status: u16,
        /// The first characters of the response body.
        said: String,
    },
    /// The server at the address is no router.
    #[error(
        "does not speak the router's API ({path} gave {status} and \"{said}\"): LNSP_TMD_ROUTER_ENDPOINT is a base \
         address, like http://localhost:8002"
    )]
    NotRouter {
        /// The path of the request.
        path: &'static str,
        /// The HTTP status code of the response.
        status: u16,
        /// The first characters of the response body.
        said: String,
    },
    /// The response body is longer than any valid one.
    #[error("sent more than {limit} bytes for one answer")]
    TooLong {
        /// The limit, in bytes.
        limit: usize,
    },
    /// A code is outside of its axis.
    #[error("gave no usable codes: {0}")]
    OutOfRange(#[from] CodeOutOfRange),
    /// The router had no answer of its model.
    #[error("gave no codes of its model: {why}")]
    NoCodes {
        /// How that showed.
        why: &'static str,
    },
    /// All routers rest after many failures in a row; no call was made.
    #[error("has failed many times in a row and is asked again in a while")]
    Resting,
    /// The HTTP client could not be built.
    #[error("cannot be asked: the HTTP client failed: {problem}")]
    Client {
        /// The error of the HTTP client.
        problem: String,
    },
}

impl RouterError {
    /// The name of the error in rows and metrics, from a closed set.
    pub fn kind(&self) -> &'static str {
        match self {
            RouterError::Connect { .. } => "connect",
            RouterError::Timeout { .. } => "timeout",
            RouterError::Deadline { .. } => "deadline",
            RouterError::Status { status: 429, .. } => "http_429",
            RouterError::Status { status: 500.., .. } => "http_5xx",
            RouterError::Status { .. } => "http_4xx",
            RouterError::NotRouter { .. } => "not_router",
            RouterError::TooLong { .. } => "too_long",
            RouterError::OutOfRange(_) | RouterError::NoCodes { .. } => "invalid",
            RouterError::Resting => "resting",
            RouterError::Client { .. } => "client",
        }
    }
}

impl ServerFault for RouterError {
    fn effect(&self) -> Effect {
        match self {
            RouterError::Connect { .. } => Effect::Unreachable,
            RouterError::Timeout { .. } | RouterError::Status { status: 429 | 503, .. } => Effect::Overloaded,
            RouterError::NotRouter { .. } => Effect::Unfit,
            _ => Effect::Faulty,
        }
    }

    fn again(&self) -> Repeatable {
        match self {
            RouterError::Connect { .. } | RouterError::Status { status: 429 | 500.., .. } => {
                Repeatable::Often
            }
            // Another router may have another model. The same one asks its model with temperature 0, and would say the
            // same.
            _ => Repeatable::Never,
        }
    }

    fn kind(&self) -> &'static str {
        RouterError::kind(self)
    }
}
