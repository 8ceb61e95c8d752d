//! The last stage: makes chunks durable and searchable, then answers.
//!
//! The chunks that gathered while the last transaction ran are the next one. The order matters: commit, rows into the
//! deltas of both indexes (which cannot fail), then the receipts. There is one transaction at a time.

use super::context::{StageContext, TaskContext};
use super::known::{KnownVerdict, compare};
use super::stage::{INDEX_ROOM, POSTGRES, Parcel, Stage};
use crate::chunk::{Chunk, Differences, EmbeddedChunk, OnConflict};
use crate::error_code::ErrorCode;
use crate::filter::FilterFields;
use crate::flow::{Backoff, Batch, Retries, Unsettled, Verdict, bisect, retry};
use crate::index::{
    ChangedRow, ExpectedChanges, IndexError, Indexes, OtherHistory, ReservedSlots, StoreCommit,
};
use crate::metrics;
use crate::outcome::{ChunkTimings, Outcome, StoredChunk, StoredRow};
use crate::output::throttled;
use crate::rejection::Rejection;
use crate::store::{CommittedBatch, InsertOutcome, KnownChunk, ModelId, Store, StoreError};
use crate::threads::spawn_computation;
use actix::{Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, fut};
use chrono::{DateTime, Utc};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use uuid::Uuid;

/// How long an acknowledgement waits for an index that hangs: it neither follows nor says that it is degraded.
const INDEX_GRACE: Duration = Duration::from_secs(30);

/// To a chunk whose vector was made before another model was put to use.
const SWITCHED: &str = "another embedding model was put to use while the chunk was on its way; send it again";

/// What the stage works with; outlives its generations.
#[derive(Clone)]
pub struct WriteTools {
    /// Takes the rows.
    pub store: Store,
    /// The model whose vectors these are.
    pub model: ModelId,
    /// Take the vectors.
    pub indexes: Indexes,
    /// The most rows in one transaction.
    pub batch_rows: usize,
    /// The pauses between retries while the database is away.
    pub retry: Backoff,
}

/// The actor of the third stage.
pub struct Writer {
    tools: WriteTools,
    stage_context: StageContext,
    waiting: Batch<Parcel<EmbeddedChunk>>,
    busy: bool,
}

impl Writer {
    /// The last stage: it pushes nowhere.
    pub fn new(tools: WriteTools, stage_context: StageContext) -> Self {
        Writer { tools, stage_context, waiting: Batch::default(), busy: false }
    }

    /// Starts the next transaction, if none runs and chunks wait.
    fn pull(&mut self, context: &mut Context<Self>) {
        if self.busy || self.waiting.is_empty() {
            return;
        }
        let mut parcels = self.waiting.take_oldest(self.tools.batch_rows);
        parcels.iter_mut().for_each(|parcel| parcel.begin_work(Stage::Write.name()));
        self.busy = true;
        let tools = self.tools.clone();
        // A task of its own: a transaction that has begun is finished, and its receipts are settled, even when the
        // stage dies meanwhile.
        let transaction = self.stage_context.run_critical(|task| async move {
            task.inject_faults(&parcels).await;
            write(&tools, parcels, &task).await;
        });
        context.spawn(fut::wrap_future::<_, Self>(transaction).map(|ended, stage, context| match ended {
            Ok(()) => {
                stage.busy = false;
                stage.pull(context);
            }
            Err(_) => context.stop(),
        }));
    }
}

impl Actor for Writer {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        self.stage_context.stop_when_retired(context);
    }
}

impl Handler<Parcel<EmbeddedChunk>> for Writer {
    type Result = ();

    fn handle(&mut self, mut parcel: Parcel<EmbeddedChunk>, context: &mut Context<Self>) {
        self.stage_context.begin_work(&mut parcel);
        parcel.rest();
        let attempts = parcel.attempts();
        self.waiting.push(parcel, 1, attempts);
        if self.waiting.len() == 1 {
            // After the whole mailbox: the chunks of one forward pass come together and share a transaction.
            context.spawn(fut::ready(()).map(|(), stage: &mut Self, context| stage.pull(context)));
        }
    }
}

