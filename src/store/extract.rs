//! Giving stored chunks CPESH parts, and vectors of their concepts and questions: which rows, and the change of some of
//! them in one transaction.

use super::backfill::{BackfilledRows, BackfilledTypes};
use super::filter_fields::FIELD_COLUMNS;
use super::incoming::{LittleEndian, array_literal};
use super::read::item_number;
use super::{ModelId, Store, StoreError};
use crate::chunk::{Cpesh, Embedding, Extraction};
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::{Array, BigInt, Binary, Bool, Float, Integer, Nullable, Text};
use diesel_async::RunQueryDsl;
use std::sync::Arc;

/// Which rows get CPESH parts, or the vector of the question they have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtractionScope {
    /// Rows of this dataset; `None` for all.
    pub dataset: Option<String>,
    /// The part that is missing.
    pub rows: ExtractionRows,
    /// Rows whose last change is later than this clock value.
    pub after: i64,
    /// Rows whose last change is not later than this clock value. A row that was changed by this is later.
    pub upto: i64,
}

/// The kinds of rows in an [`ExtractionScope`]. Rows that have a question without a vector are in each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtractionRows {
    /// No others are taken.
    Questions,
    /// Rows without CPESH parts for which no language model was asked.
    WithoutParts,
    /// Also those for which it gave none.
    AlsoFailed,
}

/// A row that is to be changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtractionRow {
    /// The clock value of its last change.
    pub seq: i64,
    /// Its number in the search index.
    pub item: u32,
    /// The part that it lacks.
    pub lack: ExtractionLack,
}

/// What a row lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExtractionLack {
    /// CPESH parts, to be extracted from this text.
    Parts(String),
    /// The vector of this question.
    QuestionVector(String),
}

/// New parts or vectors of a row.
#[derive(Debug, Clone, PartialEq)]
pub struct ExtractionUpdate {
    /// The clock value of the row when it was read. A row that was changed since keeps what it has.
    pub seq: i64,
    /// Its number in the search index.
    pub item: u32,
    /// Its new parts, or the failure of their extraction; `None` keeps what it has.
    pub extraction: Option<Extraction>,
    /// The vector of its new concept; `None` keeps the stored one.
    pub concept: Option<Embedding>,
    /// The vector of its question; `None` keeps the stored one, if it has one.
    pub question: Option<Arc<[f32]>>,
}

impl Store {
    /// Counts the rows of a scope. Reads the range of the clock, with an index entry a row.
    ///
    /// # Errors
    /// As any query: transient while the server is away.
    pub async fn count_to_extract(&self, scope: &ExtractionScope) -> Result<u64, StoreError> {
        let mut connection = self.pool.get().await?;
        let counted = CountScope(scope).get_result::<i64>(connection.conn_for_scan()).await;
        Ok(connection.done(counted)?.unsigned_abs())
    }

    /// The first `limit` rows of a scope, by their clock values.
    ///
    /// # Errors
    /// As any query: transient while the server is away.
    pub async fn rows_to_extract(
        &self,
        scope: &ExtractionScope,
        limit: u32,
    ) -> Result<Vec<ExtractionRow>, StoreError> {
        let mut connection = self.pool.get().await?;
        let query = SelectScope { scope, limit: limit.into() };
        let found = query.load::<(i64, i64, String, Option<String>)>(connection.conn_for_scan()).await;
        let row = |(seq, item, text, question)| {
            let lack = match question {
                Some(question) => ExtractionLack::QuestionVector(question),
                None => ExtractionLack::Parts(text),
            };
            Ok(ExtractionRow { seq, item: item_number(item)?, lack })
        };
        connection.done(found)?.into_iter().map(row).collect()
    }

    /// Writes new parts and vectors in one flushed transaction. Each changed row takes a clock value. Other writers wait
    /// meanwhile: give some hundreds at a time.
    ///
    /// # Errors
    /// Nothing is changed, except that after [`StoreError::Lost`] it may be.
    pub async fn extract(
        &self,
        model: ModelId,
        updates: &[ExtractionUpdate],
    ) -> Result<BackfilledRows, StoreError> {
        self.backfill(UpdateRows::new(model, updates)).await
    }
}

/// The rows without parts, or with a question that has no vector of the store's model.
const LACKS_VECTOR: &str = "(p.probe_question IS NOT NULL AND NOT EXISTS (SELECT FROM chunk_vectors AS v WHERE \
    v.item = c.item AND v.kind = 'question' AND v.model_id = (SELECT model_id FROM change_clock)))";

