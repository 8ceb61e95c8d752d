//! Every metric of the service by name, so that names cannot drift. A leaf: knows nothing of the house.
//!
//! Labels are closed sets. Times are recorded per batch where there is a batch.

mod embedding;

pub use embedding::*;

use ::metrics::{counter, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

/// Upper bounds of the duration histograms, in seconds.
const SECONDS: [f64; 18] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
    600.0,
];
/// Upper bounds for counts of items in a batch.
const ITEMS: [f64; 13] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0, 16384.0];
/// Upper bounds for shares.
const RATIOS: [f64; 8] = [0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0];

/// How often samples are folded into their buckets.
const UPKEEP: Duration = Duration::from_secs(5);

/// Installs the recorder, once per process; later calls give the same handle. Call it before the first metric.
/// `None` when something else in the process has installed another recorder.
///
/// Histograms keep every sample until somebody scrapes or folds them: some 120 bytes a chunk. So the recorder comes with
/// a thread that folds them, whoever installs it.
pub fn install() -> Option<&'static PrometheusHandle> {
    static HANDLE: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
    let handle = HANDLE.get_or_init(|| {
        let builder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)
            .and_then(|b| b.set_buckets_for_metric(Matcher::Suffix("_ratio".into()), &RATIOS))
            .and_then(|b| b.set_buckets_for_metric(Matcher::Suffix("_rows".into()), &ITEMS))
            .and_then(|b| b.set_buckets_for_metric(Matcher::Suffix("_size".into()), &ITEMS))
            .and_then(|b| b.set_buckets_for_metric(Matcher::Suffix("_tokens".into()), &ITEMS));
        let handle = builder.ok()?.install_recorder().ok()?;
        describe();
        let folded = handle.clone();
        let fold = move || loop {
            thread::sleep(UPKEEP);
            folded.run_upkeep();
        };
        thread::Builder::new().name("lnsp-metrics".to_owned()).spawn(fold).ok()?;
        Some(handle)
    });
    handle.as_ref()
}

