//! What is counted where chunks get their codes, and in calls to the language model.

use super::names::{
    LLM_BREAKER_STATE, LLM_CONCURRENCY_LIMIT, LLM_INFLIGHT, LLM_REQUEST_DURATION_SECONDS, LLM_REQUESTS_TOTAL,
    LLM_RETRIES_TOTAL, LLM_TOKENS_TOTAL, TMD_DOMAIN_TOTAL, TMD_FALLBACK_TOTAL,
};
use std::time::Duration;

/// Counts a tagged chunk by its domain.
pub fn tagged(domain: &'static str) {
    TMD_DOMAIN_TOTAL.add([domain.into()], 1);
}

/// Counts a chunk that the local classifier labelled because the language model had no valid answer.
pub fn fell_back(reason: &'static str) {
    TMD_FALLBACK_TOTAL.add([reason.into()], 1);
}

/// Counts a finished call to the language model and records its duration.
pub fn llm_request(outcome: &'static str, took: Duration) {
    LLM_REQUESTS_TOTAL.add(["ollama".into(), outcome.into()], 1);
    LLM_REQUEST_DURATION_SECONDS.record(["ollama".into()], took);
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

/// Sets the limit of concurrent calls to the language model.
pub fn llm_limit(calls: usize) {
    LLM_CONCURRENCY_LIMIT.set(["ollama".into()], calls as f64);
}

/// Sets the state of the breaker: 2 while it is open, else 0.
pub fn llm_breaker(is_open: bool) {
    LLM_BREAKER_STATE.set(["ollama".into()], if is_open { 2.0 } else { 0.0 });
}

/// Counts one call to the language model as in flight until it is dropped.
pub struct LlmFlight;

/// Counts a call as in flight until the guard is dropped.
pub fn llm_flight() -> LlmFlight {
    LLM_INFLIGHT.add(["ollama".into()], 1.0);
    LlmFlight
}

impl Drop for LlmFlight {
    fn drop(&mut self) {
        LLM_INFLIGHT.add(["ollama".into()], -1.0);
    }
}
