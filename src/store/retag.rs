//! Giving stored chunks other codes: which rows, and the change of some of them in one transaction. Vectors stay.

use super::backfill::{BackfilledRows, BackfilledTypes};
use super::filter_fields::FIELD_COLUMNS;
use super::read::item_number;
use super::{Store, StoreError};
use crate::chunk::FoundCodes;
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::{Array, BigInt, Float, Nullable, SmallInt, Text};
use diesel_async::RunQueryDsl;

/// The source of the codes of the rows that are to get others, or codes at all. Codes of the client are not touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RetagSource {
    /// The local classifier, because the language model had no answer. Also rows without the codes, because it was not
    /// sure enough of them.
    Fallback,
    /// The local classifier. Also rows without the codes, because it was not sure enough of them.
    Local,
    /// A language model.
    Llm,
    /// None was asked: the rows have no codes.
    None,
}

impl RetagSource {
    /// Every source that may be replaced.
    pub const ALL: [RetagSource; 4] =
        [RetagSource::Fallback, RetagSource::Local, RetagSource::Llm, RetagSource::None];

    /// The value of `tmd_source`.
    pub fn name(self) -> &'static str {
        match self {
            RetagSource::Fallback => "fallback",
            RetagSource::Local => "local",
            RetagSource::Llm => "llm",
            RetagSource::None => "none",
        }
    }

    /// The inverse of [`Self::name`].
    pub fn of_name(name: &str) -> Option<RetagSource> {
        RetagSource::ALL.into_iter().find(|source| source.name() == name)
    }
}

/// Which rows get other codes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetagScope {
    /// Rows of this dataset; `None` for all.
    pub dataset: Option<String>,
    /// Rows whose codes have one of these sources. Without any, none.
    pub sources: Vec<RetagSource>,
    /// Fallback rows with one of these values of `tmd_failure` only; `None` for all.
    pub failures: Option<&'static [&'static str]>,
    /// Rows whose last change is later than this clock value.
    pub after: i64,
    /// Rows whose last change is not later than this clock value. A row that was given codes is later.
    pub upto: i64,
}

/// A row that is to get other codes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetagRow {
    /// The clock value of its last change.
    pub seq: i64,
    /// Its number in the search index.
    pub item: u32,
    /// The text to classify.
    pub text: String,
}

/// New codes for a row.
#[derive(Debug, Clone, PartialEq)]
pub struct Retag {
    /// The clock value of the row when it was read. A row that was changed since keeps what it has.
    pub seq: i64,
    /// Its number in the search index.
    pub item: u32,
    /// Its new codes, with their source.
    pub codes: FoundCodes,
}

impl Store {
    /// Counts the rows of a scope. Only fallback rows have an index; for others the whole table is read.
    ///
    /// # Errors
    /// As any query: transient while the server is away.
    pub async fn count_to_retag(&self, scope: &RetagScope) -> Result<u64, StoreError> {
        let mut connection = self.pool.get().await?;
        let counted = CountRows(scope).get_result::<i64>(connection.conn_for_scan()).await;
        Ok(connection.done(counted)?.unsigned_abs())
    }

    /// The first `limit` rows of a scope, by their clock values.
    ///
    /// # Errors
    /// As any query: transient while the server is away.
    pub async fn rows_to_retag(&self, scope: &RetagScope, limit: u32) -> Result<Vec<RetagRow>, StoreError> {
        let mut connection = self.pool.get().await?;
        let query = SelectRows { scope, limit: limit.into() };
        let found = query.load::<(i64, i64, String)>(connection.conn_for_scan()).await;
        let found = connection.done(found)?.into_iter();
        found.map(|(seq, item, text)| Ok(RetagRow { seq, item: item_number(item)?, text })).collect()
    }

    /// Gives rows their new codes in one flushed transaction. Each change takes a clock value. Other writers wait
    /// meanwhile: give some hundreds at a time.
    ///
    /// # Errors
    /// Nothing is changed, except that after [`StoreError::Lost`] it may be.
    pub async fn retag(&self, retags: &[Retag]) -> Result<BackfilledRows, StoreError> {
        self.backfill(RetagRows::new(retags)).await
    }
}

impl RetagScope {
    fn walk<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        // As constants, so that the planner finds the partial index.
        out.push_sql("tmd_source IN (");
        for source in &self.sources {
            out.push_sql("'");
            out.push_sql(source.name());
            out.push_sql("', ");
        }
        out.push_sql("NULL) AND seq > ");
        out.push_bind_param::<BigInt, _>(&self.after)?;
        out.push_sql(" AND seq <= ");
        out.push_bind_param::<BigInt, _>(&self.upto)?;
        if let Some(dataset) = &self.dataset {
            out.push_sql(" AND dataset_source = ");
            out.push_bind_param::<Text, _>(dataset)?;
        }
        if let Some(failures) = &self.failures {
            out.push_sql(" AND (tmd_source <> 'fallback' OR tmd_failure = ANY(");
            out.push_bind_param::<Array<Text>, _>(failures)?;
            out.push_sql("))");
        }
        Ok(())
    }
}

struct CountRows<'a>(&'a RetagScope);

/// The condition differs from scope to scope.
impl QueryId for CountRows<'_> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl Query for CountRows<'_> {
    type SqlType = BigInt;
}

impl QueryFragment<Pg> for CountRows<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("SELECT count(*) FROM chunks WHERE ");
        self.0.walk(out)
    }
}

