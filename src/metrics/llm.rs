//! What is counted where chunks get their codes, and in calls to the language model.

use super::names::{
    CPESH_EXTRACTIONS_TOTAL, LLM_ANSWER_CACHE_TOTAL, LLM_BREAKER_STATE, LLM_CONCURRENCY_LIMIT, LLM_INFLIGHT,
    LLM_REQUEST_DURATION_SECONDS, LLM_REQUESTS_TOTAL, LLM_RETRIES_EXHAUSTED_TOTAL, LLM_RETRIES_TOTAL,
    LLM_TOKENS_TOTAL, TMD_DOMAIN_TOTAL, TMD_FALLBACK_TOTAL, TMD_SOURCE_TOTAL,
};
use std::sync::Arc;
use std::time::Duration;

/// Counts a tagged chunk by its domain.
pub fn tagged(domain: &'static str) {
    TMD_DOMAIN_TOTAL.add([domain.into()], 1);
}

/// Counts a tagged chunk by the source of its codes and the reason why another one has not given them.
pub fn tagged_by(source: &'static str, reason: &str) {
    TMD_SOURCE_TOTAL.add([source.into(), reason.to_owned().into()], 1);
}

/// Counts a chunk that the local classifier labelled because the language model had no valid answer.
pub fn fell_back(reason: &'static str) {
    TMD_FALLBACK_TOTAL.add([reason.into()], 1);
}

/// Counts an extraction of CPESH parts by its outcome: `ok`, or why it failed.
pub fn extracted(outcome: &'static str) {
    CPESH_EXTRACTIONS_TOTAL.add([outcome.into()], 1);
}

/// Counts a finished call to a server of the language model and records its duration.
pub fn llm_request(server: &Arc<str>, outcome: &'static str, took: Duration) {
    LLM_REQUESTS_TOTAL.add([server.clone().into(), outcome.into()], 1);
    LLM_REQUEST_DURATION_SECONDS.record([server.clone().into()], took);
}

/// Counts a repeated call by the reason.
pub fn llm_retry(reason: &'static str) {
    LLM_RETRIES_TOTAL.add([reason.into()], 1);
}

/// Counts the tokens of one call, as the language model reports them.
pub fn llm_tokens(prompt: u64, output: u64) {
    LLM_TOKENS_TOTAL.add(["prompt".into()], prompt);
    LLM_TOKENS_TOTAL.add(["output".into()], output);
}

/// Counts a call that was not repeated because too many were.
pub fn llm_retries_exhausted() {
    LLM_RETRIES_EXHAUSTED_TOTAL.add([], 1);
}

/// The state of one server of a pool, for the gauges.
#[derive(Debug, Clone, Copy)]
pub struct ServerGauges<'a> {
    /// The address without its scheme.
    pub server: &'a str,
    /// Calls under way.
    pub in_flight: usize,
    /// The most calls at once at the moment.
    pub limit: usize,
    /// 0 closed, 1 half open, 2 open, 3 left out.
    pub breaker: f64,
}

/// Sets the gauges of one server of the language model.
pub fn llm_server(gauges: &ServerGauges<'_>) {
    let server = || [gauges.server.to_owned().into()];
    LLM_INFLIGHT.set(server(), gauges.in_flight as f64);
    LLM_CONCURRENCY_LIMIT.set(server(), gauges.limit as f64);
    LLM_BREAKER_STATE.set(server(), gauges.breaker);
}

/// Counts a look for a known answer of the language model, and whether there was one.
pub fn llm_answer_cache(hit: bool) {
    LLM_ANSWER_CACHE_TOTAL.add([if hit { "hit" } else { "miss" }.into()], 1);
}

/// Counts a text whose answer came from a call for an equal text that was in flight.
pub fn llm_answer_shared() {
    LLM_ANSWER_CACHE_TOTAL.add(["shared".into()], 1);
}
