//! Admission: a permit before the first byte of a body, or a refusal with `Retry-After`.
//!
//! NDJSON uploads, JSON requests, searches, reads of chunks, exports and pages of dead letters have separate permits, so none
//! of them can take all. A JSON body is held in memory, so its bytes need permits too: as they arrive, because a client can announce any
//! length. So do the bytes that the answer to a search holds while its client reads it. When permits or bytes are short,
//! the body whose client is slowest is cut. A refusal makes no call: [`super::availability`] keeps what it has to know.
//! An admitted upload is not refused later; overload slows the reading of its body. An admitted search can still be
//! refused before its answer begins: the size of its rows is known only then.

use crate::error_code::ErrorCode;
use crate::flow::{Capacity, Full, Slot, SlotEvent, Slots};
use crate::http::error::ApiError;
use crate::http::limits::body_slots::BodySlots;
use crate::http::limits::rate::RateEstimator;
use crate::metrics;
use crate::threads::lock;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The bytes that the body of a search may hold: twice its length, because memory doubles while it is read.
const SEARCH_BYTES: usize = 512 * 1024;

/// The limits of admission.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// NDJSON uploads at once.
    pub uploads: usize,
    /// JSON requests at once.
    pub requests: usize,
    /// Bytes that JSON requests hold: inflated bodies as they arrive, then their chunks, vectors and answers.
    pub request_bytes: usize,
    /// Searches at once, from the first byte of the query until the client has taken the answer.
    pub searches: usize,
    /// Bytes that the answers to searches hold: rows that are loaded, and their JSON.
    pub answer_bytes: usize,
    /// Reads of stored chunks and of lists of documents and datasets at once. Each may hold a database connection.
    pub reads: usize,
    /// Bytes that the answers to reads hold: rows, and their JSON.
    pub read_bytes: usize,
    /// Pages of dead letters at once. One holds 4 MiB, or a single letter that is larger.
    pub pages: usize,
    /// Exports at once. Each has a database connection of its own, and a few MiB.
    pub exports: usize,
    /// A client that made the service wait this long for its JSON body is cut when others need its place.
    pub cut_after: Duration,
    /// The database or the pipeline may be unavailable this long before requests are refused for it.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            uploads: 64,
            requests: 256,
            request_bytes: 128 * 1024 * 1024,
            searches: 64,
            answer_bytes: 64 * 1024 * 1024,
            reads: 32,
            read_bytes: 64 * 1024 * 1024,
            pages: 4,
            exports: 2,
            cut_after: Duration::from_secs(1),
            grace: Duration::from_secs(2),
        }
    }
}

/// A request for a permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdmissionRequest {
    /// An NDJSON upload of any length.
    Upload,
    /// A JSON request that announces a body of this many bytes. It is refused when they are not free now, but they are
    /// not reserved: see [`BodySlots::resize`].
    Request(usize),
    /// A search, without its answer.
    Search,
    /// The answer to an admitted search, which holds this many bytes.
    Answer(usize),
    /// A read of stored chunks, or of a list, whose answer holds this many bytes.
    Read(usize),
    /// A page of dead letters.
    Page,
    /// An export of any length.
    Export,
}

/// A part of the service that requests need and that is unavailable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unavailable {
    /// The stages are being rebuilt.
    Healing,
    /// The database does not answer.
    Store,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// All permits for uploads are in use.
    Uploads,
    /// All permits for requests are in use.
    Requests,
    /// The bytes of its body are not available.
    RequestBytes,
    /// All permits for searches are in use.
    Searches,
    /// The bytes of its answer are not available.
    AnswerBytes,
    /// All permits for reads are in use.
    Reads,
    /// The bytes of what it reads are not available.
    ReadBytes,
    /// All permits for pages of dead letters are in use.
    Pages,
    /// All permits for exports are in use.
    Exports,
    /// The service is going down.
    Draining,
    /// Another model was put to use, which the service does not compute yet.
    SwitchingModel,
    /// A part of the service is unavailable.
    Unavailable(Unavailable),
}

