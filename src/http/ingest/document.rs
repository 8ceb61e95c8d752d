//! `PUT /documents/{id}`: the chunks of the body in place of those that the document has.
//!
//! New and changed chunks are stored first, as `POST /ingest` stores them. Only when all of them are, the rest of the
//! document is deleted, in one transaction. So a reader never finds the document without its new chunks, and a
//! replacement that ends half-way has deleted nothing; the same request again completes it.

use crate::deletion::Deletion;
use crate::error_code::ErrorCode;
use crate::http::body::RequestBodyGuard;
use crate::http::error::{ApiError, no_answer, rejection_object, status_of};
use crate::http::ingest::json::{ReadRequest, backends, process, read};
use crate::http::ingest::reply::Reply;
use crate::http::ingest::upload::ActiveUpload;
use crate::http::limits::AdmissionRequest;
use crate::http::request::{MAX_BODY_BYTES, is_large, json_body, read_body, run_blocking};
use crate::http::settings::Settings;
use crate::http::state::State;
use crate::http::{parameters, path};
use crate::outcome::{Outcome, StoredChunk};
use crate::rejection::Rejection;
use crate::wire::{MAX_CHUNKS, OptionFields, WireChunk};
use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::json;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

/// What to send instead of a body that is too large.
const INSTEAD: &str = "a document of more chunks is deleted, and its chunks are sent as application/x-ndjson";
/// The most chunks that a document has before: its old ones, and the new ones of a replacement that was not completed.
/// Deleting them is one transaction, for which other writers wait.
const MAX_DOCUMENT: usize = 2 * MAX_CHUNKS;

/// A replacement that was read.
struct Replacement {
    document: String,
    query: OptionFields,
    body: Vec<u8>,
}

/// Handles `PUT /documents/{id}`. A body that has arrived as a whole is processed to its end, also when its client is
/// gone.
pub async fn replace_document(
    request: HttpRequest,
    guard: RequestBodyGuard,
    state: web::Data<State>,
    settings: web::Data<Settings>,
) -> Result<HttpResponse, ApiError> {
    let document = path::name(&request, "id")?;
    let query: OptionFields = parameters::of_query(&request)?;
    let (body, announced) = json_body(request.headers(), guard, &settings, MAX_BODY_BYTES, INSTEAD)?;
    let mut upload = ActiveUpload::begin(&state, AdmissionRequest::Request(announced)).await?;
    let slots = (state.admission.requests(), upload.permit());
    let body = read_body(body, &state, slots, MAX_BODY_BYTES, INSTEAD).await?;
    let work = actix_web::rt::spawn({
        let state = state.clone();
        async move { replace(Replacement { document, query, body }, &state, &mut upload).await }
    });
    let reply = work.await.unwrap_or_else(|_| Err(no_answer()))?;
    Ok(reply.response(|| state.retry_after()))
}

