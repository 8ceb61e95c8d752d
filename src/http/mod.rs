//! The HTTP face: ingest (JSON and NDJSON), search, and the state of the service.
//!
//! Knows the entrance, the search, receipts and chunks; not the stages behind them. Every error goes through the
//! one table in [`error`].

mod answers;
mod body;
mod cut;
mod dead_letters;
mod error;
mod inflate;
mod ingest;
mod json;
mod lines;
mod metadata;
mod ndjson;
mod ops;
mod request_id;
mod scan;
mod search;
mod wire;

pub use cut::Cut;
pub use error::ApiError;
pub use inflate::{Encoding, Inflate, InflateError};
pub use lines::{LineError, Lines, MAX_LINE_BYTES};
pub use wire::{IngestRequest, ShapeError, WireChunk, read as read_chunk, read_request};

use crate::index::Index;
use crate::llm::Llm;
use crate::model::ModelIdentity;
use crate::pipeline::Pipeline;
use crate::search::Search;
use crate::store::Store;
use actix_web::dev::Server;
use actix_web::middleware::from_fn;
use actix_web::{HttpServer, web};
use std::any::Any;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What the handlers share.
pub struct State {
    /// The way in.
    pub pipeline: Arc<Pipeline>,
    /// The way back.
    pub search: Search,
    /// Asked whether it answers.
    pub store: Store,
    /// Asked how it is.
    pub index: Index,
    /// Asked how it is, where there is one.
    pub llm: Option<Llm>,
    /// What does not change while the service runs.
    pub facts: Facts,
    /// Since the start.
    pub counts: Counts,
}

/// What was decided at the start, for `/health` and the answers.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The model of the store.
    pub model: ModelIdentity,
    /// What it runs on.
    pub device: String,
    /// In which number format.
    pub dtype: String,
    /// Forward passes at once.
    pub encoders: usize,
    /// What a forward pass may hold, padding included.
    pub pass_tokens: usize,
    /// Texts that a forward pass may hold.
    pub pass_texts: usize,
    /// The setting of that name.
    pub tmd_backend: String,
    /// Who gives the codes, with its version.
    pub tmd_source: String,
    /// Where a language model was looked for; absent when none was wanted.
    pub llm_endpoint: Option<String>,
    /// Why the language model was not what it should be when the service started.
    pub llm_problem: Option<String>,
    /// Chunks are rejected when the language model has no answer.
    pub llm_required: bool,
    /// The setting of that name.
    pub parallel: bool,
    /// The setting of that name.
    pub max_workers: usize,
    /// The setting of that name.
    pub batch_embeddings: bool,
}

/// Chunks answered since the start, for `/stats`.
#[derive(Debug, Default)]
pub struct Counts {
    stored: AtomicU64,
    duplicate: AtomicU64,
    failed: AtomicU64,
    uploads: AtomicU64,
}

/// What [`Counts`] counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Committed.
    pub stored: u64,
    /// Known before.
    pub duplicate: u64,
    /// Rejected.
    pub failed: u64,
}

impl Counts {
    fn add(&self, counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// The numbers now.
    pub fn tally(&self) -> Tally {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Tally { stored: read(&self.stored), duplicate: read(&self.duplicate), failed: read(&self.failed) }
    }

    /// Uploads that are being read or answered now.
    pub fn active_uploads(&self) -> u64 {
        self.uploads.load(Ordering::Relaxed)
    }

    /// Counts an outcome, here and in the metrics.
    pub fn count(&self, outcome: &crate::outcome::Outcome) {
        use crate::outcome::Outcome;
        let (counter, result) = match outcome {
            Outcome::Stored(_) => (&self.stored, "stored"),
            Outcome::Duplicate(_) => (&self.duplicate, "duplicate"),
            Outcome::Rejected(rejection) => (&self.failed, rejection.cause.code()),
        };
        self.add(counter);
        crate::metrics::ingested(result);
    }
}

/// How the server treats its clients.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Requests in flight when the server is told to end get this long.
    pub drain: Duration,
    /// A client that asked for a stream of results may leave them unread this long.
    pub client_patience: Duration,
    /// A client that is silent and takes none of the bytes on their way to it is disconnected after this long. Longer
    /// than the patience, so that who reads again late finds out why the stream has ended.
    pub cut_after: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            drain: Duration::from_secs(30),
            client_patience: Duration::from_secs(30),
            cut_after: Duration::from_secs(90),
        }
    }
}

/// A server on `listener`. It ends by its handle.
///
/// # Errors
/// The operating system's, for the listener.
pub fn serve(listener: TcpListener, state: web::Data<State>, settings: Settings) -> std::io::Result<Server> {
    let (drain_s, cut_after) = (settings.drain.as_secs(), settings.cut_after);
    let settings = web::Data::new(settings);
    let app =
        move || actix_web::App::new().app_data(state.clone()).app_data(settings.clone()).configure(routes);
    let server = HttpServer::new(app).on_connect(move |connection, _| limit_unread(connection, cut_after));
    Ok(server.disable_signals().shutdown_timeout(drain_s).listen(listener)?.run())
}

/// The framework waits for ever for a client that takes nothing, so the kernel is told to give it up.
#[cfg(target_os = "linux")]
fn limit_unread(connection: &dyn Any, limit: Duration) {
    use nix::sys::socket::{setsockopt, sockopt::TcpUserTimeout};
    let Some(socket) = connection.downcast_ref::<actix_web::rt::net::TcpStream>() else { return };
    let limit = u32::try_from(limit.as_millis()).unwrap_or(u32::MAX);
    if let Err(error) = setsockopt(socket, TcpUserTimeout, &limit) {
        tracing::warn!("a connection has no limit for clients that do not read: {error}");
    }
}

/// Other systems have no such limit; the upload itself ends there too, only its connection stays.
#[cfg(not(target_os = "linux"))]
fn limit_unread(_: &dyn Any, _: Duration) {}

fn routes(config: &mut web::ServiceConfig) {
    config.service(
        web::scope("")
            .wrap(from_fn(request_id::stamp))
            .route("/", web::get().to(ops::about))
            .route("/ingest", web::post().to(ingest::ingest))
            .route("/search", web::post().to(search::search))
            .route("/dead-letters", web::get().to(dead_letters::dead_letters))
            .route("/health", web::get().to(ops::health))
            .route("/ready", web::get().to(ops::ready))
            .route("/stats", web::get().to(ops::stats))
            .route("/metrics", web::get().to(ops::metrics))
            .default_service(web::to(ops::not_found)),
    );
}
