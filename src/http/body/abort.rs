//! Why an upload is aborted: a closed list, part of the public contract.

use crate::error_code::ErrorCode;
use crate::http::error::{ApiError, error_object, status_of};
use crate::wire::{InflateError, WrongFormat};
use actix_web::http::StatusCode;
use serde_json::Value;
use std::time::Duration;

/// Why a body was not read to its end. Lines before the abort keep their answers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UploadAbort {
    /// The connection broke, or the client sent less than it had announced.
    #[error("the body ended early: {0}; send it again")]
    Incomplete(String),
    /// The body cannot be inflated.
    #[error(transparent)]
    Inflate(#[from] InflateError),
    /// The body is not lines of JSON, but something else.
    #[error(transparent)]
    WrongFormat(#[from] WrongFormat),
    /// Results waited for the client, and it read none of them for this long.
    #[error(
        "the client did not read its results for {0:?}, and those that waited are dropped; read while sending, or \
         do not ask for a stream, and send it again"
    )]
    ClientNotReading(Duration),
    /// The client sent nothing for this long.
    #[error("nothing came from the client for {0:?} while the service waited for it; send the rest again")]
    ClientIdle(Duration),
    /// The client sent fewer bytes a second than this.
    #[error(
        "the client sent less than {0} bytes a second while the service waited for it; send the rest again"
    )]
    ClientTooSlow(u64),
    /// The service is going down.
    #[error("the service is going down and reads no further; send the lines again that have no good result")]
    Draining,
}

impl UploadAbort {
    /// The error code that clients receive.
    pub fn code(&self) -> ErrorCode {
        match self {
            UploadAbort::Incomplete(_) => ErrorCode::IncompleteBody,
            UploadAbort::Inflate(InflateError::Corrupt { .. } | InflateError::Truncated { .. }) => {
                ErrorCode::CorruptBody
            }
            UploadAbort::Inflate(InflateError::Ratio) => ErrorCode::InflateRatio,
            UploadAbort::WrongFormat(_) => ErrorCode::WrongFormat,
            UploadAbort::ClientNotReading(_) => ErrorCode::ClientNotReading,
            UploadAbort::ClientIdle(_) => ErrorCode::ClientIdle,
            UploadAbort::ClientTooSlow(_) => ErrorCode::ClientTooSlow,
            UploadAbort::Draining => ErrorCode::Draining,
        }
    }

    /// HTTP status of an answer that has not begun.
    pub fn status(&self) -> StatusCode {
        status_of(self.code())
    }

    /// The error object in the summary of a stream.
    pub fn object(&self) -> Value {
        let info = self.code().info();
        error_object(info.code, info.error_type, info.retryable, &self.to_string())
    }
}

impl From<UploadAbort> for ApiError {
    fn from(abort: UploadAbort) -> Self {
        ApiError::new(abort.code(), abort.to_string())
    }
}
