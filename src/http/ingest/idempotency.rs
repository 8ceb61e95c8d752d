//! `Idempotency-Key`: the same JSON request again gets the same answer, also while the first is in flight.
//!
//! The cache is in memory and bounded in answers, bytes and time. After a restart, or when an answer was too old or too
//! large to be kept, sending again is as safe: the ids of chunks are the client's or derived, so stored chunks are
//! answered `duplicate`. Only final answers are kept.

use crate::error_code::ErrorCode;
use crate::http::error::ApiError;
use crate::http::ingest::reply::Reply;
use crate::metrics;
use crate::threads::lock;
use actix_web::{HttpRequest, ResponseError};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// The request header.
pub const HEADER: &str = "idempotency-key";
/// The header of an answer that was given before.
pub const REPLAYED: &str = "idempotency-replayed";
/// The maximum length of a key, in bytes.
const MAX_KEY: usize = 255;

/// The answer to a JSON request.
pub type IngestAnswer = Result<Reply, ApiError>;

/// A client's name for a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(Arc<str>);

impl IdempotencyKey {
    /// The key of this request, if it has one.
    ///
    /// # Errors
    /// 400 for more than one key, or for an invalid one.
    pub fn of(request: &HttpRequest) -> Result<Option<IdempotencyKey>, ApiError> {
        let mut given = request.headers().get_all(HEADER);
        let Some(first) = given.next() else { return Ok(None) };
        let key = first.to_str().ok().filter(|key| {
            (1..=MAX_KEY).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic())
        });
        match (key, given.next()) {
            (Some(key), None) => Ok(Some(IdempotencyKey(key.into()))),
            _ => {
                let message = format!(
                    "Idempotency-Key: expected one value of 1 to {MAX_KEY} visible ASCII characters; a random UUID \
                     for each request is a good one"
                );
                let error = ApiError::new(ErrorCode::InvalidIdempotencyKey, message);
                Err(error.param("Idempotency-Key"))
            }
        }
    }
}

/// The limits of the cache.
#[derive(Debug, Clone, Copy)]
pub struct CacheLimits {
    /// The maximum number of answers.
    pub answers: usize,
    /// The maximum bytes of answers and keys.
    pub bytes: usize,
    /// The time an answer is kept.
    pub time: Duration,
}

impl Default for CacheLimits {
    fn default() -> Self {
        CacheLimits { answers: 10_000, bytes: 64 * 1024 * 1024, time: Duration::from_secs(24 * 60 * 60) }
    }
}

/// The answers by key; clones share them.
#[derive(Clone)]
pub struct IdempotencyCache {
    limits: CacheLimits,
    state: Arc<Mutex<CacheState>>,
}

#[derive(Default)]
struct CacheState {
    by_key: HashMap<IdempotencyKey, CacheEntry>,
    /// The keys of answered requests, oldest first.
    kept: VecDeque<(Instant, IdempotencyKey)>,
    bytes: usize,
}

struct CacheEntry {
    body: blake3::Hash,
    state: EntryState,
}

enum EntryState {
    InFlight(watch::Receiver<Option<IngestAnswer>>),
    Answered(IngestAnswer, usize),
}

/// What a request with a key finds.
pub enum Lookup {
    /// The key is new: process the request and report its answer.
    First(PendingEntry),
    /// The first request with this key is in flight: wait for its answer.
    Wait(watch::Receiver<Option<IngestAnswer>>),
    /// The answer to the first request.
    Answered(IngestAnswer),
    /// The key was used with another body.
    Reused,
}

/// A key whose request is in flight. Dropped without an answer, it frees the key.
pub struct PendingEntry {
    cache: IdempotencyCache,
    key: IdempotencyKey,
    answered: watch::Sender<Option<IngestAnswer>>,
}

impl IdempotencyCache {
    /// An empty cache.
    pub fn new(limits: CacheLimits) -> Self {
        IdempotencyCache { limits, state: Arc::default() }
    }

