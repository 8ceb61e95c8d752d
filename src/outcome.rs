//! The outcome of one chunk: stored, in place of another, already there, or rejected.
//!
//! It is decided by one of the stages and reaches the client through the receipt of the chunk. Pure.

use crate::chunk::{Chunk, Differences, Extraction, OnConflict, Tagging};
use crate::error_code::ErrorCode;
use crate::rejection::Rejection;
use std::sync::Arc;
use std::time::Duration;

/// The answer to one chunk.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// Committed now: row and vector are flushed, and the next search sees them.
    Stored(Arc<StoredChunk>),
    /// Committed now, in place of the row with its key.
    Replaced(Arc<StoredChunk>),
    /// Stored before with the same key; nothing was computed.
    Duplicate(Arc<StoredChunk>),
    /// Not stored, for this reason.
    Rejected(Rejection),
}

impl Outcome {
    /// The answer for a chunk whose key is stored, as the request wants it: a duplicate, or a conflict. Not for one that
    /// replaces what is stored.
    pub fn known(chunk: Arc<Chunk>, stored: StoredRow, differs: Differences) -> Outcome {
        if differs.in_content() && chunk.on_conflict == OnConflict::Error {
            return Outcome::conflict(&chunk, &differs);
        }
        let timings = ChunkTimings::default();
        Outcome::Duplicate(Arc::new(StoredChunk { chunk, row: stored, differs, timings }))
    }

    fn conflict(chunk: &Chunk, differs: &Differences) -> Outcome {
        let message = format!(
            "the id {} of dataset {} is taken by a chunk with other content (different: {}); send it under another id, \
             or with on_conflict=replace to replace the stored chunk, or with on_conflict=keep to keep it",
            chunk.key.id,
            chunk.key.dataset,
            differs.fields().join(", ")
        );
        Outcome::Rejected(Rejection::new(ErrorCode::IdConflict, message).param("id"))
    }
}

/// The stored row of a chunk, as far as answers tell of it.
#[derive(Debug, Clone)]
pub struct StoredRow {
    /// The public name.
    pub cpe_id: uuid::Uuid,
    /// The codes and their source.
    pub tagging: Tagging,
    /// Its CPESH parts and their source. Those of a client are taken from the chunk that was sent.
    pub extraction: Extraction,
    /// The number of its last change in the store's sequence.
    pub seq: i64,
    /// When its first chunk arrived.
    pub created_at: chrono::DateTime<chrono::Utc>,
    /// The text was longer than the model reads, so the vector is that of its beginning.
    pub truncated: bool,
    /// See [`crate::chunk::Embedding::unread`].
    pub unread: Option<f32>,
}

/// The chunk behind [`Outcome::Stored`], [`Outcome::Replaced`] and [`Outcome::Duplicate`].
#[derive(Debug)]
pub struct StoredChunk {
    /// The chunk that this request sent.
    pub chunk: Arc<Chunk>,
    /// The row of the chunk.
    pub row: StoredRow,
    /// The fields of a duplicate that are not those of the row; empty otherwise.
    pub differs: Differences,
    /// What was measured for this chunk; empty for a duplicate.
    pub timings: ChunkTimings,
}

/// How long the steps of one chunk took. A step that did not happen is absent.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ChunkTimings {
    /// The call that gave the TMD codes.
    pub tmd: Option<Duration>,
    /// The call that gave the CPESH parts, or failed to. It may be the one that gave the codes.
    pub cpesh: Option<Duration>,
    /// The forward pass that contained this chunk, or its concept.
    pub embedding: Option<Duration>,
    /// The transaction that contained this chunk.
    pub postgres: Option<Duration>,
    /// From admission to commit, waiting included.
    pub total: Option<Duration>,
}
