//! What the handlers share, what was decided at the start, and how the server treats its clients.

use super::{Admission, BodyTimeouts, IdempotencyCache};
use crate::index::Index;
use crate::llm::Llm;
use crate::model::ModelIdentity;
use crate::pipeline::Pipeline;
use crate::search::Searcher;
use crate::store::Store;
use crate::vectorizer::Vectorizer;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What the handlers share.
pub struct State {
    /// The way in.
    pub pipeline: Arc<Pipeline>,
    /// The way back.
    pub searcher: Searcher,
    /// For those who want vectors and nothing else.
    pub vectorizer: Vectorizer,
    /// Asked whether it answers.
    pub store: Store,
    /// Asked how it is.
    pub index: Index,
    /// Asked how it is, where there is one.
    pub llm: Option<Llm>,
    /// What does not change while the service runs.
    pub info: ServiceInfo,
    /// Since the start.
    pub counts: Counts,
    /// Lets uploads in.
    pub admission: Admission,
    /// Of answers to requests with an `Idempotency-Key`.
    pub memory: IdempotencyCache,
}

/// What was decided at the start, for `/health` and the answers.
#[derive(Debug, Clone)]
pub struct ServiceInfo {
    /// The model of the store.
    pub model: ModelIdentity,
    /// What it runs on.
    pub device: String,
    /// What that was chosen from; empty where there is only one device.
    pub devices: Vec<MeasuredDevice>,
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

/// A device that was measured when the service started.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct MeasuredDevice {
    /// As `LNSP_DEVICE` names it.
    pub device: String,
    /// Short paragraphs in a second.
    pub texts_per_s: Option<f64>,
    /// Why it could not be taken.
    pub problem: Option<String>,
}

/// Chunks answered since the start, for `/stats`.
#[derive(Debug, Default)]
pub struct Counts {
    pub(super) stored: AtomicU64,
    duplicate: AtomicU64,
    failed: AtomicU64,
    pub(super) uploads: AtomicU64,
    issued: AtomicU64,
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

    /// A chunk or a line will be answered.
    pub fn issued(&self) {
        self.add(&self.issued);
    }

    /// Chunks and lines that are taken and not answered yet.
    pub fn unanswered(&self) -> u64 {
        let Tally { stored, duplicate, failed } = self.tally();
        self.issued.load(Ordering::Relaxed).saturating_sub(stored + duplicate + failed)
    }

    /// Counts an outcome, here and in the metrics.
    pub fn count(&self, outcome: &crate::outcome::Outcome) {
        use crate::outcome::Outcome;
        let (counter, result) = match outcome {
            Outcome::Stored(_) => (&self.stored, "stored"),
            Outcome::Duplicate(_) => (&self.duplicate, "duplicate"),
            Outcome::Rejected(rejection) => (&self.failed, rejection.code.as_str()),
        };
        self.add(counter);
        crate::metrics::ingested(result);
    }
}

/// How the server treats its clients. The framework's clock goes in steps of half a second: `head`, `keep_alive` and
/// `linger` are a second or more.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Requests in flight when the server is told to end in order get this long.
    pub drain: Duration,
    /// A client has this long for the first head on its connection.
    pub head: Duration,
    /// A connection may be idle between two requests for this long: longer than usual proxies keep theirs.
    pub keep_alive: Duration,
    /// What is asked of a client that sends a body.
    pub sending: BodyTimeouts,
    /// A client that asked for a stream of results may leave them unread this long.
    pub client_patience: Duration,
    /// After an answer to a request that was not read to its end the client has this long to see it.
    pub linger: Duration,
    /// A client that is silent and takes none of the bytes on their way to it is disconnected after this long. Longer
    /// than the patience, so that who reads again late finds out why the stream has ended.
    pub cut_after: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Settings {
            drain: seconds(30),
            head: seconds(5),
            keep_alive: seconds(75),
            sending: BodyTimeouts::default(),
            client_patience: seconds(30),
            linger: seconds(5),
            cut_after: seconds(90),
        }
    }
}
