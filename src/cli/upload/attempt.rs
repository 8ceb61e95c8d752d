//! One request to the service: the lines go out, their answers come back meanwhile.

use super::answer::{LineResult, ServerRefusal, UploadFailure, UploadResponse};
use super::sent_lines::SentLines;
use super::source::{LocalRefusal, PieceStream, UploadSource};
use crate::cli::sentence;
use crate::threads::lock;
use crate::wire::LineDecoder;
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// The service answers before it reads. One that does not, or something between that holds the answer back, gets the
/// body after this time all the same.
const ANSWER_FIRST: Duration = Duration::from_secs(2);
/// The interval of [`Listener::on_tick`] while no answers come.
const TICK: Duration = Duration::from_millis(250);

/// Where chunks go.
pub struct Target {
    /// Makes the requests.
    pub client: reqwest::Client,
    /// Of the service, without a slash at its end.
    pub url: String,
    /// Options of the upload, as parameters of its query: `dataset_source`, `on_conflict` and others.
    pub parameters: Vec<(&'static str, String)>,
}

/// Receives the results of an upload attempt.
pub trait Listener {
    /// A line is settled, or is to be sent again. `content` is the line, if lines are kept.
    fn on_result(&mut self, line: u64, result: Result<LineResult, UploadFailure>, content: Option<Bytes>);
    /// The source refuses a line.
    fn on_refused(&mut self, refused: LocalRefusal);
    /// The chunks of the upload have fields that are not known.
    fn on_unknown_fields(&mut self, counts: BTreeMap<String, u64>);
    /// Called after each piece of the answer, and every [`TICK`] while none comes.
    fn on_tick(&mut self);
}

/// How an attempt ended.
#[derive(Debug)]
pub enum End {
    /// With a summary of the whole upload.
    Complete,
    /// Too early; going on can help.
    Cut(String),
    /// Too early, and it would end there again.
    Partly(String),
    /// Before it began, by a service that has no room now.
    PutOff {
        /// What the service says.
        message: String,
        /// When it wants to be asked again.
        wait: Option<Duration>,
    },
    /// Before it began; the same request would be refused again.
    Refused {
        /// An HTTP status of 400 or more.
        status: u16,
        /// What the service says.
        message: String,
    },
    /// The service does not answer.
    Unreachable(reqwest::Error),
    /// The source of the lines failed. Those before have their results.
    InputSource(io::Error),
}

/// How far a source was read.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReadSoFar {
    /// The chunks found, those that the source refuses included.
    pub chunks: u64,
    /// See [`super::UploadPiece::position`].
    pub position: u64,
    /// Reading has begun.
    pub begun: bool,
    /// There are no further lines, and no error.
    pub ended: bool,
}

#[derive(Default)]
struct OutgoingState {
    read: ReadSoFar,
    failed: Option<io::Error>,
    refused: Vec<LocalRefusal>,
    /// The lines that were sent and have no result, if they are kept.
    kept: Option<BTreeMap<u64, Bytes>>,
}

/// The lines of an attempt on their way out, seen from outside.
#[derive(Clone, Default)]
pub struct Outgoing(Arc<Mutex<OutgoingState>>);

impl Outgoing {
    /// Nothing is sent yet. `keeps` the lines until they are answered; the service bounds how many these are, since it
    /// does not read more than it can hold.
    pub fn new(keeps: bool) -> Self {
        let state = OutgoingState { kept: keeps.then(BTreeMap::new), ..OutgoingState::default() };
        Outgoing(Arc::new(Mutex::new(state)))
    }

    /// How far the source was read.
    pub fn read(&self) -> ReadSoFar {
        lock(&self.0).read
    }

    fn take_line(&self, line: u64) -> Option<Bytes> {
        lock(&self.0).kept.as_mut()?.remove(&line)
    }

    fn take_refused(&self) -> Vec<LocalRefusal> {
        std::mem::take(&mut lock(&self.0).refused)
    }

    /// The lines of a source, from the moment the service has taken the request: what is refused is not even begun.
    fn body(
        &self,
        source: Arc<dyn UploadSource>,
        lines: SentLines,
        taken: CancellationToken,
    ) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        let seen = self.clone();
        let begin = async move {
            drop(timeout(ANSWER_FIRST, taken.cancelled()).await);
            lock(&seen.0).read.begun = true;
            let pieces = source.open();
            stream::unfold(OpenBody { pieces, lines, seen }, OpenBody::next)
        };
        stream::once(begin).flatten()
    }
}

/// A source that is being sent.
struct OpenBody {
    pieces: PieceStream,
    lines: SentLines,
    seen: Outgoing,
}