    /// Looks up the key of a request that arrived now with this query and body.
    pub fn look_up(&self, key: IdempotencyKey, query: &str, body: &[u8], now: Instant) -> Lookup {
        // The options of the request are in both. A query has no line ends.
        let body = blake3::Hasher::new().update(query.as_bytes()).update(b"\n").update(body).finalize();
        let mut cache = lock(&self.state);
        cache.expire(now, self.limits.time);
        let (lookup, label) = match cache.by_key.get(&key) {
            Some(entry) if entry.body != body => (Lookup::Reused, "reused"),
            Some(CacheEntry { state: EntryState::InFlight(answer), .. }) => {
                (Lookup::Wait(answer.clone()), "waited")
            }
            Some(CacheEntry { state: EntryState::Answered(answer, _), .. }) => {
                (Lookup::Answered(answer.clone()), "replayed")
            }
            None => {
                let (answered, answer) = watch::channel(None);
                cache.by_key.insert(key.clone(), CacheEntry { body, state: EntryState::InFlight(answer) });
                (Lookup::First(PendingEntry { cache: self.clone(), key, answered }), "first")
            }
        };
        metrics::idempotent(label);
        lookup
    }

    /// The number of answers that are kept, and their bytes.
    pub fn kept(&self) -> (usize, usize) {
        let cache = lock(&self.state);
        (cache.kept.len(), cache.bytes)
    }

    fn keep(&self, key: &IdempotencyKey, answer: &IngestAnswer, now: Instant) {
        let length = answer.as_ref().map_or_else(|error| error.message().len(), |reply| reply.body.len());
        let bytes = key.0.len() + length;
        let mut cache = lock(&self.state);
        let Some(entry) = cache.by_key.get_mut(key) else { return };
        if !is_final(answer) || bytes > self.limits.bytes || self.limits.answers == 0 {
            cache.by_key.remove(key);
            return;
        }
        entry.state = EntryState::Answered(answer.clone(), bytes);
        cache.bytes += bytes;
        cache.kept.push_back((now, key.clone()));
        while cache.kept.len() > self.limits.answers || cache.bytes > self.limits.bytes {
            cache.evict_oldest();
        }
        metrics::idempotent_kept(cache.kept.len(), cache.bytes);
    }
}

/// Whether the same request would get the same answer again.
fn is_final(answer: &IngestAnswer) -> bool {
    match answer {
        Ok(reply) => reply.is_final,
        Err(error) => !error.status_code().is_server_error() && !error.retryable(),
    }
}

impl CacheState {
    fn expire(&mut self, now: Instant, time: Duration) {
        while self.kept.front().is_some_and(|(since, _)| now.saturating_duration_since(*since) >= time) {
            self.evict_oldest();
            metrics::idempotent_kept(self.kept.len(), self.bytes);
        }
    }

    fn evict_oldest(&mut self) {
        let oldest = self.kept.pop_front().and_then(|(_, key)| self.by_key.remove(&key));
        if let Some(CacheEntry { state: EntryState::Answered(_, bytes), .. }) = oldest {
            self.bytes -= bytes;
        }
    }
}

impl PendingEntry {
    /// Reports the answer.
    pub fn done(self, answer: &IngestAnswer) {
        self.cache.keep(&self.key, answer, Instant::now());
        self.answered.send_replace(Some(answer.clone()));
    }
}

impl Drop for PendingEntry {
    fn drop(&mut self) {
        if self.answered.borrow().is_none() {
            let mut cache = lock(&self.cache.state);
            cache.by_key.remove(&self.key);
        }
    }
}

