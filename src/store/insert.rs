//! The batched insert: one statement that is a transaction, and numbers in the order of commits.
//!
//! 1. It locks the clock row: its holder is the only writer until its commit.
//! 2. In a new snapshot, which sees the commits that the lock waited for, it drops the known keys and advances the clock
//!    by the count of the others. Both is done by the function `new_chunk_numbers` of the database.
//! 3. It inserts the others with their vectors, and removes the dead letters of what is stored.
//!
//! Without the lock a later number could commit first, and a reader of changes would miss rows. With the lock after
//! the inserts, batches with common keys could deadlock. Without dropping the known keys, repetitions would use
//! numbers up. In several statements, a client that stops between them would hold the lock of all writers.

use super::clock::BEGIN_AS_ONLY_WRITER;
use super::connection::PooledConnection;
use super::incoming::{IncomingRows, at_place};
use super::model::current_model;
use super::read::{self, KnownChunk, unreadable};
use super::replace::{ReplaceBatch, ReplacedRow};
use super::{ModelId, Store, StoreError};
use crate::chunk::{ChunkKey, EmbeddedChunk, OnConflict};
use chrono::{DateTime, Utc};
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::{Array, BigInt, Integer, Nullable, Text};
use diesel_async::{RunQueryDsl, SimpleAsyncConnection};
use futures_util::future;
use std::borrow::Borrow;
use std::collections::{HashMap, HashSet};
use uuid::Uuid;

/// The outcome of one row of a batch.
#[derive(Debug, Clone, PartialEq)]
pub enum InsertOutcome {
    /// It is new, and committed.
    Inserted {
        /// The clock value of the change.
        seq: i64,
        /// Its number in the search index.
        item: u32,
    },
    /// It took the place of the row with its key, as [`OnConflict::Replace`] asks for, and is committed.
    Replaced {
        /// The clock value of the change.
        seq: i64,
        /// Its number in the search index: that of the row.
        item: u32,
        /// The public name of the row.
        cpe_id: Uuid,
        /// When the first chunk with this key arrived.
        created_at: DateTime<Utc>,
    },
    /// Its key was there before, or earlier in the same batch. Whether the content is the same shows in
    /// [`KnownChunk::content_hash`].
    Present(Box<KnownChunk>),
    /// Its key was there, and the row was deleted before it could be read.
    Gone,
}

/// A committed batch.
#[derive(Debug, Clone, PartialEq)]
pub struct CommittedBatch {
    /// The history that counted its changes; see [`super::ClockReading::history`].
    pub history: String,
    /// An outcome for each row, in their order.
    pub outcomes: Vec<InsertOutcome>,
}

