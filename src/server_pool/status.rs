//! The state of one server, for `/health`, metrics and the doctor.

use super::breaker::Standing;
use super::dispatch::ServerRecord;
use std::sync::Arc;
use std::time::Duration;

/// A snapshot of one server of a pool.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerStatus {
    /// Its base address.
    pub endpoint: Arc<str>,
    /// Whether and how it is used.
    pub standing: Standing,
    /// Calls under way.
    pub in_flight: usize,
    /// The requests that it takes at once, as configured.
    pub slots: usize,
    /// The most calls that are made at once: the slots, or fewer where it works on fewer.
    pub limit: usize,
    /// Failed calls since the last successful one.
    pub failures_in_a_row: u32,
    /// The last failure since the start, as a sentence, and its age.
    pub last_failure: Option<(String, Duration)>,
}

impl ServerStatus {
    pub(super) fn of(endpoint: Arc<str>, state: &ServerRecord) -> ServerStatus {
        let last = state.last_failure.as_ref();
        ServerStatus {
            endpoint,
            standing: state.breaker.standing(),
            in_flight: state.in_flight(),
            slots: state.slots,
            limit: state.limiter.limit(),
            failures_in_a_row: state.breaker.failures(),
            last_failure: last.map(|(sentence, at)| (sentence.clone(), at.elapsed())),
        }
    }

    /// The address without its scheme: the name in metrics.
    pub fn name(&self) -> &str {
        self.endpoint.split_once("://").map_or(&*self.endpoint, |(_, name)| name)
    }
}
