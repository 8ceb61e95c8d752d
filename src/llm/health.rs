//! The recent health of a server: its circuit breaker, the last failure for `/health`, and rate-limited log lines.

use super::breaker::{Breaker, CallPermit};
use super::error::LlmError;
use crate::threads::lock;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// After a logged failure, failures within this time are only counted.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// A snapshot of the health of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The circuit breaker is open: calls fail without reaching the server.
    pub breaker_open: bool,
    /// Failed calls since the last successful one.
    pub failures_in_a_row: u32,
    /// The last failure since the start, as a sentence, and its age.
    pub last_failure: Option<(String, Duration)>,
}

pub struct ServerHealth {
    endpoint: String,
    probe_timeout: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    breaker: Breaker,
    last_failure: Option<(String, Instant)>,
    logged: Option<Instant>,
    unlogged: u64,
}

impl ServerHealth {
    /// `timeout` is the time limit of one of the two attempts of a call.
    pub fn new(endpoint: String, timeout: Duration) -> ServerHealth {
        ServerHealth { endpoint, probe_timeout: timeout * 3, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// A permit for a call, or `None` while the breaker is open.
    pub fn try_acquire(&self) -> Option<CallPermit> {
        self.state().breaker.try_acquire(Instant::now(), self.probe_timeout)
    }

    /// Records a successful call.
    pub fn on_success(&self) {
        if self.state().breaker.on_success() {
            tracing::info!("the LLM at {} answers again", self.endpoint);
        }
    }

    /// Records and logs a failed call.
    pub fn on_failure(&self, permit: CallPermit, error: &LlmError) {
        let now = Instant::now();
        let mut state = self.state();
        let sentence = self.note_at(&mut state, error, now);
        if let Some(open) = state.breaker.on_failure(permit, now) {
            let failures = state.breaker.failures();
            tracing::warn!(failures, open_s = open.as_secs(), "{sentence}; no calls are made for a while");
        } else if !state.breaker.is_open()
            && state.logged.is_none_or(|logged| now.duration_since(logged) >= LOG_INTERVAL)
        {
            match state.unlogged {
                0 => tracing::warn!("{sentence}"),
                more => tracing::warn!(more, "{sentence}"),
            }
            (state.logged, state.unlogged) = (Some(now), 0);
        } else {
            state.unlogged += 1;
        }
    }

    /// Keeps the failure of a probe for `/health`, without counting or logging it.
    pub fn note(&self, error: &LlmError) {
        self.note_at(&mut self.state(), error, Instant::now());
    }

    fn note_at(&self, state: &mut State, error: &LlmError, now: Instant) -> String {
        let sentence = format!("the LLM at {} {error}", self.endpoint);
        state.last_failure = Some((sentence.clone(), now));
        sentence
    }

    /// The current status.
    pub fn status(&self) -> Status {
        let state = self.state();
        let last = state.last_failure.as_ref();
        Status {
            breaker_open: state.breaker.is_open(),
            failures_in_a_row: state.breaker.failures(),
            last_failure: last.map(|(sentence, at)| (sentence.clone(), at.elapsed())),
        }
    }
}
