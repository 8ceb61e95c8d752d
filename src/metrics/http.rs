//! What is counted where requests come in and are answered.

use super::names::{
    ADMISSION_LIMIT, ADMISSION_USED, HTTP_CONNECTION_ERRORS_TOTAL, HTTP_CONNECTIONS,
    HTTP_REQUEST_BODY_BYTES_TOTAL, HTTP_REQUEST_DURATION_SECONDS, HTTP_REQUESTS_TOTAL, HTTP_UPLOADS_ACTIVE,
    HTTP_UPLOADS_CUT_TOTAL, IDEMPOTENCY_ANSWERS, IDEMPOTENCY_BYTES, IDEMPOTENCY_REQUESTS_TOTAL,
    INGEST_ACK_DURATION_SECONDS, INGEST_CHUNKS_TOTAL, INGEST_REJECTED_TOTAL, INGEST_SETTLED_PER_SECOND,
};
use std::time::Duration;

/// Counts an answered request and records its duration.
pub fn http_request(route: &'static str, method: &'static str, status: u16, took: Duration) {
    HTTP_REQUESTS_TOTAL.add([route.into(), method.into(), status.to_string().into()], 1);
    HTTP_REQUEST_DURATION_SECONDS.record([route.into()], took);
}

/// Adds `change` to the uploads being read or answered: 1 at the start, -1 at the end.
pub fn uploads(change: f64) {
    HTTP_UPLOADS_ACTIVE.add([], change);
}

/// Counts one connection as open until it is dropped.
pub struct ConnectionGauge;

/// Counts a connection as open until the guard is dropped.
pub fn connection() -> ConnectionGauge {
    HTTP_CONNECTIONS.add([], 1.0);
    ConnectionGauge
}

impl Drop for ConnectionGauge {
    fn drop(&mut self) {
        HTTP_CONNECTIONS.add([], -1.0);
    }
}

/// Counts a connection that ended with an error.
pub fn connection_error(cause: &'static str) {
    HTTP_CONNECTION_ERRORS_TOTAL.add([cause.into()], 1);
}

/// Counts an upload that was aborted, by the error code that the client receives.
pub fn upload_cut(code: &'static str) {
    HTTP_UPLOADS_CUT_TOTAL.add([code.into()], 1);
}

/// Adds `change` to the permits in use; negative when permits are released.
pub fn admission_used(kind: &'static str, change: f64) {
    ADMISSION_USED.add([kind.into()], change);
}

/// Sets the number of permits of a kind.
pub fn admission_limit(kind: &'static str, permits: usize) {
    ADMISSION_LIMIT.set([kind.into()], permits as f64);
}

/// Counts a request that was refused before its first byte.
pub fn refused(reason: &'static str) {
    INGEST_REJECTED_TOTAL.add([reason.into()], 1);
}

/// Sets the rate, in chunks per second, from which `Retry-After` is computed.
pub fn settled_per_second(rate: f64) {
    INGEST_SETTLED_PER_SECOND.set([], rate);
}

/// Counts a request with an `Idempotency-Key` by its result.
pub fn idempotent(result: &'static str) {
    IDEMPOTENCY_REQUESTS_TOTAL.add([result.into()], 1);
}

/// Sets how many answers, and how many bytes of them, are kept for their `Idempotency-Key`.
pub fn idempotent_kept(answers: usize, bytes: usize) {
    IDEMPOTENCY_ANSWERS.set([], answers as f64);
    IDEMPOTENCY_BYTES.set([], bytes as f64);
}

/// Counts received bytes of an upload.
pub fn body_bytes(encoding: &'static str, bytes: usize) {
    HTTP_REQUEST_BODY_BYTES_TOTAL.add([encoding.into()], bytes as u64);
}

/// Counts an answered chunk by its result.
pub fn ingested(result: &'static str) {
    INGEST_CHUNKS_TOTAL.add([result.into()], 1);
}

/// Records the time from the entrance to the answer of a stored chunk.
pub fn acknowledged(age: Duration) {
    INGEST_ACK_DURATION_SECONDS.record([], age);
}
