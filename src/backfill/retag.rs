//! Retagging: stored chunks are classified by the language model again, without a new vector.

use super::pass::{Backfill, Backfilled, BatchEnd, pass};
use super::stored_rows::StoredRows;
use crate::chunk::{FoundCodes, TmdSource};
use crate::index::Indexes;
use crate::llm::{CacheUse, CallPriority, Llm, LlmError, Wanted};
use crate::metrics;
use crate::store::{Retag, RetagRow, RetagScope, Store, StoreError};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Gives stored chunks codes of the language model. Clones share one turn.
#[derive(Clone)]
pub struct Retagger {
    rows: StoredRows,
    llm: Llm,
}

impl Retagger {
    /// Changes the rows of this store, with the answers of `llm`.
    pub fn new(store: Store, indexes: Indexes, llm: Llm) -> Retagger {
        Retagger { rows: StoredRows::new(store, indexes), llm }
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
        let clock = self.rows.store.clock().await?;
        Ok(RetagScope { upto: scope.upto.min(clock), ..scope })
    }

    /// Asks about the rows of a scope, in their order, and changes those that get an answer. Ends early after about
    /// `within`, when the language model is away, or when `stop` says so; the caller calls again with
    /// [`Backfilled::through`] as the beginning. The calls wait behind those of ingest.
    ///
    /// # Errors
    /// The store failed. What was committed before is changed.
    pub async fn retag(
        &self,
        scope: &RetagScope,
        cache: CacheUse,
        within: Duration,
        stop: impl Fn() -> bool,
    ) -> Result<Backfilled, StoreError> {
        let _turn = self.rows.turn.lock().await;
        pass(&RetagPass { retagger: self, scope, cache }, scope.after, within, stop).await
    }
}

/// The rows of one call.
struct RetagPass<'a> {
    retagger: &'a Retagger,
    scope: &'a RetagScope,
    cache: CacheUse,
}

impl Backfill for RetagPass<'_> {
    type Row = RetagRow;
    type Asked = (RetagRow, Result<FoundCodes, LlmError>);
    const BATCH: usize = 256;

    fn concurrency(&self) -> usize {
        self.retagger.llm.slots()
    }

    fn is_healthy(&self) -> bool {
        self.retagger.llm.is_healthy()
    }

    fn seq(row: &RetagRow) -> i64 {
        row.seq
    }

    async fn rows(&self, after: i64, limit: u32) -> Result<Vec<RetagRow>, StoreError> {
        let rest = RetagScope { after, ..self.scope.clone() };
        self.retagger.rows.store.rows_to_retag(&rest, limit).await
    }

    async fn count(&self, after: i64) -> Result<u64, StoreError> {
        let rest = RetagScope { after, ..self.scope.clone() };
        self.retagger.rows.store.count_to_retag(&rest).await
    }

    async fn ask(&self, row: RetagRow, away: &AtomicBool) -> Self::Asked {
        let llm = &self.retagger.llm;
        let answer = llm.classify_as(CallPriority::Background, self.cache, &row.text, Wanted::Codes).await;
        if answer.as_ref().is_err_and(LlmError::is_outage) {
            away.store(true, Ordering::Relaxed);
        }
        let codes = answer.map(|answer| {
            let source = TmdSource::Llm { model: llm.model().clone() };
            FoundCodes { tmd: answer.tmd, source, confidence: answer.confidence, took: Some(answer.took) }
        });
        (row, codes)
    }

    async fn finish(&self, batch: Vec<Self::Asked>, _: &AtomicBool) -> Result<BatchEnd, StoreError> {
        let (mut end, mut retags) = (BatchEnd::default(), Vec::with_capacity(batch.len()));
        for (row, answer) in batch {
            match answer {
                Ok(codes) => retags.push(Retag { seq: row.seq, item: row.item, codes }),
                Err(error) if error.is_outage() => {
                    end.stop(row.seq, format!("the LLM at {} {error}", self.retagger.llm.endpoint()));
                }
                // Such a row keeps its codes.
                Err(error) => end.fail(error.kind()),
            }
        }
        if !retags.is_empty() {
            let asked = retags.len();
            let change = async move |store: Store| {
                let rows = store.retag(&retags).await?;
                metrics::chunks_retagged(rows.concepts.len() as u64);
                Ok(rows)
            };
            end.updated = self.retagger.rows.commit(asked, change).await?.len() as u64;
            end.changed_meanwhile = asked as u64 - end.updated;
        }
        Ok(end)
    }
}