fn describe() {
    use ::metrics::{describe_counter as c, describe_gauge as g, describe_histogram as h};
    g!("lnsp_build_info", "Always 1; the labels say what runs");
    c!("lnsp_http_requests_total", "Requests answered");
    h!("lnsp_http_request_duration_seconds", "From the head of a request to the end of its answer");
    g!("lnsp_http_connections", "Connections that are open");
    g!("lnsp_http_uploads_active", "Ingest requests being read or answered");
    c!("lnsp_http_request_body_bytes_total", "Bytes of uploads as they were received, by encoding");
    c!("lnsp_ingest_chunks_total", "Chunks answered, by result");
    c!(
        "lnsp_http_uploads_cut_total",
        "Uploads that ended before their end, by the code that their client is told"
    );
    g!("lnsp_admission_used", "Permits that are out: uploads, requests, and bytes of request bodies");
    g!("lnsp_admission_limit", "Permits that there are");
    c!("lnsp_ingest_rejected_total", "Uploads and requests refused before their first byte, by reason");
    g!(
        "lnsp_ingest_settled_per_second",
        "The pace of late, while chunks were waited for: stored and duplicate ones; Retry-After follows from it"
    );
    c!("lnsp_idempotency_requests_total", "Requests with an Idempotency-Key, by what became of them");
    g!("lnsp_idempotency_answers", "Answers kept for their Idempotency-Key");
    g!("lnsp_idempotency_bytes", "Bytes of those answers");
    h!("lnsp_ingest_ack_duration_seconds", "From the entrance to the answer, for stored chunks");
    g!("lnsp_inflight_chunks_limit", "The sum of the slots of all stages");
    g!("lnsp_stage_queue_length", "Slots taken: chunks in a stage, waiting or in hand");
    g!("lnsp_stage_queue_capacity", "Slots of a stage");
    h!("lnsp_stage_wait_seconds", "From entering a stage to being taken in hand");
    h!("lnsp_stage_busy_seconds", "Work of a stage on a chunk or a batch");
    c!("lnsp_backpressure_seconds_total", "Time that senders waited for room in a stage");
    c!("lnsp_actor_restarts_total", "Stages that died and were built anew, by cause: panic, stop, stalled");
    c!(
        "lnsp_suspects_total",
        "Chunks in the hands of a stage when it died, by stage; each counts an attempt"
    );
    c!(
        "lnsp_poisoned_total",
        "Chunks rejected as poison: a stage died three times with them in hand, by stage"
    );
    g!(
        "lnsp_stage_oldest_work_seconds",
        "Age of the oldest piece of work in the hands of a stage; 0 without any"
    );
    c!("lnsp_process_suspended_seconds_total", "Time in which this process was stopped or its machine slept");
    g!("lnsp_actor_up", "1 while the stages run");
    g!("lnsp_pipeline_generation", "Number of the running generation of stages");
    c!("lnsp_pipeline_arbiter_busy_seconds_total", "Time the pipeline's own thread was not idle");
    c!("lnsp_tmd_domain_total", "Chunks tagged, by domain");
    c!(
        "lnsp_tmd_fallback_total",
        "Chunks labelled locally because the language model had no answer, by reason"
    );
    c!("lnsp_llm_requests_total", "Calls to the language model, by outcome");
    h!("lnsp_llm_request_duration_seconds", "One call to the language model");
    c!("lnsp_llm_retries_total", "Second calls for the same chunk, by reason");
    c!("lnsp_llm_tokens_total", "Tokens read (prompt) and written (output) by the language model");
    g!("lnsp_llm_inflight", "Calls to the language model under way");
    g!("lnsp_llm_concurrency_limit", "Most calls to the language model at once");
    g!(
        "lnsp_llm_breaker_state",
        "0: the language model is asked; 2: it is left alone after many failures in a row"
    );
    h!("lnsp_embed_batch_size", "Texts in a forward pass");
    h!("lnsp_embed_batch_tokens", "Tokens in a forward pass, padding included");
    h!("lnsp_embed_padding_ratio", "Share of padding in a forward pass");
    h!("lnsp_embed_tokenize_seconds", "Tokenizing one text");
    h!("lnsp_embed_inference_seconds", "One forward pass");
    c!("lnsp_embed_truncated_total", "Texts longer than the model reads");
    c!("lnsp_embed_nonfinite_total", "Vectors refused because they were not finite, or all zeros");
    c!(
        "lnsp_embed_passes_failed_total",
        "Forward passes that failed as a whole, by cause; all but a single text then go in halves"
    );
    c!("lnsp_embed_requests_total", "Requests to an embedding server, by outcome");
    h!("lnsp_embed_request_duration_seconds", "One request to an embedding server");
    c!("lnsp_embed_retries_total", "Requests repeated, by what had happened to the last one");
    h!("lnsp_store_batch_rows", "Rows in a transaction");
    h!("lnsp_store_commit_seconds", "One transaction of the writer, commit included");
    c!("lnsp_store_errors_total", "Errors of the database");
    g!("lnsp_store_max_seq", "Number of the last committed change");
    c!("lnsp_dead_letters_total", "Rejected chunks written down to be sent again, by cause");
    c!(
        "lnsp_dead_letters_unwritten_total",
        "Rejected chunks that could not be written down; they were answered all the same"
    );
    g!("lnsp_dead_letters", "Rejected chunks that lie there to be sent again, at the last look");
    g!("lnsp_index_applied_seq", "Searches reflect every change up to this number");
    g!("lnsp_index_lag_rows", "Changes committed but not yet built into the index; searched in memory");
    g!("lnsp_index_items", "Vectors built into the index");
    g!("lnsp_index_map_used_bytes", "Bytes of the index on disk");
    g!("lnsp_index_map_size_bytes", "Ceiling of the index file");
    g!("lnsp_index_builds_total", "Builds since the start");
    g!("lnsp_index_last_build_seconds", "Duration of the last build");
    h!("lnsp_search_duration_seconds", "From the query to its results");
}

/// What runs.
pub fn build_info(model: &str, device: &str) {
    let version = env!("CARGO_PKG_VERSION");
    gauge!("lnsp_build_info", "version" => version, "model" => model.to_owned(), "device" => device.to_owned())
        .set(1.0);
}

/// A request was answered.
pub fn http_request(route: &'static str, method: &'static str, status: u16, took: Duration) {
    counter!("lnsp_http_requests_total", "route" => route, "method" => method, "status" => status.to_string())
        .increment(1);
    histogram!("lnsp_http_request_duration_seconds", "route" => route).record(took);
}

/// An upload began (1) or ended (-1).
pub fn uploads(change: f64) {
    gauge!("lnsp_http_uploads_active").increment(change);
}

/// Counts a connection until it is dropped.
pub struct ConnectionGauge;

/// See [`ConnectionGauge`].
pub fn connection() -> ConnectionGauge {
    gauge!("lnsp_http_connections").increment(1.0);
    ConnectionGauge
}

