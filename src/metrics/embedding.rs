//! What is counted where texts become vectors.

use super::llm::ServerGauges;
use super::names::{
    EMBED_BATCH_SIZE, EMBED_BATCH_TOKENS, EMBED_BREAKER_STATE, EMBED_CONCURRENCY_LIMIT,
    EMBED_INFERENCE_SECONDS, EMBED_INFLIGHT, EMBED_NONFINITE_TOTAL, EMBED_PADDING_RATIO,
    EMBED_PASSES_FAILED_TOTAL, EMBED_REQUEST_DURATION_SECONDS, EMBED_REQUESTS_TOTAL,
    EMBED_RETRIES_EXHAUSTED_TOTAL, EMBED_RETRIES_TOTAL, EMBED_TOKENIZE_SECONDS, EMBED_TRUNCATED_TOTAL,
    EMBED_UNREAD_TOTAL,
};
use std::sync::Arc;
use std::time::Duration;

/// Records the tokenization of one text.
pub fn tokenized(took: Duration) {
    EMBED_TOKENIZE_SECONDS.record([], took);
}

/// Counts a text that is longer than the model reads.
pub fn truncated() {
    EMBED_TRUNCATED_TOTAL.add([], 1);
}

/// Counts a text of which the model does not know most characters.
pub fn unread() {
    EMBED_UNREAD_TOTAL.add([], 1);
}

/// Records a forward pass: texts, tokens without and with padding, duration.
pub fn embedded(texts: usize, tokens: usize, padded: usize, took: Duration) {
    EMBED_BATCH_SIZE.record([], texts as f64);
    EMBED_BATCH_TOKENS.record([], padded as f64);
    EMBED_PADDING_RATIO.record([], 1.0 - tokens as f64 / padded.max(1) as f64);
    EMBED_INFERENCE_SECONDS.record([], took);
}

/// Counts a failed forward pass by its cause.
pub fn pass_failed(cause: &'static str) {
    EMBED_PASSES_FAILED_TOTAL.add([cause.into()], 1);
}

/// Counts a vector that was refused because it is not finite or all zeros.
pub fn nonfinite() {
    EMBED_NONFINITE_TOTAL.add([], 1);
}

/// Records the texts and the duration of a request that an embedding server answered. Its tokens are unknown.
pub fn embedded_there(texts: usize, took: Duration) {
    EMBED_BATCH_SIZE.record([], texts as f64);
    EMBED_INFERENCE_SECONDS.record([], took);
}

/// Counts a finished request to an embedding server and records its duration.
pub fn embed_request(server: &Arc<str>, outcome: &'static str, took: Duration) {
    EMBED_REQUESTS_TOTAL.add([server.clone().into(), outcome.into()], 1);
    EMBED_REQUEST_DURATION_SECONDS.record([server.clone().into()], took);
}

/// Counts a repeated request to an embedding server by the reason.
pub fn embed_repeat(reason: &'static str) {
    EMBED_RETRIES_TOTAL.add([reason.into()], 1);
}

/// Counts a request that was not repeated because too many were.
pub fn embed_retries_exhausted() {
    EMBED_RETRIES_EXHAUSTED_TOTAL.add([], 1);
}

/// Sets the gauges of one embedding server.
pub fn embed_server(gauges: &ServerGauges<'_>) {
    let server = || [gauges.server.to_owned().into()];
    EMBED_INFLIGHT.set(server(), gauges.in_flight as f64);
    EMBED_CONCURRENCY_LIMIT.set(server(), gauges.limit as f64);
    EMBED_BREAKER_STATE.set(server(), gauges.breaker);
}
