//! The last stage: makes chunks durable and searchable, then says so.
//!
//! What gathered while the last transaction ran is the next one. Order is everything here: commit, rows into the
//! index's delta (which cannot fail), then the receipts. One transaction at a time.

use super::{POSTGRES, Parcel, Stage, StageContext, TaskContext};
use crate::chunk::EmbeddedChunk;
use crate::error_code::ErrorCode;
use crate::flow::{Backoff, Batch};
use crate::index::{ChangedRow, Commit, Index};
use crate::metrics;
use crate::outcome::{ChunkTimings, Outcome, StoredChunk};
use crate::rejection::Rejection;
use crate::store::{InsertOutcome, KnownChunk, ModelId, Store, StoreError};
use actix::{Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, fut};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long an acknowledgement waits for an index that neither follows nor says that it is degraded: one that hangs.
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
    /// Between two tries while the database is not there.
    pub retry: Backoff,
}

/// The actor.
pub struct Writer {
    tools: WriteTools,
    context_: StageContext,
    waiting: Batch<Parcel<EmbeddedChunk>>,
    busy: bool,
}

impl Writer {
    /// The end of the way.
    pub fn new(tools: WriteTools, context_: StageContext) -> Self {
        Writer { tools, context_, waiting: Batch::default(), busy: false }
    }

    /// Starts the next transaction, if none runs and somebody waits.
    fn pull(&mut self, context: &mut Context<Self>) {
        if self.busy || self.waiting.is_empty() {
            return;
        }
        let mut parcels = self.waiting.take_oldest(self.tools.batch_rows);
        parcels.iter_mut().for_each(|parcel| parcel.begin_work(Stage::Write.name()));
        self.busy = true;
        let (tools, exit_guard) = (self.tools.clone(), self.context_.exit_guard.clone());
        // A task of its own: a transaction that has begun is finished, and its receipts settled, even when the
        // stage dies meanwhile.
        let transaction = self.context_.start(|work| async move {
            work.inspect(&parcels).await;
            write(&tools, parcels, &work).await;
            exit_guard.disarm();
        });
        context.spawn(fut::wrap_future::<_, Self>(transaction).map(|ended, stage, context| match ended {
            Ok(()) => {
                stage.busy = false;
                stage.pull(context);
            }
            Err(_panicked) => context.stop(),
        }));
    }
}

impl Actor for Writer {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        self.context_.stop_when_retired(context);
    }
}

impl Handler<Parcel<EmbeddedChunk>> for Writer {
    type Result = ();

    fn handle(&mut self, mut parcel: Parcel<EmbeddedChunk>, context: &mut Context<Self>) {
        self.context_.begin_work(&mut parcel);
        parcel.rest();
        if parcel.delivery_attempts() > 0 {
            self.waiting.push_alone(parcel, 1);
        } else {
            self.waiting.push(parcel, 1);
        }
        if self.waiting.len() == 1 {
            // After the whole mailbox: the chunks of one forward pass come together and share a transaction.
            context.spawn(fut::ready(()).map(|(), stage: &mut Self, context| stage.pull(context)));
        }
    }
}

