//! The outcome of one chunk: stored, already there, or rejected.
//!
//! It is decided by one of the stages and reaches the client through the receipt of the chunk. Pure.

use crate::chunk::{Chunk, Tagging};
use crate::error_code::ErrorCode;
use crate::rejection::Rejection;
use std::sync::Arc;
use std::time::Duration;

/// The answer to one chunk.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// Committed now: row and vector are flushed, and the next search sees them.
    Stored(Arc<StoredChunk>),
    /// Stored before with the same key and content; nothing was computed.
    Duplicate(Arc<StoredChunk>),
    /// Not stored, for this reason.
    Rejected(Rejection),
}

impl Outcome {
    /// The answer for a chunk with the key and content of a stored one.
    pub fn again(chunk: Arc<Chunk>, stored: &StoredChunk) -> Outcome {
        Outcome::Duplicate(Arc::new(StoredChunk {
            chunk,
            cpe_id: stored.cpe_id,
            tagging: stored.tagging.clone(),
            seq: stored.seq,
            created_at: stored.created_at,
            truncated: stored.truncated,
            timings: ChunkTimings::default(),
        }))
    }

    /// The answer for a chunk with the key of a stored one and other content.
    pub fn conflict(chunk: &Chunk) -> Outcome {
        let message = format!(
            "the id {} of dataset {} is taken by a chunk with other content; send it under another id",
            chunk.key.id, chunk.key.dataset
        );
        Outcome::Rejected(Rejection::new(ErrorCode::IdConflict, message).param("id"))
    }
}

/// The stored chunk behind [`Outcome::Stored`] and [`Outcome::Duplicate`].
#[derive(Debug)]
pub struct StoredChunk {
    /// The chunk that this request sent.
    pub chunk: Arc<Chunk>,
    /// The public name in the row.
    pub cpe_id: uuid::Uuid,
    /// The codes in the row and their source.
    pub tagging: Tagging,
    /// The number of its commit in the store's sequence.
    pub seq: i64,
    /// When the row was committed, by the database's clock.
    pub created_at: chrono::DateTime<chrono::Utc>,
    /// The text was longer than the model reads, so the vector is that of its beginning.
    pub truncated: bool,
    /// What was measured for this chunk; empty for a duplicate.
    pub timings: ChunkTimings,
}

/// How long the steps of one chunk took. A step that did not happen is absent.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ChunkTimings {
    /// The call that gave the TMD codes.
    pub tmd: Option<Duration>,
    /// The forward pass that contained this chunk.
    pub embedding: Option<Duration>,
    /// The transaction that contained this chunk.
    pub postgres: Option<Duration>,
    /// From admission to commit, waiting included.
    pub total: Option<Duration>,
}
