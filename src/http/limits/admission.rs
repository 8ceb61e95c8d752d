//! Admission: a permit before the first byte of a body, or a refusal with `Retry-After`.
//!
//! NDJSON uploads and JSON requests have separate permits, so neither can take all of them. A JSON body is held in
//! memory, so its bytes need permits too. A refusal makes no call: [`super::availability`] keeps what it has to know. An
//! admitted request is not refused later; overload slows the reading of its body.

use crate::error_code::ErrorCode;
use crate::http::error::ApiError;
use crate::http::limits::rate::RateEstimator;
use crate::metrics;
use crate::threads::lock;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

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
    uploads: Arc<Semaphore>,
    requests: Arc<Semaphore>,
    /// In KiB, so that any limit fits into a semaphore.
    request_kib: Arc<Semaphore>,
    unavailable: AtomicU8,
    rate: Mutex<RateEstimator>,
    in_use: watch::Sender<usize>,
}

/// Held from before the first byte of a body until the last answer.
pub struct Permit {
    in_use: watch::Sender<usize>,
    request: AdmissionRequest,
    _place: OwnedSemaphorePermit,
    _bytes: Option<OwnedSemaphorePermit>,
}

impl Admission {
    /// All permits are free.
    pub fn new(limits: Limits) -> Self {
        metrics::admission_limit("upload", limits.uploads);
        metrics::admission_limit("request", limits.requests);
        metrics::admission_limit("request_bytes", limits.request_bytes);
        let permits = |count| Arc::new(Semaphore::new(count));
        Admission {
            limits,
            uploads: permits(limits.uploads),
            requests: permits(limits.requests),
            request_kib: permits(kib(limits.request_bytes) as usize),
            unavailable: AtomicU8::new(0),
            rate: Mutex::default(),
            in_use: watch::Sender::new(0),
        }
    }

    /// The number of permits in use.
    pub fn in_use(&self) -> usize {
        *self.in_use.borrow()
    }

    /// Waits until all permits are free.
    pub async fn all_free(&self) {
        // The sender lives in `self`, so the wait can only end with the fact.
        drop(self.in_use.subscribe().wait_for(|permits| *permits == 0).await);
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

    /// Takes a permit. Does not wait.
    pub fn try_acquire(&self, request: AdmissionRequest) -> Result<Permit, Refusal> {
        let (places, full) = match request {
            AdmissionRequest::Upload => (&self.uploads, Refusal::Uploads),
            AdmissionRequest::Request(_) => (&self.requests, Refusal::Requests),
        };
        let place = places.clone().try_acquire_owned().map_err(|_| full)?;
        let bytes = match request {
            AdmissionRequest::Upload => None,
            // A request larger than the whole budget is clipped to it, so it is admitted alone.
            AdmissionRequest::Request(bytes) => {
                let kib = kib(bytes.min(self.limits.request_bytes));
                let permits = self.request_kib.clone().try_acquire_many_owned(kib);
                Some(permits.map_err(|_| Refusal::RequestBytes)?)
            }
        };
        self.in_use.send_modify(|permits| *permits += 1);
        count(request, 1.0);
        Ok(Permit { in_use: self.in_use.clone(), request, _place: place, _bytes: bytes })
    }

    /// The refusal that [`Self::try_acquire`] would return now.
    pub fn would_refuse(&self, request: AdmissionRequest) -> Option<Refusal> {
        let free = Semaphore::available_permits;
        match request {
            AdmissionRequest::Upload => (free(&self.uploads) == 0).then_some(Refusal::Uploads),
            AdmissionRequest::Request(_) if free(&self.requests) == 0 => Some(Refusal::Requests),
            AdmissionRequest::Request(bytes) => {
                let kib = kib(bytes.min(self.limits.request_bytes)) as usize;
                (free(&self.request_kib) < kib).then_some(Refusal::RequestBytes)
            }
        }
    }
}

/// Rounded up, and clipped to `u32::MAX`.
fn kib(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX)
}

fn count(request: AdmissionRequest, change: f64) {
    match request {
        AdmissionRequest::Upload => metrics::admission_used("upload", change),
        AdmissionRequest::Request(bytes) => {
            metrics::admission_used("request", change);
            metrics::admission_used("request_bytes", change * bytes as f64);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        count(self.request, -1.0);
        self.in_use.send_modify(|permits| *permits -= 1);
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
