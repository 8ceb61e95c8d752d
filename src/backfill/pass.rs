//! One pass over stored rows: pages in the order of the clock, several rows asked about at once, changes in batches.

use crate::store::StoreError;
use futures_util::{StreamExt, stream};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// Rows that are read at once.
const PAGE: u32 = 256;
/// Batches that are finished beside the calls of the next ones.
const BATCHES: usize = 2;

/// The result of one call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Backfilled {
    /// Rows that have what the language model gave.
    pub updated: u64,
    /// Rows that had a question and have its vector now.
    pub embedded: u64,
    /// Rows that were changed or deleted meanwhile, and keep what they have.
    pub changed_meanwhile: u64,
    /// Rows for which nothing usable came, by the kind of the failure.
    pub failed: BTreeMap<Arc<str>, u64>,
    /// Rows of the scope that are left for the next call.
    pub remaining: u64,
    /// Every row up to this clock value was tried: the next call begins after it.
    pub through: i64,
    /// Why the work ended early, as a sentence: the language model or the embedder is away.
    pub stopped: Option<String>,
}

/// What became of the rows of a batch.
#[derive(Debug, Default)]
pub struct BatchEnd {
    pub updated: u64,
    pub embedded: u64,
    pub changed_meanwhile: u64,
    failed: BTreeMap<Arc<str>, u64>,
    /// The first row that has to be tried again, and why.
    stopped: Option<(i64, String)>,
}

/// What is done with the rows of a scope.
pub trait Backfill {
    /// A row as it was read.
    type Row;
    /// A row after the language model was asked.
    type Asked;
    /// The most rows of one batch.
    const BATCH: usize;

    /// The rows that are asked about at once.
    fn concurrency(&self) -> usize;
    /// Whether the last call to the language model succeeded, or none is needed.
    fn is_healthy(&self) -> bool;
    /// The clock value of a row.
    fn seq(row: &Self::Row) -> i64;
    /// The first `limit` rows of the scope whose clock values are later than `after`.
    async fn rows(&self, after: i64, limit: u32) -> Result<Vec<Self::Row>, StoreError>;
    /// Counts the rows of the scope whose clock values are later than `after`.
    async fn count(&self, after: i64) -> Result<u64, StoreError>;
    /// Asks about a row. Sets `away` where it makes no sense to go on with others.
    async fn ask(&self, row: Self::Row, away: &AtomicBool) -> Self::Asked;
    /// Changes the rows of a batch, and counts them.
    async fn finish(&self, batch: Vec<Self::Asked>, away: &AtomicBool) -> Result<BatchEnd, StoreError>;
}

impl BatchEnd {
    /// A row that has to be tried again.
    pub fn stop(&mut self, seq: i64, sentence: String) {
        if self.stopped.as_ref().is_none_or(|(first, _)| seq < *first) {
            self.stopped = Some((seq, sentence));
        }
    }

    /// A row for which nothing usable came.
    pub fn fail(&mut self, reason: &str) {
        *self.failed.entry(reason.into()).or_default() += 1;
    }
}

impl Backfilled {
    /// Adds the rows of a batch; gives the first row that has to be tried again.
    fn add(&mut self, batch: BatchEnd) -> Option<(i64, String)> {
        self.updated += batch.updated;
        self.embedded += batch.embedded;
        self.changed_meanwhile += batch.changed_meanwhile;
        for (reason, count) in batch.failed {
            *self.failed.entry(reason).or_default() += count;
        }
        batch.stopped
    }
}

/// Takes the rows after the clock value `after`, in their order. Ends early after about `within`, when the work says that
/// it cannot go on, or when `stop` says so.
///
/// # Errors
/// The store failed. What was committed before is changed.
pub async fn pass<B: Backfill>(
    work: &B,
    after: i64,
    within: Duration,
    stop: impl Fn() -> bool,
) -> Result<Backfilled, StoreError> {
    let until = Instant::now() + within;
    let mut done = Backfilled { through: after, ..Backfilled::default() };
    while done.stopped.is_none() {
        // While the language model fails, one row shows whether it goes on doing so.
        let page = if work.is_healthy() { PAGE } else { 1 };
        let rows = work.rows(done.through, page).await?;
        let Some(last) = rows.last().map(B::seq) else { break };
        // At least one, so that every call makes progress.
        let before = done.through;
        let begun = AtomicI64::new(before);
        let away = AtomicBool::new(false);
        let takes = |row: &B::Row| {
            let first = begun.load(Ordering::Relaxed) == before;
            let more = first || !(stop() || away.load(Ordering::Relaxed) || Instant::now() >= until);
            if more {
                begun.store(B::seq(row), Ordering::Relaxed);
            }
            std::future::ready(more)
        };
        let asked = stream::iter(rows).take_while(takes).map(|row| work.ask(row, &away));
        let asked = asked.buffer_unordered(work.concurrency().max(1)).ready_chunks(B::BATCH);
        let batches = asked.map(|batch| work.finish(batch, &away)).buffer_unordered(BATCHES);
        let mut batches = std::pin::pin!(batches);
        let mut again: Option<(i64, String)> = None;
        while let Some(batch) = batches.next().await {
            let stopped = done.add(batch?);
            again = again.into_iter().chain(stopped).min_by_key(|(seq, _)| *seq);
        }
        let begun = begun.load(Ordering::Relaxed);
        // Rows after the first that has to be tried again are tried again too, unless they were changed.
        done.through = again.as_ref().map_or(begun, |(seq, _)| seq - 1);
        done.stopped = again.map(|(_, sentence)| sentence);
        if begun < last || Instant::now() >= until || stop() {
            break;
        }
    }
    done.remaining = work.count(done.through).await?;
    Ok(done)
}
