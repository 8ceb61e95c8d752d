//! `POST /ingest` as JSON: the old contract. One request, one answer, in the order of the chunks.
//!
//! A request that is read completely is processed by a task of its own. The task runs to its end, and its answer is
//! kept for its `Idempotency-Key`, also when the client disconnects.

use crate::chunk::{BatchId, Chunk};
use crate::error_code::ErrorCode;
use crate::flow::receipt_channel;
use crate::http::body::Body;
use crate::http::error::{ApiError, no_answer};
use crate::http::info::ServiceInfo;
use crate::http::ingest::arrivals::ArrivalClock;
use crate::http::ingest::idempotency::{self, IdempotencyKey, IngestAnswer, Lookup};
use crate::http::ingest::notes::UploadNotes;
use crate::http::ingest::reply::{AnswerBackends, Reply};
use crate::http::ingest::upload::{ActiveUpload, GROUP, ReadChunk, arrive};
use crate::http::parameters;
use crate::http::request::{
    MAX_BODY_BYTES, is_large, read_body, rejection_error, run_blocking, shape_error, too_large, wrong_format,
};
use crate::http::state::State;
use crate::outcome::Outcome;
use crate::rejection::Rejection;
use crate::wire::{IngestOptions, MAX_CHUNKS, OptionFields, document, read_request};
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, ResponseError, web};
use std::time::Instant;

/// The bytes of the answer for a chunk, without its text.
const ANSWER_BYTES: usize = 1536;
/// What to send instead of a body that is too large.
pub const INSTEAD: &str = "send any number of chunks as application/x-ndjson, one a line";

/// Reads the body, ingests its chunks and answers.
pub async fn ingest(
    request: &HttpRequest,
    body: Body,
    state: web::Data<State>,
    mut upload: ActiveUpload,
) -> Result<HttpResponse, ApiError> {
    let key = IdempotencyKey::of(request)?;
    let query: OptionFields = parameters::of_query(request)?;
    let body =
        read_body(body, &state, (state.admission.requests(), upload.permit()), MAX_BODY_BYTES, INSTEAD)
            .await?;
    let entry = match key {
        None => None,
        Some(key) => match state.idempotency.look_up(key, request.query_string(), &body, Instant::now()) {
            Lookup::First(entry) => Some(entry),
            Lookup::Answered(answer) => return Ok(replayed(&state, answer)),
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
            let answer = work(body, query, &state, &mut upload).await;
            if let Some(entry) = entry {
                entry.done(&answer);
            }
            drop(upload);
            answer
        }
    });
    let reply = work.await.unwrap_or_else(|_| Err(no_answer()))?;
    Ok(reply.response(|| state.retry_after()))
}

fn replayed(state: &State, answer: IngestAnswer) -> HttpResponse {
    let mut response = match answer {
        Ok(reply) => reply.response(|| state.retry_after()),
        Err(error) => error.error_response(),
    };
    let name = HeaderName::from_static(idempotency::REPLAYED);
    response.headers_mut().insert(name, HeaderValue::from_static("true"));
    response
}

/// What a body holds.
struct ReadRequest {
    chunks: Vec<Result<Chunk, Rejection>>,
    /// The beginnings of the texts of rejected chunks, in the same order.
    heads: Vec<String>,
    options: IngestOptions,
    notes: UploadNotes,
}

/// Reads all chunks of a body, each alone. Options that it does not give are those of the query.
fn read(
    body: &[u8],
    query: OptionFields,
    info: &ServiceInfo,
    arrivals: &ArrivalClock,
) -> Result<ReadRequest, ApiError> {
    let json = document(body).map_err(wrong_format)?;
    let request = read_request(json).map_err(shape_error)?;
    if request.received > MAX_CHUNKS {
        let received = request.received;
        let message = format!("expected at most {MAX_CHUNKS} chunks in a JSON body, received {received}");
        return Err(too_large(&message, INSTEAD).param("chunks"));
    }
    let mut options = request.options.or(query).complete(info.labels);
    let mut names = options.names(info.model.clone()).map_err(rejection_error)?;
    if options.batch_id.is_none() {
        let id = uuid::Uuid::new_v4().to_string();
        names.batch = Some(BatchId::Generated(id.as_str().into()));
        options.batch_id = Some(id);
    }
    let mut notes = UploadNotes::default();
    let (mut chunks, mut heads) = (Vec::new(), Vec::new());
    for json in request.chunks {
        let read = ReadChunk::new(json, &names, arrivals.next());
        notes.add(&read.kept, read.has_other_vector());
        chunks.push(read.chunk);
        heads.push(read.head);
    }
    Ok(ReadRequest { chunks, heads, options, notes })
}

/// Parses the body, sends its chunks through the pipeline and makes the answer.
async fn work(
    body: Vec<u8>,
    query: OptionFields,
    state: &web::Data<State>,
    upload: &mut ActiveUpload,
) -> IngestAnswer {
    let started = Instant::now();
    let (large, service) = (is_large(&body), state.clone());
    let request = run_blocking(large, move || read(&body, query, &service.info, &service.arrivals)).await??;
    let ReadRequest { chunks, heads, options, notes } = request;
    let count = chunks.len();
    let (issuer, mut results) = receipt_channel(count);
    let held: usize = chunks.iter().flatten().map(Chunk::weight).sum();
    let answers: usize =
        chunks.iter().flatten().map(|chunk| escaped_length(&chunk.text) + ANSWER_BYTES).sum();
    let rejected = chunks.iter().filter(|chunk| chunk.is_err()).count();
    // The body is gone: what was in it besides the chunks counts no more.
    state.resize(upload.permit(), held + answers + rejected * ANSWER_BYTES).await?;
    let mut chunks = chunks.into_iter();

    // Admission waits for room. The results need not be read meanwhile: the channel has room for all of them.
    let mut position = 0;
    while position < count {
        let mut group = Vec::with_capacity(GROUP.min(count - position));
        for chunk in chunks.by_ref().take(GROUP) {
            let Some(receipt) = issuer.issue(position as u64).await else { break };
            state.counts.issued();
            group.extend(arrive(chunk, receipt));
            position += 1;
        }
        state.pipeline.entrance().admit(group).await;
    }
    drop(issuer);

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
    let place = if state.vectorizer.server().is_some() { "remote" } else { "inproc" };
    let model = &state.info.model;
    let (embedding, cpesh) = (format!("{place}:{}", model.name), state.info.cpesh);
    let service = AnswerBackends { embedding, dims: model.dims, cpesh };
    let took = started.elapsed();
    run_blocking(large, move || Reply::new(&outcomes, &heads, &options, &notes, &service, took)).await
}

/// The most bytes that a text takes in JSON.
fn escaped_length(text: &str) -> usize {
    text.bytes().map(|byte| if byte < 0x20 { 6 } else { 1 + usize::from(matches!(byte, b'"' | b'\\')) }).sum()
}

fn lost() -> ApiError {
    let message =
        "the request with this Idempotency-Key that was under way has ended without an answer; send it again";
    ApiError::new(ErrorCode::Lost, message)
}
