//! Reading changes in the order of the clock, for the search indexes or a copy of the store.

use super::filter_fields::{FIELD_COLUMNS, FieldTypes, FieldsFound, NO_FIELDS, filter_fields};
use super::read::{floats, item_number};
use super::{ModelId, Store, StoreError};
use crate::filter::FilterFields;
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::{BigInt, Binary, Bool, Integer, Nullable};
use diesel_async::RunQueryDsl;

/// The changes of a store after a number of its clock, in order.
#[derive(Debug, Clone, PartialEq)]
pub struct ChunkChanges {
    /// The clock in the snapshot that the lists were read in.
    pub clock: i64,
    /// The lists are complete up to this number; the next page starts after it. Equal to `clock` on the last page.
    pub through: i64,
    /// Chunks that were stored or changed and have a vector of the kind, ascending by `seq`.
    pub rows: Vec<ChangedChunk>,
    /// Chunks that were deleted, or lost their vector of the kind, as `(seq, item)`, ascending by `seq`.
    pub tombstones: Vec<(i64, u32)>,
}

/// A chunk that was stored or changed.
#[derive(Debug, Clone, PartialEq)]
pub struct ChangedChunk {
    /// The clock value of its last change.
    pub seq: i64,
    /// Its number in the search index.
    pub item: u32,
    /// Its vector of the kind, as long as the model's `dims`.
    pub vector: Vec<f32>,
    /// What a search needs of it beside its vector.
    pub fields: FilterFields,
}

impl Store {
    /// The changes after `seq`, with concept vectors, oldest first: at most `limit`, where a limit below 1 counts as 1.
    /// Repeating the call from [`ChunkChanges::through`] until it equals the clock gives every change; from 0, every
    /// stored chunk.
    ///
    /// # Errors
    /// As any query: transient while the server is away.
    pub async fn changes_after(
        &self,
        seq: i64,
        limit: i64,
        model: ModelId,
    ) -> Result<ChunkChanges, StoreError> {
        let limit = limit.max(1);
        let mut connection = self.pool.get().await?;
        let found = ChangesAfter { seq, limit, model }.load::<ChangeRow>(connection.conn()).await;
        changes(connection.done(found)?, limit)
    }

    /// As [`Self::changes_after`], with question vectors. Changed chunks without one count towards `limit`, but are not
    /// in the answer, so a page may be empty.
    ///
    /// # Errors
    /// As any query: transient while the server is away.
    pub async fn question_changes_after(
        &self,
        seq: i64,
        limit: i64,
        model: ModelId,
    ) -> Result<ChunkChanges, StoreError> {
        let limit = limit.max(1);
        let mut connection = self.pool.get().await?;
        let found = QuestionChangesAfter { seq, limit, model }.load::<ChangeRow>(connection.conn()).await;
        changes(connection.done(found)?, limit)
    }
}

/// Clock, chunks and tombstones in one statement, and so in one snapshot.
#[derive(QueryId)]
struct ChangesAfter {
    seq: i64,
    limit: i64,
    model: ModelId,
}

/// The same for questions.
#[derive(QueryId)]
struct QuestionChangesAfter {
    seq: i64,
    limit: i64,
    model: ModelId,
}

/// `(seq, item, gone, vector, fields)`. A tombstone is gone; the row of the clock has no item.
type ChangeRow = (i64, Option<i64>, bool, Option<Vec<u8>>, FieldsFound);
type ChangeRowSql = (BigInt, Nullable<BigInt>, Bool, Nullable<Binary>, FieldTypes);

impl Query for ChangesAfter {
    type SqlType = ChangeRowSql;
}

impl Query for QuestionChangesAfter {
    type SqlType = ChangeRowSql;
}

