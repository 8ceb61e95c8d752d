//! `POST /ingest` as NDJSON: a chunk a line, a body of any length.
//!
//! A reader task cuts lines and brings what is at hand to the entrance; while that waits for room the socket is
//! not read, and that is the backpressure. With `Accept: application/x-ndjson` each result goes out as it is
//! settled, while the upload is still open, and a summary ends the answer. Otherwise the summary is the answer.

use super::error::{ApiError, rejection_object};
use super::ingest::{ActiveUpload, GROUP, arrive, header_text};
use super::lines::{LineError, Lines};
use super::wire::{self, Options, WireChunk};
use super::{State, Tally};
use crate::flow::{ReceiptBook, Results, receipt_book};
use crate::outcome::{Cause, Outcome, Rejection};
use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use std::time::Instant;
use tokio::sync::oneshot;

/// Errors that a summary lists; the others are counted.
const LISTED_ERRORS: usize = 1000;

/// How the reading of a body ended.
type Ending = oneshot::Receiver<Result<(), String>>;

/// Starts the reader and answers in the mode the client accepts.
pub async fn ingest(
    request: &HttpRequest,
    payload: web::Payload,
    state: web::Data<State>,
    upload: ActiveUpload,
) -> Result<HttpResponse, ApiError> {
    let options = web::Query::<Options>::from_query(request.query_string())
        .map_err(|error| ApiError::shape(Cause::UnknownField, format!("query parameters: {error}")))?
        .into_inner();
    // Room for every slot and for the group on its way in, so that the slots are the bound; answers that the
    // client does not read take these places, and then the body is not read either.
    let (book, results) = receipt_book(state.pipeline.slots() + GROUP);
    let (ended, ending) = oneshot::channel();
    let reader = state.clone();
    // On its own, because actix drops the handler when the client is gone: what was accepted is still committed.
    actix_web::rt::spawn(async move {
        // A client that is gone reads no ending.
        drop(ended.send(read(payload, &reader, &options, book).await));
    });
    let summary = Summary {
        started: Instant::now(),
        tally: Tally { stored: 0, duplicate: 0, failed: 0 },
        errors: Vec::new(),
    };
    let accept = header_text(request, &header::ACCEPT).unwrap_or_default();
    if accept.contains("ndjson") || accept.contains("jsonl") {
        let answer = Streamed { results, ending: Some(ending), summary, state, _upload: upload };
        let lines = stream::unfold(answer, |mut answer| async move { Some((answer.next().await?, answer)) });
        return Ok(HttpResponse::Ok().content_type("application/x-ndjson").streaming(lines));
    }
    Ok(summarise(results, ending, summary, &state).await)
}

/// Reads the body to its end; the error is why it ended early.
async fn read(
    mut payload: web::Payload,
    state: &State,
    options: &Options,
    book: ReceiptBook<Outcome>,
) -> Result<(), String> {
    let dataset = options.dataset();
    let mut lines = Lines::default();
    let mut ended = Ok(());
    let mut open = true;
    while open {
        match payload.next().await {
            Some(Ok(piece)) => lines.feed(&piece),
            Some(Err(error)) => (open, ended) = (false, Err(error.to_string())),
            None => open = false,
        }
        let mut more = true;
        while more {
            let mut group = Vec::new();
            while group.len() < GROUP {
                // A body that was cut off has no last line: what is left is a piece of one.
                let line = lines
                    .next_line()
                    .or_else(|| if open || ended.is_err() { None } else { lines.last_line() });
                let Some((number, line)) = line else {
                    more = false;
                    break;
                };
                let Some(receipt) = book.issue(number).await else {
                    return Err("the client is gone".to_owned());
                };
                let chunk = parse(line).and_then(|chunk| chunk.check(&dataset, options.batch_id.as_deref()));
                group.extend(arrive(chunk, receipt));
            }
            if !group.is_empty() {
                state.pipeline.entrance().admit(group).await;
            }
        }
    }
    ended
}

