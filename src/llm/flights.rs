//! Calls in flight, shared by those who ask the same.

use crate::answer_cache::AnswerKey;
use crate::threads::lock;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use rustc_hash::FxHashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// A call in flight. It runs while one of those who wait for it does, and is dropped with the last of them.
pub type SharedCall<T> = Shared<BoxFuture<'static, T>>;

/// Each call with its number.
type Calls<T> = FxHashMap<AnswerKey, (u64, WeakShared<BoxFuture<'static, T>>)>;

/// The calls in flight, by what they ask.
pub struct Flights<T: Clone> {
    calls: Arc<Mutex<Calls<T>>>,
    number: AtomicU64,
}

impl<T: Clone> Default for Flights<T> {
    fn default() -> Self {
        Flights { calls: Arc::default(), number: AtomicU64::new(0) }
    }
}

impl<T: Clone + Send + Sync + 'static> Flights<T> {
    /// The call in flight with this key, else the one that `start` makes. The second value says whether it was in flight.
    pub fn join<F>(&self, key: AnswerKey, start: impl FnOnce() -> F) -> (SharedCall<T>, bool)
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut calls = lock(&self.calls);
        if let Some(call) = calls.get(&key).and_then(|(_, call)| call.upgrade()) {
            return (call, true);
        }
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let (call, landing) = (start(), Landing { calls: self.calls.clone(), key, number });
        let call = async move {
            let _landing = landing;
            call.await
        };
        let call = call.boxed().shared();
        if let Some(weak) = call.downgrade() {
            calls.insert(key, (number, weak));
        }
        (call, false)
    }
}

/// Takes a call out of the list when it has ended, or was given up.
struct Landing<T: Clone> {
    calls: Arc<Mutex<Calls<T>>>,
    key: AnswerKey,
    number: u64,
}

impl<T: Clone> Drop for Landing<T> {
    fn drop(&mut self) {
        let mut calls = lock(&self.calls);
        // A call that was given up may have a successor already.
        if calls.get(&self.key).is_some_and(|(number, _)| *number == self.number) {
            calls.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_executor::block_on;
    use futures_util::future::{join, select};
    use tokio::sync::oneshot;

    fn key(n: u8) -> AnswerKey {
        AnswerKey::of(&[&[n]])
    }

    #[test]
    fn equal_questions_share_a_call_until_it_has_ended() {
        let flights = Flights::default();
        let (reply, answer) = oneshot::channel::<u32>();
        let (first, joined) = flights.join(key(1), || async { answer.await.unwrap() });
        assert!(!joined);
        let (second, joined) = flights.join(key(1), || async { unreachable!() });
        assert!(joined);
        let (other, joined) = flights.join(key(2), || async { 9 });
        assert!(!joined);
        assert_eq!(block_on(other), 9);
        reply.send(7).unwrap();
        assert_eq!(block_on(join(first.clone(), second)), (7, 7));
        // Although one still holds it.
        let (third, joined) = flights.join(key(1), || async { 8 });
        assert_eq!((joined, block_on(third)), (false, 8));
        assert!(lock(&flights.calls).is_empty());
    }

    #[test]
    fn who_gives_up_first_takes_the_call_from_none_of_the_others() {
        let flights = Flights::default();
        let (reply, answer) = oneshot::channel::<u32>();
        let (first, _) = flights.join(key(1), || async { answer.await.unwrap() });
        let (second, _) = flights.join(key(1), || async { unreachable!() });
        // The first is polled once, and given up.
        block_on(select(first, std::future::ready(())));
        reply.send(7).unwrap();
        assert_eq!(block_on(second), 7);
        assert!(lock(&flights.calls).is_empty());
    }

    #[test]
    fn a_call_that_all_gave_up_is_dropped_and_begun_anew() {
        let flights = Flights::<u32>::default();
        let (reply, answer) = oneshot::channel::<u32>();
        drop(flights.join(key(1), || async { answer.await.unwrap() }));
        assert!(reply.is_closed() && lock(&flights.calls).is_empty());
        let (again, joined) = flights.join(key(1), || async { 1 });
        assert_eq!((joined, block_on(again)), (false, 1));
    }
}
