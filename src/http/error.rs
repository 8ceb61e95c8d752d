//! One table from what went wrong to HTTP, and one shape for all of it.

use crate::outcome::{Cause, Rejection};
use crate::search::SearchError;
use crate::vectorizer::VectorError;
use actix_web::http::{StatusCode, header};
use actix_web::{HttpResponse, ResponseError};
use serde_json::{Value, json};
use std::fmt;

/// An answer that is an error.
#[derive(Debug, Clone)]
pub struct ApiError {
    /// The HTTP status.
    pub status: StatusCode,
    /// The stable code.
    pub code: &'static str,
    /// One sentence.
    pub message: String,
    /// The field or parameter to mend.
    pub param: Option<String>,
    /// Whole seconds after which to send it again, where that was measured.
    pub retry_after: Option<u64>,
}

impl ApiError {
    /// An error without a field.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        ApiError { status, code, message: message.into(), param: None, retry_after: None }
    }

    /// Names the field or parameter.
    #[must_use]
    pub fn param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// Says when to send it again.
    #[must_use]
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// The shape of the request is wrong: nothing of it was taken.
    pub fn shape(cause: Cause, message: impl Into<String>) -> Self {
        ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, cause.code(), message)
    }

    fn kind(&self) -> &'static str {
        match self.status.as_u16() {
            429 => "overloaded",
            503 => "unavailable",
            400..500 => "invalid_request",
            _ => "internal",
        }
    }

    /// The same request can succeed later.
    pub fn retryable(&self) -> bool {
        matches!(self.status.as_u16(), 408 | 429 | 503)
    }

    /// The inner object of the answer.
    pub fn object(&self) -> Value {
        let mut object = json!({
            "type": self.kind(), "code": self.code, "message": self.message, "retryable": self.retryable(),
        });
        if let Some(param) = &self.param {
            object["param"] = json!(param);
        }
        object
    }
}

/// The error object of one chunk, in a stream or an array.
pub fn rejection_object(rejection: &Rejection, line: Option<u64>) -> Value {
    let kind = if rejection.cause.retryable() { "unavailable" } else { kind_of(rejection.cause) };
    let mut object = json!({
        "type": kind, "code": rejection.cause.code(), "message": rejection.message,
        "retryable": rejection.cause.retryable(),
    });
    if let Some(param) = rejection.param {
        object["param"] = json!(param);
    }
    if let Some(line) = line {
        object["line"] = json!(line);
    }
    object
}

fn kind_of(cause: Cause) -> &'static str {
    match cause {
        Cause::TmdFailed | Cause::EmbedFailed | Cause::StoreFailed | Cause::Poison => "processing_failed",
        _ => "invalid_request",
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status);
        if self.retryable() {
            response.insert_header((header::RETRY_AFTER, self.retry_after.unwrap_or(1).to_string()));
        }
        if self.code == "unsupported_encoding" {
            response.insert_header((header::ACCEPT_ENCODING, "gzip, zstd, identity"));
        }
        // The request id is added by the middleware, which knows it.
        response.json(json!({ "error": self.object() }))
    }
}

impl From<VectorError> for ApiError {
    fn from(error: VectorError) -> Self {
        let (status, code) = match error.retryable() {
            true => (StatusCode::SERVICE_UNAVAILABLE, "model_unavailable"),
            false => (StatusCode::UNPROCESSABLE_ENTITY, "embed_failed"),
        };
        ApiError::new(status, code, error.to_string())
    }
}

impl From<SearchError> for ApiError {
    fn from(error: SearchError) -> Self {
        let message = error.to_string();
        match error {
            SearchError::Invalid { param, .. } => {
                ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_query", message).param(param)
            }
            SearchError::Behind { .. } => {
                ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "index_behind", message)
            }
            SearchError::Vector(error) => error.into(),
            SearchError::Classifier(_) => {
                ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "model_unavailable", message)
            }
            SearchError::Index(_) => {
                ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "index_unavailable", message)
            }
            SearchError::Store(_) => {
                ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", message)
            }
        }
    }
}