impl OpenBody {
    /// The next bytes to send. An error of the source ends the body in order, so that the lines before it get their
    /// answers.
    async fn next(mut self) -> Option<(io::Result<Bytes>, Self)> {
        loop {
            let piece = self.pieces.next().await;
            let mut state = lock(&self.seen.0);
            match piece {
                Some(Ok(mut piece)) => {
                    let passed = self.lines.pass(&piece, state.kept.as_mut());
                    state.read.chunks = passed.chunks;
                    state.read.position = piece.position;
                    state.refused.append(&mut piece.refused);
                    drop(state);
                    if !passed.bytes.is_empty() {
                        return Some((Ok(passed.bytes), self));
                    }
                }
                Some(Err(error)) => {
                    state.failed = Some(error);
                    return None;
                }
                None => {
                    state.read.ended = true;
                    return None;
                }
            }
        }
    }
}

impl Target {
    /// Sends the lines of `source` that `lines` passes on, and reads the answers. The attempt ends when none arrives
    /// for `silence`.
    pub async fn send(
        &self,
        source: Arc<dyn UploadSource>,
        lines: SentLines,
        outgoing: &Outgoing,
        silence: Option<Duration>,
        listener: &mut impl Listener,
    ) -> End {
        let taken = CancellationToken::new();
        let body = outgoing.body(source, lines, taken.clone());
        let request = self
            .client
            .post(format!("{}/ingest", self.url))
            .query(&self.parameters)
            .header("Content-Type", "application/x-ndjson")
            .header("Accept", "application/x-ndjson")
            .body(reqwest::Body::wrap_stream(body));
        let end = match within(silence, request.send()).await {
            None => End::Cut(silent(silence)),
            Some(Err(error)) if error.is_connect() => End::Unreachable(error),
            Some(Err(error)) => End::Cut(sentence(&error)),
            Some(Ok(response)) if response.status().is_success() => {
                taken.cancel();
                read_answer(response, silence, outgoing, listener).await
            }
            Some(Ok(response)) => refused(response).await,
        };
        outgoing.take_refused().into_iter().for_each(|refused| listener.on_refused(refused));
        listener.on_tick();
        match (end, lock(&outgoing.0).failed.take()) {
            (End::Complete, Some(error)) => End::InputSource(error),
            (end, _) => end,
        }
    }
}

async fn within<T>(limit: Option<Duration>, work: impl Future<Output = T>) -> Option<T> {
    match limit {
        Some(limit) => timeout(limit, work).await.ok(),
        None => Some(work.await),
    }
}

fn silent(silence: Option<Duration>) -> String {
    format!("the service said nothing for {} s", silence.unwrap_or_default().as_secs())
}

async fn refused(response: reqwest::Response) -> End {
    let status = response.status().as_u16();
    let wait =
        response.headers().get("Retry-After").and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let refusal: ServerRefusal = response.json().await.unwrap_or_default();
    let message = match refusal.error.message {
        message if message.is_empty() => format!("status {status}, without a reason"),
        message => message,
    };
    match status {
        408 | 429 | 503 => End::PutOff { message, wait: wait.map(Duration::from_secs) },
        500.. => End::Cut(message),
        _ => End::Refused { status, message },
    }
}

/// Reads results as they come; an answer without its summary is incomplete.
async fn read_answer(
    response: reqwest::Response,
    silence: Option<Duration>,
    outgoing: &Outgoing,
    listener: &mut impl Listener,
) -> End {
    let mut lines = LineDecoder::default();
    let mut body = response.bytes_stream();
    let mut last_received = Instant::now();
    loop {
        let piece = match timeout(TICK, body.next()).await {
            Ok(Some(Ok(piece))) => piece,
            Ok(Some(Err(error))) => return End::Cut(sentence(&error)),
            Ok(None) => return End::Cut("the connection ended before the summary".to_owned()),
            Err(_) if silence.is_some_and(|silence| last_received.elapsed() >= silence) => {
                return End::Cut(silent(silence));
            }
            Err(_) => {
                listener.on_tick();
                continue;
            }
        };
        last_received = Instant::now();
        lines.feed(&piece);
        while let Some((_, line)) = lines.next_line() {
            // A line of a kind this version does not know is passed over.
            match line.ok().and_then(|line| UploadResponse::read(&line)) {
                Some(UploadResponse::Result { line, result }) => {
                    listener.on_result(line, result, outgoing.take_line(line));
                }
                Some(UploadResponse::Summary { complete, error, unknown_fields }) => {
                    listener.on_unknown_fields(unknown_fields);
                    return if complete {
                        End::Complete
                    } else if error.retryable {
                        End::Cut(error.message)
                    } else {
                        End::Partly(error.message)
                    };
                }
                None => {}
            }
        }
        outgoing.take_refused().into_iter().for_each(|refused| listener.on_refused(refused));
        listener.on_tick();
    }
}
