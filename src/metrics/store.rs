//! What is counted where chunks are committed, indexed and found.

use super::names::{
    ACCESSES_UNCOUNTED_TOTAL, CHUNKS_DELETED_TOTAL, CHUNKS_RETAGGED_TOTAL, DEAD_LETTERS, DEAD_LETTERS_TOTAL,
    DEAD_LETTERS_UNWRITTEN_TOTAL, INDEX_APPLIED_SEQ, INDEX_BUILDS_TOTAL, INDEX_DIFFERENCES_TOTAL,
    INDEX_ITEMS, INDEX_LAG_ROWS, INDEX_LAST_BUILD_SECONDS, INDEX_MAP_SIZE_BYTES, INDEX_MAP_USED_BYTES,
    INDEX_MEMORY_BYTES, SEARCH_DURATION_SECONDS, SEARCH_RECALL_EXACT_TOTAL, SEARCH_RECALL_FOUND_TOTAL,
    STORE_BATCH_ROWS, STORE_COMMIT_SECONDS, STORE_ERRORS_TOTAL, STORE_MAX_SEQ, STORE_POOL_LIMIT_TOTAL,
};
use std::time::Duration;

/// Records the rows and the duration of a committed transaction.
pub fn committed(rows: usize, took: Duration) {
    STORE_BATCH_ROWS.record([], rows as f64);
    STORE_COMMIT_SECONDS.record([], took);
}

/// Counts an error of the database by SQLSTATE class.
pub fn store_error(class: Option<String>, retryable: bool) {
    let class = class.unwrap_or_else(|| "none".to_owned());
    let retryable = if retryable { "true" } else { "false" };
    STORE_ERRORS_TOTAL.add([class.into(), retryable.into()], 1);
}

/// Counts a call that found no free connection in time.
pub fn store_pool_limit() {
    STORE_POOL_LIMIT_TOTAL.add([], 1);
}

/// Counts chunks that were deleted.
pub fn chunks_deleted(count: u64) {
    CHUNKS_DELETED_TOTAL.add([], count);
}

/// Counts stored chunks that got other codes.
pub fn chunks_retagged(count: u64) {
    CHUNKS_RETAGGED_TOTAL.add([], count);
}

/// Counts accesses to chunks for which there was no room.
pub fn accesses_uncounted(count: u64) {
    ACCESSES_UNCOUNTED_TOTAL.add([], count);
}

/// Counts a dead letter that was written.
pub fn dead_letter(cause: &'static str) {
    DEAD_LETTERS_TOTAL.add([cause.into()], 1);
}

/// Counts a dead letter that could not be written.
pub fn dead_letter_unwritten() {
    DEAD_LETTERS_UNWRITTEN_TOTAL.add([], 1);
}

/// Sets the number of stored dead letters.
pub fn dead_letters(count: i64) {
    DEAD_LETTERS.set([], count as f64);
}

/// Sets the sequence number of the last committed change.
pub fn store_seq(seq: i64) {
    STORE_MAX_SEQ.set([], seq as f64);
}

/// The measured state of the index.
pub struct IndexGauges {
    /// The sequence number up to which searches reflect every change.
    pub applied_seq: i64,
    /// Changes that are committed but not built yet; searches scan them in memory.
    pub lag_rows: usize,
    /// Vectors in the built index.
    pub items: u64,
    /// Size of the index on disk, in bytes.
    pub map_used: u64,
    /// Maximum size of the index file, in bytes.
    pub map_size: u64,
    /// Bytes of the rows in memory.
    pub memory: usize,
    /// Number of builds since the start.
    pub builds: u64,
    /// Duration of the last build.
    pub last_build: Duration,
}

/// Sets the gauges of the index of these vectors: `concept` or `question`.
pub fn index(vectors: &'static str, state: &IndexGauges) {
    let label = || [vectors.into()];
    INDEX_APPLIED_SEQ.set(label(), state.applied_seq as f64);
    INDEX_LAG_ROWS.set(label(), state.lag_rows as f64);
    INDEX_ITEMS.set(label(), state.items as f64);
    INDEX_MAP_USED_BYTES.set(label(), state.map_used as f64);
    INDEX_MAP_SIZE_BYTES.set(label(), state.map_size as f64);
    INDEX_MEMORY_BYTES.set(label(), state.memory as f64);
    INDEX_BUILDS_TOTAL.absolute(label(), state.builds);
    INDEX_LAST_BUILD_SECONDS.set(label(), state.last_build.as_secs_f64());
}

/// Counts rows in which the index of these vectors differed from the store.
pub fn index_differences(vectors: &'static str, differences: u64) {
    INDEX_DIFFERENCES_TOTAL.add([vectors.into()], differences);
}

/// Counts the results of an exact search, and those of them that the search it repeats had found.
pub fn search_recall(found: u64, exact: u64) {
    SEARCH_RECALL_FOUND_TOTAL.add([], found);
    SEARCH_RECALL_EXACT_TOTAL.add([], exact);
}

/// Records a search by the way in which the nearest rows were found: `exact`, `quantized`, `trees`, `keyword` or `hybrid`.
pub fn searched(mode: &'static str, took: Duration) {
    SEARCH_DURATION_SECONDS.record([mode.into()], took);
}