impl Refusal {
    /// The label in metrics.
    pub fn reason(self) -> &'static str {
        match self {
            Refusal::Uploads => "uploads",
            Refusal::Requests => "requests",
            Refusal::RequestBytes => "request_bytes",
            Refusal::Searches => "searches",
            Refusal::AnswerBytes => "answer_bytes",
            Refusal::Reads => "reads",
            Refusal::ReadBytes => "read_bytes",
            Refusal::Pages => "pages",
            Refusal::Exports => "exports",
            Refusal::Draining => "draining",
            Refusal::SwitchingModel => "switching_model",
            Refusal::Unavailable(Unavailable::Healing) => "healing",
            Refusal::Unavailable(Unavailable::Store) => "store",
        }
    }

    fn code(self) -> ErrorCode {
        match self {
            Refusal::Uploads
            | Refusal::Requests
            | Refusal::RequestBytes
            | Refusal::Searches
            | Refusal::AnswerBytes
            | Refusal::Reads
            | Refusal::ReadBytes
            | Refusal::Pages
            | Refusal::Exports => ErrorCode::Overloaded,
            Refusal::Draining => ErrorCode::Draining,
            Refusal::SwitchingModel => ErrorCode::SwitchingModel,
            Refusal::Unavailable(Unavailable::Healing) => ErrorCode::Healing,
            Refusal::Unavailable(Unavailable::Store) => ErrorCode::StoreUnavailable,
        }
    }

    /// The refusal as an answer; `retry_after` in seconds.
    pub fn error(self, limits: &Limits, retry_after: u64) -> ApiError {
        let why = match self {
            Refusal::Uploads => format!("{} uploads are under way, which is the limit", limits.uploads),
            Refusal::Requests => format!("{} requests are under way, which is the limit", limits.requests),
            Refusal::RequestBytes => {
                let most = limits.request_bytes / (1024 * 1024);
                format!("the requests under way fill their {most} MiB")
            }
            Refusal::Searches => format!("{} searches are under way, which is the limit", limits.searches),
            Refusal::AnswerBytes => {
                let most = limits.answer_bytes / (1024 * 1024);
                format!("the answers that clients are reading fill their {most} MiB")
            }
            Refusal::Reads => format!("{} reads are under way, which is the limit", limits.reads),
            Refusal::ReadBytes => {
                let most = limits.read_bytes / (1024 * 1024);
                format!("what clients are reading fills its {most} MiB")
            }
            Refusal::Pages => {
                format!("{} pages of dead letters are being read, which is the limit", limits.pages)
            }
            Refusal::Exports => format!("{} exports are under way, which is the limit", limits.exports),
            Refusal::Draining => "the service is going down".to_owned(),
            Refusal::SwitchingModel => "another embedding model was put to use".to_owned(),
            Refusal::Unavailable(Unavailable::Healing) => {
                "the pipeline is being rebuilt after a failure".to_owned()
            }
            Refusal::Unavailable(Unavailable::Store) => "the database does not answer".to_owned(),
        };
        let untaken = if self == Refusal::AnswerBytes { "" } else { "nothing was taken, " };
        let message = format!("{why}; {untaken}send it again in {retry_after} s");
        ApiError::new(self.code(), message).retry_after(retry_after)
    }
}

/// Issues permits and counts them.
pub struct Admission {
    limits: Limits,
    uploads: Arc<Slots>,
    requests: BodySlots,
    searches: BodySlots,
    answers: Arc<Slots>,
    reads: Arc<Slots>,
    pages: Arc<Slots>,
    exports: Arc<Slots>,
    unavailable: AtomicU8,
    rate: Mutex<RateEstimator>,
}

/// Held from before the first byte of a body until the last answer.
pub type Permit = Slot;

impl Admission {
    /// All permits are free.
    pub fn new(limits: Limits) -> Self {
        metrics::admission_limit("upload", limits.uploads);
        metrics::admission_limit("request", limits.requests);
        metrics::admission_limit("request_bytes", limits.request_bytes);
        metrics::admission_limit("search", limits.searches);
        metrics::admission_limit("answer_bytes", limits.answer_bytes);
        metrics::admission_limit("read", limits.reads);
        metrics::admission_limit("read_bytes", limits.read_bytes);
        metrics::admission_limit("page", limits.pages);
        metrics::admission_limit("export", limits.exports);
        let only = |items| Capacity { items, bytes: 0 };
        let requests = Capacity { items: limits.requests, bytes: limits.request_bytes };
        let searches = Capacity { items: limits.searches, bytes: limits.searches * SEARCH_BYTES };
        // Each search has one answer, so only the bytes can run out.
        let answers = Capacity { items: limits.searches, bytes: limits.answer_bytes };
        let reads = Capacity { items: limits.reads, bytes: limits.read_bytes };
        Admission {
            limits,
            uploads: Slots::new(only(limits.uploads), |event| count(Some("upload"), None, event)),
            requests: BodySlots::new(requests, limits.cut_after, |event| {
                count(Some("request"), Some("request_bytes"), event);
            }),
            searches: BodySlots::new(searches, limits.cut_after, |event| count(Some("search"), None, event)),
            answers: Slots::new(answers, |event| count(None, Some("answer_bytes"), event)),
            reads: Slots::new(reads, |event| count(Some("read"), Some("read_bytes"), event)),
            pages: Slots::new(only(limits.pages), |event| count(Some("page"), None, event)),
            exports: Slots::new(only(limits.exports), |event| count(Some("export"), None, event)),
            unavailable: AtomicU8::new(0),
            rate: Mutex::default(),
        }
    }

    /// The number of permits in use; a search counts once, with or without its answer.
    pub fn in_use(&self) -> usize {
        let (requests, searches) = (self.requests.slots(), self.searches.slots());
        let kinds = [&self.uploads, requests, searches, &self.reads, &self.pages, &self.exports];
        kinds.iter().map(|slots| slots.used()).sum()
    }

