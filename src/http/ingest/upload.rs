//! What both modes of ingest share: an upload that counts as active, and chunks on their way to the entrance.

use crate::http::error::ApiError;
use crate::http::limits::{AdmissionRequest, Permit};
use crate::http::state::State;
use crate::metrics;
use crate::outcome::Outcome;
use crate::pipeline::{Arrival, Receipt};
use crate::rejection::Rejection;
use actix_web::web;
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

/// Pairs a checked chunk with its receipt. The receipt of an invalid one is settled with the rejection.
pub fn arrive(chunk: Result<crate::chunk::Chunk, Rejection>, receipt: Receipt) -> Option<Arrival> {
    match chunk {
        Ok(chunk) => Some(Arrival { chunk: chunk.into(), receipt }),
        Err(rejection) => {
            receipt.settle(Outcome::Rejected(rejection));
            None
        }
    }
}
