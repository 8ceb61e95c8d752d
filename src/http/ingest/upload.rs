//! What both modes of ingest share: an upload that counts as active, and chunks on their way to the entrance.

use crate::chunk::{Chunk, VectorSource};
use crate::http::error::ApiError;
use crate::http::limits::{AdmissionRequest, Permit};
use crate::http::state::State;
use crate::metrics;
use crate::outcome::Outcome;
use crate::pipeline::{Arrival, Receipt};
use crate::rejection::Rejection;
use crate::wire::{SharedNames, UnknownFieldPolicy, WireChunk};
use actix_web::web;
use chrono::{DateTime, Utc};
use std::sync::atomic::Ordering;

/// Chunks that are looked up with one query.
pub const GROUP: usize = 256;

/// Counts an upload as active until it is dropped: from its permit until its body is read and its last chunk is
/// answered.
pub struct ActiveUpload {
    state: web::Data<State>,
    permit: Permit,
}

impl ActiveUpload {
    /// Begins an upload, if there is room.
    ///
    /// # Errors
    /// Those of [`State::admit`].
    pub async fn begin(state: &web::Data<State>, request: AdmissionRequest) -> Result<Self, ApiError> {
        let permit = state.admit(request).await?;
        metrics::uploads(1.0);
        state.counts.uploads.fetch_add(1, Ordering::Relaxed);
        Ok(ActiveUpload { state: state.clone(), permit })
    }

    /// The permit, in which a JSON request counts what it holds.
    pub fn permit(&mut self) -> &mut Permit {
        &mut self.permit
    }
}

impl Drop for ActiveUpload {
    fn drop(&mut self) {
        metrics::uploads(-1.0);
        self.state.counts.uploads.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The most characters of a rejected text that the answer repeats.
const HEAD: usize = 50;

/// A chunk that was read from its JSON.
pub struct ReadChunk {
    /// The chunk, or why it is none.
    pub chunk: Result<Chunk, Rejection>,
    /// The beginning of its text, as far as it could be read; empty for a good chunk.
    pub head: String,
    /// The names of the unknown fields that are kept in its metadata.
    pub kept: Vec<String>,
}

impl ReadChunk {
    /// Checks a chunk that arrived at this time, if it could be read from its JSON.
    pub fn new(
        read: Result<WireChunk, Rejection>,
        names: &SharedNames,
        received_at: DateTime<Utc>,
    ) -> ReadChunk {
        let read = match read {
            Ok(read) => read,
            Err(rejection) => return ReadChunk::rejected(rejection),
        };
        let kept = match names.unknown_fields {
            UnknownFieldPolicy::Keep => read.unknown_fields().to_vec(),
            UnknownFieldPolicy::Refuse => Vec::new(),
        };
        let head: String = read.text().chars().take(HEAD).collect();
        let chunk = read.check(names, received_at);
        let head = if chunk.is_ok() { String::new() } else { head };
        ReadChunk { chunk, head, kept }
    }

    /// Whether it brings the vector of another model, which is ignored.
    pub fn has_other_vector(&self) -> bool {
        self.chunk.as_ref().is_ok_and(|chunk| chunk.vector == VectorSource::OtherModel)
    }

    /// A chunk that could not be read.
    pub fn rejected(rejection: Rejection) -> ReadChunk {
        ReadChunk { chunk: Err(rejection), head: String::new(), kept: Vec::new() }
    }
}

/// Pairs a checked chunk with its receipt. The receipt of an invalid one is settled with the rejection.
pub fn arrive(chunk: Result<Chunk, Rejection>, receipt: Receipt) -> Option<Arrival> {
    match chunk {
        Ok(chunk) => Some(Arrival { chunk: chunk.into(), receipt }),
        Err(rejection) => {
            receipt.settle(Outcome::Rejected(rejection));
            None
        }
    }
}
