//! `Idempotency-Key`: the same JSON request again gets the same answer, also while the first is under way.
//!
//! In memory, and bounded in answers, bytes and time. After a restart, or when an answer was too old or too large to
//! be kept, sending again is as safe: the ids of chunks are the client's or derived, so what is stored is answered
//! `duplicate`. Only answers that will not change are kept.

use crate::error_code::ErrorCode;
use crate::http::error::ApiError;
use crate::http::ingest::reply::Reply;
use crate::metrics;
use actix_web::{HttpRequest, ResponseError};

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// The header.
pub const HEADER: &str = "idempotency-key";
/// Says that an answer was given before.
pub const REPLAYED: &str = "idempotency-replayed";
/// The longest key.
const MAX_KEY: usize = 255;

/// What a request is answered with.
pub type Answer = Result<Reply, ApiError>;

/// What a client calls a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key(Arc<str>);

impl Key {
    /// The key of this request, if it has one.
    ///
    /// # Errors
    /// There is more than one, or it is not one that can be kept.
    pub fn of(request: &HttpRequest) -> Result<Option<Key>, ApiError> {
        let mut given = request.headers().get_all(HEADER);
        let Some(first) = given.next() else { return Ok(None) };
        let key = first.to_str().ok().filter(|key| {
            (1..=MAX_KEY).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic())
        });
        match (key, given.next()) {
            (Some(key), None) => Ok(Some(Key(key.into()))),
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

/// How much is kept.
#[derive(Debug, Clone, Copy)]
pub struct CacheLimits {
    /// Answers.
    pub answers: usize,
    /// Their bytes, and those of their keys.
    pub bytes: usize,
    /// How long.
    pub time: Duration,
}

impl Default for CacheLimits {
    fn default() -> Self {
        CacheLimits { answers: 10_000, bytes: 64 * 1024 * 1024, time: Duration::from_secs(24 * 60 * 60) }
    }
}

/// What was answered to whom; copies share it.
#[derive(Clone)]
pub struct IdempotencyCache {
    room: CacheLimits,
    shelves: Arc<Mutex<CacheState>>,
}

#[derive(Default)]
struct CacheState {
    by_key: HashMap<Key, Entry>,
    /// The kept ones, oldest first.
    kept: VecDeque<(Instant, Key)>,
    bytes: usize,
}

struct Entry {
    body: blake3::Hash,
    state: PendingAnswer,
}

enum PendingAnswer {
    UnderWay(watch::Receiver<Option<Answer>>),
    RequestBodyGuard(Answer, usize),
}

/// What a request with a key has to do.
pub enum Lookup {
    /// The work, and to say how it ended.
    First(PendingEntry),
    /// Nothing but wait for the first.
    Wait(watch::Receiver<Option<Answer>>),
    /// Nothing: this is the answer.
    Again(Answer),
    /// Nothing: the key is that of another body.
    Reused,
}

/// The duty to say how the work for a key has ended. Dropped without, the key is free again.
pub struct PendingEntry {
    memory: IdempotencyCache,
    key: Key,
    tell: watch::Sender<Option<Answer>>,
}

impl IdempotencyCache {
    /// Empty.
    pub fn new(room: CacheLimits) -> Self {
        IdempotencyCache { room, shelves: Arc::default() }
    }

    /// A request with this key and this body is here now.
    pub fn turn(&self, key: Key, body: &[u8], now: Instant) -> Lookup {
        let body = blake3::hash(body);
        let mut shelves = self.shelves.lock().unwrap_or_else(PoisonError::into_inner);
        shelves.expire(now, self.room.time);
        let (turn, label) = match shelves.by_key.get(&key) {
            Some(entry) if entry.body != body => (Lookup::Reused, "reused"),
            Some(Entry { state: PendingAnswer::UnderWay(answer), .. }) => {
                (Lookup::Wait(answer.clone()), "waited")
            }
            Some(Entry { state: PendingAnswer::RequestBodyGuard(answer, _), .. }) => {
                (Lookup::Again(answer.clone()), "replayed")
            }
            None => {
                let (tell, answer) = watch::channel(None);
                shelves.by_key.insert(key.clone(), Entry { body, state: PendingAnswer::UnderWay(answer) });
                (Lookup::First(PendingEntry { memory: self.clone(), key, tell }), "first")
            }
        };
        metrics::idempotent(label);
        turn
    }

    /// Answers that are kept, and their bytes.
    pub fn kept(&self) -> (usize, usize) {
        let shelves = self.shelves.lock().unwrap_or_else(PoisonError::into_inner);
        (shelves.kept.len(), shelves.bytes)
    }

    fn keep(&self, key: &Key, answer: &Answer, now: Instant) {
        let length = answer.as_ref().map_or_else(|error| error.message().len(), |reply| reply.body.len());
        let bytes = key.0.len() + length;
        let mut shelves = self.shelves.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(entry) = shelves.by_key.get_mut(key) else { return };
        if !is_final(answer) || bytes > self.room.bytes || self.room.answers == 0 {
            shelves.by_key.remove(key);
            return;
        }
        entry.state = PendingAnswer::RequestBodyGuard(answer.clone(), bytes);
        shelves.bytes += bytes;
        shelves.kept.push_back((now, key.clone()));
        while shelves.kept.len() > self.room.answers || shelves.bytes > self.room.bytes {
            shelves.forget_oldest();
        }
        metrics::idempotent_kept(shelves.kept.len(), shelves.bytes);
    }
}

/// The same request would be answered so again.
fn is_final(answer: &Answer) -> bool {
    match answer {
        Ok(reply) => reply.is_final,
        Err(error) => !error.status_code().is_server_error() && !error.retryable(),
    }
}

impl CacheState {
    fn expire(&mut self, now: Instant, time: Duration) {
        while self.kept.front().is_some_and(|(since, _)| now.saturating_duration_since(*since) >= time) {
            self.forget_oldest();
            metrics::idempotent_kept(self.kept.len(), self.bytes);
        }
    }

    fn forget_oldest(&mut self) {
        let oldest = self.kept.pop_front().and_then(|(_, key)| self.by_key.remove(&key));
        if let Some(Entry { state: PendingAnswer::RequestBodyGuard(_, bytes), .. }) = oldest {
            self.bytes -= bytes;
        }
    }
}

impl PendingEntry {
    /// The work is done.
    pub fn done(self, answer: &Answer) {
        self.memory.keep(&self.key, answer, Instant::now());
        self.tell.send_replace(Some(answer.clone()));
    }
}

impl Drop for PendingEntry {
    fn drop(&mut self) {
        if self.tell.borrow().is_none() {
            let mut shelves = self.memory.shelves.lock().unwrap_or_else(PoisonError::into_inner);
            shelves.by_key.remove(&self.key);
        }
    }
}

/// The error for [`Lookup::Reused`].
pub fn reused() -> ApiError {
    let message = "this Idempotency-Key was used with another body; take a new key for each request, and the same one \
                   only to send the same bytes again";
    ApiError::new(ErrorCode::IdempotencyKeyReused, message).param("Idempotency-Key")
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::StatusCode;
    use bytes::Bytes;

    fn key(name: &str) -> Key {
        Key(name.into())
    }

    fn reply(bytes: usize, is_final: bool) -> Answer {
        Ok(Reply { status: StatusCode::OK, failed: 0, body: Bytes::from(vec![0; bytes]), is_final })
    }

    fn memory(answers: usize, bytes: usize) -> IdempotencyCache {
        IdempotencyCache::new(CacheLimits { answers, bytes, time: Duration::from_secs(100) })
    }

    /// The whole way of a first request.
    fn answered(memory: &IdempotencyCache, name: &str, answer: &Answer) {
        let Lookup::First(ticket) = memory.turn(key(name), b"body", Instant::now()) else { panic!("{name}") };
        ticket.done(answer);
    }

    fn is_known(memory: &IdempotencyCache, name: &str) -> bool {
        matches!(memory.turn(key(name), b"body", Instant::now()), Lookup::Again(_))
    }

    #[test]
    fn the_same_key_is_first_then_waits_then_is_answered_again_and_never_with_another_body() {
        let memory = memory(10, 1000);
        let now = Instant::now();
        let Lookup::First(ticket) = memory.turn(key("a"), b"body", now) else { panic!() };
        let Lookup::Wait(answer) = memory.turn(key("a"), b"body", now) else { panic!() };
        assert!(matches!(memory.turn(key("a"), b"other", now), Lookup::Reused));
        ticket.done(&reply(5, true));
        assert_eq!(answer.borrow().as_ref().unwrap().as_ref().unwrap().body.len(), 5);
        assert!(is_known(&memory, "a"));
        assert!(matches!(memory.turn(key("a"), b"other", now), Lookup::Reused));
        assert_eq!(memory.kept(), (1, 6));
    }

    #[test]
    fn what_may_change_is_told_to_those_who_wait_and_not_kept() {
        let memory = memory(10, 1000);
        let overloaded = Err(ApiError::new(ErrorCode::Overloaded, "later"));
        let broken = Err(ApiError::new(ErrorCode::Internal, "broken"));
        for answer in [reply(5, false), overloaded, broken] {
            let Lookup::First(ticket) = memory.turn(key("a"), b"body", Instant::now()) else { panic!() };
            let Lookup::Wait(told) = memory.turn(key("a"), b"body", Instant::now()) else { panic!() };
            ticket.done(&answer);
            assert!(told.borrow().is_some());
        }
        drop(memory.turn(key("a"), b"body", Instant::now()));
        answered(&memory, "a", &Err(ApiError::new(ErrorCode::InvalidJson, "no")));
        assert!(is_known(&memory, "a"), "a wrong request stays wrong");
    }

    #[test]
    fn the_oldest_make_room_and_time_passes() {
        let memory = memory(3, 100);
        for name in ["a", "b", "c", "d"] {
            answered(&memory, name, &reply(9, true));
        }
        assert_eq!(memory.kept(), (3, 30));
        assert_eq!(["a", "b", "c", "d"].map(|name| is_known(&memory, name)), [false, true, true, true]);
        answered(&memory, "e", &reply(89, true));
        assert_eq!((memory.kept(), is_known(&memory, "d")), ((2, 100), true));
        answered(&memory, "f", &reply(100, true));
        assert_eq!(memory.kept(), (2, 100), "one that is larger than all the room is not kept");
        let later = Instant::now() + Duration::from_secs(101);
        assert!(matches!(memory.turn(key("e"), b"body", later), Lookup::First(_)));
        assert_eq!(memory.kept(), (0, 0));
    }
}
