//! How an upload can end before its end: a closed list, part of the public contract.

use crate::http::error::ApiError;
use crate::wire::InflateError;
use actix_web::http::StatusCode;
use serde_json::{Value, json};
use std::time::Duration;

/// Why a body was not read to its end. Lines before the cut keep their answers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UploadAbort {
    /// The connection broke, or the client sent less than it had announced.
    #[error("the body ended early: {0}; send it again")]
    Incomplete(String),
    /// It cannot be inflated.
    #[error(transparent)]
    Inflate(#[from] InflateError),
    /// ReceiptStream were waiting for the client, and it read none of them.
    #[error(
        "the client did not read its results for {0:?}, and those that waited are dropped; read while sending, or \
         do not ask for a stream, and send it again"
    )]
    ClientNotReading(Duration),
    /// Nothing came.
    #[error("nothing came from the client for {0:?} while the service waited for it; send the rest again")]
    ClientIdle(Duration),
    /// Too little came.
    #[error(
        "the client sent less than {0} bytes a second while the service waited for it; send the rest again"
    )]
    ClientTooSlow(u64),
    /// The service is going down.
    #[error("the service is going down and reads no further; send the lines again that have no good result")]
    Draining,
}

impl UploadAbort {
    /// Every code there is.
    pub const CODES: [&str; 7] = [
        "incomplete_body",
        "corrupt_body",
        "inflate_ratio",
        "client_not_reading",
        "client_idle",
        "client_too_slow",
        "draining",
    ];

    /// The stable name in answers.
    pub fn code(&self) -> &'static str {
        let [incomplete, corrupt, ratio, not_reading, idle, too_slow, draining] = Self::CODES;
        match self {
            UploadAbort::Incomplete(_) => incomplete,
            UploadAbort::Inflate(InflateError::Corrupt { .. } | InflateError::Truncated { .. }) => corrupt,
            UploadAbort::Inflate(InflateError::Ratio) => ratio,
            UploadAbort::ClientNotReading(_) => not_reading,
            UploadAbort::ClientIdle(_) => idle,
            UploadAbort::ClientTooSlow(_) => too_slow,
            UploadAbort::Draining => draining,
        }
    }

    /// The status, where it can still be chosen.
    pub fn status(&self) -> StatusCode {
        match self {
            UploadAbort::Inflate(InflateError::Ratio) => StatusCode::PAYLOAD_TOO_LARGE,
            UploadAbort::ClientIdle(_) | UploadAbort::ClientTooSlow(_) => StatusCode::REQUEST_TIMEOUT,
            UploadAbort::Draining => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// The error object of a summary.
    pub fn object(&self) -> Value {
        // The same bytes inflate to the same: sending them again helps only when they did not all arrive.
        let retryable = !matches!(self, UploadAbort::Inflate(_));
        let kind = if *self == UploadAbort::Draining { "unavailable" } else { "invalid_request" };
        json!({
            "type": kind, "code": self.code(), "message": self.to_string(), "retryable": retryable,
        })
    }
}

impl From<UploadAbort> for ApiError {
    fn from(cut: UploadAbort) -> Self {
        ApiError::new(cut.status(), cut.code(), cut.to_string())
    }
}