/// The error for [`Lookup::Reused`].
pub fn reused() -> ApiError {
    let message = "this Idempotency-Key was used with another body or query; take a new key for each request, and the same one \
                   only to send the same bytes again";
    ApiError::new(ErrorCode::IdempotencyKeyReused, message).param("Idempotency-Key")
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::StatusCode;
    use bytes::Bytes;

    fn key(name: &str) -> IdempotencyKey {
        IdempotencyKey(name.into())
    }

    fn reply(bytes: usize, is_final: bool) -> IngestAnswer {
        Ok(Reply { status: StatusCode::OK, failed: 0, body: Bytes::from(vec![0; bytes]), is_final })
    }

    fn cache(answers: usize, bytes: usize) -> IdempotencyCache {
        IdempotencyCache::new(CacheLimits { answers, bytes, time: Duration::from_secs(100) })
    }

    /// Sends a first request and answers it.
    fn answered(cache: &IdempotencyCache, name: &str, answer: &IngestAnswer) {
        let Lookup::First(pending) = cache.look_up(key(name), "", b"body", Instant::now()) else {
            panic!("{name}")
        };
        pending.done(answer);
    }

    fn is_known(cache: &IdempotencyCache, name: &str) -> bool {
        matches!(cache.look_up(key(name), "", b"body", Instant::now()), Lookup::Answered(_))
    }

    #[test]
    fn the_same_key_is_first_then_waits_then_is_answered_again_and_never_with_another_body() {
        let cache = cache(10, 1000);
        let now = Instant::now();
        let Lookup::First(pending) = cache.look_up(key("a"), "", b"body", now) else { panic!() };
        let Lookup::Wait(answer) = cache.look_up(key("a"), "", b"body", now) else { panic!() };
        assert!(matches!(cache.look_up(key("a"), "", b"other", now), Lookup::Reused));
        pending.done(&reply(5, true));
        assert_eq!(answer.borrow().as_ref().unwrap().as_ref().unwrap().body.len(), 5);
        assert!(is_known(&cache, "a"));
        assert!(matches!(cache.look_up(key("a"), "", b"other", now), Lookup::Reused));
        assert!(matches!(cache.look_up(key("a"), "on_conflict=replace", b"body", now), Lookup::Reused));
        assert_eq!(cache.kept(), (1, 6));
    }

    #[test]
    fn an_answer_that_may_change_goes_to_waiting_requests_and_is_not_kept() {
        let cache = cache(10, 1000);
        let overloaded = Err(ApiError::new(ErrorCode::Overloaded, "later"));
        let broken = Err(ApiError::new(ErrorCode::Internal, "broken"));
        for answer in [reply(5, false), overloaded, broken] {
            let Lookup::First(pending) = cache.look_up(key("a"), "", b"body", Instant::now()) else {
                panic!()
            };
            let Lookup::Wait(told) = cache.look_up(key("a"), "", b"body", Instant::now()) else { panic!() };
            pending.done(&answer);
            assert!(told.borrow().is_some());
        }
        drop(cache.look_up(key("a"), "", b"body", Instant::now()));
        answered(&cache, "a", &Err(ApiError::new(ErrorCode::InvalidJson, "no")));
        assert!(is_known(&cache, "a"), "a wrong request stays wrong");
    }

    #[test]
    fn the_oldest_make_room_and_time_passes() {
        let cache = cache(3, 100);
        for name in ["a", "b", "c", "d"] {
            answered(&cache, name, &reply(9, true));
        }
        assert_eq!(cache.kept(), (3, 30));
        assert_eq!(["a", "b", "c", "d"].map(|name| is_known(&cache, name)), [false, true, true, true]);
        answered(&cache, "e", &reply(89, true));
        assert_eq!((cache.kept(), is_known(&cache, "d")), ((2, 100), true));
        answered(&cache, "f", &reply(100, true));
        assert_eq!(cache.kept(), (2, 100), "one that is larger than all the limits is not kept");
        let later = Instant::now() + Duration::from_secs(101);
        assert!(matches!(cache.look_up(key("e"), "", b"body", later), Lookup::First(_)));
        assert_eq!(cache.kept(), (0, 0));
    }
}