impl Store {
    /// Stores a batch of rows with their vectors in one flushed transaction.
    ///
    /// # Errors
    /// Nothing of the batch is stored, except that after a transient error it may be: repeat the call, and stored rows
    /// come back as present. With [`StoreError::is_data_error`] some row is refused for
    /// its content: bisect. [`StoreError::ModelChanged`] when `model` is not the model of the store.
    pub async fn insert<R: Borrow<EmbeddedChunk> + Sync>(
        &self,
        model: ModelId,
        rows: &[R],
    ) -> Result<CommittedBatch, StoreError> {
        let rows: Vec<&EmbeddedChunk> = rows.iter().map(Borrow::borrow).collect();
        if rows.is_empty() {
            return Ok(CommittedBatch { history: String::new(), outcomes: Vec::new() });
        }
        let firsts = first_of_each_key(&rows);
        let asks = |row: &&EmbeddedChunk| row.chunk.on_conflict == OnConflict::Replace;
        let asking: Vec<&EmbeddedChunk> = firsts.iter().copied().filter(asks).collect();
        let mut connection = self.pool.get().await?;
        // Without dead letters their table is not looked at: whatever happens to it, chunks are stored.
        let (replaced, inserted) = if self.dead_letter_count() > 0 {
            write::<true>(&mut connection, model, &firsts, &asking).await?
        } else {
            write::<false>(&mut connection, model, &firsts, &asking).await?
        };
        let [(first_seq, first_item, known_places, letters, history)] = inserted.as_slice() else {
            return Err(unreadable("answer to the insert"));
        };
        self.subtract_dead_letters(usize::try_from(*letters).unwrap_or_default());
        let known_places: HashSet<i64> = known_places.iter().map(|place| i64::from(*place)).collect();

        let mut written = HashMap::new();
        for (place, seq, item, cpe_id, created_at) in replaced {
            let row = at_place(&asking, place)?;
            let outcome = InsertOutcome::Replaced { seq, item: read::item_number(item)?, cpe_id, created_at };
            written.insert(&row.chunk.key, outcome);
        }
        let new = (1..).zip(&firsts).filter(|(place, _)| !known_places.contains(place));
        for (nth, (_, row)) in (0..).zip(new) {
            // The clock did not advance, because the store has another model.
            let (Some(seq), Some(item)) = (first_seq, first_item) else {
                return Err(StoreError::ModelChanged);
            };
            let outcome = InsertOutcome::Inserted { seq: seq + nth, item: read::item_number(item + nth)? };
            written.insert(&row.chunk.key, outcome);
        }
        // Outside of the transaction: nothing is held meanwhile, and a row may be changed or deleted.
        let unchanged = firsts.iter().map(|row| &row.chunk.key).filter(|key| !written.contains_key(key));
        let unchanged: Vec<&ChunkKey> = unchanged.collect();
        let mut known = HashMap::new();
        if !unchanged.is_empty() {
            let found = read::find_known(connection.conn(), unchanged.into_iter()).await;
            known = connection.done(found)?.into_iter().map(read::known).collect::<Result<_, _>>()?;
        }
        // Neither replaced nor equal: it was changed since, or the replacement was that of another model.
        let left = |row: &&EmbeddedChunk| {
            known.get(&row.chunk.key).is_some_and(|known| known.content_hash != row.chunk.content_hash)
        };
        if asking.iter().any(left) {
            let current = current_model(connection.conn()).await;
            let current = connection.done(current)?;
            if current.is_none_or(|(id, _)| id != model) {
                return Err(StoreError::ModelChanged);
            }
        }
        Ok(CommittedBatch { history: history.clone(), outcomes: outcomes(&rows, written, known) })
    }
}

/// The outcome of each row. After the first row of a key, the key is known.
fn outcomes(
    rows: &[&EmbeddedChunk],
    mut written: HashMap<&ChunkKey, InsertOutcome>,
    mut known: HashMap<ChunkKey, KnownChunk>,
) -> Vec<InsertOutcome> {
    let outcome = |row: &&EmbeddedChunk| {
        let key = &row.chunk.key;
        let Some(outcome) = written.remove(key) else {
            let known = known.get(key).cloned();
            return known.map_or(InsertOutcome::Gone, |known| InsertOutcome::Present(Box::new(known)));
        };
        let now_known = match outcome {
            InsertOutcome::Inserted { seq, item } => {
                Some(known_from(row, seq, item, row.chunk.cpe_id, row.chunk.received_at))
            }
            InsertOutcome::Replaced { seq, item, cpe_id, created_at } => {
                Some(known_from(row, seq, item, cpe_id, created_at))
            }
            InsertOutcome::Present(_) | InsertOutcome::Gone => None,
        };
        known.extend(now_known.map(|known| (key.clone(), known)));
        outcome
    };
    rows.iter().map(outcome).collect()
}

/// The first row of each key, sorted by key, so that any two batches lock their common keys in the same order.
fn first_of_each_key<'a>(rows: &[&'a EmbeddedChunk]) -> Vec<&'a EmbeddedChunk> {
    let mut firsts = rows.to_vec();
    firsts.sort_by(|a, b| a.chunk.key.cmp(&b.chunk.key));
    firsts.dedup_by(|later, first| later.chunk.key == first.chunk.key);
    firsts
}

