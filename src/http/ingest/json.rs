//! `POST /ingest` as JSON: the old contract. One request, one answer, in the order of the chunks.
//!
//! A request that is read as a whole is worked on by a task of its own: it is brought to its end, and its answer
//! kept for its `Idempotency-Key`, also when its client is gone.

use crate::error_code::ErrorCode;
use crate::flow::receipt_channel;
use crate::http::body::Body;
use crate::http::error::ApiError;
use crate::http::ingest::idempotency::{self, Answer, Key, Lookup};
use crate::http::ingest::reply::Reply;
use crate::http::ingest::{ActiveUpload, GROUP, arrive};
use crate::http::state::State;
use crate::metrics;
use crate::outcome::Outcome;
use crate::wire::{ContentEncoding, IngestOptions, IngestRequest, ShapeError, read_request};
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, ResponseError, web};
use std::time::Instant;

/// The longest body.
pub const MAX_BODY_BYTES: usize = 8 * 1024 * 1024;
/// The most chunks in a body.
pub const MAX_CHUNKS: usize = 10_000;
/// Bodies and answers larger than this are worked on beside the HTTP worker, whose other clients would wait.
const MUCH: usize = 64 * 1024;

/// For those whose body is too large.
pub const INSTEAD: &str = "send any number of chunks as application/x-ndjson, one a line";

/// Bytes that the body takes in memory; the most there can be, where it is not said.
///
/// # Errors
/// 413 when it is too long already, with what to do `instead`.
pub fn weight(declared: Option<usize>, encoding: ContentEncoding, instead: &str) -> Result<usize, ApiError> {
    match declared {
        Some(length) if length > MAX_BODY_BYTES => {
            let message =
                format!("expected a JSON body of at most {MAX_BODY_BYTES} bytes, received {length}");
            Err(too_large(&message, instead))
        }
        Some(length) if encoding == ContentEncoding::Identity => Ok(length),
        _ => Ok(MAX_BODY_BYTES),
    }
}

/// Reads, ingests, answers.
pub async fn ingest(
    request: &HttpRequest,
    body: Body,
    state: web::Data<State>,
    upload: ActiveUpload,
) -> Result<HttpResponse, ApiError> {
    let key = Key::of(request)?;
    let body = read_body(body, &state, INSTEAD).await?;
    let ticket = match key {
        None => None,
        Some(key) => match state.memory.turn(key, &body, Instant::now()) {
            Lookup::First(ticket) => Some(ticket),
            Lookup::Again(answer) => return Ok(replayed(&state, answer)),
            Lookup::Reused => return Err(idempotency::reused()),
            Lookup::Wait(mut first) => {
                drop(body);
                let answer = first.wait_for(Option::is_some).await.ok().and_then(|answer| answer.clone());
                return Ok(replayed(&state, answer.unwrap_or_else(|| Err(lost()))));
            }
        },
    };
    let work = actix_web::rt::spawn({
        let state = state.clone();
        async move {
            let answer = work(body, &state).await;
            if let Some(ticket) = ticket {
                ticket.done(&answer);
            }
            drop(upload);
            answer
        }
    });
    let reply = work.await.unwrap_or_else(|_| Err(broken()))?;
    Ok(reply.response(|| state.retry_after()))
}

fn replayed(state: &State, answer: Answer) -> HttpResponse {
    let mut response = match answer {
        Ok(reply) => reply.response(|| state.retry_after()),
        Err(error) => error.error_response(),
    };
    let name = HeaderName::from_static(idempotency::REPLAYED);
    response.headers_mut().insert(name, HeaderValue::from_static("true"));
    response
}

