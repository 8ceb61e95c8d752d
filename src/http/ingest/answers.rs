//! The answer to an NDJSON upload: a line for each settled chunk while the upload is open, or one summary.
//!
//! Outcomes are received as they are settled, so that their texts do not accumulate; only short lines of text wait for
//! the client. Above [`UNSENT_BYTES`] the upload is not read until the client has read. When the client reads nothing
//! for a while, the answer ends with [`UploadAbort::ClientNotReading`].

use crate::flow::ReceiptStream;
use crate::http::body::UploadAbort;
use crate::http::error::rejection_object;
use crate::http::ingest::notes::UploadNotes;
use crate::http::ingest::results::{add_notes, timestamp};
use crate::http::ingest::upload::ActiveUpload;
use crate::http::state::{State, Tally};
use crate::metrics;
use crate::outcome::{Outcome, StoredChunk};
use crate::tmd::Axis;
use actix_web::http::{StatusCode, header};
use actix_web::{HttpResponse, web};
use bytes::Bytes;
use futures_util::{Stream, stream};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// The result bytes waiting for the client above which its upload is not read. Chunks that are already accepted can add
/// to them.
pub const UNSENT_BYTES: usize = 4 * 1024 * 1024;
/// The maximum bytes passed to the connection at a time.
const PIECE: usize = 16 * 1024;
/// The maximum number of errors that a summary lists; the others are counted.
const LISTED_ERRORS: usize = 1000;

/// The end of reading a body.
pub struct UploadEnd {
    /// Why it was not read to its end, if it was not.
    pub result: Result<(), UploadAbort>,
    /// What there is to say about the fields of its chunks.
    pub notes: UploadNotes,
}

/// Receives the end of reading the body.
pub type Ending = oneshot::Receiver<UploadEnd>;

/// The answer to one upload.
pub struct Answers {
    results: ReceiptStream<Outcome>,
    ending: Ending,
    state: web::Data<State>,
    started: Instant,
    tally: Tally,
    _upload: Rc<ActiveUpload>,
}

/// Signals from the answer to the reader.
pub struct Signals {
    /// `false` while too many result bytes wait for the client.
    pub room: watch::Sender<bool>,
    /// Cancelled when the client reads no further answers: the upload ends.
    pub over: CancellationToken,
}

impl Answers {
    /// The answer to the upload whose receipts settle into `results`.
    pub fn new(
        results: ReceiptStream<Outcome>,
        ending: Ending,
        state: web::Data<State>,
        upload: Rc<ActiveUpload>,
    ) -> Self {
        let tally = Tally::default();
        Answers { results, ending, state, started: Instant::now(), tally, _upload: upload }
    }

    /// The answer as lines. `read_timeout` is the time that a client may read nothing while results wait for it.
    pub fn stream(
        self,
        signals: Signals,
        read_timeout: Duration,
    ) -> impl Stream<Item = Result<Bytes, Infallible>> + use<> {
        let (pieces, receiver) = mpsc::channel(1);
        let (finish, last) = oneshot::channel();
        let gone = signals.over.clone().drop_guard();
        // In its own task: the framework does not poll the stream of a connection that is not read.
        actix_web::rt::spawn(async move {
            let summary = self.pump(pieces, &signals, read_timeout).await;
            // After a disconnect the receiver is gone.
            drop(finish.send(as_line(&summary)));
        });
        // The summary has its own channel: it does not wait for pieces that the client does not read.
        stream::unfold((receiver, Some(last), gone), |(mut pieces, last, gone)| async move {
            if let Some(piece) = pieces.recv().await {
                return Some((Ok(piece), (pieces, last, gone)));
            }
            let last = last?.await.ok()?;
            Some((Ok(last), (pieces, None, gone)))
        })
    }

    /// Turns outcomes into lines and sends them; returns the summary when all chunks are answered.
    async fn pump(mut self, pieces: mpsc::Sender<Bytes>, signals: &Signals, read_timeout: Duration) -> Value {
        let mut unsent = Unsent::default();
        let mut moved = Instant::now();
        let mut abort = None;
        let mut settling = true;
        while settling || unsent.bytes > 0 {
            let listening = !signals.over.is_cancelled();
            tokio::select! {
                outcome = self.results.next(), if settling => match outcome {
                    Some((line, outcome)) => {
                        self.count(&outcome);
                        if listening {
                            if unsent.bytes == 0 {
                                moved = Instant::now();
                            }
                            unsent.push(&as_line(&result_line(line, &outcome)));
                        }
                    }
                    None => settling = false,
                },
                place = pieces.reserve(), if unsent.bytes > 0 => match (place, unsent.pop()) {
                    (Ok(place), Some(piece)) => {
                        place.send(piece);
                        moved = Instant::now();
                    }
                    _ => signals.over.cancel(),
                },
                () = sleep_until(moved + read_timeout), if unsent.bytes > 0 => {
                    abort = Some(UploadAbort::ClientNotReading(read_timeout));
                    signals.over.cancel();
                }
                () = signals.over.cancelled(), if listening => {}
            }
            if signals.over.is_cancelled() {
                unsent = Unsent::default();
            }
            let room = unsent.bytes < UNSENT_BYTES;
            signals.room.send_if_modified(|before| std::mem::replace(before, room) != room);
        }
        let mut ended = self.ended().await;
        if let Some(abort) = abort {
            ended.result = Err(abort);
        }
        self.summary(&ended)
    }

