//! Extraction afterwards: stored chunks get CPESH parts from the language model, and vectors of their concepts and
//! questions.
//!
//! Rows are taken in the order of their last change. Each change takes a number of the clock, so a row that was changed
//! lies beyond the range, and work that was interrupted goes on where it ended. A row is written as one: parts and vectors
//! together, in a transaction that leaves out rows which were changed since they were read.

use crate::chunk::{Embedding, Extraction};
use crate::index::{ChangedRow, ExpectedChanges, Indexes, StoreCommit};
use crate::llm::{CacheUse, CallPriority, Llm, LlmError, Wanted};
use crate::metrics;
use crate::store::{
    ChangedChunk, ExtractedRows, ExtractionLack, ExtractionRow, ExtractionScope, ExtractionUpdate, ModelId,
    Store, StoreError,
};
use crate::threads::Lane;
use crate::vectorizer::Vectorizer;
use futures_util::{StreamExt, stream};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant as StdInstant};
use tokio::sync::Mutex;
use tokio::time::Instant;

/// The most rows of one transaction.
const BATCH: usize = 128;
/// Rows that are read at once.
const PAGE: u32 = 256;
/// Batches that are embedded and written beside the calls of the next ones.
const BATCHES: usize = 2;
/// The reason of a failure when a part cannot be embedded.
const NOT_EMBEDDED: &str = "embedding";

/// The result of one call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extracting {
    /// Rows that have CPESH parts now.
    pub extracted: u64,
    /// Rows that had a question and have its vector now.
    pub embedded: u64,
    /// Rows that were changed or deleted meanwhile, and keep what they have.
    pub changed_meanwhile: u64,
    /// Rows without usable parts, by the kind of the failure.
    pub failed: BTreeMap<Arc<str>, u64>,
    /// Rows of the scope that are left for the next call.
    pub remaining: u64,
    /// Every row up to this clock value was tried: the next call begins after it.
    pub through: i64,
    /// Why the work ended early, as a sentence: the language model or the embedder is away.
    pub stopped: Option<String>,
}

/// A row, and what it is to get.
struct PreparedRow {
    row: ExtractionRow,
    extraction: Option<Extraction>,
}

/// A row after the language model was asked; the error of one about which it has to be asked again.
type AskedRow = Result<PreparedRow, (i64, String)>;

/// What became of the rows of a batch.
#[derive(Debug, Default)]
struct BatchEnd {
    extracted: u64,
    embedded: u64,
    changed_meanwhile: u64,
    failed: BTreeMap<Arc<str>, u64>,
    /// The first row that has to be tried again, and why.
    stopped: Option<(i64, String)>,
}

impl BatchEnd {
    fn stop(&mut self, seq: i64, sentence: String) {
        if self.stopped.as_ref().is_none_or(|(first, _)| seq < *first) {
            self.stopped = Some((seq, sentence));
        }
    }

    fn fail(&mut self, reason: &str) {
        *self.failed.entry(reason.into()).or_default() += 1;
    }

    fn add(&mut self, other: BatchEnd) {
        self.extracted += other.extracted;
        self.embedded += other.embedded;
        self.changed_meanwhile += other.changed_meanwhile;
        for (reason, count) in other.failed {
            *self.failed.entry(reason).or_default() += count;
        }
        if let Some((seq, sentence)) = other.stopped {
            self.stop(seq, sentence);
        }
    }
}

/// Gives stored chunks CPESH parts and their vectors. Clones share one turn.
#[derive(Clone)]
pub struct Extractor {
    store: Store,
    model: ModelId,
    indexes: Indexes,
    vectorizer: Vectorizer,
    llm: Option<Llm>,
    /// One call at a time: two would ask about the same rows.
    turn: Arc<Mutex<()>>,
}

impl Extractor {
    /// Changes the rows of this store, with vectors of `model`. Without a language model only questions are embedded.
    pub fn new(
        (store, model): (Store, ModelId),
        indexes: Indexes,
        vectorizer: Vectorizer,
        llm: Option<Llm>,
    ) -> Extractor {
        Extractor { store, model, indexes, vectorizer, llm, turn: Arc::default() }
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
        let clock = self.store.clock().await?;
        Ok(ExtractionScope { upto: scope.upto.min(clock), ..scope })
    }

    /// Gives the rows of a scope what they lack, in their order. Ends early after about `within`, when the language model
    /// or the embedder is away, or when `stop` says so; the caller calls again with [`Extracting::through`] as the
    /// beginning. The calls wait behind those of ingest.
    ///
    /// # Errors
    /// The store failed. What was committed before is changed.
    pub async fn extract(
        &self,
        scope: &ExtractionScope,
        within: Duration,
        stop: impl Fn() -> bool,
    ) -> Result<Extracting, StoreError> {
        let _turn = self.turn.lock().await;
        let until = Instant::now() + within;
        let mut done = Extracting { through: scope.after, ..Extracting::default() };
        while done.stopped.is_none() {
            let rest = ExtractionScope { after: done.through, ..scope.clone() };
            let rows = self.store.rows_to_extract(&rest, PAGE).await?;
            let Some(last) = rows.last().map(|row| row.seq) else { break };
            // At least one, so that every call makes progress.
            let before = done.through;
            let begun = AtomicI64::new(before);
            let away = AtomicBool::new(false);
            let takes = |row: &ExtractionRow| {
                let first = begun.load(Ordering::Relaxed) == before;
                let more = first || !(stop() || away.load(Ordering::Relaxed) || Instant::now() >= until);
                if more {
                    begun.store(row.seq, Ordering::Relaxed);
                }
                std::future::ready(more)
            };
            let asked = stream::iter(rows).take_while(takes).map(|row| self.ask(row, &away));
            let asked = asked.buffer_unordered(self.concurrency()).ready_chunks(BATCH);
            let batches = asked.map(|batch| self.finish(batch, &away)).buffer_unordered(BATCHES);
            let mut batches = std::pin::pin!(batches);
            let mut page = BatchEnd::default();
            while let Some(batch) = batches.next().await {
                page.add(batch?);
            }
            let begun = begun.load(Ordering::Relaxed);
            done.extracted += page.extracted;
            done.embedded += page.embedded;
            done.changed_meanwhile += page.changed_meanwhile;
            for (reason, count) in page.failed {
                *done.failed.entry(reason).or_default() += count;
            }
            // Rows after the first that has to be tried again are tried again too, unless they were changed.
            done.through = page.stopped.as_ref().map_or(begun, |(seq, _)| seq - 1);
            done.stopped = page.stopped.map(|(_, sentence)| sentence);
            if begun < last {
                break;
            }
        }
        let rest = ExtractionScope { after: done.through, ..scope.clone() };
        done.remaining = self.store.count_to_extract(&rest).await?;
        Ok(done)
    }

