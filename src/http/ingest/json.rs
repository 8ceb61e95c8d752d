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
use crate::wire::{IngestOptions, MAX_CHUNKS, OptionFields, SharedNames, WireChunk, document, read_request};
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
pub(super) struct ReadRequest {
    pub chunks: Vec<Result<Chunk, Rejection>>,
    /// The beginnings of the texts of rejected chunks, in the same order.
    pub heads: Vec<String>,
    pub options: IngestOptions,
    pub notes: UploadNotes,
}

/// Reads all chunks of a body, each alone. `options` makes the options of the request from those of the body, and `place`
/// checks where a chunk belongs.
pub(super) fn read(
    body: &[u8],
    options: impl FnOnce(OptionFields) -> Result<OptionFields, Rejection>,
    place: impl Fn(WireChunk, &SharedNames) -> Result<WireChunk, Rejection>,
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
    let mut options = options(request.options).map_err(rejection_error)?.complete(info.labels);
    let mut names = options.names(info.model.clone()).map_err(rejection_error)?;
    if options.batch_id.is_none() {
        let id = uuid::Uuid::new_v4().to_string();
        names.batch = Some(BatchId::Generated(id.as_str().into()));
        options.batch_id = Some(id);
    }
    let mut notes = UploadNotes::default();
    let (mut chunks, mut heads) = (Vec::new(), Vec::new());
    for json in request.chunks {
        let chunk = WireChunk::read(json).and_then(|chunk| place(chunk, &names));
        let read = ReadChunk::new(chunk, &names, arrivals.next());
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
    let read = move || {
        // What the body does not say is said by the query.
        let options = |body: OptionFields| Ok(body.or(query));
        read(&body, options, |chunk, _| Ok(chunk), &service.info, &service.arrivals)
    };
    let ReadRequest { chunks, heads, options, notes } = run_blocking(large, read).await??;
    let outcomes = process(chunks, state, upload).await?;
    let service = backends(state);
    let took = started.elapsed();
    run_blocking(large, move || Reply::new(&outcomes, &heads, &options, &notes, &service, took)).await
}

/// Sends chunks through the pipeline: an outcome for each, in their order.
pub(super) async fn process(
    chunks: Vec<Result<Chunk, Rejection>>,
    state: &State,
    upload: &mut ActiveUpload,
) -> Result<Vec<Outcome>, ApiError> {
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
    Ok(outcomes
        .into_iter()
        .map(|outcome| outcome.unwrap_or_else(crate::flow::Unsettled::unsettled))
        .collect())
}

/// What made the vectors and CPESH parts of an answer.
pub(super) fn backends(state: &State) -> AnswerBackends {
    let place = if state.vectorizer.server().is_some() { "remote" } else { "inproc" };
    let model = &state.info.model;
    let (embedding, cpesh) = (format!("{place}:{}", model.name), state.info.cpesh);
    AnswerBackends { embedding, dims: model.dims, cpesh }
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