/// `seq` and `item` of the first new row, the places of the known rows from 1, the number of removed dead letters, and the
/// history.
/// The server sends it before it commits, so it has to be short: were it to wait for its reader, so would all writers.
type InsertedTypes = (Nullable<BigInt>, Nullable<BigInt>, Array<Integer>, BigInt, Text);
type Inserted = (Option<i64>, Option<i64>, Vec<i32>, i64, String);

/// Stores the rows in one transaction, with `LETTERS` also without their dead letters.
async fn write<const LETTERS: bool>(
    connection: &mut PooledConnection,
    model: ModelId,
    firsts: &[&EmbeddedChunk],
    asking: &[&EmbeddedChunk],
) -> Result<(Vec<ReplacedRow>, Vec<Inserted>), StoreError> {
    let batch = InsertBatch::<LETTERS>::new(model, firsts);
    if !asking.is_empty() {
        return replace_and_insert(connection, ReplaceBatch::new(model, asking), batch).await;
    }
    let inserted = batch.load::<Inserted>(connection.conn()).await;
    Ok((Vec::new(), connection.done(inserted)?))
}

/// Replaces rows and inserts those that are new, in one transaction. All of it is sent at once: a future sends when it is
/// first polled, `join4` polls in order, and both statements are prepared before. The first one takes the lock, because
/// the second needs a snapshot that sees the commits it waited for. When this program stops between the two, the server
/// ends the transaction (see [`super::clock`]).
async fn replace_and_insert<const LETTERS: bool>(
    connection: &mut PooledConnection,
    replace: ReplaceBatch<'_>,
    insert: InsertBatch<'_, LETTERS>,
) -> Result<(Vec<ReplacedRow>, Vec<Inserted>), StoreError> {
    if !connection.prepared[usize::from(LETTERS)] {
        let (none, model) = (Vec::new(), insert.model);
        let prepared = ReplaceBatch::new(model, &none).load::<ReplacedRow>(connection.conn()).await;
        connection.done(prepared)?;
        let prepared = InsertBatch::<LETTERS>::new(model, &none).load::<Inserted>(connection.conn()).await;
        connection.done(prepared)?;
        connection.prepared[usize::from(LETTERS)] = true;
    }
    let conn = &*connection.conn();
    let (mut first, mut second, mut third, mut fourth) = (conn, conn, conn, conn);
    let (begun, replaced, inserted, committed) = future::join4(
        first.batch_execute(BEGIN_AS_ONLY_WRITER),
        replace.load::<ReplacedRow>(&mut second),
        insert.load::<Inserted>(&mut third),
        fourth.batch_execute("COMMIT"),
    )
    .await;
    let steps = begun.and_then(|()| Ok((replaced?, inserted?)));
    connection.committed(steps, committed)
}

fn known_from(
    row: &EmbeddedChunk,
    seq: i64,
    item: u32,
    cpe_id: Uuid,
    created_at: DateTime<Utc>,
) -> KnownChunk {
    KnownChunk {
        cpe_id,
        content_hash: row.chunk.content_hash,
        details_hash: Some(row.chunk.details_hash),
        batch_id: row.chunk.batch.as_ref().map(|batch| batch.as_str().into()),
        tagging: row.tagging.clone(),
        seq,
        item,
        created_at,
        truncated: row.embedding.truncated,
        unread: row.embedding.unread,
        extracted: row.extraction.call().is_some().then(|| row.extraction.clone()),
    }
}

/// The insert statement, a transaction of its own. The server begins with it when it has all of it, COMMIT included: so a
/// client that stops while it sends holds no lock. Its rows have to be read to their end, because the commit comes after.
struct InsertBatch<'a, const LETTERS: bool> {
    model: ModelId,
    rows: IncomingRows<'a>,
}