impl ExtractionScope {
    fn walk<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql(" FROM chunks AS c LEFT JOIN chunk_cpesh AS p ON p.item = c.item WHERE c.seq > ");
        out.push_bind_param::<BigInt, _>(&self.after)?;
        out.push_sql(" AND c.seq <= ");
        out.push_bind_param::<BigInt, _>(&self.upto)?;
        if let Some(dataset) = &self.dataset {
            out.push_sql(" AND c.dataset_source = ");
            out.push_bind_param::<Text, _>(dataset)?;
        }
        out.push_sql(" AND (");
        out.push_sql(match self.rows {
            ExtractionRows::Questions => "",
            ExtractionRows::WithoutParts => "p.item IS NULL OR ",
            ExtractionRows::AlsoFailed => "p.item IS NULL OR p.failure IS NOT NULL OR ",
        });
        out.push_sql(LACKS_VECTOR);
        out.push_sql(")");
        Ok(())
    }
}

struct CountScope<'a>(&'a ExtractionScope);

/// The condition differs from scope to scope.
impl QueryId for CountScope<'_> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl Query for CountScope<'_> {
    type SqlType = BigInt;
}

impl QueryFragment<Pg> for CountScope<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("SELECT count(*)");
        self.0.walk(out)
    }
}

struct SelectScope<'a> {
    scope: &'a ExtractionScope,
    limit: i64,
}

/// As that of the count.
impl QueryId for SelectScope<'_> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl Query for SelectScope<'_> {
    type SqlType = (BigInt, BigInt, Text, Nullable<Text>);
}

impl QueryFragment<Pg> for SelectScope<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("SELECT c.seq, c.item, c.text, p.probe_question");
        self.scope.walk(out.reborrow())?;
        out.push_sql(" ORDER BY c.seq LIMIT ");
        out.push_bind_param::<BigInt, _>(&self.limit)
    }
}

/// The statement, with an array a column. It takes as many numbers of the clock as it changes rows.
struct UpdateRows<'a> {
    model: ModelId,
    items: Vec<i64>,
    seqs: Vec<i64>,
    /// Concept, question, answer.
    parts: [Vec<Option<&'a str>>; 3],
    /// Soft and hard negatives: there exactly when there are new parts, or a failure.
    negatives: [Vec<Option<String>>; 2],
    models: Vec<Option<&'a str>>,
    took_us: Vec<Option<i64>>,
    failures: Vec<Option<&'a str>>,
    truncated: Vec<Option<bool>>,
    unread: Vec<Option<f32>>,
    /// Of concepts and questions.
    vectors: [Vec<Option<LittleEndian<'a>>>; 2],
}

/// The type identifies the statement, so each connection prepares it once.
impl QueryId for UpdateRows<'_> {
    type QueryId = UpdateRows<'static>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl<'a> UpdateRows<'a> {
    fn new(model: ModelId, updates: &'a [ExtractionUpdate]) -> UpdateRows<'a> {
        fn cpesh(update: &ExtractionUpdate) -> Option<&Cpesh> {
            match &update.extraction {
                Some(Extraction::ByLlm { cpesh, .. }) => Some(cpesh),
                _ => None,
            }
        }
        fn part(get: fn(&Cpesh) -> &Option<String>, updates: &[ExtractionUpdate]) -> Vec<Option<&str>> {
            updates.iter().map(|update| cpesh(update).and_then(|cpesh| get(cpesh).as_deref())).collect()
        }
        let list = |get: fn(&Cpesh) -> &Vec<String>| {
            let literal = |update: &ExtractionUpdate| {
                update.extraction.as_ref()?;
                Some(array_literal(cpesh(update).map_or(&[], |cpesh| get(cpesh))))
            };
            updates.iter().map(literal).collect()
        };
        let call = |update: &'a ExtractionUpdate| update.extraction.as_ref()?.call();
        let micros = |update: &'a ExtractionUpdate| {
            Some(i64::try_from(call(update)?.took?.as_micros()).unwrap_or(i64::MAX))
        };
        let embedding = |update: &'a ExtractionUpdate| update.concept.as_ref();
        UpdateRows {
            model,
            items: updates.iter().map(|update| i64::from(update.item)).collect(),
            seqs: updates.iter().map(|update| update.seq).collect(),
            parts: [
                part(|cpesh| &cpesh.concept_text, updates),
                part(|cpesh| &cpesh.probe_question, updates),
                part(|cpesh| &cpesh.expected_answer, updates),
            ],
            negatives: [list(|cpesh| &cpesh.soft_negatives), list(|cpesh| &cpesh.hard_negatives)],
            models: updates.iter().map(|update| call(update).map(|call| &*call.model)).collect(),
            took_us: updates.iter().map(micros).collect(),
            failures: updates.iter().map(|update| update.extraction.as_ref()?.failure()).collect(),
            truncated: updates.iter().map(|update| embedding(update).map(|e| e.truncated)).collect(),
            unread: updates.iter().map(|update| embedding(update)?.unread).collect(),
            vectors: [
                updates.iter().map(|update| embedding(update).map(|e| LittleEndian(&e.vector))).collect(),
                updates.iter().map(|update| update.question.as_deref().map(LittleEndian)).collect(),
            ],
        }
    }
}

impl Query for UpdateRows<'_> {
    type SqlType = BackfilledTypes;
}