struct SelectRows<'a> {
    scope: &'a RetagScope,
    limit: i64,
}

/// As that of the count.
impl QueryId for SelectRows<'_> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl Query for SelectRows<'_> {
    type SqlType = (BigInt, BigInt, Text);
}

impl QueryFragment<Pg> for SelectRows<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("SELECT seq, item, text FROM chunks WHERE ");
        self.scope.walk(out.reborrow())?;
        out.push_sql(" ORDER BY seq LIMIT ");
        out.push_bind_param::<BigInt, _>(&self.limit)
    }
}

/// The statement, with an array a column. It takes as many numbers of the clock as it changes rows.
#[derive(QueryId)]
struct RetagRows {
    items: Vec<i64>,
    seqs: Vec<i64>,
    codes: [Vec<i16>; 3],
    sources: Vec<String>,
    models: Vec<Option<String>>,
    failures: Vec<Option<String>>,
    confidences: [Vec<Option<f32>>; 3],
    took_us: Vec<Option<i64>>,
}

impl RetagRows {
    fn new(retags: &[Retag]) -> RetagRows {
        let text = |text: &str| text.to_owned();
        let confidence = |get: fn(&FoundCodes) -> Option<f32>| retags.iter().map(|r| get(&r.codes)).collect();
        let code = |get: fn(&FoundCodes) -> u8| retags.iter().map(|r| get(&r.codes).into()).collect();
        let micros = |r: &Retag| Some(i64::try_from(r.codes.took?.as_micros()).unwrap_or(i64::MAX));
        RetagRows {
            items: retags.iter().map(|r| i64::from(r.item)).collect(),
            seqs: retags.iter().map(|r| r.seq).collect(),
            codes: [code(|t| t.tmd.domain()), code(|t| t.tmd.task()), code(|t| t.tmd.modifier())],
            sources: retags.iter().map(|r| text(r.codes.source.kind())).collect(),
            models: retags.iter().map(|r| r.codes.source.model().map(text)).collect(),
            failures: retags.iter().map(|r| r.codes.source.failure().map(text)).collect(),
            confidences: [
                confidence(|t| Some(t.confidence?.domain)),
                confidence(|t| Some(t.confidence?.task)),
                confidence(|t| Some(t.confidence?.modifier)),
            ],
            took_us: retags.iter().map(micros).collect(),
        }
    }
}

impl Query for RetagRows {
    type SqlType = BackfilledTypes;
}

impl QueryFragment<Pg> for RetagRows {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("WITH incoming AS (SELECT * FROM unnest(");
        out.push_bind_param::<Array<BigInt>, _>(&self.items)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<BigInt>, _>(&self.seqs)?;
        for codes in &self.codes {
            out.push_sql(", ");
            out.push_bind_param::<Array<SmallInt>, _>(codes)?;
        }
        out.push_sql(", ");
        out.push_bind_param::<Array<Text>, _>(&self.sources)?;
        for names in [&self.models, &self.failures] {
            out.push_sql(", ");
            out.push_bind_param::<Array<Nullable<Text>>, _>(names)?;
        }
        for confidences in &self.confidences {
            out.push_sql(", ");
            out.push_bind_param::<Array<Nullable<Float>>, _>(confidences)?;
        }
        out.push_sql(", ");
        out.push_bind_param::<Array<Nullable<BigInt>>, _>(&self.took_us)?;
        out.push_sql(AFTER_ROWS);
        out.push_sql(FIELD_COLUMNS);
        out.push_sql(AFTER_FIELDS);
        Ok(())
    }
}

const AFTER_ROWS: &str = "
) AS t (item, read_seq, domain_code, task_code, modifier_code, tmd_source, tmd_model, tmd_failure, domain_confidence,
    task_confidence, modifier_confidence, tmd_took_us)
), stored AS MATERIALIZED (
    SELECT incoming.*, row_number() OVER (ORDER BY incoming.item) AS nth
    FROM incoming JOIN chunks ON chunks.item = incoming.item AND chunks.seq = incoming.read_seq
), tick AS (
    UPDATE change_clock SET seq = seq + old.rows
    FROM (SELECT count(*) AS rows FROM stored) AS old
    WHERE old.rows > 0
    RETURNING seq - old.rows AS seq, model_id
), changed AS (
    UPDATE chunks SET
        seq = tick.seq + nth,
        domain_code = stored.domain_code, task_code = stored.task_code, modifier_code = stored.modifier_code,
        tmd_source = stored.tmd_source, tmd_model = stored.tmd_model, tmd_failure = stored.tmd_failure,
        domain_confidence = stored.domain_confidence, task_confidence = stored.task_confidence,
        modifier_confidence = stored.modifier_confidence, tmd_took_us = stored.tmd_took_us
    FROM stored, tick
    WHERE chunks.item = stored.item
    RETURNING chunks.*
)
SELECT tick.seq + nth, stored.item, concept.vector, question.vector, ";

const AFTER_FIELDS: &str = "
FROM stored CROSS JOIN tick JOIN changed AS fields ON fields.item = stored.item
LEFT JOIN chunk_vectors AS concept
    ON concept.item = stored.item AND concept.model_id = tick.model_id AND concept.kind = 'concept'
LEFT JOIN chunk_vectors AS question
    ON question.item = stored.item AND question.model_id = tick.model_id AND question.kind = 'question'
ORDER BY nth";
