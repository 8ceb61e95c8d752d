//! The batched insert: one transaction, two round trips, and numbers in the order of commits.
//!
//! 1. `BEGIN` and the lock of the clock row. Its holder is the only writer until its commit.
//! 2. One statement, in a new snapshot that sees the commits the lock waited for: drop the known keys, advance the
//!    clock by the count of the others, insert them and their vectors. It is sent together with the first step.
//! 3. `COMMIT`, which returns after the flush.
//!
//! Without the lock a later number could commit first, and a reader of changes would miss rows. With the lock after
//! the inserts, batches with common keys could deadlock. Without dropping the known keys, repetitions would use
//! numbers up.

use super::connection::PooledConnection;
use super::dead_letters::{self, StoredKey};
use super::incoming::{IncomingRows, at_place};
use super::read::{self, KnownChunk};
use super::replace::replace;
use super::{ModelId, Store, StoreError};
use crate::chunk::EmbeddedChunk;
use chrono::{DateTime, Utc};
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::{BigInt, Integer};
use diesel_async::{RunQueryDsl, SimpleAsyncConnection};
use futures_util::future;
use std::borrow::Borrow;
use std::collections::HashMap;
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
    /// It took the place of the row with its key, as [`OnConflict::Replace`](crate::chunk::OnConflict::Replace) asks for, and is committed.
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
}

impl InsertOutcome {
    /// Whether the content of `row` is stored.
    fn is_of(&self, row: &EmbeddedChunk) -> bool {
        match self {
            InsertOutcome::Inserted { .. } | InsertOutcome::Replaced { .. } => true,
            InsertOutcome::Present(known) => known.content_hash == row.chunk.content_hash,
        }
    }
}

impl Store {
    /// Stores a batch of rows with their vectors in one flushed transaction; returns an outcome for each row, in the
    /// order of `rows`. Batches of about 256 are as fast as larger ones.
    ///
    /// # Errors
    /// Nothing of the batch is stored, except that after [`StoreError::Lost`] it may be: repeat the call, and stored
    /// rows come back as present. With [`StoreError::is_data_error`] some row is refused for its content: bisect.
    /// [`StoreError::ModelChanged`] when `model` is not the model of the store.
    pub async fn insert<R: Borrow<EmbeddedChunk> + Sync>(
        &self,
        model: ModelId,
        rows: &[R],
    ) -> Result<Vec<InsertOutcome>, StoreError> {
        let rows: Vec<&EmbeddedChunk> = rows.iter().map(Borrow::borrow).collect();
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let mut connection = self.pool.get().await?;
        let inserted = match insert(&mut connection, model, &rows).await {
            Ok(outcomes) if self.dead_letter_count() > 0 => {
                let stored_keys = rows.iter().zip(&outcomes).filter(|(row, outcome)| outcome.is_of(row));
                let stored_keys = stored_keys.map(|(row, _)| StoredKey::from(&*row.chunk));
                let removed = dead_letters::remove(connection.conn(), stored_keys).await;
                connection.checked(removed).map(|removed| (outcomes, removed))
            }
            other => other.map(|outcomes| (outcomes, 0)),
        };
        match inserted {
            Ok((outcomes, removed)) => {
                let committed = connection.conn().batch_execute("COMMIT").await;
                connection.done(committed)?;
                self.subtract_dead_letters(removed);
                Ok(outcomes)
            }
            Err(error) => {
                connection.roll_back().await;
                Err(error)
            }
        }
    }
}

/// The first row of each key, sorted by key, so that any two batches lock their common keys in the same order.
fn first_of_each_key<'a>(rows: &[&'a EmbeddedChunk]) -> Vec<&'a EmbeddedChunk> {
    let mut firsts = rows.to_vec();
    firsts.sort_by(|a, b| a.chunk.key.cmp(&b.chunk.key));
    firsts.dedup_by(|later, first| later.chunk.key == first.chunk.key);
    firsts
}

/// Place in the batch from 1, `seq`, `item`, and the number of inserted rows.
type NewRow = (i64, i64, i64, i64);