impl<'a, const LETTERS: bool> InsertBatch<'a, LETTERS> {
    fn new(model: ModelId, rows: &[&'a EmbeddedChunk]) -> Self {
        InsertBatch { model, rows: IncomingRows::new(rows) }
    }
}

/// The type identifies the statement, so each connection prepares it once.
impl<const LETTERS: bool> QueryId for InsertBatch<'_, LETTERS> {
    type QueryId = InsertBatch<'static, LETTERS>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl<const LETTERS: bool> Query for InsertBatch<'_, LETTERS> {
    type SqlType = InsertedTypes;
}

impl<const LETTERS: bool> QueryFragment<Pg> for InsertBatch<'_, LETTERS> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        self.rows.walk(out.reborrow(), "known, seq, item", |mut out| {
            out.push_sql("new_chunk_numbers(");
            self.rows.walk_keys(out.reborrow())?;
            out.push_sql(", ");
            out.push_bind_param::<Integer, _>(&self.model.0)?;
            out.push_sql(")");
            Ok(())
        })?;
        out.push_sql(CHUNKS);
        out.push_bind_param::<Integer, _>(&self.model.0)?;
        out.push_sql(QUESTIONS);
        out.push_bind_param::<Integer, _>(&self.model.0)?;
        out.push_sql(CPESH);
        out.push_sql(if LETTERS { REMOVED_LETTERS } else { NO_LETTERS });
        out.push_sql(ANSWER);
        Ok(())
    }
}

/// A row without an item is known, or the store has another model. The first look at `incoming` takes the lock and the
/// numbers, so it comes before everything else.
const CHUNKS: &str = "
, filed AS (
    INSERT INTO chunks (dataset_source, id, cpe_id, item, seq, content_hash, details_hash, text, document_id,
        chunk_index, source_document, article_title, article_index, parent_cpe_ids, child_cpe_ids, batch_id, metadata,
        domain_code, task_code, modifier_code, tmd_source, tmd_model, tmd_failure, domain_confidence,
        task_confidence, modifier_confidence, tmd_took_us, truncated, unread, created_at)
    SELECT dataset_source, id, cpe_id, item, seq, content_hash, details_hash, text,
        document_id, chunk_index, source_document, article_title, article_index, parent_cpe_ids::text[],
        child_cpe_ids::text[], batch_id, metadata, domain_code, task_code, modifier_code, tmd_source, tmd_model,
        tmd_failure, domain_confidence, task_confidence, modifier_confidence, tmd_took_us, truncated,
        unread, created_at
    FROM incoming
    WHERE item IS NOT NULL
), vectors AS (
    INSERT INTO chunk_vectors (item, model_id, kind, vector)
    SELECT item, ";

const QUESTIONS: &str = ", 'concept', vector FROM incoming WHERE item IS NOT NULL
    UNION ALL
    SELECT item, ";

const CPESH: &str = ", 'question', question_vector FROM incoming
    WHERE item IS NOT NULL AND question_vector IS NOT NULL
), cpesh AS (
    INSERT INTO chunk_cpesh (item, concept_text, probe_question, expected_answer, soft_negatives, hard_negatives,
        source, model, took_us, failure)
    SELECT item, concept_text, probe_question, expected_answer, soft_negatives::text[], hard_negatives::text[],
        cpesh_source, cpesh_model, cpesh_took_us, cpesh_failure
    FROM incoming
    WHERE item IS NOT NULL AND soft_negatives IS NOT NULL
)";

const REMOVED_LETTERS: &str = "
, letters AS (
    DELETE FROM dead_letters USING incoming
    WHERE dead_letters.dataset_source = incoming.dataset_source AND dead_letters.id = incoming.id
        AND dead_letters.content_hash = incoming.content_hash
        AND (item IS NOT NULL OR incoming.content_hash = (
            SELECT content_hash FROM chunks
            WHERE chunks.dataset_source = incoming.dataset_source AND chunks.id = incoming.id LIMIT 1))
    RETURNING letter
)";

const NO_LETTERS: &str = "
, letters AS (SELECT NULL WHERE false)";

const ANSWER: &str = "
SELECT min(seq), min(item), coalesce(array_agg(place::integer) FILTER (WHERE known), '{}'),
    (SELECT count(*) FROM letters), store_history()
FROM incoming";