    /// The calls at once.
    fn concurrency(&self) -> usize {
        self.llm.as_ref().map_or(BATCH, Llm::slots).max(1)
    }

    async fn ask(&self, row: ExtractionRow, away: &AtomicBool) -> AskedRow {
        let (ExtractionLack::Parts(text), Some(llm)) = (&row.lack, &self.llm) else {
            return Ok(PreparedRow { row, extraction: None });
        };
        let started = StdInstant::now();
        let (priority, wanted) = (CallPriority::Background, Wanted::CodesAndCpesh);
        let extraction = match llm.classify_as(priority, CacheUse::Use, text, wanted).await {
            Ok(answer) => llm.extraction(answer, text),
            Err(error) if error.is_outage() => return Err(stopped(&row, llm, &error, away)),
            Err(error) => llm.failed_extraction(error.kind(), started.elapsed()),
        };
        Ok(PreparedRow { row, extraction: Some(extraction) })
    }

    /// Embeds the new texts of a batch, and writes it.
    async fn finish(&self, batch: Vec<AskedRow>, away: &AtomicBool) -> Result<BatchEnd, StoreError> {
        let (mut end, mut prepared) = (BatchEnd::default(), Vec::with_capacity(batch.len()));
        for asked in batch {
            match asked {
                Ok(row) => prepared.push(row),
                Err((seq, sentence)) => end.stop(seq, sentence),
            }
        }
        let texts = prepared.iter().flat_map(|row| row.texts().into_iter().flatten()).map(str::to_owned);
        let mut vectors = self.vectorizer.vectors(texts.collect()).await.into_iter();
        let mut updates = Vec::with_capacity(prepared.len());
        for row in prepared {
            let [concept, question] = row.texts().map(|text| text.and_then(|_| vectors.next()).transpose());
            match (concept, question) {
                (Ok(concept), Ok(question)) => updates.push(self.update(row, concept, question).await),
                (Err(error), _) | (_, Err(error)) if error.retryable() => {
                    away.store(true, Ordering::Relaxed);
                    end.stop(row.row.seq, format!("no vectors can be made: {error}"));
                }
                _ => {
                    end.fail(NOT_EMBEDDED);
                    updates.extend(self.not_embedded(row));
                }
            }
        }
        if updates.is_empty() {
            return Ok(end);
        }
        let asked = updates.len();
        let changed = self.commit(updates.clone()).await?;
        end.changed_meanwhile += (asked - changed.len()) as u64;
        for update in updates.iter().filter(|update| changed.contains(&update.item)) {
            match &update.extraction {
                None => end.embedded += 1,
                Some(Extraction::Failed { reason, .. }) if **reason != *NOT_EMBEDDED => end.fail(reason),
                Some(Extraction::Failed { .. }) => {}
                Some(_) => end.extracted += 1,
            }
        }
        Ok(end)
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

    /// One transaction, and the indexes after it; gives the items that it changed. A task of its own, so that they hear
    /// of what is committed also when the caller goes away.
    async fn commit(&self, updates: Vec<ExtractionUpdate>) -> Result<Vec<u32>, StoreError> {
        let (store, indexes, model) = (self.store.clone(), self.indexes.clone(), self.model);
        let work = tokio::spawn(async move {
            let expected = ExpectedChanges { concepts: updates.len(), questions: updates.len() };
            let slots = indexes.reserve(expected).await;
            let extracted = store.extract(model, &updates).await.inspect_err(|_| {
                // Perhaps it is committed.
                indexes.poll_source();
            })?;
            let ExtractedRows { after, upto, concepts, questions } = extracted;
            let items = concepts.iter().map(|row| row.item).collect();
            if upto > after {
                metrics::store_seq(upto);
                let (concepts, questions) = (changed_rows(concepts), changed_rows(questions));
                let commit = StoreCommit { after, upto, concepts, questions, ..StoreCommit::default() };
                indexes.apply_committed(slots, commit);
            }
            Ok(items)
        });
        work.await.unwrap_or(Err(StoreError::Closed))
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

fn changed_rows(rows: Vec<ChangedChunk>) -> Vec<ChangedRow> {
    let row = |ChangedChunk { seq, item, vector }| ChangedRow { seq, item, vector: vector.into() };
    rows.into_iter().map(row).collect()
}
