//! `POST /embed` and `POST /embed/single`: vectors only, with the contract of the old embedding service. Another lnsp
//! can use this as its embedding server.
//!
//! A list takes a permit for JSON requests, for the bytes of its body and of its vectors. The answer is written in
//! pieces, so that its text is never in memory as a whole. [`crate::vectorizer`] limits its share of the model.

use crate::chunk::MAX_TEXT_BYTES;
use crate::error_code::ErrorCode;
use crate::http::body::{Body, RequestBodyGuard};
use crate::http::error::ApiError;
use crate::http::limits::{AdmissionRequest, Permit};
use crate::http::parameters;
use crate::http::request::{
    MAX_BODY_BYTES, body_weight, content_length, is_large, json_encoding, read_body, run_blocking,
    shape_error,
};
use crate::http::settings::Settings;
use crate::http::state::State;
use crate::wire::read_json;
use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, ResponseError, web};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;
use std::sync::Arc;

/// The maximum number of texts in a request.
const MAX_TEXTS: usize = 4096;
/// The bytes of a body that the smallest text takes: two quotes and a comma.
const SMALLEST: usize = 3;
/// The number of vectors written at a time.
const PIECE: usize = 16;
/// What to send instead of a body that is too large.
const INSTEAD: &str = "send fewer texts at a time";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireTexts {
    texts: Texts,
    #[serde(default = "yes")]
    normalize: bool,
}

fn yes() -> bool {
    true
}

/// The texts of a request. Those beyond the limit are only counted: a body of empty texts would take many times its
/// own size in memory.
#[derive(Debug, Default)]
struct Texts {
    kept: Vec<String>,
    count: usize,
}

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(TextsVisitor)
    }
}

struct TextsVisitor;

impl<'de> Visitor<'de> for TextsVisitor {
    type Value = Texts;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of texts")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Texts, A::Error> {
        let mut texts = Texts::default();
        while texts.kept.len() < MAX_TEXTS
            && let Some(text) = list.next_element()?
        {
            texts.kept.push(text);
        }
        texts.count = texts.kept.len();
        while texts.count >= MAX_TEXTS && list.next_element::<IgnoredAny>()?.is_some() {
            texts.count += 1;
        }
        Ok(texts)
    }
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
    payload: web::Payload,
    state: web::Data<State>,
    settings: web::Data<Settings>,
) -> HttpResponse {
    let guard = RequestBodyGuard::new(payload.into_inner());
    let answer = match begin(&request, guard.clone(), &state, &settings) {
        Ok((body, permit)) => answer(body, permit, &state).await,
        Err(error) => {
            guard.discard_if_small(content_length(request.headers())).await;
            Err(error)
        }
    };
    guard.attach_to(answer.unwrap_or_else(|error| error.error_response()))
}

/// Handles `POST /embed/single`.
pub async fn single(request: HttpRequest, state: web::Data<State>) -> Result<HttpResponse, ApiError> {
    let WireText { text } = parameters::of_query(&request)
        .map_err(|error| invalid(format!("{}; expected text=..", error.message())))?;
    check("text", &text)?;
    let dimension = state.info.model.dims;
    let _permit = state.admit_standalone(AdmissionRequest::Request(dimension * size_of::<f32>()))?;
    let mut vectors = state.vectorizer.vectors(vec![text]).await;
    let vector = vectors.pop().transpose()?.unwrap_or_default();
    let encoder = &state.info.model.name;
    Ok(HttpResponse::Ok().json(Single { embedding: &vector, dimension, encoder }))
}

/// Checks everything that is known before the first byte of the body.
fn begin(
    request: &HttpRequest,
    guard: RequestBodyGuard,
    state: &State,
    settings: &Settings,
) -> Result<(Body, Permit), ApiError> {
    let headers = request.headers();
    let encoding = json_encoding(headers)?;
    let bytes = body_weight(content_length(headers), encoding, MAX_BODY_BYTES, INSTEAD)?;
    let most = (bytes / SMALLEST).min(MAX_TEXTS);
    let vectors = most * state.info.model.dims * size_of::<f32>();
    let permit = state.admit_standalone(AdmissionRequest::Request(bytes + vectors))?;
    Ok((Body::new(encoding, guard, settings.body)?, permit))
}

async fn answer(body: Body, permit: Permit, state: &State) -> Result<HttpResponse, ApiError> {
    let body = read_body(body, state, MAX_BODY_BYTES, INSTEAD).await?;
    let large = is_large(&body);
    let texts: WireTexts = run_blocking(large, move || read_json(&body).map_err(shape_error)).await??;
    let WireTexts { texts, normalize } = texts;
    let Texts { kept: texts, count } = texts;
    if texts.is_empty() {
        let message = "texts: expected at least one, received none";
        return Err(ApiError::new(ErrorCode::MissingField, message)
            .status(StatusCode::BAD_REQUEST)
            .param("texts"));
    }
    if count > MAX_TEXTS {
        let message = format!("expected at most {MAX_TEXTS} texts, received {count}; {INSTEAD}");
        return Err(ApiError::new(ErrorCode::BodyTooLarge, message).param("texts"));
    }
    if !normalize {
        let message = "normalize: expected true, received false: vectors have unit length here, and what length \
                       they had before is not kept";
        return Err(invalid(message.to_owned()).param("normalize"));
    }
    for (place, text) in texts.iter().enumerate() {
        check(&format!("texts[{place}]"), text)?;
    }
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

fn check(param: &str, text: &str) -> Result<(), ApiError> {
    if text.len() <= MAX_TEXT_BYTES {
        return Ok(());
    }
    let message = format!("{param}: expected at most {MAX_TEXT_BYTES} bytes, received {}", text.len());
    Err(ApiError::new(ErrorCode::TextTooLong, message).param(param))
}

fn invalid(message: String) -> ApiError {
    ApiError::new(ErrorCode::InvalidQuery, message)
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
