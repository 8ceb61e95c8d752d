//! `POST /embed` and `POST /embed/single`: vectors only, with the contract of the old embedding service. Another lnsp
//! can use this as its embedding server.
//!
//! A list takes a permit for JSON requests, for the bytes of its body and of its vectors. The answer is written in
//! pieces, so that its text is never in memory as a whole. [`crate::vectorizer`] limits its share of the model.

use crate::error_code::ErrorCode;
use crate::http::body::{Body, RequestBodyGuard};
use crate::http::error::ApiError;
use crate::http::limits::{AdmissionRequest, Permit};
use crate::http::parameters;
use crate::http::request::{
    MAX_BODY_BYTES, check_text, is_large, json_body, read_body, read_document, run_blocking,
};
use crate::http::settings::Settings;
use crate::http::state::State;
use crate::wire::{BoundedList, Truth};
use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The maximum number of texts in a request.
const MAX_TEXTS: usize = 4096;
/// The number of vectors written at a time.
const PIECE: usize = 16;
/// What to send instead of a body that is too large.
const INSTEAD: &str = "send fewer texts at a time";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireTexts {
    texts: Option<BoundedList<String, MAX_TEXTS>>,
    normalize: Option<Truth>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireText {
    text: String,
}

#[derive(Serialize)]
struct Single<'a> {
    embedding: &'a [f32],
    dimension: usize,
    encoder: &'a str,
}

/// Handles `POST /embed`.
pub async fn embed(
    request: HttpRequest,
    guard: RequestBodyGuard,
    state: web::Data<State>,
    settings: web::Data<Settings>,
) -> Result<HttpResponse, ApiError> {
    parameters::none(&request)?;
    let (body, announced) = json_body(request.headers(), guard, &settings, MAX_BODY_BYTES, INSTEAD)?;
    let permit = state.admit_standalone(AdmissionRequest::Request(announced)).await?;
    answer(body, permit, &state).await
}

/// Handles `POST /embed/single`.
pub async fn single(request: HttpRequest, state: web::Data<State>) -> Result<HttpResponse, ApiError> {
    let WireText { text } = parameters::of_query(&request)?;
    check_text("text", &text)?;
    let dimension = state.info.model.dims;
    let _permit = state.admit_standalone(AdmissionRequest::Request(0)).await?;
    let mut vectors = state.vectorizer.vectors(vec![text]).await;
    let vector = vectors.pop().transpose()?.unwrap_or_default();
    let encoder = &state.info.model.name;
    Ok(HttpResponse::Ok().json(Single { embedding: &vector, dimension, encoder }))
}

async fn answer(body: Body, mut permit: Permit, state: &State) -> Result<HttpResponse, ApiError> {
    let body =
        read_body(body, state, (state.admission.requests(), &mut permit), MAX_BODY_BYTES, INSTEAD).await?;
    let bytes = body.len();
    let large = is_large(&body);
    let texts: WireTexts = run_blocking(large, move || read_document(&body)).await??;
    let WireTexts { texts, normalize } = texts;
    let Some(BoundedList { items: texts, received }) = texts else {
        let message = "missing field `texts`: expected a list of texts";
        return Err(ApiError::new(ErrorCode::MissingField, message).param("texts"));
    };
    if texts.is_empty() {
        let message = "texts: expected at least one, received none";
        return Err(ApiError::new(ErrorCode::MissingField, message)
            .status(StatusCode::BAD_REQUEST)
            .param("texts"));
    }
    if received > MAX_TEXTS {
        let message = format!("expected at most {MAX_TEXTS} texts, received {received}; {INSTEAD}");
        return Err(ApiError::new(ErrorCode::BodyTooLarge, message).param("texts"));
    }
    if normalize == Some(Truth(false)) {
        let message = "normalize: expected true, received false: vectors have unit length here, and what length \
                       they had before is not kept";
        return Err(ApiError::new(ErrorCode::InvalidQuery, message).param("normalize"));
    }
    for (place, text) in texts.iter().enumerate() {
        check_text(&format!("texts[{place}]"), text)?;
    }
    let vectors = texts.len() * state.info.model.dims * size_of::<f32>();
    state.resize(&mut permit, bytes + vectors).await?;
    let mut vectors = Vec::with_capacity(texts.len());
    for (place, vector) in state.vectorizer.vectors(texts).await.into_iter().enumerate() {
        let vector = vector.map_err(|error| {
            let retryable = error.retryable();
            let error = ApiError::from(error);
            // A retryable error is not the fault of a text.
            if retryable { error } else { error.param(format!("texts[{place}]")) }
        })?;
        vectors.push(vector);
    }
    Ok(written(vectors, state, permit))
}

/// The answer, written while the client reads it. The permit is held until the last piece.
fn written(vectors: Vec<Arc<[f32]>>, state: &State, permit: Permit) -> HttpResponse {
    let model = &state.info.model;
    let (encoder, count) = (serde_json::json!(model.name), vectors.len());
    let head =
        format!("{{\"dimension\":{},\"count\":{count},\"encoder\":{encoder},\"embeddings\":[", model.dims);
    let pieces = (0..count).step_by(PIECE).map(move |start| {
        let _held = &permit;
        piece(start, &vectors[start..count.min(start + PIECE)])
    });
    let (head, end) = (Ok(Bytes::from(head)), Ok(Bytes::from_static(b"]}")));
    let pieces = stream::iter([head]).chain(stream::iter(pieces)).chain(stream::iter([end]));
    HttpResponse::Ok().content_type("application/json").streaming(pieces)
}

fn piece(start: usize, vectors: &[Arc<[f32]>]) -> Result<Bytes, serde_json::Error> {
    let mut text = Vec::new();
    for (place, vector) in vectors.iter().enumerate() {
        if start + place > 0 {
            text.push(b',');
        }
        serde_json::to_writer(&mut text, &vector[..])?;
    }
    Ok(text.into())
}