impl QueryFragment<Pg> for QuestionChangesAfter {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        clock(&mut out);
        // The limit comes before the vectors: a page reads as many chunks, however few of them have a question.
        for part in [" UNION ALL (SELECT fields.seq, fields.item, false, v.vector, ", FIELD_COLUMNS] {
            out.push_sql(part);
        }
        page(&mut out, " FROM (SELECT * FROM chunks WHERE seq > ", &self.seq, &self.limit)?;
        out.push_sql(
            ") fields LEFT JOIN LATERAL (SELECT vector FROM chunk_vectors \
             WHERE chunk_vectors.item = fields.item AND kind = 'question' AND model_id = ",
        );
        out.push_bind_param::<Integer, _>(&self.model.0)?;
        out.push_sql(" LIMIT 1) v ON true ORDER BY fields.seq)");
        for table in ["tombstones", "question_tombstones"] {
            tombstones(&mut out, table, &self.seq, &self.limit)?;
        }
        Ok(())
    }
}

impl QueryFragment<Pg> for ChangesAfter {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        clock(&mut out);
        for part in [" UNION ALL (SELECT fields.seq, fields.item, false, v.vector, ", FIELD_COLUMNS] {
            out.push_sql(part);
        }
        out.push_sql(
            " FROM chunks fields CROSS JOIN LATERAL (SELECT vector FROM chunk_vectors \
             WHERE chunk_vectors.item = fields.item AND kind = 'concept' AND model_id = ",
        );
        out.push_bind_param::<Integer, _>(&self.model.0)?;
        page(&mut out, " LIMIT 1) v WHERE fields.seq > ", &self.seq, &self.limit)?;
        out.push_sql(")");
        tombstones(&mut out, "tombstones", &self.seq, &self.limit)
    }
}

fn clock(out: &mut AstPass<'_, '_, Pg>) {
    for part in ["SELECT seq, NULL::bigint, false, NULL::bytea, ", NO_FIELDS, " FROM change_clock"] {
        out.push_sql(part);
    }
}

/// What is after a number, in order, up to a limit.
fn page<'b>(out: &mut AstPass<'_, 'b, Pg>, before: &str, seq: &'b i64, limit: &'b i64) -> QueryResult<()> {
    out.push_sql(before);
    out.push_bind_param::<BigInt, _>(seq)?;
    out.push_sql(" ORDER BY seq LIMIT ");
    out.push_bind_param::<BigInt, _>(limit)
}

fn tombstones<'b>(
    out: &mut AstPass<'_, 'b, Pg>,
    table: &str,
    seq: &'b i64,
    limit: &'b i64,
) -> QueryResult<()> {
    for part in [" UNION ALL (SELECT seq, item, true, NULL, ", NO_FIELDS, " FROM ", table] {
        out.push_sql(part);
    }
    page(out, " WHERE seq > ", seq, limit)?;
    out.push_sql(")");
    Ok(())
}

/// The query limits each list to `limit` rows, so the first `limit` changes of both together are complete.
fn changes(found: Vec<ChangeRow>, limit: i64) -> Result<ChunkChanges, StoreError> {
    let (mut clock, mut rows, mut tombstones, mut numbers) = (0, Vec::new(), Vec::new(), Vec::new());
    for (seq, item, gone, vector, fields) in found {
        let Some(item) = item else {
            clock = seq;
            continue;
        };
        numbers.push(seq);
        match vector {
            Some(bytes) => {
                let (item, vector) = (item_number(item)?, floats(&bytes)?);
                rows.push(ChangedChunk { seq, item, vector, fields: filter_fields(fields)? });
            }
            None if gone => tombstones.push((seq, item_number(item)?)),
            None => {}
        }
    }
    numbers.sort_unstable();
    tombstones.sort_unstable();
    let last = usize::try_from(limit - 1).unwrap_or_default();
    let through = numbers.get(last).copied().unwrap_or(clock);
    rows.retain(|row| row.seq <= through);
    tombstones.retain(|(seq, _)| *seq <= through);
    Ok(ChunkChanges { clock, through, rows, tombstones })
}
