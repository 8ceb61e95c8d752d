//! The last stage: makes chunks durable and searchable, then answers.
//!
//! The chunks that gathered while the last transaction ran are the next one. The order matters: commit, rows into the
//! index's delta (which cannot fail), then the receipts. There is one transaction at a time.

use super::context::{StageContext, TaskContext};
use super::stage::{POSTGRES, Parcel, Stage};
use crate::chunk::{Chunk, EmbeddedChunk};
use crate::error_code::ErrorCode;
use crate::flow::{Backoff, Batch, Retries, Verdict, bisect};
use crate::index::{ChangedRow, Commit, Index};
use crate::metrics;
use crate::outcome::{ChunkTimings, Outcome, StoredChunk};
use crate::output::throttled;
use crate::rejection::Rejection;
use crate::store::{InsertOutcome, KnownChunk, ModelId, Store, StoreError};
use actix::{Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, fut};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long an acknowledgement waits for an index that hangs: it neither follows nor says that it is degraded.
const INDEX_GRACE: Duration = Duration::from_secs(30);

/// What the stage works with; outlives its generations.
#[derive(Clone)]
pub struct WriteTools {
    /// Takes the rows.
    pub store: Store,
    /// The model whose vectors these are.
    pub model: ModelId,
    /// Takes the vectors.
    pub index: Index,
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
        let slots = task.wait_for("room in the index", tools.index.reserve(parcels.len())).await;
        let rows: Vec<&EmbeddedChunk> = parcels.iter().map(Parcel::cargo).collect();
        let insert = async || {
            let started = Instant::now();
            let inserted = tools.store.insert(tools.model, &rows).await;
            inserted.map(|outcomes| (outcomes, started.elapsed()))
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
            Ok((outcomes, took)) => {
                metrics::committed(rows.len(), took);
                metrics::stage_busy(Stage::Write.name(), took);
                if let Some(commit) = commit(&parcels, &outcomes) {
                    metrics::store_seq(commit.upto);
                    tools.index.apply_committed(slots, commit);
                }
                let ours = |parcel: &Parcel<EmbeddedChunk>| maybe_ours || parcel.attempts() > 0;
                let retried = parcels.iter().zip(&outcomes).filter(|(parcel, _)| ours(parcel));
                let seen = wait_for_index(tools, retried.map(|(_, outcome)| outcome));
                task.wait_for("the index", seen).await;
                for (parcel, outcome) in parcels.into_iter().zip(outcomes) {
                    let ours = ours(&parcel);
                    settle(parcel, outcome, took, ours);
                }
                None
            }
            Err(error) => {
                count(&error);
                if error.is_data_error() && parcels.len() > 1 {
                    return Some(parcels);
                }
                throttled!(error, %error, rows = parcels.len(), "the database refused");
                let message = format!("the database refused this chunk: {error}");
                let rejection = Rejection::new(ErrorCode::StoreFailed, message);
                parcels.into_iter().for_each(|parcel| task.reject(parcel, rejection.clone()));
                None
            }
        }
    })
    .await;
}

/// Rows that an earlier try of ours committed without learning it were never given to the index. They count as stored
/// once the index has read them from the database. When it cannot within [`INDEX_GRACE`], they are acknowledged
/// without.
async fn wait_for_index<'a>(tools: &WriteTools, ours: impl Iterator<Item = &'a InsertOutcome>) {
    let seqs = ours.filter_map(|outcome| match outcome {
        InsertOutcome::Present(known) => Some(known.seq),
        InsertOutcome::Inserted { .. } => None,
    });
    let Some(latest) = seqs.max() else { return };
    let followed = tokio::time::timeout(INDEX_GRACE, async {
        tokio::select! {
            biased;
            followed = tools.index.wait_for(latest) => followed.is_ok(),
            () = tools.index.degraded() => false,
        }
    });
    if followed.await != Ok(true) {
        throttled!(warn, latest, "the index does not follow; answering without it");
    }
}

fn settle(parcel: Parcel<EmbeddedChunk>, inserted: InsertOutcome, took: Duration, ours: bool) {
    let outcome = outcome(&parcel, inserted, took, ours);
    if let Outcome::Stored(_) = outcome {
        metrics::acknowledged(parcel.age());
    }
    parcel.settle(outcome);
}

fn count(error: &StoreError) {
    metrics::store_error(error.sqlstate_class(), error.is_transient());
}

/// What the index learns of a transaction: its new rows in the order of the clock, of which they took one unbroken
/// range. `None` when nothing was new.
fn commit(parcels: &[Parcel<EmbeddedChunk>], outcomes: &[InsertOutcome]) -> Option<Commit> {
    let row = |(parcel, outcome): (&Parcel<EmbeddedChunk>, &InsertOutcome)| match outcome {
        InsertOutcome::Inserted { seq, item, .. } => {
            Some(ChangedRow { seq: *seq, item: *item, vector: parcel.cargo().embedding.vector.clone() })
        }
        InsertOutcome::Present(_) => None,
    };
    let mut rows: Vec<ChangedRow> = parcels.iter().zip(outcomes).filter_map(row).collect();
    rows.sort_unstable_by_key(|row| row.seq);
    let (after, upto) = (rows.first()?.seq - 1, rows.last()?.seq);
    Some(Commit { after, upto, rows, tombstones: Vec::new() })
}

fn outcome(parcel: &Parcel<EmbeddedChunk>, inserted: InsertOutcome, took: Duration, ours: bool) -> Outcome {
    let embedded = parcel.cargo();
    let timings = ChunkTimings {
        tmd: embedded.tagging.took,
        embedding: Some(embedded.embedding.took),
        postgres: Some(took),
        total: Some(parcel.age()),
    };
    match inserted {
        InsertOutcome::Inserted { seq, created_at, .. } => Outcome::Stored(Arc::new(StoredChunk {
            cpe_id: embedded.chunk.cpe_id,
            chunk: embedded.chunk.clone(),
            tagging: embedded.tagging.clone(),
            seq,
            created_at,
            truncated: embedded.embedding.truncated,
            timings,
        })),
        InsertOutcome::Present(known) if ours && known.content_hash == embedded.chunk.content_hash => {
            Outcome::Stored(Arc::new(stored(embedded.chunk.clone(), known, timings)))
        }
        InsertOutcome::Present(known) => found(embedded.chunk.clone(), known),
    }
}

/// The answer for a chunk whose key is known: the same chunk again, or a conflict.
pub fn found(chunk: Arc<Chunk>, known: KnownChunk) -> Outcome {
    if known.content_hash == chunk.content_hash {
        return Outcome::Duplicate(Arc::new(stored(chunk, known, ChunkTimings::default())));
    }
    Outcome::conflict(&chunk)
}

fn stored(chunk: Arc<Chunk>, known: KnownChunk, timings: ChunkTimings) -> StoredChunk {
    StoredChunk {
        cpe_id: known.cpe_id,
        chunk,
        tagging: known.tagging,
        seq: known.seq,
        created_at: known.created_at,
        truncated: known.truncated,
        timings,
    }
}
