//! Who may upload: a permit before the first byte of a body, or a refusal that says when to come again.
//!
//! Streams have permits of their own and JSON requests have others, so neither keeps the other out. A JSON body is
//! held whole, so its bytes need room too. A refusal asks nobody: what it has to know is known beforehand, see
//! [`super::availability`]. After the permit nobody is refused any more: overload is then felt as slower reading.

use crate::error_code::ErrorCode;
use crate::http::error::ApiError;
use crate::http::limits::rate::RateEstimator;
use crate::http::state::State;
use crate::metrics;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// How much is let in at once.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// NDJSON uploads.
    pub uploads: usize,
    /// JSON requests.
    pub requests: usize,
    /// Bytes that they hold: bodies, inflated, by `Content-Length`, else the most there can be; and vectors.
    pub request_bytes: usize,
    /// The database, or the pipeline, may be away this long before uploads are refused for it.
    pub moment: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { uploads: 64, requests: 256, request_bytes: 64 * 1024 * 1024, moment: Duration::from_secs(2) }
    }
}

/// What asks to be let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdmissionRequest {
    /// An upload of any length.
    Upload,
    /// A JSON request that holds so many bytes: its body, and vectors where it is answered with them.
    Request(usize),
}

/// Why nobody new is let in now, apart from being full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unavailable {
    /// The stages are being rebuilt.
    Healing,
    /// The database does not answer.
    StoreAway,
}

/// Why somebody is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Every permit for uploads is out.
    Uploads,
    /// Every permit for requests is out.
    Requests,
    /// There is no room for its body.
    RequestBytes,
    /// The service is going down.
    Draining,
    /// See [`Unavailable`].
    Unavailable(Unavailable),
}

impl Refusal {
    /// The label in metrics.
    fn reason(self) -> &'static str {
        match self {
            Refusal::Uploads => "uploads",
            Refusal::Requests => "requests",
            Refusal::RequestBytes => "request_bytes",
            Refusal::Draining => "draining",
            Refusal::Unavailable(Unavailable::Healing) => "healing",
            Refusal::Unavailable(Unavailable::StoreAway) => "store",
        }
    }

    fn code(self) -> ErrorCode {
        match self {
            Refusal::Uploads | Refusal::Requests | Refusal::RequestBytes => ErrorCode::Overloaded,
            Refusal::Draining => ErrorCode::Draining,
            Refusal::Unavailable(Unavailable::Healing) => ErrorCode::Healing,
            Refusal::Unavailable(Unavailable::StoreAway) => ErrorCode::StoreUnavailable,
        }
    }

    fn error(self, limits: &Limits, retry_after: u64) -> ApiError {
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
            Refusal::Unavailable(Unavailable::StoreAway) => "the database does not answer".to_owned(),
        };
        let message = format!("{why}; nothing was read, send it again in {retry_after} s");
        ApiError::new(self.code(), message).retry_after(retry_after)
    }
}

/// Gives permits and counts them.
pub struct Admission {
    limits: Limits,
    uploads: Arc<Semaphore>,
    requests: Arc<Semaphore>,
    /// In KiB, so that any limit fits into a semaphore.
    request_kib: Arc<Semaphore>,
    obstacle: AtomicU8,
    rate: Mutex<RateEstimator>,
    out: watch::Sender<usize>,
}

/// Held from before the first byte until the last answer.
pub struct Permit {
    out: watch::Sender<usize>,
    wish: AdmissionRequest,
    _place: OwnedSemaphorePermit,
    _bytes: Option<OwnedSemaphorePermit>,
}

impl Admission {
    /// Nobody is inside.
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
            obstacle: AtomicU8::new(0),
            rate: Mutex::default(),
            out: watch::Sender::new(0),
        }
    }

    /// Permits that are out.
    pub fn out(&self) -> usize {
        *self.out.borrow()
    }

    /// Waits until every permit is back.
    pub async fn all_back(&self) {
        // The sender lives in `self`, so the wait can only end with the fact.
        drop(self.out.subscribe().wait_for(|out| *out == 0).await);
    }

    /// How much is let in at once.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// From now on everybody is refused for this reason; `None`: nobody is.
    pub fn set_obstacle(&self, obstacle: Option<Unavailable>) {
        let known = match obstacle {
            None => 0,
            Some(Unavailable::Healing) => 1,
            Some(Unavailable::StoreAway) => 2,
        };
        self.obstacle.store(known, Ordering::Relaxed);
    }

    /// Why nobody is let in, if it is so.
    pub fn obstacle(&self) -> Option<Unavailable> {
        match self.obstacle.load(Ordering::Relaxed) {
            0 => None,
            1 => Some(Unavailable::Healing),
            _ => Some(Unavailable::StoreAway),
        }
    }

    /// Sees how many chunks have been settled; gives the rate of late. `idle`: nobody waited for any.
    pub fn observe(&self, now: Instant, settled: u64, idle: bool) -> f64 {
        let mut rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
        if idle || self.obstacle().is_some() {
            rate.skip(now, settled);
        } else {
            rate.observe(now, settled);
        }
        rate.rate()
    }

    fn take(&self, wish: AdmissionRequest) -> Result<Permit, Refusal> {
        let (places, full) = match wish {
            AdmissionRequest::Upload => (&self.uploads, Refusal::Uploads),
            AdmissionRequest::Request(_) => (&self.requests, Refusal::Requests),
        };
        let place = places.clone().try_acquire_owned().map_err(|_| full)?;
        let bytes = match wish {
            AdmissionRequest::Upload => None,
            // One that is larger than all the room travels alone instead of never.
            AdmissionRequest::Request(bytes) => {
                let kib = kib(bytes.min(self.limits.request_bytes));
                let room = self.request_kib.clone().try_acquire_many_owned(kib);
                Some(room.map_err(|_| Refusal::RequestBytes)?)
            }
        };
        self.out.send_modify(|out| *out += 1);
        count(wish, 1.0);
        Ok(Permit { out: self.out.clone(), wish, _place: place, _bytes: bytes })
    }

    /// Whether [`Self::take`] would say no now.
    fn look(&self, wish: AdmissionRequest) -> Option<Refusal> {
        let free = Semaphore::available_permits;
        match wish {
            AdmissionRequest::Upload => (free(&self.uploads) == 0).then_some(Refusal::Uploads),
            AdmissionRequest::Request(_) if free(&self.requests) == 0 => Some(Refusal::Requests),
            AdmissionRequest::Request(bytes) => {
                let kib = kib(bytes.min(self.limits.request_bytes)) as usize;
                (free(&self.request_kib) < kib).then_some(Refusal::RequestBytes)
            }
        }
    }
}