impl Drop for ConnectionGauge {
    fn drop(&mut self) {
        gauge!("lnsp_http_connections").decrement(1.0);
    }
}

/// An upload ended before its end.
pub fn upload_cut(code: &'static str) {
    counter!("lnsp_http_uploads_cut_total", "code" => code).increment(1);
}

/// Permits of a kind were taken, or came back.
pub fn admission_used(kind: &'static str, change: f64) {
    gauge!("lnsp_admission_used", "kind" => kind).increment(change);
}

/// Permits of a kind.
pub fn admission_limit(kind: &'static str, permits: usize) {
    gauge!("lnsp_admission_limit", "kind" => kind).set(permits as f64);
}

/// Somebody was not let in.
pub fn refused(reason: &'static str) {
    counter!("lnsp_ingest_rejected_total", "reason" => reason).increment(1);
}

/// The rate from which the time to come again is computed.
pub fn settled_per_second(rate: f64) {
    gauge!("lnsp_ingest_settled_per_second").set(rate);
}

/// A request with an `Idempotency-Key`.
pub fn idempotent(result: &'static str) {
    counter!("lnsp_idempotency_requests_total", "result" => result).increment(1);
}

/// What is kept for such requests.
pub fn idempotent_kept(answers: usize, bytes: usize) {
    gauge!("lnsp_idempotency_answers").set(answers as f64);
    gauge!("lnsp_idempotency_bytes").set(bytes as f64);
}

/// A piece of an upload was received.
pub fn body_bytes(encoding: &'static str, bytes: usize) {
    counter!("lnsp_http_request_body_bytes_total", "encoding" => encoding).increment(bytes as u64);
}

/// A chunk got its answer.
pub fn ingested(result: &'static str) {
    counter!("lnsp_ingest_chunks_total", "result" => result).increment(1);
}

/// A chunk was stored this long after the entrance took it.
pub fn acknowledged(age: Duration) {
    histogram!("lnsp_ingest_ack_duration_seconds").record(age);
}

/// The sum of all slots.
pub fn inflight_limit(chunks: usize) {
    gauge!("lnsp_inflight_chunks_limit").set(chunks as f64);
}

/// A slot was taken (1) or came home (-1).
pub fn stage_queue(stage: &'static str, change: f64) {
    gauge!("lnsp_stage_queue_length", "stage" => stage).increment(change);
}

/// The slots of a stage.
pub fn stage_capacity(stage: &'static str, slots: usize) {
    gauge!("lnsp_stage_queue_capacity", "stage" => stage).set(slots as f64);
}

/// A parcel was taken in hand.
pub fn stage_wait(stage: &'static str, waited: Duration) {
    histogram!("lnsp_stage_wait_seconds", "stage" => stage).record(waited);
}

/// A stage finished a piece of work.
pub fn stage_busy(stage: &'static str, took: Duration) {
    histogram!("lnsp_stage_busy_seconds", "stage" => stage).record(took);
}

/// A sender had to wait for room.
pub fn backpressure(stage: &'static str, waited: Duration) {
    // The exporter counts whole numbers only, so the fraction is kept as a gauge that only grows.
    gauge!("lnsp_backpressure_seconds_total", "stage" => stage).increment(waited.as_secs_f64());
}

/// A stage died.
pub fn restart(actor: &'static str, cause: &'static str) {
    counter!("lnsp_actor_restarts_total", "actor" => actor, "cause" => cause).increment(1);
}

/// A stage died with so many chunks in hand, and for some of them it was the third time.
pub fn suspects(stage: &'static str, suspects: u64, poisoned: u64) {
    counter!("lnsp_suspects_total", "stage" => stage).increment(suspects);
    counter!("lnsp_poisoned_total", "stage" => stage).increment(poisoned);
}

/// The oldest piece of work in the hands of a stage, waiting included.
pub fn oldest_work(stage: &'static str, age: Duration) {
    gauge!("lnsp_stage_oldest_work_seconds", "stage" => stage).set(age.as_secs_f64());
}

/// The process did not run for a while.
pub fn suspended(time: Duration) {
    gauge!("lnsp_process_suspended_seconds_total").increment(time.as_secs_f64());
}

/// A generation runs, or is being healed.
pub fn generation(number: u64, up: bool) {
    gauge!("lnsp_pipeline_generation").set(number as f64);
    gauge!("lnsp_actor_up").set(f64::from(u8::from(up)));
}

/// Total busy time of the pipeline's thread.
pub fn arbiter_busy(total: Duration) {
    gauge!("lnsp_pipeline_arbiter_busy_seconds_total").set(total.as_secs_f64());
}

