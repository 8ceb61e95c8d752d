//! `POST /ingest` as JSON: the old contract. One request, one answer, in the order of the chunks.

use super::State;
use super::body::Body;
use super::error::{ApiError, rejection_object};
use super::ingest::{GROUP, arrive};
use super::wire::{self, IngestRequest, Options, ShapeError};
use crate::chunk::TmdSource;
use crate::flow::receipt_book;
use crate::outcome::{Cause, Filed, Outcome};
use crate::quality::QualityMetrics;
use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The longest body.
pub const MAX_BODY_BYTES: usize = 8 * 1024 * 1024;
/// The most chunks in a body.
pub const MAX_CHUNKS: usize = 10_000;

/// Reads, ingests, answers.
pub async fn ingest(request: &HttpRequest, body: Body, state: &State) -> Result<HttpResponse, ApiError> {
    let started = Instant::now();
    let body = read_body(request, body).await?;
    let request: IngestRequest = wire::read_request(&body).map_err(shape)?;
    drop(body);
    if request.chunks.is_empty() {
        let error =
            ApiError::shape(Cause::MissingField, "chunks: expected at least one chunk, received none");
        return Err(error.param("chunks"));
    }
    if request.chunks.len() > MAX_CHUNKS {
        return Err(too_large(format!(
            "expected at most {MAX_CHUNKS} chunks in a JSON body, received {}",
            request.chunks.len()
        )));
    }
    let options = Options {
        dataset_source: request.dataset_source,
        batch_id: Some(request.batch_id.unwrap_or_else(|| uuid::Uuid::new_v4().to_string())),
        skip_cpesh: request.skip_cpesh,
        chunking_time_ms: request.chunking_time_ms,
    };
    let dataset = options.dataset();
    let heads: Vec<String> =
        request.chunks.iter().map(|chunk| chunk.text().chars().take(50).collect()).collect();
    let count = heads.len();
    let (book, mut results) = receipt_book(count);
    let mut chunks =
        request.chunks.into_iter().map(|chunk| chunk.check(&dataset, options.batch_id.as_deref()));

    // Admitting waits for room; reading the results meanwhile is not needed, for the book holds them all.
    let mut position = 0;
    while position < count {
        let mut group = Vec::with_capacity(GROUP.min(count - position));
        for chunk in chunks.by_ref().take(GROUP) {
            let Some(receipt) = book.issue(position as u64).await else { break };
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
    Ok(answer(&outcomes, &heads, &options, state, started.elapsed()))
}

async fn read_body(request: &HttpRequest, mut body: Body) -> Result<Vec<u8>, ApiError> {
    let declared =
        super::ingest::header_text(request, &header::CONTENT_LENGTH).and_then(|n| n.parse::<usize>().ok());
    if let Some(length) = declared.filter(|length| *length > MAX_BODY_BYTES) {
        return Err(too_large(format!(
            "expected a JSON body of at most {MAX_BODY_BYTES} bytes, received {length}"
        )));
    }
    let mut whole = Vec::with_capacity(declared.unwrap_or_default());
    while let Some(piece) = body.next().await? {
        if whole.len() + piece.len() > MAX_BODY_BYTES {
            return Err(too_large(format!(
                "expected a JSON body of at most {MAX_BODY_BYTES} bytes, inflated, received more"
            )));
        }
        whole.extend_from_slice(piece);
    }
    Ok(whole)
}

fn too_large(message: String) -> ApiError {
    let message = format!("{message}; send any number of chunks as application/x-ndjson, one a line");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
}

fn shape(error: ShapeError) -> ApiError {
    let api = ApiError::shape(error.cause, error.message);
    match error.path {
        Some(path) => api.param(path),
        None => api,
    }
}

fn answer(
    outcomes: &[Outcome],
    heads: &[String],
    options: &Options,
    state: &State,
    took: Duration,
) -> HttpResponse {
    let links = neighbours(outcomes);
    let results: Vec<Value> = outcomes
        .iter()
        .zip(heads)
        .zip(links)
        .map(|((outcome, head), links)| match outcome {
            Outcome::Stored(filed) => good(filed, "stored", links, options, state),
            Outcome::Duplicate(filed) => good(filed, "duplicate", links, options, state),
            Outcome::Rejected(rejection) => json!({
                "global_id": "", "concept_text": head, "tmd_codes": {}, "vector_dimension": 0,
                "confidence_score": null, "quality_metrics": {"error": rejection.message},
                "created_at": now(), "parent_cpe_ids": [], "child_cpe_ids": [],
                "success": false, "error": rejection.message, "timings_ms": timings(None, options), "backends": {},
                "status": "error", "error_detail": rejection_object(rejection, None),
            }),
        })
        .collect();
    let failed = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Rejected(_))).count();
    let mut body = json!({
        "results": results, "total_chunks": outcomes.len(), "successful": outcomes.len() - failed, "failed": failed,
        "batch_id": options.batch_id, "processing_time_ms": millis(took),
    });
    let mut response = HttpResponse::Ok();
    if let (true, Some(Outcome::Rejected(first))) = (failed == outcomes.len(), outcomes.first()) {
        // Some causes are the service's own: those are to be sent again, and say so by 503.
        let own = outcomes.iter().any(|o| matches!(o, Outcome::Rejected(r) if r.cause.retryable()));
        response.status(if own { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::UNPROCESSABLE_ENTITY });
        if own {
            response.insert_header((header::RETRY_AFTER, "1"));
        }
        body["error"] = rejection_object(first, None);
    }
    response.insert_header(("X-Ingest-Errors", failed.to_string())).json(body)
}

