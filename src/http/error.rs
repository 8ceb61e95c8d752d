//! Errors as HTTP answers: status, type and retryability come from the table in [`crate::error_code`].

use crate::error_code::{ErrorCode, ErrorType};
use crate::rejection::Rejection;
use crate::search::SearchError;
use crate::store::StoreError;
use crate::vectorizer::VectorError;
use actix_web::http::{StatusCode, header};
use actix_web::{HttpResponse, ResponseError};
use serde_json::{Value, json};
use std::fmt;

/// Errors of a whole request whose `type` or `retryable` differs from the table, which gives those of a single chunk
/// and of the summary of a stream. Clients depend on both.
const WHOLE_REQUEST: [(ErrorCode, ErrorType, bool); 3] = [
    (ErrorCode::EmbedFailed, ErrorType::InvalidRequest, false),
    (ErrorCode::IncompleteBody, ErrorType::InvalidRequest, false),
    (ErrorCode::ClientNotReading, ErrorType::InvalidRequest, false),
];

/// An error that answers a whole request.
#[derive(Debug, Clone)]
pub struct ApiError {
    code: ErrorCode,
    status: StatusCode,
    error_type: ErrorType,
    retryable: bool,
    message: String,
    param: Option<String>,
    retry_after: Option<u64>,
}

impl ApiError {
    /// An error that blames no field. Its status and type are those of the code.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let info = code.info();
        let exception = WHOLE_REQUEST.iter().find(|(exception, ..)| *exception == code);
        let (error_type, retryable) = exception
            .map_or((info.error_type, info.retryable), |(_, error_type, retryable)| {
                (*error_type, *retryable)
            });
        ApiError {
            code,
            status: status_of(code),
            error_type,
            retryable,
            message: message.into(),
            param: None,
            retry_after: None,
        }
    }

    /// Sets the field or parameter to correct.
    #[must_use]
    pub fn param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// Sets the `Retry-After` header, in seconds; without it, retryable errors say 1.
    #[must_use]
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// Answers with another status than the code's. The only use: `POST /embed` without texts answers 400, as the old
    /// embedding service did, where `missing_field` is 422 elsewhere.
    #[must_use]
    pub fn status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// The error code.
    pub fn code(&self) -> ErrorCode {
        self.code
    }

    /// One sentence for the client.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The same request can succeed later.
    pub fn retryable(&self) -> bool {
        self.retryable
    }

    /// The error object of the answer.
    pub fn object(&self) -> Value {
        let mut object = error_object(self.code.as_str(), self.error_type, self.retryable, &self.message);
        if let Some(param) = &self.param {
            object["param"] = json!(param);
        }
        object
    }
}

/// HTTP status of an answer that reports this error for the whole request.
pub fn status_of(code: ErrorCode) -> StatusCode {
    StatusCode::from_u16(code.info().status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// The fields that all error objects have.
pub fn error_object(code: &str, error_type: ErrorType, retryable: bool, message: &str) -> Value {
    json!({ "type": error_type.as_str(), "code": code, "message": message, "retryable": retryable })
}

/// The error object of one chunk, in a stream (with its `line`) or an array.
pub fn rejection_object(rejection: &Rejection, line: Option<u64>) -> Value {
    let info = rejection.code.info();
    let mut object = error_object(info.code, info.error_type, info.retryable, &rejection.message);
    if let Some(param) = rejection.param {
        object["param"] = json!(param);
    }
    if let Some(line) = line {
        object["line"] = json!(line);
    }
    object
}

/// 500, for an answer that could not be made.
pub fn no_answer() -> ApiError {
    let message = "the answer could not be made; send the request again: what is stored is stored once";
    ApiError::new(ErrorCode::Internal, message)
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ApiError {}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status);
        if self.retryable {
            response.insert_header((header::RETRY_AFTER, self.retry_after.unwrap_or(1).to_string()));
        }
        if self.code == ErrorCode::UnsupportedEncoding {
            response.insert_header((header::ACCEPT_ENCODING, "gzip, zstd, identity"));
        }
        // The middleware adds the request id.
        response.json(json!({ "error": self.object() }))
    }
}

impl From<VectorError> for ApiError {
    fn from(error: VectorError) -> Self {
        let code = if error.retryable() { ErrorCode::ModelUnavailable } else { ErrorCode::EmbedFailed };
        ApiError::new(code, error.to_string())
    }
}

impl From<SearchError> for ApiError {
    fn from(error: SearchError) -> Self {
        let message = error.to_string();
        match error {
            SearchError::Invalid { param, .. } => {
                ApiError::new(ErrorCode::InvalidQuery, message).param(param)
            }
            SearchError::Behind { .. } => ApiError::new(ErrorCode::IndexBehind, message),
            SearchError::Vector(error) => error.into(),
            SearchError::Classifier(_) => ApiError::new(ErrorCode::ModelUnavailable, message),
            SearchError::Index(_) => ApiError::new(ErrorCode::IndexUnavailable, message),
            SearchError::Store(error) => error.into(),
        }
    }
}

/// For a request that only reads: what the database refuses is wrong in the request, and a row that cannot be read does
/// not become readable.
impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let code = match &error {
            StoreError::Refused { .. } => ErrorCode::InvalidQuery,
            StoreError::Unreadable { .. } => ErrorCode::Internal,
            _ => ErrorCode::StoreUnavailable,
        };
        ApiError::new(code, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_and_retryability_of_a_whole_request_follow_from_its_status() {
        for code in ErrorCode::ALL {
            let error = ApiError::new(*code, "why");
            let status = error.status.as_u16();
            assert_eq!(error.retryable, matches!(status, 408 | 429 | 503), "{code}");
            if !code.is_kept() || *code == ErrorCode::EmbedFailed {
                let error_type = match status {
                    429 => ErrorType::Overloaded,
                    503 => ErrorType::Unavailable,
                    400..500 => ErrorType::InvalidRequest,
                    _ => ErrorType::Internal,
                };
                assert_eq!(error.error_type, error_type, "{code}");
            }
        }
    }
}