    /// The answer as one JSON object, after the end of the body.
    pub async fn summarise(mut self) -> HttpResponse {
        let mut errors = Vec::new();
        while let Some((line, outcome)) = self.results.next().await {
            self.count(&outcome);
            if let Outcome::Rejected(rejection) = &outcome
                && errors.len() < LISTED_ERRORS
            {
                errors.push(rejection_object(rejection, Some(line)));
            }
        }
        let ended = self.ended().await;
        let mut body = self.summary(&ended);
        body["errors_truncated"] = json!(self.tally.failed > errors.len() as u64);
        body["errors"] = Value::Array(errors);
        let status = ended.result.as_ref().map_or_else(UploadAbort::status, |()| StatusCode::OK);
        let mut response = HttpResponse::build(status);
        if ended.result == Err(UploadAbort::Draining) {
            response.insert_header((header::RETRY_AFTER, self.state.retry_after().to_string()));
        }
        response.json(body)
    }

    async fn ended(&mut self) -> UploadEnd {
        let ended = (&mut self.ending).await;
        ended.unwrap_or_else(|_| {
            let result = Err(UploadAbort::Incomplete("the service stopped reading it".to_owned()));
            UploadEnd { result, notes: UploadNotes::default() }
        })
    }

    fn count(&mut self, outcome: &Outcome) {
        self.state.counts.count(outcome);
        match outcome {
            Outcome::Stored(_) => self.tally.stored += 1,
            Outcome::Replaced(_) => self.tally.replaced += 1,
            Outcome::Duplicate(_) => self.tally.duplicate += 1,
            Outcome::Rejected(_) => self.tally.failed += 1,
        }
    }

    fn summary(&self, ended: &UploadEnd) -> Value {
        let Tally { stored, replaced, duplicate, failed } = self.tally;
        let mut summary = json!({
            "type": "summary", "total_chunks": self.tally.total(), "successful": self.tally.successful(),
            "stored": stored, "replaced": replaced, "duplicates": duplicate, "failed": failed, "errors": failed > 0,
            "complete": ended.result.is_ok(), "processing_time_ms": self.started.elapsed().as_millis() as u64,
        });
        ended.notes.write(&mut summary);
        if let Err(abort) = &ended.result {
            metrics::upload_cut(abort.code().as_str());
            summary["error"] = abort.object();
        }
        summary
    }
}

/// Lines that wait for the client, in pieces; all but the last are full.
#[derive(Default)]
struct Unsent {
    full: VecDeque<Vec<u8>>,
    last: Vec<u8>,
    bytes: usize,
}

impl Unsent {
    fn push(&mut self, line: &[u8]) {
        self.bytes += line.len();
        self.last.extend_from_slice(line);
        if self.last.len() >= PIECE {
            self.full.push_back(std::mem::take(&mut self.last));
        }
    }

    fn pop(&mut self) -> Option<Bytes> {
        let piece = self.full.pop_front().unwrap_or_else(|| std::mem::take(&mut self.last));
        self.bytes -= piece.len();
        if piece.is_empty() { None } else { Some(Bytes::from(piece)) }
    }
}

fn result_line(line: u64, outcome: &Outcome) -> Value {
    let good = |stored: &StoredChunk, status| {
        let code = |axis| stored.row.tagging.tmd.map(|tmd| tmd.code(axis));
        let mut result = json!({
            "type": "result", "line": line, "id": stored.chunk.key.id, "cpe_id": stored.row.cpe_id,
            "status": status, "seq": stored.row.seq, "truncated": stored.row.truncated,
            "created_at": timestamp(stored.row.created_at),
            "tmd": {"domain": code(Axis::Domain), "task": code(Axis::Task), "modifier": code(Axis::Modifier),
                    "source": stored.row.tagging.source.kind()},
        });
        add_notes(&mut result, stored);
        result
    };
    match outcome {
        Outcome::Stored(stored) => good(stored, "stored"),
        Outcome::Replaced(stored) => good(stored, "replaced"),
        Outcome::Duplicate(stored) => good(stored, "duplicate"),
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
