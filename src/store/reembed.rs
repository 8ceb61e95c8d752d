//! Vectors of a further model for stored chunks, and the switch to that model.
//!
//! A chunk that gets a vector of a model that is not in use keeps the number of its last change: the indexes of that model
//! compare themselves with the rows when the model is put to use. Rows are written under the lock of the clock, because a
//! chunk that is replaced at the same time loses its vectors of other models, and must not get one of its old text.

use super::clock::BEGIN_AS_ONLY_WRITER;
use super::connection::PooledConnection;
use super::incoming::LittleEndian;
use super::read::item_number;
use super::schema::change_clock;
use super::{ModelId, Store, StoreError};
use diesel::QueryableByName;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Binary, Bool, Integer, Nullable, Text};
use diesel_async::{RunQueryDsl, SimpleAsyncConnection};
use std::sync::Arc;

/// A chunk that lacks a vector of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LackingChunk {
    /// The clock value of its last change.
    pub seq: i64,
    /// Its number in the search index.
    pub item: u32,
    /// Its concept, or its text where it has none; `None` where that vector is there.
    pub concept: Option<String>,
    /// Its question, if that has no vector.
    pub question: Option<String>,
}

/// The vectors for a [`LackingChunk`].
#[derive(Debug, Clone, PartialEq)]
pub struct AddedVectors {
    /// The clock value of the chunk when it was read. One that was changed since gets no vectors.
    pub seq: i64,
    /// Its number in the search index.
    pub item: u32,
    /// Of its concept; `None` adds none.
    pub concept: Option<Arc<[f32]>>,
    /// Of its question; `None` adds none.
    pub question: Option<Arc<[f32]>>,
}

/// How an attempt to switch went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelSwitched {
    /// The model is in use, and every chunk has its vectors of it.
    InUse,
    /// More chunks lack vectors than can be filled while all writers wait; nothing was changed.
    TooManyLack,
    /// Chunks lack vectors that could not be made; nothing was changed.
    StillLack,
}

/// As a transaction that makes the last vectors itself needs more time between two statements than others.
const BEGIN_SWITCH: &str = "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lnsp.writer = on; \
                            SET LOCAL idle_in_transaction_session_timeout = '15s'; \
                            SELECT FROM change_clock FOR UPDATE";

/// The parameters are the model, and the clock values after which and up to which rows were last changed.
const LACKING: &str = "
    FROM chunks AS c LEFT JOIN chunk_cpesh AS p ON p.item = c.item
    CROSS JOIN LATERAL (SELECT
        NOT EXISTS (SELECT FROM chunk_vectors AS v
                    WHERE v.item = c.item AND v.kind = 'concept' AND v.model_id = $1) AS concept,
        p.probe_question IS NOT NULL AND NOT EXISTS (
            SELECT FROM chunk_vectors AS v
            WHERE v.item = c.item AND v.kind = 'question' AND v.model_id = $1) AS question) AS lacks
    WHERE c.seq > $2 AND c.seq <= $3 AND (lacks.concept OR lacks.question)";

/// A chunk that was changed or deleted since it was read is left out, and so is everything once the model is in use: then
/// a new vector would be a change.
const INSERT: &str = "
    INSERT INTO chunk_vectors (item, model_id, kind, vector)
    SELECT t.item, $1, t.kind, t.vector
    FROM unnest($2, $3, $4, $5) AS t (item, seq, kind, vector)
    JOIN chunks AS c ON c.item = t.item AND c.seq = t.seq
    WHERE (SELECT model_id FROM change_clock) IS DISTINCT FROM $1
    ON CONFLICT (item, model_id, kind) DO UPDATE SET vector = excluded.vector";

#[derive(QueryableByName)]
struct LackingRow {
    #[diesel(sql_type = BigInt)]
    seq: i64,
    #[diesel(sql_type = BigInt)]
    item: i64,
    #[diesel(sql_type = Nullable<Text>)]
    concept: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    question: Option<String>,
}

#[derive(QueryableByName)]
struct LackingCount {
    #[diesel(sql_type = BigInt)]
    rows: i64,
}

#[derive(QueryableByName)]
struct Lacking {
    #[diesel(sql_type = Bool)]
    any: bool,
}

impl Store {
    /// Counts the chunks that lack a vector of a model, of their concept or of their question. Looks at each chunk.
    ///
    /// # Errors
    /// As any query: transient while the server is away.
    pub async fn count_lacking(&self, model: ModelId) -> Result<u64, StoreError> {
        let mut connection = self.pool.get().await?;
        let query = diesel::sql_query(format!("SELECT count(*) AS rows {LACKING}"));
        let query = query.bind::<Integer, _>(model.0).bind::<BigInt, _>(0).bind::<BigInt, _>(i64::MAX);
        let counted = query.get_result::<LackingCount>(connection.conn_for_scan()).await;
        Ok(connection.done(counted)?.rows.unsigned_abs())
    }

    /// The first `limit` chunks that lack a vector of a model, by the clock values of their last changes: those after
    /// `after`, and not after `upto`.
    ///
    /// # Errors
    /// As any query: transient while the server is away.
    pub async fn lacking_chunks(
        &self,
        model: ModelId,
        (after, upto): (i64, i64),
        limit: u32,
    ) -> Result<Vec<LackingChunk>, StoreError> {
        let mut connection = self.pool.get().await?;
        let found = lacking(&mut connection, model, (after, upto), limit).await;
        connection.done(found)?.into_iter().map(chunk).collect()
    }

