//! What is counted where texts become vectors.

use ::metrics::{counter, histogram};
use std::time::Duration;

/// A text was tokenized.
pub fn tokenized(took: Duration, truncated: bool) {
    histogram!("lnsp_embed_tokenize_seconds").record(took);
    if truncated {
        counter!("lnsp_embed_truncated_total").increment(1);
    }
}

/// A forward pass ended: texts, tokens without and with padding.
pub fn embedded(texts: usize, tokens: usize, padded: usize, took: Duration) {
    histogram!("lnsp_embed_batch_size").record(texts as f64);
    histogram!("lnsp_embed_batch_tokens").record(padded as f64);
    histogram!("lnsp_embed_padding_ratio").record(1.0 - tokens as f64 / padded.max(1) as f64);
    histogram!("lnsp_embed_inference_seconds").record(took);
}

/// A forward pass gave nothing.
pub fn pass_failed(cause: &'static str) {
    counter!("lnsp_embed_passes_failed_total", "cause" => cause).increment(1);
}

/// A vector was refused because it has no direction.
pub fn nonfinite() {
    counter!("lnsp_embed_nonfinite_total").increment(1);
}

/// An embedding server gave vectors: its tokens are not known here.
pub fn embedded_there(texts: usize, took: Duration) {
    histogram!("lnsp_embed_batch_size").record(texts as f64);
    histogram!("lnsp_embed_inference_seconds").record(took);
}

/// A request to an embedding server ended.
pub fn embed_request(outcome: &'static str, took: Duration) {
    counter!("lnsp_embed_requests_total", "outcome" => outcome).increment(1);
    histogram!("lnsp_embed_request_duration_seconds").record(took);
}

/// Such a request is repeated.
pub fn embed_repeat(reason: &'static str) {
    counter!("lnsp_embed_retries_total", "reason" => reason).increment(1);
}