/// Commits and answers. While the database is away the same batch is tried again, and everything behind it waits. A
/// batch with a row that the database refuses is halved until that row is alone.
async fn write(tools: &WriteTools, parcels: Vec<Parcel<EmbeddedChunk>>, task: &TaskContext) {
    // A row that an earlier try of ours may have committed counts as stored, not as a duplicate.
    let mut maybe_ours = false;
    let mut retries = Retries::new(tools.retry);
    bisect(parcels, async |parcels: Vec<Parcel<EmbeddedChunk>>| {
        let slots = task.wait_for(INDEX_ROOM, tools.indexes.reserve(expected(&parcels))).await;
        let rows: Vec<&EmbeddedChunk> = parcels.iter().map(Parcel::cargo).collect();
        let fields = fields_of(&rows);
        let insert = async || {
            let started = Instant::now();
            let inserted = tools.store.insert(tools.model, &rows).await;
            inserted.map(|batch| (batch, started.elapsed()))
        };
        let classify = |error: &StoreError, tries| {
            let retry = error.is_transient();
            if retry {
                count(error);
                throttled!(warn, %error, tries, "the batch is not committed yet; trying again");
                maybe_ours = true;
            }
            Verdict::retry_if(retry)
        };
        match task.wait_for(POSTGRES, retries.run(classify, insert)).await {
            Ok((CommittedBatch { history, outcomes }, took)) => {
                metrics::committed(rows.len(), took);
                metrics::stage_busy(Stage::Write.name(), took);
                let fields = fields.await.unwrap_or_else(|_| {
                    // It panicked. The rows are committed, and the indexes read them from the database.
                    tools.indexes.poll_source();
                    Vec::new()
                });
                if let Some(commit) = commit(&parcels, history.into(), &outcomes, fields) {
                    metrics::store_seq(commit.upto);
                    task.wait_for("the index", apply(&tools.indexes, slots, commit)).await;
                }
                let ours = |parcel: &Parcel<EmbeddedChunk>| maybe_ours || parcel.attempts() > 0;
                let retried = parcels.iter().zip(&outcomes).filter(|(parcel, _)| ours(parcel));
                let seen = wait_for_index(tools, retried.map(|(_, outcome)| outcome));
                task.wait_for("the index", seen).await;
                let outcomes = task.wait_for(POSTGRES, decide(tools, &parcels, outcomes, took)).await;
                for (parcel, outcome) in parcels.into_iter().zip(outcomes) {
                    if let Outcome::Stored(_) | Outcome::Replaced(_) = outcome {
                        metrics::acknowledged(parcel.age());
                    }
                    parcel.settle(outcome);
                }
                None
            }
            Err(error) => {
                count(&error);
                if error.is_data_error() && parcels.len() > 1 {
                    return Some(parcels);
                }
                throttled!(error, %error, rows = parcels.len(), "the database refused");
                let rejection = match error {
                    // Nothing is wrong with the chunk, but its vector is that of a model that is no longer in use.
                    StoreError::ModelChanged => Rejection::new(ErrorCode::SwitchingModel, SWITCHED),
                    error => Rejection::new(
                        ErrorCode::StoreFailed,
                        format!("the database refused this chunk: {error}"),
                    ),
                };
                parcels.into_iter().for_each(|parcel| task.reject(parcel, rejection.clone()));
                None
            }
        }
    })
    .await;
}

/// Begins to make what filters need of the rows, beside the insert and off the thread of the pipeline.
fn fields_of(rows: &[&EmbeddedChunk]) -> JoinHandle<Vec<FilterFields>> {
    let rows: Vec<_> = rows.iter().map(|row| (row.chunk.clone(), row.tagging.tmd)).collect();
    spawn_computation(move || rows.iter().map(|(chunk, tmd)| FilterFields::of_chunk(chunk, *tmd)).collect())
}

/// Gives a commit to the indexes, off the thread of the pipeline: they make its vectors smaller. The first commits after
/// a restore or a failover wait until the indexes follow the other history.
async fn apply(indexes: &Indexes, slots: ReservedSlots, commit: StoreCommit) {
    let to = indexes.clone();
    match spawn_computation(move || to.apply_committed(slots, commit)).await {
        Ok(Ok(())) => {}
        Ok(Err(OtherHistory(clock))) => followed(indexes, clock.seq, indexes.wait_for_clock(&clock)).await,
        // It panicked. The rows are committed, and the indexes read them from the database.
        Err(_) => indexes.poll_source(),
    }
}

/// Rows that an earlier try of ours committed without learning it were never given to the index. They count as stored
/// once the index has read them from the database.
async fn wait_for_index<'a>(tools: &WriteTools, ours: impl Iterator<Item = &'a InsertOutcome>) {
    let seqs = ours.filter_map(|outcome| match outcome {
        InsertOutcome::Present(known) => Some(known.seq),
        InsertOutcome::Inserted { .. } | InsertOutcome::Replaced { .. } | InsertOutcome::Gone => None,
    });
    let Some(latest) = seqs.max() else { return };
    followed(&tools.indexes, latest, tools.indexes.wait_for(latest)).await;
}

/// Waits until searches reflect this change. When the indexes cannot follow within [`INDEX_GRACE`], or their builds fail,
/// its rows are acknowledged without.
async fn followed(indexes: &Indexes, latest: i64, reflected: impl Future<Output = Result<(), IndexError>>) {
    let followed = tokio::time::timeout(INDEX_GRACE, async {
        tokio::select! {
            biased;
            followed = reflected => followed.is_ok(),
            () = indexes.degraded() => false,
        }
    });
    if followed.await != Ok(true) {
        throttled!(warn, latest, "the index does not follow; answering without it");
    }
}

fn count(error: &StoreError) {
    metrics::store_error(error.sqlstate_class(), error.is_transient());
}

/// The most changes that a transaction of these chunks makes in the indexes.
fn expected(parcels: &[Parcel<EmbeddedChunk>]) -> ExpectedChanges {
    let of_questions = |parcel: &&Parcel<EmbeddedChunk>| {
        let EmbeddedChunk { question, chunk, .. } = parcel.cargo();
        question.is_some() || chunk.on_conflict == OnConflict::Replace
    };
    ExpectedChanges { concepts: parcels.len(), questions: parcels.iter().filter(of_questions).count() }
}