    /// Stores vectors of a model that is not in use, in one flushed transaction; returns how many. Other writers wait
    /// meanwhile: give some hundreds at a time.
    ///
    /// # Errors
    /// Nothing is stored, except that after [`StoreError::Lost`] it may be. A repetition does no harm.
    pub async fn add_vectors(&self, model: ModelId, rows: &[AddedVectors]) -> Result<usize, StoreError> {
        let mut connection = self.pool.get().await?;
        let begun = connection.conn().batch_execute(BEGIN_AS_ONLY_WRITER).await;
        connection.checked(begun)?;
        match insert(&mut connection, model, rows).await {
            Ok(stored) => {
                connection.commit().await?;
                Ok(stored)
            }
            Err(error) => {
                connection.roll_back().await;
                Err(error)
            }
        }
    }

    /// Puts a model to use. Chunks that were changed after `after` and lack vectors, `most` at most, get them from
    /// `embed` while all writers wait; so none lacks one afterwards, if none did of those before. The inner error is that
    /// of `embed`.
    ///
    /// # Errors
    /// As any query. Nothing is changed, except that after [`StoreError::Lost`] it may be.
    pub async fn switch_model<E>(
        &self,
        model: ModelId,
        after: i64,
        most: u32,
        embed: impl AsyncFnOnce(Vec<LackingChunk>) -> Result<Vec<AddedVectors>, E>,
    ) -> Result<Result<ModelSwitched, E>, StoreError> {
        let mut connection = self.pool.get().await?;
        let begun = connection.conn().batch_execute(BEGIN_SWITCH).await;
        connection.checked(begun)?;
        let switched = switch(&mut connection, model, (after, most), embed).await;
        if matches!(switched, Ok(Ok(ModelSwitched::InUse))) {
            connection.commit().await?;
        } else {
            connection.roll_back().await;
        }
        switched
    }
}

async fn lacking(
    connection: &mut PooledConnection,
    model: ModelId,
    (after, upto): (i64, i64),
    limit: u32,
) -> QueryResult<Vec<LackingRow>> {
    let query = diesel::sql_query(format!(
        "SELECT c.seq, c.item, CASE WHEN lacks.concept THEN coalesce(p.concept_text, c.text) END AS concept,
            CASE WHEN lacks.question THEN p.probe_question END AS question {LACKING} ORDER BY c.seq LIMIT $4"
    ));
    let query = query.bind::<Integer, _>(model.0).bind::<BigInt, _>(after).bind::<BigInt, _>(upto);
    query.bind::<BigInt, _>(i64::from(limit)).load(connection.conn_for_scan()).await
}

fn chunk(row: LackingRow) -> Result<LackingChunk, StoreError> {
    let LackingRow { seq, item, concept, question } = row;
    Ok(LackingChunk { seq, item: item_number(item)?, concept, question })
}

/// Everything but the commit.
async fn insert(
    connection: &mut PooledConnection,
    model: ModelId,
    rows: &[AddedVectors],
) -> Result<usize, StoreError> {
    let concepts = rows.iter().filter_map(|row| Some((row, "concept", row.concept.as_deref()?)));
    let questions = rows.iter().filter_map(|row| Some((row, "question", row.question.as_deref()?)));
    let all: Vec<_> = concepts.chain(questions).collect();
    let items: Vec<i64> = all.iter().map(|(row, ..)| i64::from(row.item)).collect();
    let seqs: Vec<i64> = all.iter().map(|(row, ..)| row.seq).collect();
    let kinds: Vec<&str> = all.iter().map(|(_, kind, _)| *kind).collect();
    let vectors: Vec<LittleEndian<'_>> = all.iter().map(|(.., vector)| LittleEndian(vector)).collect();
    let query = diesel::sql_query(INSERT).bind::<Integer, _>(model.0).bind::<Array<BigInt>, _>(items);
    let query = query.bind::<Array<BigInt>, _>(seqs).bind::<Array<Text>, _>(kinds);
    let stored = query.bind::<Array<Binary>, _>(vectors).execute(connection.conn()).await;
    connection.checked(stored)
}

async fn switch<E>(
    connection: &mut PooledConnection,
    model: ModelId,
    (after, most): (i64, u32),
    embed: impl AsyncFnOnce(Vec<LackingChunk>) -> Result<Vec<AddedVectors>, E>,
) -> Result<Result<ModelSwitched, E>, StoreError> {
    let found = lacking(connection, model, (after, i64::MAX), most.saturating_add(1)).await;
    let found: Vec<LackingChunk> =
        connection.checked(found)?.into_iter().map(chunk).collect::<Result<_, _>>()?;
    if found.len() > most as usize {
        return Ok(Ok(ModelSwitched::TooManyLack));
    }
    if !found.is_empty() {
        let vectors = match embed(found).await {
            Ok(vectors) => vectors,
            Err(error) => return Ok(Err(error)),
        };
        insert(connection, model, &vectors).await?;
    }
    let query = diesel::sql_query(format!("SELECT EXISTS (SELECT {LACKING}) AS any"));
    let query = query.bind::<Integer, _>(model.0).bind::<BigInt, _>(after).bind::<BigInt, _>(i64::MAX);
    let left = query.get_result::<Lacking>(connection.conn()).await;
    if connection.checked(left)?.any {
        return Ok(Ok(ModelSwitched::StillLack));
    }
    let history = diesel::dsl::sql::<Nullable<diesel::sql_types::Uuid>>("gen_random_uuid()");
    let changes = (change_clock::model_id.eq(model.0), change_clock::history.eq(history));
    let changed = diesel::update(change_clock::table).set(changes).execute(connection.conn()).await;
    connection.checked(changed)?;
    Ok(Ok(ModelSwitched::InUse))
}
