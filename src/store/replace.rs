//! Replacing stored rows by chunks with other content: the second half of an insert, in its transaction.

use super::connection::PooledConnection;
use super::incoming::{IncomingRows, at_place};
use super::read::{self, KnownChunk};
use super::{ModelId, StoreError};
use crate::chunk::{ChunkKey, EmbeddedChunk, OnConflict};
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::{BigInt, Integer};
use diesel_async::RunQueryDsl;
use std::collections::HashMap;

/// Replaces the known rows whose chunks ask for it and differ, and gives the `seq` and the `item` of each. The caller
/// holds the lock of the clock. A row keeps its item, its public name and its time of arrival.
pub(super) async fn replace<'a>(
    connection: &mut PooledConnection,
    model: ModelId,
    rows: &[&'a EmbeddedChunk],
    known: &HashMap<ChunkKey, KnownChunk>,
) -> Result<HashMap<&'a ChunkKey, (i64, u32)>, StoreError> {
    let asks = |row: &&&EmbeddedChunk| {
        row.chunk.on_conflict == OnConflict::Replace
            && known.get(&row.chunk.key).is_some_and(|known| known.would_change(&row.chunk))
    };
    let rows: Vec<&EmbeddedChunk> = rows.iter().filter(asks).copied().collect();
    if rows.is_empty() {
        return Ok(HashMap::new());
    }
    let batch = ReplaceBatch { model, rows: IncomingRows::new(&rows) };
    let replaced = batch.load::<(i64, i64, i64)>(connection.conn()).await;
    let replaced = connection.checked(replaced)?.into_iter();
    let place =
        |(place, seq, item)| Ok((&at_place(&rows, place)?.chunk.key, (seq, read::item_number(item)?)));
    replaced.map(place).collect()
}

/// The statement: it takes as many numbers of the clock as it changes rows.
struct ReplaceBatch<'a> {
    model: ModelId,
    rows: IncomingRows<'a>,
}

/// The type identifies the statement, so each connection prepares it once.
impl QueryId for ReplaceBatch<'_> {
    type QueryId = ReplaceBatch<'static>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl Query for ReplaceBatch<'_> {
    type SqlType = (BigInt, BigInt, BigInt);
}

impl QueryFragment<Pg> for ReplaceBatch<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        self.rows.walk(out.reborrow())?;
        out.push_sql(BEFORE_MODEL);
        out.push_bind_param::<Integer, _>(&self.model.0)?;
        out.push_sql(AFTER_MODEL);
        Ok(())
    }
}

const BEFORE_MODEL: &str = "
, stored AS MATERIALIZED (
    SELECT incoming.*, chunks.item, row_number() OVER (ORDER BY place) AS nth
    FROM incoming
    CROSS JOIN LATERAL (SELECT item FROM chunks
                        WHERE chunks.dataset_source = incoming.dataset_source AND chunks.id = incoming.id
                        LIMIT 1) AS chunks
), tick AS (
    UPDATE change_clock SET seq = seq + old.rows
    FROM (SELECT count(*) AS rows FROM stored) AS old
    WHERE old.rows > 0 AND model_id = ";

const AFTER_MODEL: &str = "
    RETURNING seq - old.rows AS seq, model_id
), changed AS (
    UPDATE chunks SET
        seq = tick.seq + nth, content_hash = stored.content_hash, details_hash = stored.details_hash,
        text = stored.text, document_id = stored.document_id, chunk_index = stored.chunk_index,
        source_document = stored.source_document, article_title = stored.article_title,
        article_index = stored.article_index, parent_cpe_ids = stored.parent_cpe_ids::text[],
        child_cpe_ids = stored.child_cpe_ids::text[], batch_id = stored.batch_id, metadata = stored.metadata,
        domain_code = stored.domain_code, task_code = stored.task_code, modifier_code = stored.modifier_code,
        tmd_source = stored.tmd_source, tmd_model = stored.tmd_model, tmd_failure = stored.tmd_failure,
        domain_confidence = stored.domain_confidence, task_confidence = stored.task_confidence,
        modifier_confidence = stored.modifier_confidence, tmd_took_us = stored.tmd_took_us,
        truncated = stored.truncated, unread = stored.unread
    FROM stored, tick
    WHERE chunks.item = stored.item
), vectors AS (
    UPDATE chunk_vectors SET vector = stored.vector
    FROM stored, tick
    WHERE chunk_vectors.item = stored.item AND chunk_vectors.model_id = tick.model_id AND kind = 'concept'
), new_questions AS (
    INSERT INTO chunk_vectors (item, model_id, kind, vector)
    SELECT stored.item, tick.model_id, 'question', question_vector
    FROM stored, tick
    WHERE question_vector IS NOT NULL
    ON CONFLICT (item, model_id, kind) DO UPDATE SET vector = excluded.vector
), old_questions AS (
    DELETE FROM chunk_vectors USING stored, tick
    WHERE chunk_vectors.item = stored.item AND chunk_vectors.model_id = tick.model_id AND kind = 'question'
        AND stored.question_vector IS NULL
    RETURNING tick.seq + nth AS seq, stored.item
), gone_questions AS (
    INSERT INTO question_tombstones (seq, item) SELECT seq, item FROM old_questions
), new_cpesh AS (
    INSERT INTO chunk_cpesh (item, concept_text, probe_question, expected_answer, soft_negatives, hard_negatives,
        source, model, took_us, failure)
    SELECT stored.item, concept_text, probe_question, expected_answer, soft_negatives::text[],
        hard_negatives::text[], cpesh_source, cpesh_model, cpesh_took_us, cpesh_failure
    FROM stored, tick
    WHERE soft_negatives IS NOT NULL
    ON CONFLICT (item) DO UPDATE SET
        concept_text = excluded.concept_text, probe_question = excluded.probe_question,
        expected_answer = excluded.expected_answer, soft_negatives = excluded.soft_negatives,
        hard_negatives = excluded.hard_negatives, source = excluded.source, model = excluded.model,
        took_us = excluded.took_us, failure = excluded.failure
), old_cpesh AS (
    DELETE FROM chunk_cpesh USING stored, tick
    WHERE chunk_cpesh.item = stored.item AND stored.soft_negatives IS NULL
)
SELECT place, tick.seq + nth, stored.item FROM stored, tick";
