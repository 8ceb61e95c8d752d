//! The state that all handlers share.

use crate::access::AccessCounter;
use crate::backfill::{Extractor, Retagger};
use crate::deletion::Deleter;
use crate::http::error::ApiError;
use crate::http::held::HeldCache;
use crate::http::info::ServiceInfo;
use crate::http::ingest::{ArrivalClock, DocumentTurns, IdempotencyCache};
use crate::http::limits::{Admission, AdmissionRequest, Permit, Refusal};
use crate::http::model_switch::ModelSwitch;
use crate::index::{Index, Indexes};
use crate::llm::Llm;
use crate::metrics;
use crate::outcome::Outcome;
use crate::pipeline::{Pipeline, Tagger};
use crate::router::{LaneServers, TmdRouter};
use crate::search::Searcher;
use crate::store::Store;
use crate::vectorizer::Vectorizer;
use chrono::Utc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The state that all handlers share.
pub struct State {
    /// Takes chunks in.
    pub pipeline: Arc<Pipeline>,
    /// Answers searches.
    pub searcher: Searcher,
    /// Makes the vectors of `/embed`.
    pub vectorizer: Vectorizer,
    /// Gives codes to texts that are not stored.
    pub tagger: Tagger,
    /// The TMD routers, where they give the codes.
    pub router: Option<TmdRouter>,
    /// The lanes of the old router.
    pub lanes: LaneServers,
    /// The database of the service.
    pub store: Store,
    /// The index of concept vectors.
    pub index: Index,
    /// The index of question vectors.
    pub questions: Index,
    /// Deletes chunks from store and indexes.
    pub deleter: Deleter,
    /// Counts the chunks that are read and found, unless that is switched off.
    pub accesses: Option<AccessCounter>,
    /// Gives stored chunks codes of the language model, where one is used.
    pub retagger: Option<Retagger>,
    /// Gives stored chunks CPESH parts.
    pub extractor: Extractor,
    /// The language model, where one is used.
    pub llm: Option<Llm>,
    /// What does not change while the service runs.
    pub info: ServiceInfo,
    /// Counts since the start.
    pub counts: Counts,
    /// What is held, for `/stats`.
    pub held: HeldCache,
    /// Admits requests with a body.
    pub admission: Admission,
    /// Answers to requests with an `Idempotency-Key`.
    pub idempotency: IdempotencyCache,
    /// The time of each chunk.
    pub arrivals: ArrivalClock,
    /// One at a time replaces or deletes a document.
    pub document_turns: DocumentTurns,
    /// Whether another embedding model was put to use.
    pub model_switch: ModelSwitch,
}

impl State {
    /// What gives the codes at the moment, for example `llm:llama3.1:8b` or `local:1`.
    pub fn tmd_source(&self) -> String {
        match (&self.router, self.llm.as_ref().filter(|llm| llm.available())) {
            (Some(router), _) => router.name().to_string(),
            (None, Some(llm)) => format!("llm:{}", llm.model()),
            (None, None) => self.info.local_source.clone(),
        }
    }

    /// A sentence while chunks without codes are rejected, because nothing that may give codes answers.
    pub fn no_codes(&self) -> Option<String> {
        if !self.info.llm_required {
            return None;
        }
        let failing = match (&self.router, &self.llm) {
            (Some(router), _) => {
                router.is_resting().then(|| format!("the TMD router at {}", router.endpoint()))
            }
            (None, Some(llm)) => llm.is_resting().then(|| format!("the LLM at {}", llm.endpoint())),
            (None, None) => None,
        };
        failing.map(|failing| format!("chunks without codes are rejected: {failing} is failing"))
    }

    /// The indexes of concepts and of questions.
    pub fn indexes(&self) -> Indexes {
        Indexes { concepts: self.index.clone(), questions: self.questions.clone() }
    }

    /// Counts an access to each of these chunks, if accesses are counted.
    pub fn count_accesses(&self, items: impl IntoIterator<Item = u32>) {
        if let Some(accesses) = &self.accesses {
            accesses.count(items, Utc::now());
        }
    }

    /// Admits a request that needs the pipeline and the database.
    ///
    /// # Errors
    /// 429 or 503, both with `Retry-After`.
    pub async fn admit(&self, request: AdmissionRequest) -> Result<Permit, ApiError> {
        self.admit_unless(self.closed_to(request), request).await
    }

    /// Admits a request that needs neither the pipeline nor the database.
    ///
    /// # Errors
    /// As [`Self::admit`].
    pub async fn admit_standalone(&self, request: AdmissionRequest) -> Result<Permit, ApiError> {
        self.admit_unless(self.closed().filter(|refusal| *refusal == Refusal::Draining), request).await
    }

