//! `POST /ingest`: chooses the mode by `Content-Type`, and brings drafts to the entrance in both.

use super::error::ApiError;
use super::{State, json, ndjson};
use crate::metrics;
use crate::outcome::{Outcome, Rejection};
use crate::pipeline::{Arrival, Receipt};
use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, web};

/// Chunks that are looked up with one query.
pub const GROUP: usize = 256;

/// Counts an upload while it lives.
pub struct ActiveUpload;

impl ActiveUpload {
    /// It begins.
    pub fn begin() -> Self {
        metrics::uploads(1.0);
        ActiveUpload
    }
}

impl Drop for ActiveUpload {
    fn drop(&mut self) {
        metrics::uploads(-1.0);
    }
}

/// The handler.
pub async fn ingest(
    request: HttpRequest,
    payload: web::Payload,
    state: web::Data<State>,
) -> Result<HttpResponse, ApiError> {
    let upload = ActiveUpload::begin();
    if let Some(encoding) = header_text(&request, &header::CONTENT_ENCODING)
        && !encoding.eq_ignore_ascii_case("identity")
    {
        let message = format!("Content-Encoding {encoding} is not supported; send the body uncompressed");
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_encoding", message));
    }
    let kind = header_text(&request, &header::CONTENT_TYPE).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match kind.as_str() {
        "application/json" => json::ingest(&request, payload, &state).await,
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" => {
            ndjson::ingest(&request, payload, state, upload).await
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
        Ok(chunk) => Some(Arrival { chunk, receipt }),
        Err(rejection) => {
            receipt.settle(Outcome::Rejected(rejection));
            None
        }
    }
}
