//! The HTTP face: ingest (JSON and NDJSON), search, and the state of the service.
//!
//! Knows the entrance, the search, receipts and chunks; not the stages behind them. Every error goes through the
//! one table in [`error`].

mod error;
mod ingest;
mod json;
mod lines;
mod ndjson;
mod ops;
mod request_id;
mod search;
mod wire;

pub use error::ApiError;
pub use lines::{LineError, Lines};

use crate::index::Index;
use crate::llm::Llm;
use crate::model::ModelIdentity;
use crate::pipeline::Pipeline;
use crate::search::Search;
use crate::store::Store;
use actix_web::dev::Server;
use actix_web::middleware::from_fn;
use actix_web::{HttpServer, web};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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

/// A server on `listener`. It ends by its handle; requests in flight then get `drain_s` seconds.
///
/// # Errors
/// The operating system's, for the listener.
pub fn serve(listener: TcpListener, state: web::Data<State>, drain_s: u64) -> std::io::Result<Server> {
    let server = HttpServer::new(move || actix_web::App::new().app_data(state.clone()).configure(routes));
    Ok(server.disable_signals().shutdown_timeout(drain_s).listen(listener)?.run())
}

fn routes(config: &mut web::ServiceConfig) {
    config.service(
        web::scope("")
            .wrap(from_fn(request_id::stamp))
            .route("/", web::get().to(ops::about))
            .route("/ingest", web::post().to(ingest::ingest))
            .route("/search", web::post().to(search::search))
            .route("/health", web::get().to(ops::health))
            .route("/ready", web::get().to(ops::ready))
            .route("/stats", web::get().to(ops::stats))
            .route("/metrics", web::get().to(ops::metrics))
            .default_service(web::to(ops::not_found)),
    );
}
