//! Retagging: stored chunks are classified by the language model again, without a new vector.
//!
//! Rows are taken in the order of their last change. Each change takes a number of the clock, so a row that got its codes
//! lies beyond the range, and work that was interrupted goes on where it ended.

use crate::chunk::{FoundCodes, TmdSource};
use crate::index::{ChangedRow, ExpectedChanges, Indexes, StoreCommit};
use crate::llm::{CacheUse, CallPriority, Llm, LlmError, Wanted};
use crate::metrics;
use crate::store::{ChangedChunk, Retag, RetagRow, RetagScope, RetaggedRows, Store, StoreError};
use futures_util::{StreamExt, stream};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// The most rows of one transaction.
const BATCH: usize = 256;
/// Rows that are read at once.
const PAGE: u32 = 256;

/// The result of one call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retagging {
    /// Rows that have codes of the language model now.
    pub retagged: u64,
    /// Rows that were changed or deleted meanwhile, and keep what they have.
    pub changed_meanwhile: u64,
    /// Rows for which the language model had no answer, by the kind of the failure. They keep their codes.
    pub failed: BTreeMap<&'static str, u64>,
    /// Rows of the scope that are left for the next call.
    pub remaining: u64,
    /// Every row up to this clock value was tried: the next call begins after it.
    pub through: i64,
    /// Why the work ended early: the language model is away, as a sentence.
    pub stopped: Option<String>,
}

/// A row and its new codes.
type Asked = (RetagRow, Result<FoundCodes, LlmError>);

/// What became of the rows of a page.
#[derive(Debug, Default)]
struct Answered {
    retagged: u64,
    changed_meanwhile: u64,
    failed: BTreeMap<&'static str, u64>,
    /// The first row for which the language model was away, and the sentence about it.
    stopped: Option<(i64, String)>,
}

impl Answered {
    /// Counts the rows without an answer, and gives the others.
    fn add(&mut self, answers: Vec<Asked>, endpoint: &str) -> Vec<Retag> {
        let mut retags = Vec::with_capacity(answers.len());
        for (row, answer) in answers {
            match answer {
                Ok(codes) => retags.push(Retag { seq: row.seq, item: row.item, codes }),
                Err(error) if error.is_outage() => {
                    if self.stopped.as_ref().is_none_or(|(seq, _)| row.seq < *seq) {
                        self.stopped = Some((row.seq, format!("the LLM at {endpoint} {error}")));
                    }
                }
                Err(error) => *self.failed.entry(error.kind()).or_default() += 1,
            }
        }
        retags
    }
}

impl Retagging {
    /// Adds the rows of a page, which were asked about up to `begun`.
    fn add(&mut self, page: Answered, begun: i64) {
        let Answered { retagged, changed_meanwhile, failed, stopped } = page;
        self.retagged += retagged;
        self.changed_meanwhile += changed_meanwhile;
        for (kind, count) in failed {
            *self.failed.entry(kind).or_default() += count;
        }
        // Rows after the first that was not answered are asked about again, unless they have new codes.
        self.through = stopped.as_ref().map_or(begun, |(seq, _)| seq - 1);
        self.stopped = stopped.map(|(_, sentence)| sentence);
    }
}

/// Gives stored chunks codes of the language model. Clones share one turn.
#[derive(Clone)]
pub struct Retagger {
    store: Store,
    indexes: Indexes,
    llm: Llm,
    /// One call at a time: two would ask about the same rows.
    turn: Arc<Mutex<()>>,
}

impl Retagger {
    /// Changes the rows of this store, with the answers of `llm`.
    pub fn new(store: Store, indexes: Indexes, llm: Llm) -> Retagger {
        Retagger { store, indexes, llm, turn: Arc::default() }
    }

    /// The language model that is asked.
    pub fn llm(&self) -> &Llm {
        &self.llm
    }

    /// The scope with the present clock as its end, where it has none.
    ///
    /// # Errors
    /// As any query: transient while the server is away.
    pub async fn bounded(&self, scope: RetagScope) -> Result<RetagScope, StoreError> {
        let clock = self.store.clock().await?;
        Ok(RetagScope { upto: scope.upto.min(clock), ..scope })
    }