/// A chunk got its domain.
pub fn tagged(domain: &'static str) {
    counter!("lnsp_tmd_domain_total", "domain" => domain).increment(1);
}

/// A chunk was labelled locally for want of a better answer.
pub fn fell_back(reason: &'static str) {
    counter!("lnsp_tmd_fallback_total", "reason" => reason).increment(1);
}

/// A call to the language model ended.
pub fn llm_request(outcome: &'static str, took: Duration) {
    counter!("lnsp_llm_requests_total", "backend" => "ollama", "outcome" => outcome).increment(1);
    histogram!("lnsp_llm_request_duration_seconds", "backend" => "ollama").record(took);
}

/// A call is repeated.
pub fn llm_retry(reason: &'static str) {
    counter!("lnsp_llm_retries_total", "reason" => reason).increment(1);
}

/// What the language model says it has read and written.
pub fn llm_tokens(prompt: u64, output: u64) {
    counter!("lnsp_llm_tokens_total", "kind" => "prompt").increment(prompt);
    counter!("lnsp_llm_tokens_total", "kind" => "output").increment(output);
}

/// Most calls at once.
pub fn llm_limit(calls: usize) {
    gauge!("lnsp_llm_concurrency_limit", "backend" => "ollama").set(calls as f64);
}

/// How the language model does: 0 it is asked, 2 it is left alone after too many failures.
pub fn llm_breaker(resting: bool) {
    gauge!("lnsp_llm_breaker_state", "backend" => "ollama").set(if resting { 2.0 } else { 0.0 });
}

/// Counts a question as under way until it is dropped.
pub struct LlmFlight;

/// See [`LlmFlight`].
pub fn llm_flight() -> LlmFlight {
    gauge!("lnsp_llm_inflight", "backend" => "ollama").increment(1.0);
    LlmFlight
}

impl Drop for LlmFlight {
    fn drop(&mut self) {
        gauge!("lnsp_llm_inflight", "backend" => "ollama").decrement(1.0);
    }
}

/// A transaction was committed.
pub fn committed(rows: usize, took: Duration) {
    histogram!("lnsp_store_batch_rows").record(rows as f64);
    histogram!("lnsp_store_commit_seconds").record(took);
}

/// The database said no.
pub fn store_error(class: Option<String>, retryable: bool) {
    let class = class.unwrap_or_else(|| "none".to_owned());
    let retryable = if retryable { "true" } else { "false" };
    counter!("lnsp_store_errors_total", "sqlstate_class" => class, "retryable" => retryable).increment(1);
}

/// A rejected chunk was written down.
pub fn dead_letter(cause: &'static str) {
    counter!("lnsp_dead_letters_total", "cause" => cause).increment(1);
}

/// A rejected chunk could not be written down.
pub fn dead_letter_unwritten() {
    counter!("lnsp_dead_letters_unwritten_total").increment(1);
}

/// How many rejected chunks lie there.
pub fn dead_letters(count: i64) {
    gauge!("lnsp_dead_letters").set(count as f64);
}

/// The last committed change.
pub fn store_seq(seq: i64) {
    gauge!("lnsp_store_max_seq").set(seq as f64);
}

/// The state of the index, as far as it is measured.
pub struct IndexGauges {
    /// See `lnsp_index_applied_seq`.
    pub applied_seq: i64,
    /// Rows searched in memory.
    pub lag_rows: usize,
    /// Vectors built.
    pub items: u64,
    /// Bytes on disk.
    pub map_used: u64,
    /// Ceiling in bytes.
    pub map_size: u64,
    /// Builds since the start.
    pub builds: u64,
    /// The last build.
    pub last_build: Duration,
}

/// Sets the gauges of the index.
pub fn index(state: &IndexGauges) {
    gauge!("lnsp_index_applied_seq").set(state.applied_seq as f64);
    gauge!("lnsp_index_lag_rows").set(state.lag_rows as f64);
    gauge!("lnsp_index_items").set(state.items as f64);
    gauge!("lnsp_index_map_used_bytes").set(state.map_used as f64);
    gauge!("lnsp_index_map_size_bytes").set(state.map_size as f64);
    gauge!("lnsp_index_builds_total").set(state.builds as f64);
    gauge!("lnsp_index_last_build_seconds").set(state.last_build.as_secs_f64());
}

/// A search was answered, by an exact scan (`exact`) or the trees (`ann`).
pub fn searched(mode: &'static str, took: Duration) {
    histogram!("lnsp_search_duration_seconds", "mode" => mode).record(took);
}
