//! Extraction afterwards: stored chunks get CPESH parts from the language model, and vectors of their concepts and
//! questions. A row is written as one: parts and vectors together.

use super::pass::{Backfill, Backfilled, BatchEnd, pass};
use super::stored_rows::StoredRows;
use crate::chunk::{Embedding, Extraction};
use crate::index::Indexes;
use crate::llm::{CacheUse, CallPriority, Llm, LlmError, Wanted};
use crate::store::{
    ExtractionLack, ExtractionRow, ExtractionRows, ExtractionScope, ExtractionUpdate, ModelId, Store,
    StoreError,
};
use crate::threads::Lane;
use crate::vectorizer::Vectorizer;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The most rows of one transaction.
const BATCH: usize = 128;
/// The reason of a failure when a part cannot be embedded.
const NOT_EMBEDDED: &str = "embedding";

/// A row, and what it is to get.
struct PreparedRow {
    row: ExtractionRow,
    extraction: Option<Extraction>,
}

/// Gives stored chunks CPESH parts and their vectors. Clones share one turn.
#[derive(Clone)]
pub struct Extractor {
    rows: StoredRows,
    model: ModelId,
    vectorizer: Vectorizer,
    llm: Option<Llm>,
}

impl Extractor {
    /// Changes the rows of this store, with vectors of `model`. Without a language model only questions are embedded.
    pub fn new(
        (store, model): (Store, ModelId),
        indexes: Indexes,
        vectorizer: Vectorizer,
        llm: Option<Llm>,
    ) -> Extractor {
        Extractor { rows: StoredRows::new(store, indexes), model, vectorizer, llm }
    }

    /// The language model that is asked.
    pub fn llm(&self) -> Option<&Llm> {
        self.llm.as_ref()
    }

    /// The scope with the present clock as its end, where it has none.
    ///
    /// # Errors
    /// As any query: transient while the server is away.
    pub async fn bounded(&self, scope: ExtractionScope) -> Result<ExtractionScope, StoreError> {
        let clock = self.rows.store.clock().await?;
        Ok(ExtractionScope { upto: scope.upto.min(clock), ..scope })
    }

    /// Gives the rows of a scope what they lack, in their order. Ends early after about `within`, when the language model
    /// or the embedder is away, or when `stop` says so; the caller calls again with [`Backfilled::through`] as the
    /// beginning. The calls wait behind those of ingest.
    ///
    /// # Errors
    /// The store failed. What was committed before is changed.
    pub async fn extract(
        &self,
        scope: &ExtractionScope,
        within: Duration,
        stop: impl Fn() -> bool,
    ) -> Result<Backfilled, StoreError> {
        let _turn = self.rows.turn.lock().await;
        pass(&ExtractionPass { extractor: self, scope }, scope.after, within, stop).await
    }

    async fn update(
        &self,
        row: PreparedRow,
        concept: Option<Arc<[f32]>>,
        question: Option<Arc<[f32]>>,
    ) -> ExtractionUpdate {
        let text = row.texts()[0].map(str::to_owned);
        let concept = match (concept, text) {
            (Some(vector), Some(text)) => {
                // Tokenized again, for what the model leaves out.
                let read = self.vectorizer.read(Lane::Bulk, text).await.ok();
                let truncated = read.as_ref().is_some_and(|text| text.truncated());
                let unread = read.as_ref().and_then(|text| text.unread());
                Some(Embedding { vector, truncated, unread, took: Duration::ZERO })
            }
            _ => None,
        };
        let ExtractionRow { seq, item, .. } = row.row;
        ExtractionUpdate { seq, item, extraction: row.extraction, concept, question }
    }

    /// The failure of a row whose new parts cannot be embedded; `None` for a question that it has.
    fn not_embedded(&self, row: PreparedRow) -> Option<ExtractionUpdate> {
        let call = row.extraction?.call()?.clone();
        let extraction = Some(Extraction::Failed { reason: NOT_EMBEDDED.into(), call });
        let ExtractionRow { seq, item, .. } = row.row;
        Some(ExtractionUpdate { seq, item, extraction, concept: None, question: None })
    }
}

/// The rows of one call.
struct ExtractionPass<'a> {
    extractor: &'a Extractor,
    scope: &'a ExtractionScope,
}