fn parse(line: Result<Bytes, LineError>) -> Result<WireChunk, Rejection> {
    let line = line.map_err(|error| Rejection::new(Cause::LineTooLong, error.to_string()))?;
    Ok(wire::read(&line)?)
}

/// What a summary says.
struct Summary {
    started: Instant,
    tally: Tally,
    errors: Vec<Value>,
}

impl Summary {
    fn count(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Stored(_) => self.tally.stored += 1,
            Outcome::Duplicate(_) => self.tally.duplicate += 1,
            Outcome::Rejected(_) => self.tally.failed += 1,
        }
    }

    fn finish(&self, ended: &Result<(), String>) -> Value {
        let Tally { stored, duplicate, failed } = self.tally;
        let mut summary = json!({
            "type": "summary", "total_chunks": stored + duplicate + failed, "successful": stored + duplicate,
            "stored": stored, "duplicates": duplicate, "failed": failed, "errors": failed > 0,
            "complete": ended.is_ok(), "processing_time_ms": self.started.elapsed().as_millis() as u64,
        });
        if let Err(why) = ended {
            summary["error"] = json!({
                "type": "invalid_request", "code": "incomplete_body", "message": format!("the upload ended early: {why}"),
                "retryable": true,
            });
        }
        summary
    }
}

/// An answer that goes out line by line.
struct Streamed {
    results: Results<Outcome>,
    ending: Option<Ending>,
    summary: Summary,
    state: web::Data<State>,
    _upload: ActiveUpload,
}

impl Streamed {
    /// The next line, the summary last.
    async fn next(&mut self) -> Option<Result<Bytes, std::convert::Infallible>> {
        if let Some((line, outcome)) = self.results.next().await {
            self.state.counts.count(&outcome);
            self.summary.count(&outcome);
            return Some(Ok(as_line(&result_line(line, &outcome))));
        }
        let ended = self.ending.take()?.await.unwrap_or_else(|_| Err("the reader was stopped".to_owned()));
        Some(Ok(as_line(&self.summary.finish(&ended))))
    }
}

fn result_line(line: u64, outcome: &Outcome) -> Value {
    let good = |filed: &crate::outcome::Filed, status| {
        let tmd = filed.tagging.tmd;
        json!({
            "type": "result", "line": line, "id": filed.chunk.key.id, "cpe_id": filed.cpe_id,
            "status": status, "seq": filed.seq, "truncated": filed.truncated,
            "tmd": {"domain": tmd.domain(), "task": tmd.task(), "modifier": tmd.modifier(),
                    "source": filed.tagging.source.kind()},
        })
    };
    match outcome {
        Outcome::Stored(filed) => good(filed, "stored"),
        Outcome::Duplicate(filed) => good(filed, "duplicate"),
        Outcome::Rejected(rejection) => json!({
            "type": "result", "line": line, "status": "error", "error": rejection_object(rejection, Some(line)),
        }),
    }
}

fn as_line(value: &Value) -> Bytes {
    let mut line = value.to_string();
    line.push('\n');
    Bytes::from(line)
}

/// One JSON object after the body has ended.
async fn summarise(
    mut results: Results<Outcome>,
    ending: Ending,
    mut summary: Summary,
    state: &State,
) -> HttpResponse {
    while let Some((line, outcome)) = results.next().await {
        state.counts.count(&outcome);
        summary.count(&outcome);
        if let Outcome::Rejected(rejection) = &outcome
            && summary.errors.len() < LISTED_ERRORS
        {
            summary.errors.push(rejection_object(rejection, Some(line)));
        }
    }
    let ended = ending.await.unwrap_or_else(|_| Err("the reader was stopped".to_owned()));
    let mut body = summary.finish(&ended);
    let truncated = summary.tally.failed > summary.errors.len() as u64;
    body["errors"] = Value::Array(summary.errors);
    body["errors_truncated"] = json!(truncated);
    let status = if ended.is_ok() { StatusCode::OK } else { StatusCode::BAD_REQUEST };
    HttpResponse::build(status).json(body)
}