    /// Sets the bytes that a JSON request holds once its body is read.
    ///
    /// # Errors
    /// 429 with `Retry-After`.
    pub async fn resize(&self, permit: &mut Permit, bytes: usize) -> Result<(), ApiError> {
        let resized = self.admission.requests().resize(permit, bytes, Duration::ZERO).await;
        resized.map_err(|_| self.no_room())
    }

    /// The answer to a request for whose bytes there is no room.
    pub fn no_room(&self) -> ApiError {
        self.refuse(Refusal::RequestBytes)
    }

    async fn admit_unless(
        &self,
        closed: Option<Refusal>,
        request: AdmissionRequest,
    ) -> Result<Permit, ApiError> {
        let permit = match closed {
            Some(refusal) => Err(refusal),
            None => self.admission.acquire(request).await,
        };
        permit.map_err(|refusal| self.refuse(refusal))
    }

    /// The error that [`Self::admit`] would answer now.
    pub fn would_refuse(&self, request: AdmissionRequest) -> Option<ApiError> {
        let refusal = self.closed_to(request).or_else(|| self.admission.would_refuse(request))?;
        Some(self.refuse(refusal))
    }

    /// Whole seconds for `Retry-After`, from what is unanswered and the recent rate.
    pub fn retry_after(&self) -> u64 {
        self.admission.retry_after(self.counts.unanswered(), rand::random())
    }

    /// The answer while the service goes down.
    pub fn draining(&self) -> ApiError {
        self.refuse(Refusal::Draining)
    }

    fn refuse(&self, refusal: Refusal) -> ApiError {
        metrics::refused(refusal.reason());
        refusal.error(self.admission.limits(), self.retry_after())
    }

    /// While another model is in use, what would be embedded here is refused; searches and reads go on.
    fn closed_to(&self, request: AdmissionRequest) -> Option<Refusal> {
        let embeds = matches!(request, AdmissionRequest::Upload | AdmissionRequest::Request(_));
        let switching = embeds && self.model_switch.reason().is_some();
        self.closed().or(switching.then_some(Refusal::SwitchingModel))
    }

    fn closed(&self) -> Option<Refusal> {
        if self.pipeline.entrance().closed().is_cancelled() {
            return Some(Refusal::Draining);
        }
        self.admission.unavailable().map(Refusal::Unavailable)
    }
}

/// Counts of chunks since the start, for `/stats` and `Retry-After`.
#[derive(Debug, Default)]
pub struct Counts {
    stored: AtomicU64,
    replaced: AtomicU64,
    duplicate: AtomicU64,
    failed: AtomicU64,
    pub(super) uploads: AtomicU64,
    issued: AtomicU64,
}

/// The chunks that were answered, by result.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Committed rows.
    pub stored: u64,
    /// Committed rows that took the place of others.
    pub replaced: u64,
    /// Chunks that were stored before.
    pub duplicate: u64,
    /// Rejected chunks.
    pub failed: u64,
}

impl Tally {
    /// The chunks that are stored now.
    pub fn successful(&self) -> u64 {
        self.stored + self.replaced + self.duplicate
    }

    /// All answered chunks.
    pub fn total(&self) -> u64 {
        self.successful() + self.failed
    }
}

impl Counts {
    fn add(&self, counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// The chunks answered so far.
    pub fn tally(&self) -> Tally {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Tally {
            stored: read(&self.stored),
            replaced: read(&self.replaced),
            duplicate: read(&self.duplicate),
            failed: read(&self.failed),
        }
    }

    /// Uploads that are being read or answered now.
    pub fn active_uploads(&self) -> u64 {
        self.uploads.load(Ordering::Relaxed)
    }

    /// Counts a chunk or a line that will be answered.
    pub fn issued(&self) {
        self.add(&self.issued);
    }

    /// Chunks and lines that were taken and are not answered yet.
    pub fn unanswered(&self) -> u64 {
        self.issued.load(Ordering::Relaxed).saturating_sub(self.tally().total())
    }

    /// Counts an outcome, here and in the metrics.
    pub fn count(&self, outcome: &Outcome) {
        let (counter, result) = match outcome {
            Outcome::Stored(_) => (&self.stored, "stored"),
            Outcome::Replaced(_) => (&self.replaced, "replaced"),
            Outcome::Duplicate(_) => (&self.duplicate, "duplicate"),
            Outcome::Rejected(rejection) => (&self.failed, rejection.code.as_str()),
        };
        self.add(counter);
        metrics::ingested(result);
    }
}