/// Everything between a whole body and its answer.
async fn work(body: Vec<u8>, state: &web::Data<State>) -> Answer {
    let started = Instant::now();
    let much = is_large(&body);
    let request: IngestRequest = run_blocking(much, move || read_request(&body).map_err(shape)).await??;
    if request.chunks.is_empty() {
        let error =
            ApiError::new(ErrorCode::MissingField, "chunks: expected at least one chunk, received none");
        return Err(error.param("chunks"));
    }
    if request.chunks.len() > MAX_CHUNKS {
        let message =
            format!("expected at most {MAX_CHUNKS} chunks in a JSON body, received {}", request.chunks.len());
        return Err(too_large(&message, INSTEAD));
    }
    let options = IngestOptions {
        dataset_source: request.dataset_source,
        batch_id: Some(request.batch_id.unwrap_or_else(|| uuid::Uuid::new_v4().to_string())),
        skip_cpesh: request.skip_cpesh,
        chunking_time_ms: request.chunking_time_ms,
    };
    let dataset = options.dataset();
    let heads: Vec<String> =
        request.chunks.iter().map(|chunk| chunk.text().chars().take(50).collect()).collect();
    let count = heads.len();
    let (book, mut results) = receipt_channel(count);
    let mut chunks =
        request.chunks.into_iter().map(|chunk| chunk.check(&dataset, options.batch_id.as_deref()));

    // Admitting waits for room; reading the results meanwhile is not needed, for the book holds them all.
    let mut position = 0;
    while position < count {
        let mut group = Vec::with_capacity(GROUP.min(count - position));
        for chunk in chunks.by_ref().take(GROUP) {
            let Some(receipt) = book.issue(position as u64).await else { break };
            state.counts.issued();
            group.extend(arrive(chunk, receipt));
            position += 1;
        }
        state.pipeline.entrance().admit(group).await;
    }
    drop(book);

    let mut outcomes: Vec<Option<Outcome>> = vec![None; count];
    while let Some((position, outcome)) = results.next().await {
        state.counts.count(&outcome);
        if let Some(place) = outcomes.get_mut(position as usize) {
            *place = Some(outcome);
        }
    }
    let outcomes: Vec<Outcome> = outcomes
        .into_iter()
        .map(|outcome| outcome.unwrap_or_else(crate::flow::Unsettled::unsettled))
        .collect();
    let (state, took) = (state.clone(), started.elapsed());
    run_blocking(much, move || Reply::new(&outcomes, &heads, &options, &state, took)).await
}

/// Work on it belongs on another thread.
pub fn is_large(body: &[u8]) -> bool {
    body.len() > MUCH
}

/// Does much work on another thread.
///
/// # Errors
/// 500 when it was not done.
pub async fn run_blocking<T: Send + 'static>(
    much: bool,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    if much { web::block(work).await.map_err(|_| broken()) } else { Ok(work()) }
}

/// The whole body.
///
/// # Errors
/// When it is cut or too long, with what to do `instead`; 503 when the service goes down meanwhile.
pub async fn read_body(mut body: Body, state: &State, instead: &str) -> Result<Vec<u8>, ApiError> {
    let closed = state.pipeline.entrance().closed();
    let mut whole = Vec::new();
    loop {
        let piece = tokio::select! {
            biased;
            () = closed.cancelled() => return Err(state.draining()),
            piece = body.next(|| false) => piece.inspect_err(|cut| metrics::upload_cut(cut.code().as_str()))?,
        };
        let Some(piece) = piece else { return Ok(whole) };
        if whole.len() + piece.len() > MAX_BODY_BYTES {
            let message =
                format!("expected a JSON body of at most {MAX_BODY_BYTES} bytes, inflated, received more");
            return Err(too_large(&message, instead));
        }
        whole.extend_from_slice(piece);
    }
}

fn too_large(message: &str, instead: &str) -> ApiError {
    ApiError::new(ErrorCode::BodyTooLarge, format!("{message}; {instead}"))
}

/// The answer to a body of a wrong shape.
pub fn shape(error: ShapeError) -> ApiError {
    let api = ApiError::new(error.code, error.message);
    match error.path {
        Some(path) => api.param(path),
        None => api,
    }
}

fn broken() -> ApiError {
    let message = "the answer could not be made; send the request again: what is stored is stored once";
    ApiError::new(ErrorCode::Internal, message)
}

fn lost() -> ApiError {
    let message =
        "the request with this Idempotency-Key that was under way has ended without an answer; send it again";
    ApiError::new(ErrorCode::Lost, message)
}
