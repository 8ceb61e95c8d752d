//! `POST /ingest`: admits an upload or refuses it, and reads it as JSON or NDJSON by its `Content-Type`.

mod answers;
mod idempotency;
mod json;
mod ndjson;
mod reply;
mod upload;

pub use idempotency::{CacheLimits, IdempotencyCache};

use crate::http::body::{Body, RequestBodyGuard};
use crate::http::error::ApiError;
use crate::http::limits::AdmissionRequest;
use crate::http::request::{
    BodyKind, MAX_BODY_BYTES, body_kind, body_weight, content_encoding, content_length,
};
use crate::http::settings::Settings;
use crate::http::state::State;
use crate::wire::ContentEncoding;
use actix_web::http::header::HeaderMap;
use actix_web::{HttpRequest, HttpResponse, ResponseError, web};
use upload::ActiveUpload;

/// Handles `POST /ingest`.
pub async fn ingest(
    request: HttpRequest,
    payload: web::Payload,
    state: web::Data<State>,
    settings: web::Data<Settings>,
) -> HttpResponse {
    let guard = RequestBodyGuard::new(payload.into_inner());
    let answer = match begin(&request, guard.clone(), &state, &settings) {
        Ok((body, upload, BodyKind::Json)) => json::ingest(&request, body, state, upload).await,
        Ok((body, upload, BodyKind::Ndjson)) => {
            ndjson::ingest(&request, body, state, upload, settings.read_timeout).await
        }
        Err(error) => {
            guard.discard_if_small(content_length(request.headers())).await;
            Err(error)
        }
    };
    guard.attach_to(answer.unwrap_or_else(|error| error.error_response()))
}

/// Checks everything that is known before the first byte of the body.
fn begin(
    request: &HttpRequest,
    guard: RequestBodyGuard,
    state: &web::Data<State>,
    settings: &Settings,
) -> Result<(Body, ActiveUpload, BodyKind), ApiError> {
    let (kind, encoding, request) = requested(request.headers())?;
    let upload = ActiveUpload::begin(state, request)?;
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
        BodyKind::Json => {
            let length = content_length(headers);
            AdmissionRequest::Request(body_weight(length, encoding, MAX_BODY_BYTES, json::INSTEAD)?)
        }
    };
    Ok((kind, encoding, request))
}