    /// Asks about the rows of a scope, in their order, and changes those that get an answer. Ends early after about
    /// `within`, when the language model is away, or when `stop` says so; the caller calls again with
    /// [`Retagging::through`] as the beginning. The calls wait behind those of ingest.
    ///
    /// # Errors
    /// The store failed. What was committed before is changed.
    pub async fn retag(
        &self,
        scope: &RetagScope,
        cache: CacheUse,
        within: Duration,
        stop: impl Fn() -> bool,
    ) -> Result<Retagging, StoreError> {
        let _turn = self.turn.lock().await;
        let until = Instant::now() + within;
        let mut done = Retagging { through: scope.after, ..Retagging::default() };
        while done.stopped.is_none() {
            let rest = RetagScope { after: done.through, ..scope.clone() };
            let rows = self.store.rows_to_retag(&rest, PAGE).await?;
            let Some(last) = rows.last().map(|row| row.seq) else { break };
            // At least one, so that every call makes progress.
            let before = done.through;
            let begun = AtomicI64::new(before);
            let away = AtomicBool::new(false);
            let asks = |row: &RetagRow| {
                let first = begun.load(Ordering::Relaxed) == before;
                let more = first || !(stop() || away.load(Ordering::Relaxed) || Instant::now() >= until);
                if more {
                    begun.store(row.seq, Ordering::Relaxed);
                }
                std::future::ready(more)
            };
            let asking = stream::iter(rows).take_while(asks).map(|row| self.ask(row, cache, &away));
            let asking = asking.buffer_unordered(self.llm.slots().max(1)).ready_chunks(BATCH);
            let mut asking = std::pin::pin!(asking);
            let mut answered = Answered::default();
            while let Some(answers) = asking.next().await {
                let retags = answered.add(answers, self.llm.endpoint());
                if !retags.is_empty() {
                    let asked = retags.len() as u64;
                    let changed = self.commit(retags).await?;
                    answered.retagged += changed;
                    answered.changed_meanwhile += asked - changed;
                }
            }
            let begun = begun.load(Ordering::Relaxed);
            done.add(answered, begun);
            if begun < last {
                break;
            }
        }
        let rest = RetagScope { after: done.through, ..scope.clone() };
        done.remaining = self.store.count_to_retag(&rest).await?;
        Ok(done)
    }

    async fn ask(&self, row: RetagRow, cache: CacheUse, away: &AtomicBool) -> Asked {
        let answer = self.llm.classify_as(CallPriority::Background, cache, &row.text, Wanted::Codes).await;
        if answer.as_ref().is_err_and(LlmError::is_outage) {
            away.store(true, Ordering::Relaxed);
        }
        let codes = answer.map(|answer| {
            let source = TmdSource::Llm { model: self.llm.model().clone() };
            FoundCodes { tmd: answer.tmd, source, confidence: answer.confidence, took: Some(answer.took) }
        });
        (row, codes)
    }

    /// One transaction, and the indexes after it. A task of its own, so that they hear of what is committed also when
    /// the caller goes away.
    async fn commit(&self, retags: Vec<Retag>) -> Result<u64, StoreError> {
        let (store, indexes) = (self.store.clone(), self.indexes.clone());
        let work = tokio::spawn(async move {
            let expected = ExpectedChanges { concepts: retags.len(), questions: retags.len() };
            let slots = indexes.reserve(expected).await;
            let retagged = store.retag(&retags).await.inspect_err(|_| {
                // Perhaps it is committed.
                indexes.poll_source();
            })?;
            let RetaggedRows { after, upto, concepts, questions } = retagged;
            let count = concepts.len() as u64;
            if count > 0 {
                metrics::chunks_retagged(count);
                metrics::store_seq(upto);
                let (concepts, questions) = (changed(concepts), changed(questions));
                indexes.apply_committed(
                    slots,
                    StoreCommit { after, upto, concepts, questions, ..StoreCommit::default() },
                );
            }
            Ok(count)
        });
        work.await.unwrap_or(Err(StoreError::Closed))
    }
}

fn changed(rows: Vec<ChangedChunk>) -> Vec<ChangedRow> {
    let row = |ChangedChunk { seq, item, vector }| ChangedRow { seq, item, vector: vector.into() };
    rows.into_iter().map(row).collect()
}
