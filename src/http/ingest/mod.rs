//! `POST /ingest`: admits an upload or refuses it, and reads it as JSON or NDJSON by its `Content-Type`. `PUT
//! /documents/{id}`: the chunks of a document as JSON, in place of those that it has.

mod answers;
mod arrivals;
mod document;
mod idempotency;
mod json;
mod ndjson;
mod notes;
mod reply;
mod results;
mod turns;
mod upload;

pub use arrivals::ArrivalClock;
pub use document::replace_document;
pub use idempotency::{CacheLimits, IdempotencyCache};
pub use turns::DocumentTurns;

use crate::http::body::{Body, RequestBodyGuard};
use crate::http::error::ApiError;
use crate::http::limits::AdmissionRequest;
use crate::http::request::{BodyKind, MAX_BODY_BYTES, announced_bytes, body_kind, content_encoding};
use crate::http::settings::Settings;
use crate::http::state::State;
use crate::wire::ContentEncoding;
use actix_web::http::header::HeaderMap;
use actix_web::{HttpRequest, HttpResponse, web};
use upload::ActiveUpload;

/// Handles `POST /ingest`.
pub async fn ingest(
    request: HttpRequest,
    guard: RequestBodyGuard,
    state: web::Data<State>,
    settings: web::Data<Settings>,
) -> Result<HttpResponse, ApiError> {
    match begin(&request, guard, &state, &settings).await? {
        (body, upload, BodyKind::Json) => json::ingest(&request, body, state, upload).await,
        (body, upload, BodyKind::Ndjson) => {
            ndjson::ingest(&request, body, state, upload, settings.read_timeout).await
        }
    }
}

/// Checks everything that is known before the first byte of the body.
async fn begin(
    request: &HttpRequest,
    guard: RequestBodyGuard,
    state: &web::Data<State>,
    settings: &Settings,
) -> Result<(Body, ActiveUpload, BodyKind), ApiError> {
    let (kind, encoding, request) = requested(request.headers())?;
    let upload = ActiveUpload::begin(state, request).await?;
    Ok((Body::new(encoding, guard, settings.body)?, upload, kind))
}

/// The error that [`ingest`] would answer to this head instead of reading the body. For a client that waits for
/// `100 Continue`.
pub fn refusal(headers: &HeaderMap, state: &State) -> Option<ApiError> {
    requested(headers).map_or_else(Some, |(_, _, request)| state.would_refuse(request))
}

fn requested(headers: &HeaderMap) -> Result<(BodyKind, ContentEncoding, AdmissionRequest), ApiError> {
    let (kind, encoding) = (body_kind(headers)?, content_encoding(headers)?);
    let request = match kind {
        BodyKind::Ndjson => AdmissionRequest::Upload,
        BodyKind::Json => AdmissionRequest::Request(announced_bytes(headers, MAX_BODY_BYTES, json::INSTEAD)?),
    };
    Ok((kind, encoding, request))
}
