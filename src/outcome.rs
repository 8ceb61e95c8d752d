//! What became of a chunk: [`Outcome`], and the closed list of reasons ([`Cause`]) for which one is rejected.
//!
//! An outcome travels from wherever it is decided back to the client through the chunk's receipt. Pure.

use crate::chunk::{Chunk, Tagging};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The answer to one chunk.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// Committed just now: row and vector, flushed, and visible to the next search.
    Stored(Arc<StoredChunk>),
    /// It was there before; nothing was spent on it.
    Duplicate(Arc<StoredChunk>),
    /// It is not stored, and why.
    Rejected(Rejection),
}

impl Outcome {
    /// The answer for a chunk whose key and content are those of a stored one.
    pub fn again(chunk: Arc<Chunk>, filed: &StoredChunk) -> Outcome {
        Outcome::Duplicate(Arc::new(StoredChunk {
            chunk,
            cpe_id: filed.cpe_id,
            tagging: filed.tagging.clone(),
            seq: filed.seq,
            created_at: filed.created_at,
            truncated: filed.truncated,
            timings: Timings::default(),
        }))
    }

    /// The answer for a chunk whose key is that of a stored one with other content.
    pub fn conflict(chunk: &Chunk) -> Outcome {
        let message = format!(
            "the id {} of dataset {} is taken by a chunk with other content; send it under another id",
            chunk.key.id, chunk.key.dataset
        );
        Outcome::Rejected(Rejection::new(Cause::IdConflict, message).param("id"))
    }
}

/// The stored chunk behind a good outcome.
#[derive(Debug)]
pub struct StoredChunk {
    /// What the client sent.
    pub chunk: Arc<Chunk>,
    /// The public name in the row.
    pub cpe_id: uuid::Uuid,
    /// The codes in the row, and where they came from.
    pub tagging: Tagging,
    /// The number of its commit in the store's clock.
    pub seq: i64,
    /// When the row was committed, by the database's clock.
    pub created_at: chrono::DateTime<chrono::Utc>,
    /// The model read only the first part of the text.
    pub truncated: bool,
    /// What was measured on the way; empty for a duplicate.
    pub timings: Timings,
}

/// What was measured for one chunk. What did not happen is absent.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Timings {
    /// Asking for the codes.
    pub tmd: Option<Duration>,
    /// The forward pass this chunk was in.
    pub embedding: Option<Duration>,
    /// The transaction this chunk was in.
    pub postgres: Option<Duration>,
    /// From the entrance to the commit, waiting included.
    pub total: Option<Duration>,
}

/// Why a chunk was not stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Rejection {
    /// Which reason of the closed list.
    pub cause: Cause,
    /// One sentence for the person who sent it.
    pub message: String,
    /// The field to mend, where there is one.
    pub param: Option<&'static str>,
}

impl Rejection {
    /// A reason with its sentence.
    pub fn new(cause: Cause, message: impl Into<String>) -> Self {
        Rejection { cause, message: message.into(), param: None }
    }

    /// Names the field to mend.
    #[must_use]
    pub fn param(mut self, field: &'static str) -> Self {
        self.param = Some(field);
        self
    }
}

/// The closed list of reasons; the codes are part of the public contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The line is not JSON.
    InvalidJson,
    /// The line is not UTF-8.
    InvalidUtf8,
    /// The line is longer than the limit.
    LineTooLong,
    /// A field has the wrong type.
    WrongType,
    /// A field is not known.
    UnknownField,
    /// A required field is missing.
    MissingField,
    /// A name stands twice in one object.
    DuplicateKey,
    /// An object has more names than the limit.
    TooManyKeys,
    /// Arrays and objects in each other, deeper than the limit.
    NestedTooDeep,
    /// A number that could only be kept changed.
    NumberOutOfRange,
    /// Nothing but white space.
    TextEmpty,
    /// Over the limit.
    TextTooLong,
    /// PostgreSQL text cannot hold NUL.
    NulCharacter,
    /// A code is outside its axis.
    CodeOutOfRange,
    /// An id, dataset or other name is blank or too long.
    InvalidName,
    /// The key is known with other content.
    IdConflict,
    /// No source of codes could answer.
    TmdFailed,
    /// The language model had no answer, and nobody else may give one; send it again.
    LlmFailed,
    /// The model could not make a usable vector of it.
    EmbedFailed,
    /// The embedding server has failed; send it again.
    EmbedUnavailable,
    /// The database refused this row.
    StoreFailed,
    /// It took a stage down three times.
    Poison,
    /// Its fate is unknown; send it again.
    Lost,
    /// The service is going down; send it again.
    Draining,
}

impl Cause {
    /// Every reason there is.
    pub const ALL: [Cause; 24] = [
        Cause::InvalidJson,
        Cause::InvalidUtf8,
        Cause::LineTooLong,
        Cause::WrongType,
        Cause::UnknownField,
        Cause::MissingField,
        Cause::DuplicateKey,
        Cause::TooManyKeys,
        Cause::NestedTooDeep,
        Cause::NumberOutOfRange,
        Cause::TextEmpty,
        Cause::TextTooLong,
        Cause::NulCharacter,
        Cause::CodeOutOfRange,
        Cause::InvalidName,
        Cause::IdConflict,
        Cause::TmdFailed,
        Cause::LlmFailed,
        Cause::EmbedFailed,
        Cause::EmbedUnavailable,
        Cause::StoreFailed,
        Cause::Poison,
        Cause::Lost,
        Cause::Draining,
    ];

    /// The stable name in answers and metrics.
    pub fn code(self) -> &'static str {
        match self {
            Cause::InvalidJson => "invalid_json",
            Cause::InvalidUtf8 => "invalid_utf8",
            Cause::LineTooLong => "line_too_long",
            Cause::WrongType => "wrong_type",
            Cause::UnknownField => "unknown_field",
            Cause::MissingField => "missing_field",
            Cause::DuplicateKey => "duplicate_key",
            Cause::TooManyKeys => "too_many_keys",
            Cause::NestedTooDeep => "nested_too_deep",
            Cause::NumberOutOfRange => "number_out_of_range",
            Cause::TextEmpty => "text_empty",
            Cause::TextTooLong => "text_too_long",
            Cause::NulCharacter => "nul_character",
            Cause::CodeOutOfRange => "code_out_of_range",
            Cause::InvalidName => "invalid_name",
            Cause::IdConflict => "id_conflict",
            Cause::TmdFailed => "tmd_failed",
            Cause::LlmFailed => "llm_failed",
            Cause::EmbedFailed => "embed_failed",
            Cause::EmbedUnavailable => "embed_unavailable",
            Cause::StoreFailed => "store_failed",
            Cause::Poison => "poison",
            Cause::Lost => "lost",
            Cause::Draining => "draining",
        }
    }

    /// The cause with this code.
    pub fn from_code(code: &str) -> Option<Cause> {
        Cause::ALL.into_iter().find(|cause| cause.code() == code)
    }

    /// The chunk was taken and the service failed on it: it is kept as a dead letter. What the client has to mend, or
    /// knows to send again because it was never taken, is not.
    pub fn is_kept(self) -> bool {
        matches!(
            self,
            Cause::TmdFailed
                | Cause::LlmFailed
                | Cause::EmbedFailed
                | Cause::EmbedUnavailable
                | Cause::StoreFailed
                | Cause::Poison
        )
    }

    /// Sending the same chunk again can help.
    pub fn retryable(self) -> bool {
        matches!(self, Cause::LlmFailed | Cause::EmbedUnavailable | Cause::Lost | Cause::Draining)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}
