//! `POST /ingest` as NDJSON: a chunk a line, a body of any length.
//!
//! A reader task splits lines and admits them in groups. While the entrance waits for room, the socket is not read:
//! that is the backpressure. With `Accept: application/x-ndjson` each result is sent when it is settled, while the
//! upload is still open, and a summary ends the answer. Otherwise the summary is the answer.

use crate::error_code::ErrorCode;
use crate::flow::{ReceiptIssuer, receipt_channel};
use crate::http::body::{Body, UploadAbort};
use crate::http::error::ApiError;
use crate::http::ingest::answers::{Answers, Signals, UploadEnd};
use crate::http::ingest::notes::UploadNotes;
use crate::http::ingest::upload::{ActiveUpload, GROUP, ReadChunk, arrive};
use crate::http::parameters;
use crate::http::request::{header_text, is_large, rejection_error, run_blocking};
use crate::http::state::State;
use crate::outcome::Outcome;
use crate::pipeline::Receipt;
use crate::rejection::Rejection;
use crate::wire::{BodyStart, LineDecoder, LineError, OptionFields, SharedNames, WireChunk};
use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

/// Starts the reader and answers in the mode that the client accepts. `read_timeout` is the time that a client may
/// leave streamed results unread.
pub async fn ingest(
    request: &HttpRequest,
    body: Body,
    state: web::Data<State>,
    upload: ActiveUpload,
    read_timeout: Duration,
) -> Result<HttpResponse, ApiError> {
    let options: OptionFields = parameters::of_query(request)?;
    let names =
        options.complete(state.info.labels).names(state.info.model.clone()).map_err(rejection_error)?;
    // Room for all chunks that the pipeline can hold and for the group on its way in, so that the pipeline is the bound.
    let (issuer, results) = receipt_channel(state.pipeline.capacity() + GROUP);
    let (ended, ending) = oneshot::channel();
    let (room, has_room) = watch::channel(true);
    let over = CancellationToken::new();
    let upload = Rc::new(upload);
    let reader = Reader {
        state: state.clone(),
        names,
        notes: UploadNotes::default(),
        issuer,
        has_room,
        over: over.clone(),
        _upload: upload.clone(),
    };
    // In its own task: actix drops the handler when the client disconnects, and accepted chunks are still committed.
    actix_web::rt::spawn(async move {
        // After a disconnect the receiver is gone.
        drop(ended.send(reader.run(body).await));
    });
    let answers = Answers::new(results, ending, state, upload);
    let accept = header_text(request.headers(), &header::ACCEPT).unwrap_or_default();
    if accept.contains("ndjson") || accept.contains("jsonl") {
        let lines = answers.stream(Signals { room, over }, read_timeout);
        return Ok(HttpResponse::Ok().content_type("application/x-ndjson").streaming(lines));
    }
    let _gone = over.drop_guard();
    let summary = actix_web::rt::spawn(answers.summarise()).await;
    summary.map_err(|_| {
        let message = "the answer could not be made; send the upload again";
        ApiError::new(ErrorCode::Internal, message)
    })
}

/// A line with its number.
type Line = (u64, Result<Bytes, LineError>);

/// Brings the lines of one upload to the entrance.
struct Reader {
    state: web::Data<State>,
    names: SharedNames,
    notes: UploadNotes,
    issuer: ReceiptIssuer<Outcome>,
    has_room: watch::Receiver<bool>,
    over: CancellationToken,
    _upload: Rc<ActiveUpload>,
}

impl Reader {
    /// Reads the body, and tells what the summary says about it.
    async fn run(mut self, body: Body) -> UploadEnd {
        let result = self.read(body).await;
        UploadEnd { result, notes: self.notes }
    }

    /// Reads the body to its end, or to that of the service.
    async fn read(&mut self, mut body: Body) -> Result<(), UploadAbort> {
        let mut lines = LineDecoder::default();
        let mut start = BodyStart::default();
        let (over, state) = (self.over.clone(), self.state.clone());
        let closed = state.pipeline.entrance().closed();
        loop {
            let piece = tokio::select! {
                biased;
                () = over.cancelled() => return Err(gone()),
                () = closed.cancelled() => return self.end(UploadAbort::Draining, || lines.next_line()).await,
                piece = body.next(|| self.issuer.owes()) => piece?,
            };
            let Some(piece) = piece else { break };
            start.feed(piece, &mut lines)?;
            if let Err(abort) = self.take(|| lines.next_line()).await {
                return self.end(abort, || lines.next_line()).await;
            }
        }
        start.finish(&mut lines)?;
        // An aborted body has no last line: the rest is a fragment.
        let mut rest = || lines.next_line().or_else(|| lines.last_line());
        match self.take(&mut rest).await {
            Ok(()) => Ok(()),
            Err(abort) => self.end(abort, rest).await,
        }
    }

    /// Nothing more is read. When that is because the service goes down, the lines that are here as a whole are told.
    async fn end(
        &self,
        abort: UploadAbort,
        mut next: impl FnMut() -> Option<Line>,
    ) -> Result<(), UploadAbort> {
        while abort == UploadAbort::Draining
            && let Some((number, _)) = next()
        {
            let Some(receipt) = self.issue(number).await else { return Err(gone()) };
            let message = "the service is going down; send it again";
            receipt.settle(Outcome::Rejected(Rejection::new(ErrorCode::Draining, message)));
        }
        Err(abort)
    }

    async fn issue(&self, number: u64) -> Option<Receipt> {
        let receipt = self.issuer.issue(number).await?;
        self.state.counts.issued();
        Some(receipt)
    }

    /// Takes lines until there is none, in groups.
    async fn take(&mut self, mut next: impl FnMut() -> Option<Line>) -> Result<(), UploadAbort> {
        let (over, state) = (self.over.clone(), self.state.clone());
        let closed = state.pipeline.entrance().closed();
        loop {
            tokio::select! {
                biased;
                () = over.cancelled() => return Err(gone()),
                () = closed.cancelled() => return Err(UploadAbort::Draining),
                _ = self.has_room.wait_for(|room| *room) => {}
            }
            let mut group = Vec::new();
            let mut taken = 0;
            while taken < GROUP
                && let Some((number, line)) = next()
            {
                taken += 1;
                let Some(receipt) = self.issue(number).await else { return Err(gone()) };
                let read = self.read_line(line).await;
                self.notes.add(&read.kept, read.has_other_vector());
                group.extend(arrive(read.chunk, receipt));
            }
            if !group.is_empty() {
                self.state.pipeline.entrance().admit(group).await;
            }
            if taken < GROUP {
                return Ok(());
            }
        }
    }

    async fn read_line(&self, line: Result<Bytes, LineError>) -> ReadChunk {
        let line = match line {
            Ok(line) => line,
            Err(error) => {
                return ReadChunk::rejected(Rejection::new(ErrorCode::LineTooLong, error.to_string()));
            }
        };
        let (large, names, received_at) = (is_large(&line), self.names.clone(), self.state.arrivals.next());
        let read =
            run_blocking(large, move || ReadChunk::new(WireChunk::read(&line), &names, received_at)).await;
        read.unwrap_or_else(|error| ReadChunk::rejected(Rejection::new(ErrorCode::Lost, error.to_string())))
    }
}

fn gone() -> UploadAbort {
    UploadAbort::Incomplete("nobody reads the answer".to_owned())
}