async fn replace(
    replacement: Replacement,
    state: &web::Data<State>,
    upload: &mut ActiveUpload,
) -> Result<Reply, ApiError> {
    let started = Instant::now();
    let Replacement { document, query, body } = replacement;
    let (large, service, of_document) = (is_large(&body), state.clone(), document.clone());
    let read = move || {
        let options = |body: OptionFields| body.of_replacement(query);
        let place = |chunk: WireChunk, names: &_| chunk.of_document(&of_document, names);
        read(&body, options, place, &service.info, &service.arrivals)
    };
    let ReadRequest { chunks, heads, options, notes } = run_blocking(large, read).await??;
    if let Some((at, Err(first))) = chunks.iter().enumerate().find(|(_, chunk)| chunk.is_err()) {
        return Err(unreadable_chunk(at, first));
    }
    let dataset = options.dataset_source.clone();
    let _turn = state.document_turns.wait(&dataset, &document).await;
    let before = state.store.count_of_document(&dataset, &document, MAX_DOCUMENT + 1).await?;
    if before > MAX_DOCUMENT {
        let message = format!(
            "the document has more than {MAX_DOCUMENT} chunks: delete it first, with DELETE and the same path, and send its \
             chunks again"
        );
        return Err(ApiError::new(ErrorCode::BodyTooLarge, message));
    }
    let outcomes = process(chunks, state, upload).await?;
    let rejected: Vec<&Rejection> = outcomes.iter().filter_map(rejection).collect();
    let deletion = match rejected.is_empty() {
        true => Some(delete_others(state, &dataset, &document, &outcomes).await?),
        false => None,
    };
    let some_rejected = (1..outcomes.len()).contains(&rejected.len());
    let incomplete = some_rejected.then(|| incomplete(&rejected, outcomes.len()));
    let unchanged = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Duplicate(_))).count();
    let mut fields = json!({
        "document_id": document, "dataset_source": dataset, "complete": deletion.is_some(), "unchanged": unchanged,
        "deleted": deletion.map_or(0, |deletion| deletion.deleted),
        "letters": deletion.map_or(0, |deletion| deletion.letters),
        "index_seq": deletion.map(|deletion| deletion.index_seq),
    });
    let status = incomplete.as_ref().map(|rejection| status_of(rejection.code));
    if let Some(rejection) = &incomplete {
        fields["error"] = rejection_object(rejection, None);
    }
    let service = backends(state);
    let took = started.elapsed();
    let reply = run_blocking(large, move || {
        Reply::new(&outcomes, &heads, &options, &notes, &service, took).with_fields(&fields)
    });
    let mut reply = reply.await?;
    reply.status = status.unwrap_or(reply.status);
    Ok(reply)
}

/// Deletes the chunks of the document that the body does not have.
async fn delete_others(
    state: &State,
    dataset: &str,
    document: &str,
    outcomes: &[Outcome],
) -> Result<Deletion, ApiError> {
    let kept: HashSet<&str> =
        outcomes.iter().filter_map(stored).map(|stored| &*stored.chunk.key.id).collect();
    state.deleter.delete_others((dataset, document), &kept).await.map_err(|error| {
        let message = format!(
            "all chunks of the body are stored, and those that it does not have could not be deleted: {error}; send the \
             same request again"
        );
        ApiError::new(ErrorCode::StoreUnavailable, message)
    })
}

fn rejection(outcome: &Outcome) -> Option<&Rejection> {
    match outcome {
        Outcome::Rejected(rejection) => Some(rejection),
        Outcome::Stored(_) | Outcome::Replaced(_) | Outcome::Duplicate(_) => None,
    }
}

fn stored(outcome: &Outcome) -> Option<&Arc<StoredChunk>> {
    match outcome {
        Outcome::Stored(stored) | Outcome::Replaced(stored) | Outcome::Duplicate(stored) => Some(stored),
        Outcome::Rejected(_) => None,
    }
}

/// The error of a body with a chunk that cannot be read. Nothing of it is stored.
fn unreadable_chunk(at: usize, rejection: &Rejection) -> ApiError {
    let message = format!("chunks[{at}]: {}; nothing was stored or deleted", rejection.message);
    let param =
        rejection.param.map_or_else(|| format!("chunks[{at}]"), |field| format!("chunks[{at}].{field}"));
    ApiError::new(rejection.code, message).param(param)
}

/// The error of a replacement of which some of `all` chunks are not stored: the first that can pass, if there is one.
fn incomplete(rejected: &[&Rejection], all: usize) -> Rejection {
    let transient = rejected.iter().find(|rejection| rejection.code.retryable());
    let shown = transient.or(rejected.first()).map_or(ErrorCode::Lost, |rejection| rejection.code);
    let reason = transient.or(rejected.first()).map_or("", |rejection| &rejection.message);
    let count = rejected.len();
    let message = format!(
        "{count} of {all} chunks were rejected, so nothing was deleted; the others are stored. The reason: {reason}"
    );
    Rejection::new(shown, message)
}
