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
use super::read::{self, KnownChunk};
use super::{ModelId, Store, StoreError};
use crate::chunk::{Batch, EmbeddedChunk};
use chrono::{DateTime, Utc};
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::serialize::{self, IsNull, Output, ToSql};
use diesel::sql_types::{
    Array, BigInt, Binary, Bool, Float, Integer, Jsonb, Nullable, SmallInt, Text, Timestamptz,
    Uuid as SqlUuid,
};
use diesel_async::{RunQueryDsl, SimpleAsyncConnection};
use futures_util::future;
use std::borrow::Borrow;
use std::collections::HashMap;
use std::io::Write;
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
        /// The start of the transaction, by the clock of the database.
        created_at: DateTime<Utc>,
    },
    /// Its key was there before, or earlier in the same batch. Whether the content is the same shows in
    /// [`KnownChunk::content_hash`].
    Present(KnownChunk),
}

impl InsertOutcome {
    /// Whether the content of `row` is stored.
    fn is_of(&self, row: &EmbeddedChunk) -> bool {
        match self {
            InsertOutcome::Inserted { .. } => true,
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

/// Place in the batch from 1, `seq`, `item`, `created_at`, and the number of inserted rows.
type NewRow = (i64, i64, i64, DateTime<Utc>, i64);

/// Everything but the commit.
async fn insert(
    connection: &mut PooledConnection,
    model: ModelId,
    rows: &[&EmbeddedChunk],
) -> Result<Vec<InsertOutcome>, StoreError> {
    let firsts = first_of_each_key(rows);
    let batch = InsertBatch::new(model, &firsts);
    let conn = &*connection.conn();
    let (mut first, mut second) = (conn, conn);
    // Both are sent at once. The order is safe: a future sends when it is first polled, `join` polls in order, and a
    // statement that must still be prepared is sent later.
    let locked =
        first.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED; SELECT FROM change_clock FOR UPDATE");
    let (locked, inserted) = future::join(locked, batch.load::<NewRow>(&mut second)).await;
    connection.checked(locked)?;
    let inserted = connection.checked(inserted)?;
    if inserted.iter().any(|(.., filed)| *filed != inserted.len() as i64) {
        // A key was inserted without the lock.
        let problem = "another program writes into the table chunks without locking change_clock".to_owned();
        return Err(StoreError::Database { state: None, problem });
    }

    let mut new = HashMap::new();
    for (place, seq, item, created_at, _) in inserted {
        let chunk = usize::try_from(place - 1).ok().and_then(|place| firsts.get(place));
        let chunk = chunk.ok_or(StoreError::Unreadable { problem: "place in the batch".to_owned() })?;
        new.insert(&chunk.chunk.key, (seq, read::item_number(item)?, created_at));
    }
    let mut known = HashMap::new();
    if new.len() < firsts.len() {
        let keys = firsts.iter().map(|row| &row.chunk.key).filter(|key| !new.contains_key(key));
        let found = read::find_known(connection.conn(), keys).await;
        known = connection.checked(found)?.into_iter().map(read::known).collect::<Result<_, _>>()?;
    }
    rows.iter()
        .map(|row| {
            let key = &row.chunk.key;
            if let Some((seq, item, created_at)) = new.remove(key) {
                // Known from here on, for a second row with the same key.
                known.insert(key.clone(), known_from(row, seq, item, created_at));
                return Ok(InsertOutcome::Inserted { seq, item, created_at });
            }
            // Neither new nor known: the clock did not advance, because the store has another model.
            known.get(key).cloned().map(InsertOutcome::Present).ok_or(StoreError::ModelChanged)
        })
        .collect()
}

fn known_from(row: &EmbeddedChunk, seq: i64, item: u32, created_at: DateTime<Utc>) -> KnownChunk {
    KnownChunk {
        cpe_id: row.chunk.cpe_id,
        content_hash: row.chunk.content_hash,
        tagging: row.tagging.clone(),
        seq,
        item,
        created_at,
        truncated: row.embedding.truncated,
    }
}

/// The insert statement, with an array per column.
struct InsertBatch<'a> {
    model: ModelId,
    datasets: Vec<&'a str>,
    ids: Vec<&'a str>,
    cpe_ids: Vec<Uuid>,
    content_hashes: Vec<&'a [u8]>,
    texts: Vec<&'a str>,
    document_ids: Vec<Option<&'a str>>,
    chunk_indexes: Vec<i64>,
    source_documents: Vec<Option<&'a str>>,
    article_titles: Vec<Option<&'a str>>,
    article_indexes: Vec<Option<i64>>,
    parent_cpe_ids: Vec<String>,
    child_cpe_ids: Vec<String>,
    batch_ids: Vec<Option<&'a str>>,
    metadata: Vec<Option<JsonText<'a>>>,
    domains: Vec<i16>,
    tasks: Vec<i16>,
    modifiers: Vec<i16>,
    tmd_sources: Vec<&'a str>,
    tmd_models: Vec<Option<&'a str>>,
    tmd_failures: Vec<Option<&'a str>>,
    domain_confidences: Vec<Option<f32>>,
    task_confidences: Vec<Option<f32>>,
    modifier_confidences: Vec<Option<f32>>,
    tmd_took_us: Vec<Option<i64>>,
    truncated: Vec<bool>,
    vectors: Vec<LittleEndian<'a>>,
}

impl<'a> InsertBatch<'a> {
    fn new(model: ModelId, rows: &[&'a EmbeddedChunk]) -> Self {
        fn column<'a, T>(rows: &[&'a EmbeddedChunk], field: impl Fn(&'a EmbeddedChunk) -> T) -> Vec<T> {
            rows.iter().map(|row| field(row)).collect()
        }
        let sure = |row: &EmbeddedChunk| row.tagging.confidence;
        InsertBatch {
            model,
            datasets: column(rows, |row| &*row.chunk.key.dataset),
            ids: column(rows, |row| &*row.chunk.key.id),
            cpe_ids: column(rows, |row| row.chunk.cpe_id),
            content_hashes: column(rows, |row| row.chunk.content_hash.as_slice()),
            texts: column(rows, |row| row.chunk.text.as_str()),
            document_ids: column(rows, |row| row.chunk.placement.document_id.as_deref()),
            chunk_indexes: column(rows, |row| row.chunk.placement.chunk_index),
            source_documents: column(rows, |row| row.chunk.placement.source_document.as_deref()),
            article_titles: column(rows, |row| row.chunk.placement.article_title.as_deref()),
            article_indexes: column(rows, |row| row.chunk.placement.article_index),
            parent_cpe_ids: column(rows, |row| array_literal(&row.chunk.placement.parent_cpe_ids)),
            child_cpe_ids: column(rows, |row| array_literal(&row.chunk.placement.child_cpe_ids)),
            batch_ids: column(rows, |row| row.chunk.batch.as_ref().map(Batch::id)),
            metadata: column(rows, |row| row.chunk.metadata.as_ref().map(|json| JsonText(json.as_str()))),
            domains: column(rows, |row| i16::from(row.tagging.tmd.domain())),
            tasks: column(rows, |row| i16::from(row.tagging.tmd.task())),
            modifiers: column(rows, |row| i16::from(row.tagging.tmd.modifier())),
            tmd_sources: column(rows, |row| row.tagging.source.kind()),
            tmd_models: column(rows, |row| row.tagging.source.model()),
            tmd_failures: column(rows, |row| row.tagging.source.failure()),
            domain_confidences: column(rows, |row| sure(row).map(|c| c.domain)),
            task_confidences: column(rows, |row| sure(row).map(|c| c.task)),
            modifier_confidences: column(rows, |row| sure(row).map(|c| c.modifier)),
            tmd_took_us: column(rows, |row| {
                Some(i64::try_from(row.tagging.took?.as_micros()).unwrap_or(i64::MAX))
            }),
            truncated: column(rows, |row| row.embedding.truncated),
            vectors: column(rows, |row| LittleEndian(&row.embedding.vector)),
        }
    }
}

/// The type identifies the statement, so each connection prepares it once.
impl QueryId for InsertBatch<'_> {
    type QueryId = InsertBatch<'static>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl Query for InsertBatch<'_> {
    type SqlType = (BigInt, BigInt, BigInt, Timestamptz, BigInt);
}

impl QueryFragment<Pg> for InsertBatch<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        /// One further array of the `unnest`.
        macro_rules! array {
            ($kind:ty, $field:ident) => {
                out.push_sql(", ");
                out.push_bind_param::<Array<$kind>, _>(&self.$field)?;
            };
        }
        out.push_sql("WITH incoming AS (SELECT * FROM unnest(");
        out.push_bind_param::<Array<Text>, _>(&self.datasets)?;
        array!(Text, ids);
        array!(SqlUuid, cpe_ids);
        array!(Binary, content_hashes);
        array!(Text, texts);
        array!(Nullable<Text>, document_ids);
        array!(BigInt, chunk_indexes);
        array!(Nullable<Text>, source_documents);
        array!(Nullable<Text>, article_titles);
        array!(Nullable<BigInt>, article_indexes);
        array!(Text, parent_cpe_ids);
        array!(Text, child_cpe_ids);
        array!(Nullable<Text>, batch_ids);
        array!(Nullable<Jsonb>, metadata);
        array!(SmallInt, domains);
        array!(SmallInt, tasks);
        array!(SmallInt, modifiers);
        array!(Text, tmd_sources);
        array!(Nullable<Text>, tmd_models);
        array!(Nullable<Text>, tmd_failures);
        array!(Nullable<Float>, domain_confidences);
        array!(Nullable<Float>, task_confidences);
        array!(Nullable<Float>, modifier_confidences);
        array!(Nullable<BigInt>, tmd_took_us);
        array!(Bool, truncated);
        array!(Binary, vectors);
        out.push_sql(BETWEEN_ROWS_AND_MODEL);
        out.push_bind_param::<Integer, _>(&self.model.0)?;
        out.push_sql(AFTER_MODEL);
        Ok(())
    }
}

