//! `POST /ingest`: lets an upload in or refuses it, chooses the mode by `Content-Type`, and brings drafts to the
//! entrance in both.

mod answers;
mod idempotency;
pub(super) mod json;
mod ndjson;
mod reply;

pub use idempotency::{CacheLimits, IdempotencyCache};

use crate::error_code::ErrorCode;
use crate::http::body::guard::RequestBodyGuard;
use crate::http::body::{Body, encoding_of};
use crate::http::error::ApiError;
use crate::http::limits::admission::{AdmissionRequest, Permit};
use crate::http::state::Settings;
use crate::http::state::State;
use crate::metrics;
use crate::outcome::Outcome;
use crate::pipeline::{Arrival, Receipt};
use crate::rejection::Rejection;
use crate::wire::ContentEncoding;
use actix_web::http::header::{self, HeaderMap, HeaderName};
use actix_web::{HttpRequest, HttpResponse, ResponseError, web};
use std::sync::atomic::Ordering;

/// Chunks that are looked up with one query.
pub const GROUP: usize = 256;

/// Counts an upload while it lives: from its permit until its body is read and its last chunk is answered.
pub struct ActiveUpload {
    state: web::Data<State>,
    _permit: Permit,
}

impl ActiveUpload {
    /// It begins, if there is room.
    ///
    /// # Errors
    /// See [`State::admit`].
    pub fn begin(state: &web::Data<State>, wish: AdmissionRequest) -> Result<Self, ApiError> {
        let permit = state.admit(wish)?;
        metrics::uploads(1.0);
        state.counts.uploads.fetch_add(1, Ordering::Relaxed);
        Ok(ActiveUpload { state: state.clone(), _permit: permit })
    }
}

impl Drop for ActiveUpload {
    fn drop(&mut self) {
        metrics::uploads(-1.0);
        self.state.counts.uploads.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a body is, by its head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A JSON body.
    Json,
    /// NDJSON.
    Lines,
}

/// The handler.
pub async fn ingest(
    request: HttpRequest,
    payload: web::Payload,
    state: web::Data<State>,
    settings: web::Data<Settings>,
) -> HttpResponse {
    let kept = RequestBodyGuard::new(payload.into_inner());
    let answer = match begin(&request, kept.clone(), &state, &settings) {
        Ok((body, upload, Kind::Json)) => json::ingest(&request, body, state, upload).await,
        Ok((body, upload, Kind::Lines)) => {
            ndjson::ingest(&request, body, state, upload, settings.client_patience).await
        }
        Err(error) => {
            kept.forget_if_small(declared(request.headers())).await;
            Err(error)
        }
    };
    kept.ride(answer.unwrap_or_else(|error| error.error_response()))
}

/// Everything that can be said before the first byte of the body.
fn begin(
    request: &HttpRequest,
    kept: RequestBodyGuard,
    state: &web::Data<State>,
    settings: &Settings,
) -> Result<(Body, ActiveUpload, Kind), ApiError> {
    let (kind, encoding, wish) = wanted(request.headers())?;
    let upload = ActiveUpload::begin(state, wish)?;
    Ok((Body::new(encoding, kept, settings.sending)?, upload, kind))
}

/// What [`ingest`] would answer to this head instead of reading its body: for a client that asks first.
pub fn objection(headers: &HeaderMap, state: &State) -> Option<ApiError> {
    wanted(headers).map_or_else(Some, |(_, _, wish)| state.would_refuse(wish))
}

/// What the head says of the body, and what that needs.
fn wanted(headers: &HeaderMap) -> Result<(Kind, ContentEncoding, AdmissionRequest), ApiError> {
    let (kind, encoding) = (kind_of(headers)?, encoding_of(headers)?);
    let wish = match kind {
        Kind::Lines => AdmissionRequest::Upload,
        Kind::Json => AdmissionRequest::Request(json::weight(declared(headers), encoding, json::INSTEAD)?),
    };
    Ok((kind, encoding, wish))
}

/// What the head says of it.
///
/// # Errors
/// 415 for anything else.
pub fn kind_of(headers: &HeaderMap) -> Result<Kind, ApiError> {
    let kind = header_text(headers, &header::CONTENT_TYPE).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match kind.as_str() {
        "application/json" => Ok(Kind::Json),
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" => Ok(Kind::Lines),
        other => {
            let message =
                format!("expected Content-Type application/json or application/x-ndjson, received '{other}'");
            Err(ApiError::new(ErrorCode::UnsupportedMediaType, message))
        }
    }
}

/// The length of the body, where the head says it.
pub fn declared(headers: &HeaderMap) -> Option<usize> {
    header_text(headers, &header::CONTENT_LENGTH).and_then(|length| length.parse().ok())
}

/// A header as text; one that is not text counts as absent.
pub fn header_text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
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
