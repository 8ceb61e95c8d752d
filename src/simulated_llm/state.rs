//! The state shared by all calls: slots, counters, latency and faults.

use super::fault::Fault;
use super::fault_schedule::{FaultSchedule, FaultShare};
use super::latency::{Latency, LatencySampler};
use super::options::{Options, ServerApi, ThinkingModel};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};

/// The most prompts of calls with a fault that are kept.
const FAULTY_KEPT: usize = 1000;

/// Counters since the start, and the calls in progress.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallCounts {
    /// Valid calls for an answer, through either API: with a known model, a prompt and a valid format.
    pub generate: u64,
    /// Those among them that came through `/v1/chat/completions`.
    pub chats: u64,
    /// Calls without the key that they need.
    pub unauthorized: u64,
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
pub struct SimulatedState {
    api: ServerApi,
    thinking: ThinkingModel,
    capabilities_in_tags: bool,
    authorization: Option<String>,
    models: Vec<String>,
    seed: u64,
    slots: Semaphore,
    behaviour: Mutex<Behaviour>,
    last_request: Mutex<Bytes>,
    faulty_prompts: Mutex<VecDeque<String>>,
    generate: AtomicU64,
    chats: AtomicU64,
    unauthorized: AtomicU64,
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
    schedule: FaultSchedule,
}

impl SimulatedState {
    pub fn new(options: &Options) -> Self {
        let behaviour = Behaviour {
            latency: options.latency,
            sampler: LatencySampler::new(options.seed),
            schedule: match options.fault {
                Some((fault, every)) => FaultSchedule::every_nth(fault, every),
                None => FaultSchedule::shares(&options.fault_shares, options.seed),
            },
        };
        let named = |name: &String| match options.api {
            ServerApi::Ollama => with_tag(name),
            _ => name.clone(),
        };
        SimulatedState {
            api: options.api,
            thinking: options.thinking,
            capabilities_in_tags: options.capabilities_in_tags,
            authorization: options.api_key.as_ref().map(|key| format!("Bearer {}", key.0)),
            models: options.models.iter().map(named).collect(),
            seed: options.seed,
            slots: Semaphore::new(options.slots.clamp(1, Semaphore::MAX_PERMITS)),
            behaviour: Mutex::new(behaviour),
            last_request: Mutex::default(),
            faulty_prompts: Mutex::default(),
            generate: AtomicU64::default(),
            chats: AtomicU64::default(),
            unauthorized: AtomicU64::default(),
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
        match self.api {
            ServerApi::Ollama => self.models.contains(&with_tag(model)),
            // It has one model and calls it whatever it is asked for.
            ServerApi::JsonObject => true,
            _ => self.models.iter().any(|known| known == model),
        }
    }

    pub fn api(&self) -> ServerApi {
        self.api
    }

    pub fn thinking(&self) -> ThinkingModel {
        self.thinking
    }

    /// What each model can do, as `/api/show` says.
    pub fn capabilities(&self) -> &'static [&'static str] {
        match self.thinking {
            ThinkingModel::None => &["completion"],
            _ => &["completion", "thinking"],
        }
    }

    pub fn capabilities_in_tags(&self) -> bool {
        self.capabilities_in_tags
    }

    /// Whether a call with this `Authorization` may be answered; counts those that may not.
    pub fn authorizes(&self, authorization: Option<&str>) -> bool {
        let authorizes = self.authorization.is_none() || self.authorization.as_deref() == authorization;
        if !authorizes {
            add(&self.unauthorized);
        }
        authorizes
    }

    /// The body of the latest call for an answer, valid or not; empty before the first.
    pub fn last_request(&self) -> Bytes {
        self.last_request.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn note_request(&self, body: &Bytes) {
        *self.last_request.lock().unwrap_or_else(PoisonError::into_inner) = body.clone();
    }

    pub fn counts(&self) -> CallCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
        CallCounts {
            generate: read(&self.generate),
            chats: read(&self.chats),
            unauthorized: read(&self.unauthorized),
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

    pub fn set_fault(&self, schedule: FaultSchedule) {
        self.behaviour().schedule = schedule;
    }

    pub fn set_fault_shares(&self, shares: &[FaultShare]) {
        self.set_fault(FaultSchedule::shares(shares, self.seed));
    }

    /// Counts a call through `/v1`, besides [`SimulatedState::received`].
    pub fn chatted(&self) {
        add(&self.chats);
    }

    /// The prompts of the latest calls with a fault, the oldest first.
    pub fn faulty_prompts(&self) -> Vec<String> {
        self.prompts().iter().cloned().collect()
    }

    /// Counts a call for an answer to this prompt; returns its fault, if any.
    pub fn received(&self, prompt: &str) -> Option<Fault> {
        let fault = self.behaviour().schedule.next_fault();
        add(&self.generate);
        if fault.is_some() {
            add(&self.faulty);
            let mut prompts = self.prompts();
            if prompts.len() == FAULTY_KEPT {
                prompts.pop_front();
            }
            prompts.push_back(prompt.to_owned());
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

    fn prompts(&self) -> MutexGuard<'_, VecDeque<String>> {
        self.faulty_prompts.lock().unwrap_or_else(PoisonError::into_inner)
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

    fn state(slots: usize) -> SimulatedState {
        SimulatedState::new(&Options { slots, models: vec!["a".into(), "b:8b".into()], ..Options::default() })
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
        assert_eq!(state.received("a"), None);
        state.set_fault(FaultSchedule::every_nth(Fault::Html, 2));
        assert_eq!((state.received("b"), state.received("c")), (None, Some(Fault::Html)));
        state.set_fault(FaultSchedule::Never);
        assert_eq!(state.received("d"), None);
        assert_eq!(state.faulty_prompts(), ["c"]);
        state.loaded();
        state.answered();
        let counts = CallCounts { generate: 4, faulty: 1, loads: 1, answered: 1, ..CallCounts::default() };
        assert_eq!(state.counts(), counts);
    }

    #[test]
    fn the_latest_prompts_of_faulty_calls_are_kept() {
        let state = state(1);
        state.set_fault(FaultSchedule::every_nth(Fault::Hang, 1));
        for n in 0..=FAULTY_KEPT {
            state.received(&n.to_string());
        }
        let kept = state.faulty_prompts();
        assert_eq!((kept.len(), &*kept[0], &*kept[FAULTY_KEPT - 1]), (FAULTY_KEPT, "1", "1000"));
    }
}