/// LIMIT keeps the planner from replacing the index look-ups of the keys by another join. When `tick` has no row
/// (nothing is new, or the store has another model), nothing is inserted.
const BETWEEN_ROWS_AND_MODEL: &str = "
) WITH ORDINALITY AS t (dataset_source, id, cpe_id, content_hash, text, document_id, chunk_index,
    source_document, article_title, article_index, parent_cpe_ids, child_cpe_ids, batch_id, metadata,
    domain_code, task_code, modifier_code, tmd_source, tmd_model, tmd_failure, domain_confidence,
    task_confidence, modifier_confidence, tmd_took_us, truncated, vector, place)
), fresh AS MATERIALIZED (
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
    INSERT INTO chunks (dataset_source, id, cpe_id, item, seq, content_hash, text, document_id, chunk_index,
        source_document, article_title, article_index, parent_cpe_ids, child_cpe_ids, batch_id, metadata,
        domain_code, task_code, modifier_code, tmd_source, tmd_model, tmd_failure, domain_confidence,
        task_confidence, modifier_confidence, tmd_took_us, truncated)
    SELECT dataset_source, id, cpe_id, tick.item + nth - 1, tick.seq + nth, content_hash, text, document_id,
        chunk_index, source_document, article_title, article_index, parent_cpe_ids::text[],
        child_cpe_ids::text[], batch_id, metadata, domain_code, task_code, modifier_code, tmd_source, tmd_model,
        tmd_failure, domain_confidence, task_confidence, modifier_confidence, tmd_took_us, truncated
    FROM fresh, tick
    ORDER BY nth
    ON CONFLICT (dataset_source, id) DO NOTHING
    RETURNING item
), vectors AS (
    INSERT INTO chunk_vectors (item, model_id, kind, vector)
    SELECT tick.item + nth - 1, tick.model_id, 'concept', vector FROM fresh, tick
)
SELECT place, tick.seq + nth, tick.item + nth - 1, now(), (SELECT count(*) FROM filed) FROM fresh, tick";