impl QueryFragment<Pg> for UpdateRows<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("WITH incoming AS (SELECT * FROM unnest(");
        out.push_bind_param::<Array<BigInt>, _>(&self.items)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<BigInt>, _>(&self.seqs)?;
        for texts in &self.parts {
            out.push_sql(", ");
            out.push_bind_param::<Array<Nullable<Text>>, _>(texts)?;
        }
        for lists in &self.negatives {
            out.push_sql(", ");
            out.push_bind_param::<Array<Nullable<Text>>, _>(lists)?;
        }
        out.push_sql(", ");
        out.push_bind_param::<Array<Nullable<Text>>, _>(&self.models)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Nullable<BigInt>>, _>(&self.took_us)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Nullable<Text>>, _>(&self.failures)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Nullable<Bool>>, _>(&self.truncated)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Nullable<Float>>, _>(&self.unread)?;
        for vectors in &self.vectors {
            out.push_sql(", ");
            out.push_bind_param::<Array<Nullable<Binary>>, _>(vectors)?;
        }
        out.push_sql(BEFORE_MODEL);
        out.push_bind_param::<Integer, _>(&self.model.0)?;
        out.push_sql(AFTER_MODEL);
        out.push_sql(FIELD_COLUMNS);
        out.push_sql(AFTER_FIELDS);
        Ok(())
    }
}

const BEFORE_MODEL: &str = "
) AS t (item, read_seq, concept_text, probe_question, expected_answer, soft_negatives, hard_negatives, model, took_us,
    failure, truncated, unread, concept_vector, question_vector)
), stored AS MATERIALIZED (
    SELECT incoming.*, row_number() OVER (ORDER BY incoming.item) AS nth
    FROM incoming JOIN chunks ON chunks.item = incoming.item AND chunks.seq = incoming.read_seq
), tick AS (
    UPDATE change_clock SET seq = seq + old.rows
    FROM (SELECT count(*) AS rows FROM stored) AS old
    WHERE old.rows > 0 AND model_id = ";

/// The vectors of the last part are those of before: the statement does not see its own changes.
const AFTER_MODEL: &str = "
    RETURNING seq - old.rows AS seq, model_id
), changed AS (
    UPDATE chunks SET
        seq = tick.seq + nth, truncated = coalesce(stored.truncated, chunks.truncated),
        unread = CASE WHEN stored.concept_vector IS NULL THEN chunks.unread ELSE stored.unread END
    FROM stored, tick
    WHERE chunks.item = stored.item
    RETURNING chunks.*
), concepts AS (
    UPDATE chunk_vectors SET vector = stored.concept_vector
    FROM stored, tick
    WHERE chunk_vectors.item = stored.item AND chunk_vectors.model_id = tick.model_id AND kind = 'concept'
        AND stored.concept_vector IS NOT NULL
), other_models AS (
    -- They are those of the old concepts and questions.
    DELETE FROM chunk_vectors USING stored, tick
    WHERE chunk_vectors.item = stored.item AND chunk_vectors.model_id <> tick.model_id
        AND CASE kind WHEN 'concept' THEN stored.concept_vector IS NOT NULL
                      ELSE stored.question_vector IS NOT NULL OR stored.soft_negatives IS NOT NULL END
), questions AS (
    INSERT INTO chunk_vectors (item, model_id, kind, vector)
    SELECT stored.item, tick.model_id, 'question', question_vector
    FROM stored, tick
    WHERE question_vector IS NOT NULL
    ON CONFLICT (item, model_id, kind) DO UPDATE SET vector = excluded.vector
), parts AS (
    INSERT INTO chunk_cpesh (item, concept_text, probe_question, expected_answer, soft_negatives, hard_negatives,
        source, model, took_us, failure)
    SELECT stored.item, concept_text, probe_question, expected_answer, soft_negatives::text[],
        hard_negatives::text[], 'llm', model, took_us, failure
    FROM stored, tick
    WHERE soft_negatives IS NOT NULL
    ON CONFLICT (item) DO UPDATE SET
        concept_text = excluded.concept_text, probe_question = excluded.probe_question,
        expected_answer = excluded.expected_answer, soft_negatives = excluded.soft_negatives,
        hard_negatives = excluded.hard_negatives, source = excluded.source, model = excluded.model,
        took_us = excluded.took_us, failure = excluded.failure
)
SELECT tick.seq + nth, stored.item, coalesce(stored.concept_vector, concept.vector),
    coalesce(stored.question_vector, question.vector), ";

const AFTER_FIELDS: &str = "
FROM stored CROSS JOIN tick JOIN changed AS fields ON fields.item = stored.item
LEFT JOIN chunk_vectors AS concept
    ON concept.item = stored.item AND concept.model_id = tick.model_id AND concept.kind = 'concept'
LEFT JOIN chunk_vectors AS question
    ON question.item = stored.item AND question.model_id = tick.model_id AND question.kind = 'question'
ORDER BY nth";
