//! Watches how a server does: the breaker, the last failure for `/health`, and few, clear lines in the log.

use super::breaker::{Breaker, CallPermit};
use super::error::LlmError;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Failures within this time of a logged one are only counted.
const QUIET: Duration = Duration::from_secs(10);

/// How a server has been lately.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// It is left alone for a while.
    pub resting: bool,
    /// Since its last answer.
    pub failures_in_a_row: u32,
    /// The last failure, as a sentence, and how long ago it was.
    pub last_failure: Option<(String, Duration)>,
}

pub struct ServerHealth {
    endpoint: String,
    trial: Duration,
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
    /// Of a server whose calls take at most `timeout`, twice.
    pub fn new(endpoint: String, timeout: Duration) -> ServerHealth {
        ServerHealth { endpoint, trial: timeout * 3, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// CallPermit to call, or none while the server rests.
    pub fn ask(&self) -> Option<CallPermit> {
        self.state().breaker.ask(Instant::now(), self.trial)
    }

    /// A call was answered.
    pub fn answered(&self) {
        if self.state().breaker.answered() {
            tracing::info!("the LLM at {} answers again", self.endpoint);
        }
    }

    /// A call failed.
    pub fn failed(&self, permit: CallPermit, error: &LlmError) {
        let now = Instant::now();
        let mut state = self.state();
        let sentence = self.note_at(&mut state, error, now);
        if let Some(rest) = state.breaker.failed(permit, now) {
            let failures = state.breaker.failures();
            tracing::warn!(failures, rest_s = rest.as_secs(), "{sentence}; it is left alone for a while");
        } else if !state.breaker.resting()
            && state.logged.is_none_or(|logged| now.duration_since(logged) >= QUIET)
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

    /// As [`Self::failed`] for what is not a chunk's call: kept for `/health`, neither counted nor logged.
    pub fn note(&self, error: &LlmError) {
        self.note_at(&mut self.state(), error, Instant::now());
    }

    fn note_at(&self, state: &mut State, error: &LlmError, now: Instant) -> String {
        let sentence = format!("the LLM at {} {error}", self.endpoint);
        state.last_failure = Some((sentence.clone(), now));
        sentence
    }

    /// Now.
    pub fn status(&self) -> Status {
        let state = self.state();
        let last = state.last_failure.as_ref();
        Status {
            resting: state.breaker.resting(),
            failures_in_a_row: state.breaker.failures(),
            last_failure: last.map(|(sentence, at)| (sentence.clone(), at.elapsed())),
        }
    }
}
