//! The state shared by all calls: slots, counters, latency and faults.

use super::fault::{Fault, FaultSchedule};
use super::latency::{Latency, LatencySampler};
use super::options::Options;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Counters since the start, and the calls in progress.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallCounts {
    /// Valid generate calls: with a known model, a prompt and a valid format.
    pub generate: u64,
    /// Calls with an empty prompt, which only load the model.
    pub loads: u64,
    /// Calls that were answered without a fault.
    pub answered: u64,
    /// Calls with an injected fault.
    pub faulty: u64,
    /// Calls that hold a slot now.
    pub in_flight: u64,
    /// The most calls that have held a slot at the same time.
    pub most_in_flight: u64,
    /// Calls that wait for a slot now.
    pub waiting: u64,
}

/// The state shared by all calls.
pub struct ServerState {
    models: Vec<String>,
    slots: Semaphore,
    behaviour: Mutex<Behaviour>,
    generate: AtomicU64,
    loads: AtomicU64,
    answered: AtomicU64,
    faulty: AtomicU64,
    in_flight: AtomicU64,
    most_in_flight: AtomicU64,
    waiting: AtomicU64,
}

/// The settings that can change while the server runs.
struct Behaviour {
    latency: Latency,
    sampler: LatencySampler,
    schedule: Option<FaultSchedule>,
}

impl ServerState {
    pub fn new(options: &Options) -> Self {
        let behaviour = Behaviour {
            latency: options.latency,
            sampler: LatencySampler::new(options.seed),
            schedule: options.fault.map(|(fault, every)| FaultSchedule::new(fault, every)),
        };
        ServerState {
            models: options.models.iter().map(|name| with_tag(name)).collect(),
            slots: Semaphore::new(options.slots.clamp(1, Semaphore::MAX_PERMITS)),
            behaviour: Mutex::new(behaviour),
            generate: AtomicU64::default(),
            loads: AtomicU64::default(),
            answered: AtomicU64::default(),
            faulty: AtomicU64::default(),
            in_flight: AtomicU64::default(),
            most_in_flight: AtomicU64::default(),
            waiting: AtomicU64::default(),
        }
    }

    pub fn models(&self) -> &[String] {
        &self.models
    }

    pub fn has(&self, model: &str) -> bool {
        let model = with_tag(model);
        self.models.contains(&model)
    }

    pub fn counts(&self) -> CallCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
        CallCounts {
            generate: read(&self.generate),
            loads: read(&self.loads),
            answered: read(&self.answered),
            faulty: read(&self.faulty),
            in_flight: read(&self.in_flight),
            most_in_flight: read(&self.most_in_flight),
            waiting: read(&self.waiting),
        }
    }

    pub fn set_latency(&self, latency: Latency) {
        self.behaviour().latency = latency;
    }

    pub fn set_fault(&self, schedule: Option<FaultSchedule>) {
        self.behaviour().schedule = schedule;
    }

    /// Counts a generate call; returns its fault, if any.
    pub fn received(&self) -> Option<Fault> {
        let fault = self.behaviour().schedule.as_mut().and_then(FaultSchedule::next_fault);
        add(&self.generate);
        if fault.is_some() {
            add(&self.faulty);
        }
        fault
    }

    pub fn loaded(&self) {
        add(&self.loads);
    }

    pub fn answered(&self) {
        add(&self.answered);
    }

    /// Waits for a slot in FIFO order. Dropping the future leaves the queue.
    pub async fn slot(&self) -> SlotGuard<'_> {
        let waiting = CounterGuard::on(&self.waiting);
        let permit = self.slots.acquire().await;
        drop(waiting);
        let in_flight = CounterGuard::on(&self.in_flight);
        self.most_in_flight.fetch_max(in_flight.now, Ordering::SeqCst);
        // The semaphore is never closed, so there is always a permit.
        SlotGuard { _in_flight: in_flight, _permit: permit.ok() }
    }

    /// The time for which the next call holds its slot.
    pub fn latency(&self) -> Duration {
        let mut behaviour = self.behaviour();
        let latency = behaviour.latency;
        behaviour.sampler.draw(latency)
    }

    fn behaviour(&self) -> MutexGuard<'_, Behaviour> {
        // Each change is one assignment, so a panic leaves no inconsistent state.
        self.behaviour.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A slot in use. Dropping it first decrements the calls in flight, then frees the slot for the next waiting call.
pub struct SlotGuard<'a> {
    _in_flight: CounterGuard<'a>,
    _permit: Option<SemaphorePermit<'a>>,
}

/// Increments a counter; decrements it when dropped.
struct CounterGuard<'a> {
    counter: &'a AtomicU64,
    now: u64,
}

impl<'a> CounterGuard<'a> {
    fn on(counter: &'a AtomicU64) -> Self {
        CounterGuard { counter, now: add(counter) }
    }
}

impl Drop for CounterGuard<'_> {
    fn drop(&mut self) {
        self.counter.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Increments a counter; returns the new value.
fn add(counter: &AtomicU64) -> u64 {
    counter.fetch_add(1, Ordering::SeqCst) + 1
}

/// Adds the default tag `latest` to a name without a tag.
fn with_tag(model: &str) -> String {
    if model.contains(':') { model.to_owned() } else { format!("{model}:latest") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn state(slots: usize) -> ServerState {
        ServerState::new(&Options { slots, models: vec!["a".into(), "b:8b".into()], ..Options::default() })
    }

    #[test]
    fn a_name_without_a_tag_means_the_latest() {
        let state = state(1);
        assert!(state.has("a") && state.has("a:latest") && state.has("b:8b"));
        assert!(!state.has("b") && !state.has("a:8b") && !state.has(""));
    }

    #[test]
    fn slots_bound_and_are_served_in_order_and_given_back() {
        let state = state(2);
        let first = state.slot().now_or_never().unwrap();
        let second = state.slot().now_or_never().unwrap();
        let (mut third, mut fourth) = (Box::pin(state.slot()), Box::pin(state.slot()));
        assert!(third.as_mut().now_or_never().is_none() && fourth.as_mut().now_or_never().is_none());
        let now = state.counts();
        assert_eq!((now.in_flight, now.most_in_flight, now.waiting), (2, 2, 2));

        drop(first);
        assert!(fourth.as_mut().now_or_never().is_none(), "the third was first");
        drop(third);
        let fourth = fourth.as_mut().now_or_never().unwrap();
        let now = state.counts();
        assert_eq!((now.in_flight, now.most_in_flight, now.waiting), (2, 2, 0));
        drop((second, fourth));
        assert_eq!(state.counts().in_flight, 0);
    }

    #[test]
    fn calls_and_faults_are_counted() {
        let state = state(1);
        assert_eq!(state.received(), None);
        state.set_fault(Some(FaultSchedule::new(Fault::Html, 2)));
        assert_eq!((state.received(), state.received()), (None, Some(Fault::Html)));
        state.set_fault(None);
        assert_eq!(state.received(), None);
        state.loaded();
        state.answered();
        let counts = CallCounts { generate: 4, faulty: 1, loads: 1, answered: 1, ..CallCounts::default() };
        assert_eq!(state.counts(), counts);
    }
}