/// What the indexes learn of a transaction: its new and replaced rows in the order of the clock, of which they took one
/// unbroken range. `None` when nothing changed.
fn commit(
    parcels: &[Parcel<EmbeddedChunk>],
    history: Arc<str>,
    outcomes: &[InsertOutcome],
    fields: Vec<FilterFields>,
) -> Option<StoreCommit> {
    let mut commit = StoreCommit { history, ..StoreCommit::default() };
    for ((parcel, outcome), fields) in parcels.iter().zip(outcomes).zip(fields) {
        let (&seq, &item, fields, replaced) = match outcome {
            InsertOutcome::Inserted { seq, item } => (seq, item, fields, false),
            InsertOutcome::Replaced { seq, item, created_at, .. } => {
                (seq, item, fields.stored_at(*created_at), true)
            }
            InsertOutcome::Present(_) | InsertOutcome::Gone => continue,
        };
        let EmbeddedChunk { embedding, question, .. } = parcel.cargo();
        let vector = embedding.vector.clone();
        commit.concepts.push(ChangedRow { seq, item, vector, fields: fields.clone() });
        match question {
            Some(vector) => commit.questions.push(ChangedRow { seq, item, vector: vector.clone(), fields }),
            None if replaced => commit.without_question.push((seq, item)),
            None => {}
        }
    }
    commit.concepts.sort_unstable_by_key(|row| row.seq);
    commit.questions.sort_unstable_by_key(|row| row.seq);
    commit.after = commit.concepts.first()?.seq - 1;
    commit.upto = commit.concepts.last()?.seq;
    Some(commit)
}

/// The outcomes of committed chunks. Rows that were there before are compared with what was sent.
async fn decide(
    tools: &WriteTools,
    parcels: &[Parcel<EmbeddedChunk>],
    inserted: Vec<InsertOutcome>,
    took: Duration,
) -> Vec<Outcome> {
    let present = parcels.iter().zip(&inserted).filter_map(|(parcel, inserted)| match inserted {
        InsertOutcome::Present(known) => Some((parcel.origin(), &**known)),
        _ => None,
    });
    let present: Vec<(&Arc<Chunk>, &KnownChunk)> = present.collect();
    let classify = |error: &StoreError, _| Verdict::retry_if(error.is_transient());
    let compared = retry(tools.retry, classify, || compare(&tools.store, &present)).await;
    let mut verdicts = match compared {
        Ok(verdicts) => verdicts.into_iter(),
        Err(error) => {
            count(&error);
            throttled!(error, %error, "stored chunks could not be compared with what was sent");
            Vec::new().into_iter()
        }
    };
    let outcome = |(parcel, inserted): (&Parcel<EmbeddedChunk>, InsertOutcome)| {
        let verdict = matches!(inserted, InsertOutcome::Present(_)).then(|| verdicts.next());
        match inserted {
            InsertOutcome::Inserted { seq, .. } => {
                let Chunk { cpe_id, received_at, .. } = **parcel.origin();
                Outcome::Stored(written(parcel, seq, (cpe_id, received_at), took))
            }
            InsertOutcome::Replaced { seq, cpe_id, created_at, .. } => {
                Outcome::Replaced(written(parcel, seq, (cpe_id, created_at), took))
            }
            // An earlier try committed it without learning so: no other chunk has this time of arrival.
            InsertOutcome::Present(known) if known.created_at == parcel.origin().received_at => {
                Outcome::Stored(written(parcel, known.seq, (known.cpe_id, known.created_at), took))
            }
            InsertOutcome::Present(_) => match verdict.flatten() {
                Some(KnownVerdict::Answer(outcome)) => outcome,
                // The row was deleted after the transaction, or the comparison failed.
                _ => Outcome::unsettled(),
            },
            InsertOutcome::Gone => Outcome::unsettled(),
        }
    };
    parcels.iter().zip(inserted).map(outcome).collect()
}

/// A row that this transaction, or an earlier try of it, has written. A replaced row keeps its `cpe_id` and `created_at`.
fn written(
    parcel: &Parcel<EmbeddedChunk>,
    seq: i64,
    (cpe_id, created_at): (Uuid, DateTime<Utc>),
    took: Duration,
) -> Arc<StoredChunk> {
    let EmbeddedChunk { chunk, tagging, extraction, embedding, .. } = parcel.cargo();
    let row = StoredRow {
        cpe_id,
        tagging: tagging.clone(),
        extraction: extraction.clone(),
        seq,
        created_at,
        truncated: embedding.truncated,
        unread: embedding.unread,
    };
    let timings = ChunkTimings {
        tmd: tagging.took,
        cpesh: extraction.call().and_then(|call| call.took),
        embedding: Some(embedding.took),
        postgres: Some(took),
        total: Some(parcel.age()),
    };
    Arc::new(StoredChunk { chunk: chunk.clone(), row, differs: Differences::default(), timings })
}