    /// Waits until all permits are free. Only while no new ones are issued.
    pub async fn all_free(&self) {
        let (requests, searches) = (self.requests.slots(), self.searches.slots());
        let (answers, reads) = (&self.answers, &self.reads);
        for slots in [&self.uploads, requests, searches, answers, reads, &self.pages, &self.exports] {
            slots.all_free().await;
        }
    }

    /// The limits it was made with.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Sets the part that is unavailable. All requests are refused for it until it is `None` again.
    pub fn set_unavailable(&self, part: Option<Unavailable>) {
        let part = match part {
            None => 0,
            Some(Unavailable::Healing) => 1,
            Some(Unavailable::Store) => 2,
        };
        self.unavailable.store(part, Ordering::Relaxed);
    }

    /// The part that is unavailable.
    pub fn unavailable(&self) -> Option<Unavailable> {
        match self.unavailable.load(Ordering::Relaxed) {
            0 => None,
            1 => Some(Unavailable::Healing),
            _ => Some(Unavailable::Store),
        }
    }

    /// Takes the number of chunks settled so far and returns the recent rate in chunks per second. `idle` says that no
    /// chunk was waiting since the last call.
    pub fn observe(&self, now: Instant, settled: u64, idle: bool) -> f64 {
        let mut rate = lock(&self.rate);
        if idle || self.unavailable().is_some() {
            rate.skip(now, settled);
        } else {
            rate.observe(now, settled);
        }
        rate.rate()
    }

    /// Whole seconds after which `unanswered` chunks are settled at the recent rate. `jitter` is between 0 and 1 and
    /// spreads the clients.
    pub fn retry_after(&self, unanswered: u64, jitter: f64) -> u64 {
        lock(&self.rate).advice(unanswered, jitter)
    }

    /// Takes a permit. Waits only for a body that is cut to make room.
    ///
    /// # Errors
    /// The limit that is reached.
    pub async fn acquire(&self, request: AdmissionRequest) -> Result<Permit, Refusal> {
        let permit = match request {
            AdmissionRequest::Upload => self.uploads.try_acquire(0),
            AdmissionRequest::Request(announced) => self.requests.acquire(announced).await,
            AdmissionRequest::Search => self.searches.acquire(0).await,
            AdmissionRequest::Answer(bytes) => self.answers.try_acquire(bytes),
            AdmissionRequest::Read(bytes) => self.reads.try_acquire(bytes),
            AdmissionRequest::Page => self.pages.try_acquire(0),
            AdmissionRequest::Export => self.exports.try_acquire(0),
        };
        permit.map_err(|full| refusal(request, full))
    }

    /// The refusal that [`Self::acquire`] would return now.
    pub fn would_refuse(&self, request: AdmissionRequest) -> Option<Refusal> {
        let full = match request {
            AdmissionRequest::Upload => self.uploads.full_for(0),
            AdmissionRequest::Request(announced) => self.requests.full_for(announced),
            AdmissionRequest::Search => self.searches.full_for(0),
            AdmissionRequest::Answer(bytes) => self.answers.full_for(bytes),
            AdmissionRequest::Read(bytes) => self.reads.full_for(bytes),
            AdmissionRequest::Page => self.pages.full_for(0),
            AdmissionRequest::Export => self.exports.full_for(0),
        };
        full.map(|full| refusal(request, full))
    }

    /// The permits of JSON requests, and their bodies.
    pub fn requests(&self) -> &BodySlots {
        &self.requests
    }

    /// The permits of searches, and their bodies.
    pub fn searches(&self) -> &BodySlots {
        &self.searches
    }
}

fn refusal(request: AdmissionRequest, full: Full) -> Refusal {
    match (request, full) {
        (AdmissionRequest::Upload, _) => Refusal::Uploads,
        (AdmissionRequest::Request(_), Full::Items) => Refusal::Requests,
        (AdmissionRequest::Request(_), Full::Bytes) => Refusal::RequestBytes,
        (AdmissionRequest::Search, _) => Refusal::Searches,
        (AdmissionRequest::Answer(_), _) => Refusal::AnswerBytes,
        (AdmissionRequest::Read(_), Full::Items) => Refusal::Reads,
        (AdmissionRequest::Read(_), Full::Bytes) => Refusal::ReadBytes,
        (AdmissionRequest::Page, _) => Refusal::Pages,
        (AdmissionRequest::Export, _) => Refusal::Exports,
    }
}

/// Counts a permit as one of `kind`, and its weight as bytes of `bytes`.
fn count(kind: Option<&'static str>, bytes: Option<&'static str>, event: SlotEvent) {
    let (permits, weight) = match event {
        SlotEvent::Acquired(weight) => (1.0, weight as f64),
        SlotEvent::Released(weight) => (-1.0, -(weight as f64)),
        SlotEvent::Resized { from, to } => (0.0, to as f64 - from as f64),
        SlotEvent::Waited(_) => return,
    };
    if let Some(kind) = kind {
        metrics::admission_used(kind, permits);
    }
    if let Some(bytes) = bytes {
        metrics::admission_used(bytes, weight);
    }
}

#[cfg(test)]
mod tests;