/// Everything but the commit.
async fn insert(
    connection: &mut PooledConnection,
    model: ModelId,
    rows: &[&EmbeddedChunk],
) -> Result<Vec<InsertOutcome>, StoreError> {
    let firsts = first_of_each_key(rows);
    let batch = InsertBatch { model, rows: IncomingRows::new(&firsts) };
    let conn = &*connection.conn();
    let (mut first, mut second) = (conn, conn);
    // Both are sent at once. The order is safe: a future sends when it is first polled, `join` polls in order, and a
    // statement that must still be prepared is sent later.
    let locked = first.batch_execute(BEGIN);
    let (locked, inserted) = future::join(locked, batch.load::<NewRow>(&mut second)).await;
    connection.checked(locked)?;
    let inserted = connection.checked(inserted)?;
    if inserted.iter().any(|(.., filed)| *filed != inserted.len() as i64) {
        // A key was inserted without the lock.
        let problem = "another program writes into the table chunks without locking change_clock".to_owned();
        return Err(StoreError::Database { state: None, problem });
    }

    let mut new = HashMap::new();
    for (place, seq, item, _) in inserted {
        new.insert(&at_place(&firsts, place)?.chunk.key, (seq, read::item_number(item)?));
    }
    let mut known = HashMap::new();
    if new.len() < firsts.len() {
        let keys = firsts.iter().map(|row| &row.chunk.key).filter(|key| !new.contains_key(key));
        let found = read::find_known(connection.conn(), keys).await;
        known = connection.checked(found)?.into_iter().map(read::known).collect::<Result<_, _>>()?;
    }
    let mut replaced = replace(connection, model, &firsts, &known).await?;
    rows.iter()
        .map(|row| {
            let key = &row.chunk.key;
            if let Some((seq, item)) = new.remove(key) {
                // Known from here on, for a second row with the same key.
                let (cpe_id, created_at) = (row.chunk.cpe_id, row.chunk.received_at);
                known.insert(key.clone(), known_from(row, seq, item, cpe_id, created_at));
                return Ok(InsertOutcome::Inserted { seq, item });
            }
            if let (Some((seq, item)), Some(before)) = (replaced.remove(key), known.get(key)) {
                let (cpe_id, created_at) = (before.cpe_id, before.created_at);
                known.insert(key.clone(), known_from(row, seq, item, cpe_id, created_at));
                return Ok(InsertOutcome::Replaced { seq, item, cpe_id, created_at });
            }
            // Neither new nor known: the clock did not advance, because the store has another model.
            known
                .get(key)
                .cloned()
                .map(|known| InsertOutcome::Present(Box::new(known)))
                .ok_or(StoreError::ModelChanged)
        })
        .collect()
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

/// The setting tells the triggers that the program takes the numbers and that its rows are true.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lnsp.writer = on; \
                     SELECT FROM change_clock FOR UPDATE";

/// The insert statement.
struct InsertBatch<'a> {
    model: ModelId,
    rows: IncomingRows<'a>,
}

/// The type identifies the statement, so each connection prepares it once.
impl QueryId for InsertBatch<'_> {
    type QueryId = InsertBatch<'static>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl Query for InsertBatch<'_> {
    type SqlType = (BigInt, BigInt, BigInt, BigInt);
}

impl QueryFragment<Pg> for InsertBatch<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        self.rows.walk(out.reborrow())?;
        out.push_sql(BETWEEN_ROWS_AND_MODEL);
        out.push_bind_param::<Integer, _>(&self.model.0)?;
        out.push_sql(AFTER_MODEL);
        Ok(())
    }
}

/// LIMIT keeps the planner from replacing the index look-ups of the keys by another join. When `tick` has no row
/// (nothing is new, or the store has another model), nothing is inserted.
const BETWEEN_ROWS_AND_MODEL: &str = "
, fresh AS MATERIALIZED (
    SELECT incoming.*, row_number() OVER (ORDER BY place) AS nth
    FROM incoming
    LEFT JOIN LATERAL (SELECT true AS there FROM chunks
                       WHERE chunks.dataset_source = incoming.dataset_source AND chunks.id = incoming.id
                       LIMIT 1) AS known ON true
    WHERE known.there IS NULL
), tick AS (
    UPDATE change_clock SET seq = seq + new.rows, next_item = next_item + new.rows
    FROM (SELECT count(*) AS rows FROM fresh) AS new
    WHERE new.rows > 0 AND model_id = ";

const AFTER_MODEL: &str = "
    RETURNING seq - new.rows AS seq, next_item - new.rows AS item, model_id
), filed AS (
    INSERT INTO chunks (dataset_source, id, cpe_id, item, seq, content_hash, details_hash, text, document_id,
        chunk_index, source_document, article_title, article_index, parent_cpe_ids, child_cpe_ids, batch_id, metadata,
        domain_code, task_code, modifier_code, tmd_source, tmd_model, tmd_failure, domain_confidence,
        task_confidence, modifier_confidence, tmd_took_us, truncated, unread, created_at)
    SELECT dataset_source, id, cpe_id, tick.item + nth - 1, tick.seq + nth, content_hash, details_hash, text,
        document_id, chunk_index, source_document, article_title, article_index, parent_cpe_ids::text[],
        child_cpe_ids::text[], batch_id, metadata, domain_code, task_code, modifier_code, tmd_source, tmd_model,
        tmd_failure, domain_confidence, task_confidence, modifier_confidence, tmd_took_us, truncated,
        unread, created_at
    FROM fresh, tick
    ORDER BY nth
    ON CONFLICT (dataset_source, id) DO NOTHING
    RETURNING item
), vectors AS (
    INSERT INTO chunk_vectors (item, model_id, kind, vector)
    SELECT tick.item + nth - 1, tick.model_id, 'concept', vector FROM fresh, tick
    UNION ALL
    SELECT tick.item + nth - 1, tick.model_id, 'question', question_vector FROM fresh, tick
    WHERE question_vector IS NOT NULL
), cpesh AS (
    INSERT INTO chunk_cpesh (item, concept_text, probe_question, expected_answer, soft_negatives, hard_negatives,
        source, model, took_us, failure)
    SELECT tick.item + nth - 1, concept_text, probe_question, expected_answer, soft_negatives::text[],
        hard_negatives::text[], cpesh_source, cpesh_model, cpesh_took_us, cpesh_failure
    FROM fresh, tick
    WHERE soft_negatives IS NOT NULL
)
SELECT place, tick.seq + nth, tick.item + nth - 1, (SELECT count(*) FROM filed) FROM fresh, tick";