impl Backfill for ExtractionPass<'_> {
    type Row = ExtractionRow;
    /// The error is that of a row about which the language model has to be asked again.
    type Asked = Result<PreparedRow, (i64, String)>;
    const BATCH: usize = BATCH;

    fn concurrency(&self) -> usize {
        self.extractor.llm.as_ref().map_or(BATCH, Llm::slots)
    }

    fn is_healthy(&self) -> bool {
        // For vectors of questions no language model is asked.
        let asks = self.scope.rows != ExtractionRows::Questions;
        self.extractor.llm.as_ref().filter(|_| asks).is_none_or(Llm::is_healthy)
    }

    fn seq(row: &ExtractionRow) -> i64 {
        row.seq
    }

    async fn rows(&self, after: i64, limit: u32) -> Result<Vec<ExtractionRow>, StoreError> {
        let rest = ExtractionScope { after, ..self.scope.clone() };
        self.extractor.rows.store.rows_to_extract(&rest, limit).await
    }

    async fn count(&self, after: i64) -> Result<u64, StoreError> {
        let rest = ExtractionScope { after, ..self.scope.clone() };
        self.extractor.rows.store.count_to_extract(&rest).await
    }

    async fn ask(&self, row: ExtractionRow, away: &AtomicBool) -> Self::Asked {
        let (ExtractionLack::Parts(text), Some(llm)) = (&row.lack, &self.extractor.llm) else {
            return Ok(PreparedRow { row, extraction: None });
        };
        let started = Instant::now();
        let (priority, wanted) = (CallPriority::Background, Wanted::CodesAndCpesh);
        let extraction = match llm.classify_as(priority, CacheUse::Use, text, wanted).await {
            Ok(answer) => llm.extraction(answer, text),
            Err(error) if error.is_outage() => return Err(stopped(&row, llm, &error, away)),
            Err(error) => llm.failed_extraction(error.kind(), started.elapsed()),
        };
        Ok(PreparedRow { row, extraction: Some(extraction) })
    }

    /// Embeds the new texts of a batch, and writes it.
    async fn finish(&self, batch: Vec<Self::Asked>, away: &AtomicBool) -> Result<BatchEnd, StoreError> {
        let (mut end, mut prepared) = (BatchEnd::default(), Vec::with_capacity(batch.len()));
        for asked in batch {
            match asked {
                Ok(row) => prepared.push(row),
                Err((seq, sentence)) => end.stop(seq, sentence),
            }
        }
        let texts = prepared.iter().flat_map(|row| row.texts().into_iter().flatten()).map(str::to_owned);
        let mut vectors = self.extractor.vectorizer.vectors(texts.collect()).await.into_iter();
        let mut updates = Vec::with_capacity(prepared.len());
        for row in prepared {
            let [concept, question] = row.texts().map(|text| text.and_then(|_| vectors.next()).transpose());
            match (concept, question) {
                (Ok(concept), Ok(question)) => {
                    updates.push(self.extractor.update(row, concept, question).await);
                }
                (Err(error), _) | (_, Err(error)) if error.retryable() => {
                    away.store(true, Ordering::Relaxed);
                    end.stop(row.row.seq, format!("no vectors can be made: {error}"));
                }
                _ => {
                    end.fail(NOT_EMBEDDED);
                    updates.extend(self.extractor.not_embedded(row));
                }
            }
        }
        if updates.is_empty() {
            return Ok(end);
        }
        let (asked, model, written) = (updates.len(), self.extractor.model, updates.clone());
        let change = async move |store: Store| store.extract(model, &written).await;
        let changed = self.extractor.rows.commit(asked, change).await?;
        end.changed_meanwhile += (asked - changed.len()) as u64;
        for update in updates.iter().filter(|update| changed.contains(&update.item)) {
            match &update.extraction {
                None => end.embedded += 1,
                Some(Extraction::Failed { reason, .. }) if **reason != *NOT_EMBEDDED => end.fail(reason),
                Some(Extraction::Failed { .. }) => {}
                Some(_) => end.updated += 1,
            }
        }
        Ok(end)
    }
}

impl PreparedRow {
    /// The new concept and the question, as far as they are to be embedded.
    fn texts(&self) -> [Option<&str>; 2] {
        match (&self.row.lack, &self.extraction) {
            (ExtractionLack::QuestionVector(question), _) => [None, Some(question)],
            (_, Some(Extraction::ByLlm { cpesh, .. })) => {
                [cpesh.concept_text.as_deref(), cpesh.probe_question.as_deref()]
            }
            _ => [None, None],
        }
    }
}

fn stopped(row: &ExtractionRow, llm: &Llm, error: &LlmError, away: &AtomicBool) -> (i64, String) {
    away.store(true, Ordering::Relaxed);
    (row.seq, format!("the LLM at {} {error}", llm.endpoint()))
}
