//! Why a chunk is not stored: an [`ErrorCode`] with its sentence. Pure.

use crate::error_code::ErrorCode;

/// Why a chunk was not stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Rejection {
    /// The reason, as clients and metrics name it.
    pub code: ErrorCode,
    /// One sentence for the sender of the chunk.
    pub message: String,
    /// The JSON field to correct, where one field is the reason.
    pub param: Option<&'static str>,
}

impl Rejection {
    /// A rejection that blames no field.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Rejection { code, message: message.into(), param: None }
    }

    /// Sets the JSON field to correct.
    #[must_use]
    pub fn param(mut self, field: &'static str) -> Self {
        self.param = Some(field);
        self
    }
}