fn good(filed: &Filed, status: &str, links: Links, options: &Options, state: &State) -> Value {
    let chunk = &filed.chunk;
    let quality = QualityMetrics::of_text(&chunk.text, state.facts.model.dims);
    let tmd = filed.tagging.tmd;
    json!({
        "global_id": filed.cpe_id, "concept_text": chunk.text,
        "tmd_codes": {"domain": tmd.domain(), "task": tmd.task(), "modifier": tmd.modifier()},
        "vector_dimension": state.facts.model.dims + 16,
        "confidence_score": quality.confidence(), "quality_metrics": quality,
        "created_at": filed.created_at.format("%Y-%m-%dT%H:%M:%SZ").to_string(),
        "parent_cpe_ids": links.parents, "child_cpe_ids": links.children,
        "success": true, "error": null,
        "timings_ms": timings(Some(filed), options), "backends": backends(filed, options, state),
        "status": status, "id": chunk.key.id, "seq": filed.seq, "truncated": filed.truncated,
        "tmd_source": filed.tagging.source.kind(), "tmd_confidence": filed.tagging.confidence,
    })
}

/// Only what was measured for this chunk.
fn timings(filed: Option<&Filed>, options: &Options) -> Value {
    let mut map = Map::new();
    let measured = filed.map(|filed| filed.timings).unwrap_or_default();
    let named = [
        ("tmd_ms", measured.tmd),
        ("embedding_ms", measured.embedding),
        ("postgres_ms", measured.postgres),
        ("total_ms", measured.total),
    ];
    for (name, time) in named {
        if let Some(time) = time {
            map.insert(name.to_owned(), json!(millis(time)));
        }
    }
    if let Some(time) = options.chunking_time_ms {
        map.insert("chunking_ms".to_owned(), json!(time));
    }
    Value::Object(map)
}

fn backends(filed: &Filed, options: &Options, state: &State) -> Value {
    let tmd = match &filed.tagging.source {
        TmdSource::Client => "client-provided".to_owned(),
        TmdSource::Local { version } => format!("local:{version}"),
        TmdSource::Llm { model } => format!("llm:{model}"),
        TmdSource::Fallback { version, reason } => format!("local:{version} (llm: {reason})"),
    };
    let cpesh = if options.skip_cpesh { "disabled" } else { "env-disabled" };
    json!({"cpesh": cpesh, "tmd": tmd, "embedding": format!("inproc:{}", state.facts.model.name), "index": "inproc:arroy"})
}

fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

fn now() -> String {
    chrono::Utc::now().format("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Public names of the chunks before and after.
#[derive(Debug, Clone, Default, PartialEq)]
struct Links {
    parents: Vec<String>,
    children: Vec<String>,
}

/// Explicit links as they were sent; else the good neighbours of the same document within the request.
fn neighbours(outcomes: &[Outcome]) -> Vec<Links> {
    let mut links = vec![Links::default(); outcomes.len()];
    let mut previous = HashMap::<Option<&str>, (usize, &Filed)>::new();
    for (position, outcome) in outcomes.iter().enumerate() {
        let (Outcome::Stored(filed) | Outcome::Duplicate(filed)) = outcome else { continue };
        let placement = &filed.chunk.placement;
        if is_linked(filed) {
            links[position].parents.clone_from(&placement.parent_cpe_ids);
            links[position].children.clone_from(&placement.child_cpe_ids);
        }
        let before = previous.insert(placement.document_id.as_deref(), (position, filed));
        let Some((at, before)) = before else { continue };
        if !is_linked(filed) {
            links[position].parents = vec![before.cpe_id.to_string()];
        }
        if !is_linked(before) {
            links[at].children = vec![filed.cpe_id.to_string()];
        }
    }
    links
}

fn is_linked(filed: &Filed) -> bool {
    let placement = &filed.chunk.placement;
    !placement.parent_cpe_ids.is_empty() || !placement.child_cpe_ids.is_empty()
}
