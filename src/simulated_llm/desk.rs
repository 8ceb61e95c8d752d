//! The slots, who holds one and who waits for one, and the numbers.

use super::Options;
use super::fault::{Fault, Plan};
use super::latency::{Dice, Latency};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};

/// What was asked and answered since the start, and what is going on.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Calls for an answer that were understood: a model that is there, a prompt, a format.
    pub generate: u64,
    /// Calls with an empty prompt, which only load the model.
    pub loads: u64,
    /// Calls that were answered as they should be.
    pub answered: u64,
    /// Calls that a fault has struck.
    pub faulty: u64,
    /// Calls that hold a slot.
    pub in_flight: u64,
    /// The most calls that have held a slot at once.
    pub most_in_flight: u64,
    /// Calls that wait for a slot.
    pub waiting: u64,
}

/// What all calls share.
pub struct Desk {
    models: Vec<String>,
    slots: Semaphore,
    mood: Mutex<Mood>,
    generate: AtomicU64,
    loads: AtomicU64,
    answered: AtomicU64,
    faulty: AtomicU64,
    in_flight: AtomicU64,
    most_in_flight: AtomicU64,
    waiting: AtomicU64,
}

/// What can be changed while it runs.
struct Mood {
    latency: Latency,
    dice: Dice,
    plan: Option<Plan>,
}

impl Desk {
    pub fn new(options: &Options) -> Self {
        let mood = Mood {
            latency: options.latency,
            dice: Dice::new(options.seed),
            plan: options.fault.map(|(fault, every)| Plan::new(fault, every)),
        };
        Desk {
            models: options.models.iter().map(|name| with_tag(name)).collect(),
            slots: Semaphore::new(options.slots.clamp(1, Semaphore::MAX_PERMITS)),
            mood: Mutex::new(mood),
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

    pub fn counts(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
        Counts {
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
        self.mood().latency = latency;
    }

    pub fn set_fault(&self, plan: Option<Plan>) {
        self.mood().plan = plan;
    }

    /// Counts a call for an answer; what strikes it.
    pub fn received(&self) -> Option<Fault> {
        let fault = self.mood().plan.as_mut().and_then(Plan::strike);
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

    /// Waits for a slot: first come, first served. Who goes away leaves the queue.
    pub async fn slot(&self) -> Held<'_> {
        let waiting = OneMore::on(&self.waiting);
        let permit = self.slots.acquire().await;
        drop(waiting);
        let in_flight = OneMore::on(&self.in_flight);
        self.most_in_flight.fetch_max(in_flight.now, Ordering::SeqCst);
        // Nobody closes the semaphore, so there is always a permit.
        Held { _in_flight: in_flight, _permit: permit.ok() }
    }

    /// How long the next call holds its slot.
    pub fn latency(&self) -> Duration {
        let mut mood = self.mood();
        let latency = mood.latency;
        mood.dice.draw(latency)
    }

    fn mood(&self) -> MutexGuard<'_, Mood> {
        // Each change is one assignment, so there is nothing half done after a panic.
        self.mood.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A slot in use. Dropped, it goes to the first who waits; the number of those in flight goes down before.
pub struct Held<'a> {
    _in_flight: OneMore<'a>,
    _permit: Option<SemaphorePermit<'a>>,
}

/// Adds one for as long as it lives.
struct OneMore<'a> {
    counter: &'a AtomicU64,
    now: u64,
}

impl<'a> OneMore<'a> {
    fn on(counter: &'a AtomicU64) -> Self {
        OneMore { counter, now: add(counter) }
    }
}

impl Drop for OneMore<'_> {
    fn drop(&mut self) {
        self.counter.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Adds one; the sum.
fn add(counter: &AtomicU64) -> u64 {
    counter.fetch_add(1, Ordering::SeqCst) + 1
}

/// A name without a tag means the latest.
fn with_tag(model: &str) -> String {
    if model.contains(':') { model.to_owned() } else { format!("{model}:latest") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn desk(slots: usize) -> Desk {
        Desk::new(&Options { slots, models: vec!["a".into(), "b:8b".into()], ..Options::default() })
    }

    #[test]
    fn a_name_without_a_tag_means_the_latest() {
        let desk = desk(1);
        assert!(desk.has("a") && desk.has("a:latest") && desk.has("b:8b"));
        assert!(!desk.has("b") && !desk.has("a:8b") && !desk.has(""));
    }

    #[test]
    fn slots_bound_and_are_served_in_order_and_given_back() {
        let desk = desk(2);
        let first = desk.slot().now_or_never().unwrap();
        let second = desk.slot().now_or_never().unwrap();
        let (mut third, mut fourth) = (Box::pin(desk.slot()), Box::pin(desk.slot()));
        assert!(third.as_mut().now_or_never().is_none() && fourth.as_mut().now_or_never().is_none());
        let now = desk.counts();
        assert_eq!((now.in_flight, now.most_in_flight, now.waiting), (2, 2, 2));

        drop(first);
        assert!(fourth.as_mut().now_or_never().is_none(), "the third was first");
        drop(third);
        let fourth = fourth.as_mut().now_or_never().unwrap();
        let now = desk.counts();
        assert_eq!((now.in_flight, now.most_in_flight, now.waiting), (2, 2, 0));
        drop((second, fourth));
        assert_eq!(desk.counts().in_flight, 0);
    }

    #[test]
    fn calls_and_faults_are_counted() {
        let desk = desk(1);
        assert_eq!(desk.received(), None);
        desk.set_fault(Some(Plan::new(Fault::Html, 2)));
        assert_eq!((desk.received(), desk.received()), (None, Some(Fault::Html)));
        desk.set_fault(None);
        assert_eq!(desk.received(), None);
        desk.loaded();
        desk.answered();
        let counts = Counts { generate: 4, faulty: 1, loads: 1, answered: 1, ..Counts::default() };
        assert_eq!(desk.counts(), counts);
    }
}
