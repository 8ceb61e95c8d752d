//! One request to the service: the lines go out, their answers come back meanwhile.

use super::answer::{ServerRefusal, UploadFailure, UploadResponse};
use super::ledger::{LineResult, line_result};
use super::source::LineSource;
use crate::threads::lock;
use crate::wire::{ContentEncoding, LineDecoder};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
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
    /// The dataset they belong to.
    pub dataset: String,
    /// What happens to chunks whose ids are stored with other content.
    pub on_conflict: String,
}

/// Receives the results of an upload attempt.
pub trait Listener {
    /// A line is settled, or is to be sent again.
    fn on_result(&mut self, line: u64, result: Result<LineResult, UploadFailure>);
    /// The chunks of the upload have fields that are not known.
    fn on_unknown_fields(&mut self, counts: &BTreeMap<String, u64>);
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
    /// The source of the lines failed.
    InputSource(io::Error),
}

/// A source on its way out.
pub struct UploadBody {
    source: LineSource,
    encoding: ContentEncoding,
    monitor: Arc<SourceMonitor>,
}

/// What is known of a source from outside, while and after it is read.
#[derive(Default)]
pub struct SourceMonitor {
    begun: AtomicBool,
    failed: Mutex<Option<io::Error>>,
}

impl SourceMonitor {
    /// Whether reading has begun.
    pub fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    fn take_error(&self) -> Option<io::Error> {
        lock(&self.failed).take()
    }
}

impl UploadBody {
    /// These bytes, in this encoding.
    pub fn new(source: LineSource, encoding: ContentEncoding) -> Self {
        UploadBody { source, encoding, monitor: Arc::default() }
    }

    /// See [`SourceMonitor`].
    pub fn monitor(&self) -> Arc<SourceMonitor> {
        self.monitor.clone()
    }

    /// Its pieces, from the moment the service has taken the request: what is refused is not even begun.
    fn pieces(self, taken: CancellationToken) -> impl Stream<Item = io::Result<Bytes>> + Send {
        let monitor = self.monitor;
        let errors = monitor.clone();
        let begin = async move {
            drop(timeout(ANSWER_FIRST, taken.cancelled()).await);
            monitor.begun.store(true, Ordering::Relaxed);
            self.source.pieces()
        };
        futures_util::stream::once(begin).flatten().inspect_err(move |error| {
            let copy = io::Error::new(error.kind(), error.to_string());
            *lock(&errors.failed) = Some(copy);
        })
    }
}

impl Target {
    /// The database behind the service, if it says.
    ///
    /// # Errors
    /// The service does not answer.
    pub async fn store(&self) -> Result<Option<String>, reqwest::Error> {
        #[derive(Default, Deserialize)]
        struct Stats {
            store: Option<String>,
        }
        let response = self.client.get(format!("{}/stats", self.url)).send().await?;
        Ok(response.json::<Stats>().await.unwrap_or_default().store)
    }

    /// Sends `body` and reads the answers. The attempt ends when none arrives for `silence`.
    pub async fn send(
        &self,
        body: UploadBody,
        silence: Option<Duration>,
        listener: &mut impl Listener,
    ) -> End {
        let (encoding, monitor, taken) = (body.encoding, body.monitor(), CancellationToken::new());
        let request = self
            .client
            .post(format!("{}/ingest", self.url))
            .query(&[("dataset_source", &self.dataset), ("on_conflict", &self.on_conflict)])
            .header("Content-Type", "application/x-ndjson")
            .header("Content-Encoding", encoding.name())
            .header("Accept", "application/x-ndjson")
            .body(reqwest::Body::wrap_stream(body.pieces(taken.clone())));
        let end = match within(silence, request.send()).await {
            None => End::Cut(silent(silence)),
            Some(Err(error)) if error.is_connect() => End::Unreachable(error),
            Some(Err(error)) => End::Cut(super::super::sentence(&error)),
            Some(Ok(response)) if response.status().is_success() => {
                taken.cancel();
                read_answer(response, silence, listener).await
            }
            Some(Ok(response)) => refused(response).await,
        };
        monitor.take_error().map_or(end, End::InputSource)
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
    listener: &mut impl Listener,
) -> End {
    let mut lines = LineDecoder::default();
    let mut body = response.bytes_stream();
    let mut last_received = Instant::now();
    loop {
        let piece = match timeout(TICK, body.next()).await {
            Ok(Some(Ok(piece))) => piece,
            Ok(Some(Err(error))) => return End::Cut(super::super::sentence(&error)),
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
            let answer = line.ok().and_then(|line| serde_json::from_slice(&line).ok());
            match answer {
                Some(UploadResponse::Result { line, status, error }) => {
                    listener.on_result(line, line_result(&status, error));
                }
                Some(UploadResponse::Summary { complete, error, unknown_fields }) => {
                    if !unknown_fields.is_empty() {
                        listener.on_unknown_fields(&unknown_fields);
                    }
                    let error = error.unwrap_or_default();
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
        listener.on_tick();
    }
}
