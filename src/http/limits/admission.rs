//! Admission: a permit before the first byte of a body, or a refusal with `Retry-After`.
//!
//! NDJSON uploads and JSON requests have separate permits, so neither can take all of them. A JSON body is held in
//! memory, so its bytes need permits too. A refusal makes no call: [`super::availability`] keeps what it has to know.
//! An admitted request is not refused later; overload slows the reading of its body.

use crate::error_code::ErrorCode;
use crate::flow::{Capacity, Full, Slot, SlotEvent, Slots};
use crate::http::error::ApiError;
use crate::http::limits::rate::RateEstimator;
use crate::metrics;
use crate::threads::lock;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The limits of admission.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// NDJSON uploads at once.
    pub uploads: usize,
    /// JSON requests at once.
    pub requests: usize,
    /// Bytes that JSON requests hold: inflated bodies, by `Content-Length` or else the maximum; and vectors.
    pub request_bytes: usize,
    /// The database or the pipeline may be unavailable this long before requests are refused for it.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { uploads: 64, requests: 256, request_bytes: 64 * 1024 * 1024, grace: Duration::from_secs(2) }
    }
}

/// A request for a permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdmissionRequest {
    /// An NDJSON upload of any length.
    Upload,
    /// A JSON request that holds this many bytes: its body, and vectors if the answer has them.
    Request(usize),
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
    /// The service is going down.
    Draining,
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
            Refusal::Draining => "draining",
            Refusal::Unavailable(Unavailable::Healing) => "healing",
            Refusal::Unavailable(Unavailable::Store) => "store",
        }
    }

    fn code(self) -> ErrorCode {
        match self {
            Refusal::Uploads | Refusal::Requests | Refusal::RequestBytes => ErrorCode::Overloaded,
            Refusal::Draining => ErrorCode::Draining,
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
                format!("the bodies of the requests under way fill their {most} MiB")
            }
            Refusal::Draining => "the service is going down".to_owned(),
            Refusal::Unavailable(Unavailable::Healing) => {
                "the pipeline is being rebuilt after a failure".to_owned()
            }
            Refusal::Unavailable(Unavailable::Store) => "the database does not answer".to_owned(),
        };
        let message = format!("{why}; nothing was read, send it again in {retry_after} s");
        ApiError::new(self.code(), message).retry_after(retry_after)
    }
}

/// Issues permits and counts them.
pub struct Admission {
    limits: Limits,
    uploads: Arc<Slots>,
    requests: Arc<Slots>,
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
        let uploads = Capacity { items: limits.uploads, bytes: 0 };
        let requests = Capacity { items: limits.requests, bytes: limits.request_bytes };
        Admission {
            limits,
            uploads: Slots::new(uploads, |event| count("upload", event)),
            requests: Slots::new(requests, |event| count("request", event)),
            unavailable: AtomicU8::new(0),
            rate: Mutex::default(),
        }
    }

    /// The number of permits in use.
    pub fn in_use(&self) -> usize {
        self.uploads.used() + self.requests.used()
    }

    /// Waits until all permits are free. Only while no new ones are issued.
    pub async fn all_free(&self) {
        self.uploads.all_free().await;
        self.requests.all_free().await;
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

    /// Takes a permit without waiting. A request larger than the whole budget is admitted alone.
    ///
    /// # Errors
    /// The limit that is reached.
    pub fn try_acquire(&self, request: AdmissionRequest) -> Result<Permit, Refusal> {
        let (slots, weight) = self.slots(request);
        slots.try_acquire(weight).map_err(|full| refusal(request, full))
    }

    /// The refusal that [`Self::try_acquire`] would return now.
    pub fn would_refuse(&self, request: AdmissionRequest) -> Option<Refusal> {
        let (slots, weight) = self.slots(request);
        slots.full_for(weight).map(|full| refusal(request, full))
    }

    fn slots(&self, request: AdmissionRequest) -> (&Arc<Slots>, usize) {
        match request {
            AdmissionRequest::Upload => (&self.uploads, 0),
            AdmissionRequest::Request(bytes) => (&self.requests, bytes),
        }
    }
}

fn refusal(request: AdmissionRequest, full: Full) -> Refusal {
    match (request, full) {
        (AdmissionRequest::Upload, _) => Refusal::Uploads,
        (AdmissionRequest::Request(_), Full::Items) => Refusal::Requests,
        (AdmissionRequest::Request(_), Full::Bytes) => Refusal::RequestBytes,
    }
}

fn count(kind: &'static str, event: SlotEvent) {
    let (sign, weight) = match event {
        SlotEvent::Acquired(weight) => (1.0, weight),
        SlotEvent::Released(weight) => (-1.0, weight),
        SlotEvent::Waited(_) => return,
    };
    metrics::admission_used(kind, sign);
    if kind == "request" {
        metrics::admission_used("request_bytes", sign * weight as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission() -> Admission {
        Admission::new(Limits { uploads: 2, requests: 3, request_bytes: 10_000, ..Limits::default() })
    }

    #[test]
    fn uploads_and_requests_do_not_keep_each_other_out() {
        let admission = admission();
        let uploads: Vec<_> =
            (0..2).map(|_| admission.try_acquire(AdmissionRequest::Upload).ok().unwrap()).collect();
        assert_eq!(admission.try_acquire(AdmissionRequest::Upload).err(), Some(Refusal::Uploads));
        let requests: Vec<_> =
            (0..3).map(|_| admission.try_acquire(AdmissionRequest::Request(10)).ok().unwrap()).collect();
        assert_eq!(admission.try_acquire(AdmissionRequest::Request(10)).err(), Some(Refusal::Requests));
        assert_eq!(
            (admission.would_refuse(AdmissionRequest::Upload), admission.in_use()),
            (Some(Refusal::Uploads), 5)
        );
        drop(uploads);
        assert_eq!((admission.would_refuse(AdmissionRequest::Upload), admission.in_use()), (None, 3));
        assert_eq!(admission.would_refuse(AdmissionRequest::Request(0)), Some(Refusal::Requests));
        drop(requests);
        assert_eq!((admission.would_refuse(AdmissionRequest::Request(0)), admission.in_use()), (None, 0));
    }

    #[test]
    fn the_bytes_of_bodies_are_bounded_and_one_that_is_too_large_goes_alone() {
        let admission = admission();
        let most = admission.try_acquire(AdmissionRequest::Request(9_000)).ok().unwrap();
        assert_eq!(
            admission.try_acquire(AdmissionRequest::Request(2_000)).err(),
            Some(Refusal::RequestBytes)
        );
        assert_eq!(admission.would_refuse(AdmissionRequest::Request(2_000)), Some(Refusal::RequestBytes));
        assert_eq!(admission.in_use(), 1, "a refused one holds no place");
        let small = admission.try_acquire(AdmissionRequest::Request(1_000)).ok().unwrap();
        drop((most, small));
        let large = admission.try_acquire(AdmissionRequest::Request(1 << 40)).ok().unwrap();
        assert_eq!(admission.try_acquire(AdmissionRequest::Request(1)).err(), Some(Refusal::RequestBytes));
        drop(large);
        assert!(admission.try_acquire(AdmissionRequest::Request(1)).is_ok());
    }
}