/// Brings a batch to its end. While the database is not there the same batch is tried again, and with it
/// everything behind it waits. A batch with a row the database refuses is halved until that row is alone.
async fn write(tools: &WriteTools, parcels: Vec<Parcel<EmbeddedChunk>>, work: &TaskContext) {
    let mut halves = vec![parcels];
    // A row that an earlier try of ours may have committed counts as stored, not as a duplicate.
    let mut maybe_ours = false;
    let mut tries = 0;
    while let Some(mut parcels) = halves.pop() {
        let slots = work.wait_for("room in the index", tools.index.reserve(parcels.len())).await;
        let started = Instant::now();
        let rows: Vec<&EmbeddedChunk> = parcels.iter().map(Parcel::cargo).collect();
        match work.wait_for(POSTGRES, tools.store.insert(tools.model, &rows)).await {
            Ok(fates) => {
                let took = started.elapsed();
                metrics::committed(rows.len(), took);
                metrics::stage_busy(Stage::Write.name(), took);
                if let Some(commit) = commit(&parcels, &fates) {
                    metrics::store_seq(commit.upto);
                    tools.index.apply_committed(slots, commit);
                }
                let ours = |parcel: &Parcel<EmbeddedChunk>| maybe_ours || parcel.delivery_attempts() > 0;
                let retried = parcels.iter().zip(&fates).filter(|(parcel, _)| ours(parcel));
                work.wait_for("the index", wait_for_index(tools, retried.map(|(_, fate)| fate))).await;
                for (parcel, fate) in parcels.into_iter().zip(fates) {
                    let ours = ours(&parcel);
                    settle(parcel, fate, took, ours);
                }
            }
            Err(error) if error.is_data_error() && parcels.len() > 1 => {
                count(&error);
                let later = parcels.split_off(parcels.len() / 2);
                halves.extend([later, parcels]);
            }
            Err(error) if error.is_transient() => {
                count(&error);
                tracing::warn!(%error, tries, "the batch is not committed yet; trying again");
                work.wait_for(POSTGRES, tokio::time::sleep(tools.retry.pause(tries))).await;
                (tries, maybe_ours) = (tries + 1, true);
                halves.push(parcels);
            }
            Err(error) => {
                count(&error);
                tracing::error!(%error, rows = parcels.len(), "the database refused");
                let message = format!("the database refused this chunk: {error}");
                let rejection = Rejection::new(ErrorCode::StoreFailed, message);
                parcels.into_iter().for_each(|parcel| work.reject(parcel, rejection.clone()));
            }
        }
    }
}

/// Rows that an earlier try of ours committed without seeing its end were never given to the index: they are stored
/// only once it has seen them too. When it cannot, for as long as acknowledgements wait for it anywhere, they go on.
async fn wait_for_index<'a>(tools: &WriteTools, ours: impl Iterator<Item = &'a InsertOutcome>) {
    let seqs = ours.filter_map(|fate| match fate {
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
        tracing::warn!(latest, "the index does not follow; answering without it");
    }
}

/// Answers.
fn settle(parcel: Parcel<EmbeddedChunk>, fate: InsertOutcome, took: Duration, ours: bool) {
    let outcome = outcome(&parcel, fate, took, ours);
    if let Outcome::Stored(_) = outcome {
        metrics::acknowledged(parcel.age());
    }
    parcel.settle(outcome);
}

fn count(error: &StoreError) {
    metrics::store_error(error.sqlstate_class(), error.is_transient());
}

/// What the index learns of a transaction: its new rows in the order of the clock, of which it took one unbroken
/// part. `None` when nothing was new.
fn commit(parcels: &[Parcel<EmbeddedChunk>], fates: &[InsertOutcome]) -> Option<Commit> {
    let row = |(parcel, fate): (&Parcel<EmbeddedChunk>, &InsertOutcome)| match fate {
        InsertOutcome::Inserted { seq, item, .. } => {
            Some(ChangedRow { seq: *seq, item: *item, vector: parcel.cargo().embedding.vector.clone() })
        }
        InsertOutcome::Present(_) => None,
    };
    let mut rows: Vec<ChangedRow> = parcels.iter().zip(fates).filter_map(row).collect();
    rows.sort_unstable_by_key(|row| row.seq);
    let (after, upto) = (rows.first()?.seq - 1, rows.last()?.seq);
    Some(Commit { after, upto, rows, tombstones: Vec::new() })
}

fn outcome(parcel: &Parcel<EmbeddedChunk>, fate: InsertOutcome, took: Duration, ours: bool) -> Outcome {
    let embedded = parcel.cargo();
    let timings = ChunkTimings {
        tmd: embedded.tagging.took,
        embedding: Some(embedded.embedding.took),
        postgres: Some(took),
        total: Some(parcel.age()),
    };
    match fate {
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
            Outcome::Stored(Arc::new(filed(embedded.chunk.clone(), known, timings)))
        }
        InsertOutcome::Present(known) => found(embedded.chunk.clone(), known),
    }
}

/// The answer for a chunk whose key is known: the same chunk again, or a conflict.
pub fn found(chunk: Arc<crate::chunk::Chunk>, known: KnownChunk) -> Outcome {
    if known.content_hash == chunk.content_hash {
        return Outcome::Duplicate(Arc::new(filed(chunk, known, ChunkTimings::default())));
    }
    Outcome::conflict(&chunk)
}

fn filed(chunk: Arc<crate::chunk::Chunk>, known: KnownChunk, timings: ChunkTimings) -> StoredChunk {
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