/// A list as a PostgreSQL array literal, because `unnest` flattens an array of arrays.
fn array_literal(values: &[String]) -> String {
    let quoted = values.iter().map(|v| format!("\"{}\"", v.replace('\\', "\\\\").replace('"', "\\\"")));
    format!("{{{}}}", quoted.collect::<Vec<_>>().join(","))
}

/// A vector as `bytea`: little-endian f32.
#[derive(Debug)]
struct LittleEndian<'a>(&'a [f32]);

/// JSON that is text already.
#[derive(Debug)]
struct JsonText<'a>(&'a str);

impl ToSql<Jsonb, Pg> for JsonText<'_> {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        // The version of the format, as PostgreSQL's jsonb_recv reads it, and the text.
        out.write_all(&[1])?;
        out.write_all(self.0.as_bytes())?;
        Ok(IsNull::No)
    }
}

impl ToSql<Binary, Pg> for LittleEndian<'_> {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        let bytes: Vec<u8> = self.0.iter().flat_map(|x| x.to_le_bytes()).collect();
        out.write_all(&bytes)?;
        Ok(IsNull::No)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_quoted() {
        let list =
            |values: &[&str]| array_literal(&values.iter().map(|v| (*v).to_owned()).collect::<Vec<_>>());
        assert_eq!(list(&[]), "{}");
        assert_eq!(list(&["a", "", "NULL"]), r#"{"a","","NULL"}"#);
        assert_eq!(list(&[r#"a"b\c,{d}"#]), r#"{"a\"b\\c,{d}"}"#);
    }
}
