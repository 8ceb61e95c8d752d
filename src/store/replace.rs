//! Replacing stored rows by chunks with other content, in the transaction of an insert.

use super::ModelId;
use super::incoming::IncomingRows;
use crate::chunk::EmbeddedChunk;
use crate::tmd::packing::lane_index;
use chrono::{DateTime, Utc};
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::{Array, BigInt, Integer, Nullable, Timestamptz, Uuid as SqlUuid};
use uuid::Uuid;

/// The statement: it replaces the rows that have these keys and differ, and takes as many numbers of the clock. A row
/// keeps its item, its public name and its time of arrival.
///
/// It needs a snapshot that is younger than the lock of the clock, so the lock is a statement before it.
pub(super) struct ReplaceBatch<'a> {
    model: ModelId,
    rows: IncomingRows<'a>,
    /// The codes that the client gave, as SQL's `tmd_lane_index` packs them.
    given: Vec<Option<i32>>,
}

/// Place in the batch from 1, `seq`, `item`, public name, time of arrival.
type ReplacedTypes = (BigInt, BigInt, BigInt, SqlUuid, Timestamptz);
/// The same in Rust.
pub(super) type ReplacedRow = (i64, i64, i64, Uuid, DateTime<Utc>);

impl<'a> ReplaceBatch<'a> {
    pub fn new(model: ModelId, rows: &[&'a EmbeddedChunk]) -> Self {
        let given = |row: &&EmbeddedChunk| row.chunk.client_tmd().map(|tmd| i32::from(lane_index(tmd)));
        ReplaceBatch { model, rows: IncomingRows::new(rows), given: rows.iter().map(given).collect() }
    }
}

/// The type identifies the statement, so each connection prepares it once.
impl QueryId for ReplaceBatch<'_> {
    type QueryId = ReplaceBatch<'static>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl Query for ReplaceBatch<'_> {
    type SqlType = ReplacedTypes;
}

impl QueryFragment<Pg> for ReplaceBatch<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        self.rows.walk(out.reborrow(), "given", |mut out| {
            out.push_sql("unnest(");
            out.push_bind_param::<Array<Nullable<Integer>>, _>(&self.given)?;
            out.push_sql(")");
            Ok(())
        })?;
        out.push_sql(BEFORE_MODEL);
        out.push_bind_param::<Integer, _>(&self.model.0)?;
        out.push_sql(AFTER_MODEL);
        Ok(())
    }
}

/// A row differs when its content or its details do, or when the client gave codes and they are others.
const BEFORE_MODEL: &str = "
, stored AS MATERIALIZED (
    SELECT incoming.*, chunks.item, chunks.cpe_id AS public_name, chunks.created_at AS arrived,
        row_number() OVER (ORDER BY place) AS nth
    FROM incoming
    CROSS JOIN LATERAL (SELECT * FROM chunks
                        WHERE chunks.dataset_source = incoming.dataset_source AND chunks.id = incoming.id
                        LIMIT 1) AS chunks
    WHERE chunks.content_hash <> incoming.content_hash
        OR chunks.details_hash IS DISTINCT FROM incoming.details_hash
        OR given <> coalesce(tmd_lane_index(chunks.domain_code, chunks.task_code, chunks.modifier_code), -1)
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
), other_models AS (
    -- They are those of the old content.
    DELETE FROM chunk_vectors USING stored, tick
    WHERE chunk_vectors.item = stored.item AND chunk_vectors.model_id <> tick.model_id
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
SELECT place, tick.seq + nth, stored.item, public_name, arrived FROM stored, tick";
