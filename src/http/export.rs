//! `GET /export`: the stored chunks as NDJSON, in order, as lines that `POST /ingest` takes again.
//!
//! The lines are read and sent page by page, as the client takes them. A last line tells how many there were; without
//! it the stream is incomplete. The client keeps a database session open, so one that reads nothing, or too slowly, is
//! disconnected, and there are few permits.

use crate::chunk::{EncodingFormat, LineOptions};
use crate::error_code::ErrorCode;
use crate::http::body::UploadAbort;
use crate::http::error::{ApiError, no_answer};
use crate::http::limits::timeouts::SlowClientDetector;
use crate::http::limits::{AdmissionRequest, BodyTimeouts, Permit};
use crate::http::parameters;
use crate::http::request::run_blocking;
use crate::http::settings::Settings;
use crate::http::state::State;
use crate::output::throttled;
use crate::store::{ChunkExport, Selection};
use crate::wire::{Name, Truth};
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use futures_util::stream;
use serde::Deserialize;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

/// The bytes that are passed to the connection at a time.
const PIECE: usize = 64 * 1024;
/// The slowest client: less over a minute of waiting for it ends the export.
const BYTES_PER_SECOND: u64 = 16 * 1024;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireExport {
    dataset_source: Option<Name>,
    document_id: Option<Name>,
    vectors: Option<Truth>,
    encoding_format: Option<String>,
    row_fields: Option<Truth>,
}

/// Handles `GET /export`.
pub async fn export(
    request: HttpRequest,
    state: web::Data<State>,
    settings: web::Data<Settings>,
) -> Result<HttpResponse, ApiError> {
    let wire: WireExport = parameters::of_query(&request)?;
    let selection = Selection {
        dataset: parameters::optional_name("dataset_source", wire.dataset_source)?,
        document: parameters::optional_name("document_id", wire.document_id)?,
        ..Selection::default()
    };
    let encoding = match wire.encoding_format.as_deref() {
        None | Some("float") => EncodingFormat::Float,
        Some("base64") => EncodingFormat::Base64,
        Some(other) => {
            let received = parameters::quoted(other);
            let message = format!("encoding_format: expected float or base64, received '{received}'");
            return Err(ApiError::new(ErrorCode::InvalidQuery, message).param("encoding_format"));
        }
    };
    let is_set = |flag: Option<Truth>| flag.is_some_and(|Truth(set)| set);
    let with_vectors = is_set(wire.vectors);
    let permit = state.admit_standalone(AdmissionRequest::Export).await?;
    let export = state.store.export(&selection, with_vectors).await?;
    let vector_model = export.model().filter(|_| with_vectors).map(|identity| identity.fingerprint.clone());
    let options = LineOptions { encoding, vector_model, row_fields: is_set(wire.row_fields) };
    let timeouts = BodyTimeouts {
        silence: settings.read_timeout,
        bytes_per_second: BYTES_PER_SECOND,
        ..BodyTimeouts::default()
    };
    let (pieces, received) = mpsc::channel(1);
    let client = ClientStream { pieces, detector: SlowClientDetector::new(timeouts), bytes_waiting: 0 };
    // In its own task: the framework does not poll the stream of a connection that is not read.
    actix_web::rt::spawn(Lines { export, options, rows: 0 }.send(client, state, permit));
    let lines = stream::unfold(received, |mut received: mpsc::Receiver<Bytes>| async move {
        received.recv().await.map(|piece| (Ok::<_, Infallible>(piece), received))
    });
    Ok(HttpResponse::Ok().content_type("application/x-ndjson").streaming(lines))
}

/// Where the pieces go, and how long they waited for the client.
struct ClientStream {
    pieces: mpsc::Sender<Bytes>,
    detector: SlowClientDetector,
    bytes_waiting: usize,
}

/// Why an export ends before its last line.
enum ExportEnd {
    /// The client is gone: there is no one to tell.
    Disconnected,
    /// The reason, which the last line says.
    Failed(ApiError),
}

impl ClientStream {
    /// Waits until the client takes a piece.
    async fn send(&mut self, piece: Bytes) -> Result<(), ExportEnd> {
        let sent = piece.len();
        let place = loop {
            let began = Instant::now();
            match timeout(self.detector.step(), self.pieces.reserve()).await {
                Ok(Ok(place)) => {
                    waited(&mut self.detector, began.elapsed())?;
                    break place;
                }
                Ok(Err(_)) => return Err(ExportEnd::Disconnected),
                Err(_) => waited(&mut self.detector, began.elapsed())?,
            }
        };
        place.send(piece);
        // The piece before this one is taken now.
        self.detector.received(std::mem::replace(&mut self.bytes_waiting, sent));
        Ok(())
    }
}

/// Counts time of waiting for the client.
fn waited(detector: &mut SlowClientDetector, time: Duration) -> Result<(), ExportEnd> {
    detector.waited(time).map_err(|abort| {
        let message = match abort {
            UploadAbort::ClientTooSlow(rate) => {
                format!("the client reads less than {rate} bytes a second; export a dataset at a time")
            }
            _ => "the client does not read; export again, and read while the lines come".to_owned(),
        };
        ExportEnd::Failed(ApiError::new(ErrorCode::ClientNotReading, message))
    })
}

/// The lines of an export.
struct Lines {
    export: ChunkExport,
    options: LineOptions,
    rows: u64,
}

impl Lines {
    /// Sends all lines, and a last one that says how it ended.
    async fn send(mut self, mut client: ClientStream, state: web::Data<State>, permit: Permit) {
        let closed = state.pipeline.entrance().closed();
        let ended = tokio::select! {
            biased;
            () = closed.cancelled() => Err(ExportEnd::Failed(state.draining())),
            ended = self.pump(&mut client) => ended,
        };
        let mut summary = json!({ "type": "summary", "rows": self.rows, "complete": ended.is_ok() });
        if let Some(model) = &self.options.vector_model {
            summary["vector_model"] = json!(model);
        }
        match ended {
            Ok(()) => {}
            Err(ExportEnd::Disconnected) => return,
            Err(ExportEnd::Failed(error)) => {
                throttled!(warn, rows = self.rows, reason = error.message(), "an export was not completed");
                summary["error"] = error.object();
            }
        }
        // The session ends before the last line is told.
        self.export.close().await;
        drop(permit);
        // A client that does not read may not take this line either: then its connection ends without it.
        drop(timeout(Duration::from_secs(1), client.pieces.send(as_line(&summary))).await);
    }

    async fn pump(&mut self, client: &mut ClientStream) -> Result<(), ExportEnd> {
        let mut text = Vec::new();
        while let Some(rows) = self.export.next_page().await.map_err(failed)? {
            self.rows += rows.len() as u64;
            let options = self.options.clone();
            let write = move || {
                for row in &rows {
                    row.write_line(&options, &mut text)?;
                }
                Ok::<_, serde_json::Error>(text)
            };
            let written = run_blocking(true, write).await.map_err(ExportEnd::Failed)?;
            let mut written = Bytes::from(written.map_err(|_| ExportEnd::Failed(no_answer()))?);
            while !written.is_empty() {
                client.send(written.split_to(written.len().min(PIECE))).await?;
            }
            text = Vec::new();
        }
        Ok(())
    }
}

fn failed(error: crate::store::StoreError) -> ExportEnd {
    ExportEnd::Failed(error.into())
}

fn as_line(value: &Value) -> Bytes {
    let mut line = value.to_string();
    line.push('\n');
    Bytes::from(line)
}