/// Rounded up; the largest there is, for more than that.
fn kib(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX)
}

fn count(wish: AdmissionRequest, change: f64) {
    match wish {
        AdmissionRequest::Upload => metrics::admission_used("upload", change),
        AdmissionRequest::Request(bytes) => {
            metrics::admission_used("request", change);
            metrics::admission_used("request_bytes", change * bytes as f64);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        count(self.wish, -1.0);
        self.out.send_modify(|out| *out -= 1);
    }
}

impl State {
    /// A permit, or why there is none, as an answer.
    ///
    /// # Errors
    /// 429 or 503, both with the time after which to ask again.
    pub fn admit(&self, wish: AdmissionRequest) -> Result<Permit, ApiError> {
        self.let_in(self.closed(), wish)
    }

    /// As [`Self::admit`], for what needs neither the stages nor the database.
    pub fn admit_aside(&self, wish: AdmissionRequest) -> Result<Permit, ApiError> {
        self.let_in(self.closed().filter(|refusal| *refusal == Refusal::Draining), wish)
    }

    fn let_in(&self, closed: Option<Refusal>, wish: AdmissionRequest) -> Result<Permit, ApiError> {
        let refusal = match closed {
            Some(refusal) => refusal,
            None => match self.admission.take(wish) {
                Ok(permit) => return Ok(permit),
                Err(refusal) => refusal,
            },
        };
        Err(self.refused(refusal))
    }

    /// The answer that [`Self::admit`] would give now instead of a permit.
    pub fn would_refuse(&self, wish: AdmissionRequest) -> Option<ApiError> {
        let refusal = self.closed().or_else(|| self.admission.look(wish))?;
        Some(self.refused(refusal))
    }

    /// Whole seconds after which it is worth asking again.
    pub fn retry_after(&self) -> u64 {
        let rate = self.admission.rate.lock().unwrap_or_else(PoisonError::into_inner);
        rate.advice(self.counts.unanswered(), rand::random())
    }

    /// The answer to those who come while the service goes down.
    pub fn draining(&self) -> ApiError {
        self.refused(Refusal::Draining)
    }

    fn refused(&self, refusal: Refusal) -> ApiError {
        metrics::refused(refusal.reason());
        refusal.error(&self.admission.limits, self.retry_after())
    }

    fn closed(&self) -> Option<Refusal> {
        if self.pipeline.entrance().closed().is_cancelled() {
            return Some(Refusal::Draining);
        }
        self.admission.obstacle().map(Refusal::Unavailable)
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
            (0..2).map(|_| admission.take(AdmissionRequest::Upload).ok().unwrap()).collect();
        assert_eq!(admission.take(AdmissionRequest::Upload).err(), Some(Refusal::Uploads));
        let requests: Vec<_> =
            (0..3).map(|_| admission.take(AdmissionRequest::Request(10)).ok().unwrap()).collect();
        assert_eq!(admission.take(AdmissionRequest::Request(10)).err(), Some(Refusal::Requests));
        assert_eq!((admission.look(AdmissionRequest::Upload), admission.out()), (Some(Refusal::Uploads), 5));
        drop(uploads);
        assert_eq!((admission.look(AdmissionRequest::Upload), admission.out()), (None, 3));
        assert_eq!(admission.look(AdmissionRequest::Request(0)), Some(Refusal::Requests));
        drop(requests);
        assert_eq!((admission.look(AdmissionRequest::Request(0)), admission.out()), (None, 0));
    }

    #[test]
    fn the_bytes_of_bodies_are_bounded_and_one_that_is_too_large_goes_alone() {
        let admission = admission();
        let most = admission.take(AdmissionRequest::Request(9_000)).ok().unwrap();
        assert_eq!(admission.take(AdmissionRequest::Request(2_000)).err(), Some(Refusal::RequestBytes));
        assert_eq!(admission.look(AdmissionRequest::Request(2_000)), Some(Refusal::RequestBytes));
        assert_eq!(admission.out(), 1, "a refused one holds no place");
        let small = admission.take(AdmissionRequest::Request(1_000)).ok().unwrap();
        drop((most, small));
        let large = admission.take(AdmissionRequest::Request(1 << 40)).ok().unwrap();
        assert_eq!(admission.take(AdmissionRequest::Request(1)).err(), Some(Refusal::RequestBytes));
        drop(large);
        assert!(admission.take(AdmissionRequest::Request(1)).is_ok());
    }
}
