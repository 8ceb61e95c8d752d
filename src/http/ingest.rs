//! `POST /ingest`: chooses the mode by `Content-Type`, and brings drafts to the entrance in both.

use super::body::Body;
use super::error::ApiError;
use super::{Settings, State, json, ndjson};
use crate::metrics;
use crate::outcome::{Outcome, Rejection};
use crate::pipeline::{Arrival, Receipt};
use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, web};
use std::sync::atomic::Ordering;

/// Chunks that are looked up with one query.
pub const GROUP: usize = 256;

/// Counts an upload while it lives: until its body is read and its last chunk is answered.
pub struct ActiveUpload(web::Data<State>);

impl ActiveUpload {
    /// It begins.
    pub fn begin(state: &web::Data<State>) -> Self {
        metrics::uploads(1.0);
        state.counts.uploads.fetch_add(1, Ordering::Relaxed);
        ActiveUpload(state.clone())
    }
}

impl Drop for ActiveUpload {
    fn drop(&mut self) {
        metrics::uploads(-1.0);
        self.0.counts.uploads.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The handler.
pub async fn ingest(
    request: HttpRequest,
    payload: web::Payload,
    state: web::Data<State>,
    settings: web::Data<Settings>,
) -> Result<HttpResponse, ApiError> {
    let upload = ActiveUpload::begin(&state);
    let body = Body::new(&request, payload)?;
    let kind = header_text(&request, &header::CONTENT_TYPE).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match kind.as_str() {
        "application/json" => json::ingest(&request, body, &state).await,
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" => {
            ndjson::ingest(&request, body, state, upload, settings.client_patience).await
        }
        other => {
            let message =
                format!("expected Content-Type application/json or application/x-ndjson, received '{other}'");
            Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message))
        }
    }
}

/// A header as text; one that is not text counts as absent.
pub fn header_text<'a>(request: &'a HttpRequest, name: &header::HeaderName) -> Option<&'a str> {
    request.headers().get(name).and_then(|value| value.to_str().ok())
}

/// Pairs a checked chunk with its receipt, or settles the receipt with what is wrong.
pub fn arrive(chunk: Result<crate::chunk::Chunk, Rejection>, receipt: Receipt) -> Option<Arrival> {
    match chunk {
        Ok(chunk) => Some(Arrival { chunk: chunk.into(), receipt }),
        Err(rejection) => {
            receipt.settle(Outcome::Rejected(rejection));
            None
        }
    }
}
